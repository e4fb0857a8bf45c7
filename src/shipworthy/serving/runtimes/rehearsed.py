"""A runtime that fails, so that a team can see what its callers get when a model does."""

import numpy as np
from numpy.typing import NDArray

from shipworthy.serving.runtimes.onnx import OnnxRuntime


class FailingRuntime:
    """Answers while it is warmed, then raises on every run.

    Args:
        model: ONNX bytes.
        warm_runs: how many runs belong to the warming.
    """

    def __init__(self, model: bytes, warm_runs: int) -> None:
        self._runtime = OnnxRuntime(model)
        self._left = warm_runs

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        """See `Runtime`.

        Raises:
            RuntimeError: always, once it is warm.
        """
        if self._left <= 0:
            raise RuntimeError("a failure is being rehearsed")
        self._left -= 1
        return self._runtime.run(matrix)
