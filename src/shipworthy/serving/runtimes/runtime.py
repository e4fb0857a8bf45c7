"""The port that every model runtime implements."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Runtime(Protocol):
    """A loaded model; called from one thread at a time, and from a second where it also stands in for another."""

    @property
    def is_apart(self) -> bool:
        """Whether it runs in a process of its own: it ends runs that are late itself, and no worker hangs with it."""

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.floating]:
        """The model's outputs for `matrix`, shape (n, columns); whatever it raises costs only these rows."""

    def close(self) -> None:
        """Let go of what it holds; it is not run again. Blocks nobody."""
