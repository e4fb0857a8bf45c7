"""Small tables with missing values and categories, shared by the room's tests."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from shipworthy.training.edges import EdgeColumn

ROWS = 2000
NAMES = ("a", "b", "c", "d", "e", "f")
CODES = 12


@dataclass(frozen=True)
class Table:
    """A matrix whose columns a, e may be missing; e is a category, f a bool."""

    matrix: NDArray[np.float32]
    binary: NDArray[np.int64]
    multiclass: NDArray[np.int64]
    number: NDArray[np.float64]
    columns: tuple[EdgeColumn, ...]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Many small fits at once on a busy machine: waiting threads cost more than they bring."""
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="session")
def table() -> Table:
    random = np.random.default_rng(7)
    matrix = random.normal(size=(ROWS, 6)).astype(np.float32)
    matrix[:, 4] = random.integers(0, CODES, ROWS)
    matrix[:, 5] = random.integers(0, 2, ROWS)
    score = matrix[:, 0] + np.sin(3 * matrix[:, 1]) + 0.7 * (matrix[:, 4] % 3) + random.normal(size=ROWS) / 2
    for at in (0, 4):
        matrix[random.random(ROWS) < 0.1, at] = np.nan
    columns = tuple(EdgeColumn(name, codes={"e": CODES, "f": 2}.get(name), missing=name in "ae") for name in NAMES)
    return Table(
        matrix, (score > 0.7).astype(np.int64), np.digitize(score, [0, 1.5]), score.astype(np.float64) * 1e4, columns
    )
