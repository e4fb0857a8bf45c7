"""Edge rows stay within what the server lets through and reach every edge of it."""

from typing import Any

import numpy as np
import pytest

from shipworthy.training.edges import EDGE_ROWS, EdgeColumn, edge_rows


@pytest.fixture(scope="module")
def train() -> Any:
    random = np.random.default_rng(1)
    matrix = random.uniform(0, 10, (500, 4)).astype(np.float32)
    matrix[:, 1] = random.integers(0, 5, 500)
    matrix[:, 2] = random.integers(-3, 4, 500)
    matrix[:50, 3] = np.nan
    return matrix


COLUMNS = (
    EdgeColumn("ranged", low=-1.0, high=12.0),
    EdgeColumn("category", codes=6, missing=True),
    EdgeColumn("count", low=-3, high=3, is_integer=True),
    EdgeColumn("open", missing=True),
)
SPLITS = {0: np.array([3.25], np.float32)}


def test_the_same_arguments_give_the_same_rows(train: Any) -> None:
    first, again = (edge_rows(COLUMNS, train, SPLITS, seed=5) for _ in range(2))
    assert first.shape == (EDGE_ROWS, 4)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != edge_rows(COLUMNS, train, SPLITS, seed=6).tobytes()


def test_every_value_is_one_that_the_server_lets_through(train: Any) -> None:
    rows = edge_rows(COLUMNS, train, SPLITS, seed=5)
    ranged, category, count, _ = rows.T
    assert ranged.min() == -1
    assert ranged.max() == 12
    assert set(category[~np.isnan(category)]) == set(range(6))
    assert set(count) == set(range(-3, 4))
    assert np.isnan(rows).any(axis=0).tolist() == [False, True, False, True]


def test_thresholds_and_their_neighbours_zeros_and_gaps_are_among_them(train: Any) -> None:
    rows = edge_rows(COLUMNS, train, SPLITS, seed=5)
    split = np.float32(3.25)
    for value in (np.nextafter(split, np.float32(0)), split, np.nextafter(split, np.float32(9))):
        assert (rows[:, 0] == value).any()
    assert (np.signbit(rows[:, 0]) & (rows[:, 0] == 0)).any()  # negative zero
    assert np.isnan(rows[:, [1, 3]]).all(axis=1).any()  # missing together
    assert (np.isnan(rows[:, 1]) & ~np.isnan(rows[:, 3])).any()  # and alone


def test_more_thresholds_than_room_are_sampled(train: Any) -> None:
    many = {0: np.linspace(0, 10, 20_000, dtype=np.float32)}
    assert edge_rows(COLUMNS, train, many, seed=5).shape == (EDGE_ROWS, 4)


def test_a_column_that_is_missing_throughout_still_gives_rows() -> None:
    train = np.full((5, 1), np.nan, np.float32)
    rows = edge_rows((EdgeColumn("gone", missing=True),), train, {}, seed=1, rows=100)
    assert rows.shape == (100, 1)
