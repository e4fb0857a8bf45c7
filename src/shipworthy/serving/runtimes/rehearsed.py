"""A runtime that fails, so that a team can see what its callers get when a model does."""

import numpy as np
from numpy.typing import NDArray

from shipworthy.serving.runtimes.runtime import Runtime


class FailingRuntime:
    """Answers while it is warmed, then raises on every run.

    Args:
        runtime: of the release.
        warm_runs: how many runs belong to the warming.
    """

    is_apart = False

    def __init__(self, runtime: Runtime, warm_runs: int) -> None:
        self._runtime = runtime
        self._left = warm_runs

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.floating]:
        """See `Runtime`.

        Raises:
            RuntimeError: always, once it is warm.
        """
        if self._left <= 0:
            raise RuntimeError("a failure is being rehearsed")
        self._left -= 1
        return self._runtime.run(matrix)

    def close(self) -> None:
        """See `Runtime`."""
        self._runtime.close()
