"""The port that every model runtime implements."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Runtime(Protocol):
    """A loaded model; called from one thread at a time."""

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.floating]:
        """The model's outputs for `matrix`, shape (n, columns); whatever it raises costs only these rows."""
