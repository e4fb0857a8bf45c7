"""Shapley values are what their definition says, by whichever way they are found."""

import math
from itertools import permutations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shipworthy.stats.shapley import (
    EQUAL,
    GREATER,
    GREATER_EQUAL,
    LEAF,
    LESS,
    LESS_EQUAL,
    NOT_EQUAL,
    Forest,
    enumerated_values,
    linear_values,
    sampled_values,
    tree_values,
)


def by_definition(score: Any, row: NDArray[Any], background: NDArray[Any], groups: list[list[int]]) -> NDArray[Any]:
    """Mean over all orders of the players and all background rows of what each player changes."""
    values = np.zeros((len(groups), score(background[:1]).shape[1]))
    for order in permutations(range(len(groups))):
        mixed = background.copy()
        before = score(mixed).mean(axis=0)
        for player in order:
            mixed[:, groups[player]] = row[groups[player]]
            after = score(mixed).mean(axis=0)
            values[player] += after - before
            before = after
    return values / math.factorial(len(groups))


def random_forest(chance: np.random.Generator, trees: int, depth: int, inputs: int, outputs: int) -> Forest:
    """Full trees; a column may come twice on a path, with any comparison."""
    size = 2 ** (depth + 1) - 1
    nodes = np.arange(trees * size)
    inner = nodes % size < 2**depth - 1
    roots = np.arange(trees) * size
    first = roots.repeat(size) + 2 * (nodes % size) + 1
    modes = chance.choice([LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, EQUAL, NOT_EQUAL], len(nodes))
    return Forest(
        roots=roots,
        mode=np.where(inner, modes, LEAF),
        column=chance.integers(inputs, size=len(nodes)),
        threshold=chance.integers(4, size=len(nodes)).astype(np.float64),
        yes=np.where(inner, first, -1),
        no=np.where(inner, first + 1, -1),
        missing_yes=chance.random(len(nodes)) < 0.5,
        weights=chance.normal(size=(len(nodes), outputs)) * ~inner[:, None],
        base=chance.normal(size=outputs),
    )


def rows_of(chance: np.random.Generator, rows: int, inputs: int) -> NDArray[np.float64]:
    values = chance.integers(4, size=(rows, inputs)).astype(np.float64)
    values[chance.random(values.shape) < 0.1] = np.nan
    return values


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 2))
@settings(max_examples=40, deadline=None)
def test_values_of_trees_are_those_of_the_definition(seed: int, depth: int, outputs: int) -> None:
    chance = np.random.default_rng(seed)
    forest = random_forest(chance, 3, depth, 5, outputs)
    rows, background = rows_of(chance, 3, 5), rows_of(chance, 7, 5)
    players = np.array([0, 1, 2, 2, 3])  # two inputs may come from one column
    found = tree_values(forest, rows, background, players)
    for row, values in zip(rows, found, strict=True):
        expected = by_definition(forest.score, row, background, [[0], [1], [2, 3], [4]])
        assert values == pytest.approx(expected, abs=1e-9)


def test_values_add_up_to_what_parts_the_row_from_the_background() -> None:
    chance = np.random.default_rng(1)
    forest = random_forest(chance, 10, 6, 12, 3)
    rows, background = rows_of(chance, 50, 12), rows_of(chance, 80, 12)
    found = tree_values(forest, rows, background, np.arange(12))
    expected = forest.score(rows) - forest.score(background).mean(axis=0)
    assert found.sum(axis=1) == pytest.approx(expected, abs=1e-9)


def test_a_stump_by_hand() -> None:
    """x0 <= 1 gives 10, else 20; half of the background is beyond 1."""
    forest = Forest(
        roots=np.array([0]),
        mode=np.array([LESS_EQUAL, LEAF, LEAF]),
        column=np.array([0, 0, 0]),
        threshold=np.array([1.0, 0.0, 0.0]),
        yes=np.array([1, -1, -1]),
        no=np.array([2, -1, -1]),
        missing_yes=np.array([True, False, False]),
        weights=np.array([[0.0], [10.0], [20.0]]),
        base=np.array([0.5]),
    )
    rows = np.array([[0.0, 9.0], [2.0, 9.0], [np.nan, 9.0]])
    found = tree_values(forest, rows, np.array([[1.0, 0.0], [3.0, 0.0]]), np.array([0, 1]))
    assert found[:, :, 0].tolist() == [[-5.0, 0.0], [5.0, 0.0], [-5.0, 0.0]]


def product(matrix: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(matrix[:, :1] * matrix[:, 1:2] + matrix[:, 2:3], np.float64)


def test_any_score_by_all_coalitions_and_nearly_so_by_orders() -> None:
    chance = np.random.default_rng(2)
    rows, background = (chance.normal(size=(count, 3)).astype(np.float32) for count in (4, 9))
    exact = enumerated_values(product, rows, background)
    for row, values in zip(rows, exact, strict=True):
        assert values == pytest.approx(by_definition(product, row, background, [[0], [1], [2]]), abs=1e-6)
    sampled = sampled_values(product, rows, background, orders=3000, seed=3)
    assert np.abs(sampled - exact).max() < 0.05
    assert np.abs(sampled_values(product, rows, background, orders=3, seed=3) - exact).max() > 0.05
    with pytest.raises(ValueError, match="at least one order"):
        sampled_values(product, rows, background, orders=0, seed=3)


def test_a_linear_sums_values_are_those_of_the_definition() -> None:
    chance = np.random.default_rng(4)
    weights = chance.normal(size=(4, 2))
    rows, background = chance.normal(size=(3, 4)), chance.normal(size=(6, 4))
    found = linear_values(rows, background, weights, np.array([0, 1, 1, 2]))
    for row, values in zip(rows, found, strict=True):
        expected = by_definition(lambda matrix: matrix @ weights, row, background, [[0], [1, 2], [3]])
        assert values == pytest.approx(expected, abs=1e-12)


def test_a_path_that_asks_for_too_many_players_is_refused() -> None:
    depth = 63
    at = np.arange(2 * depth + 1)
    inner = at % 2 == 0
    inner[-1] = False
    forest = Forest(
        roots=np.array([0]),
        mode=np.where(inner, LESS, LEAF),
        column=np.where(inner, at // 2, 0),
        threshold=np.full(len(at), 0.5),
        yes=np.where(inner, at + 1, -1),
        no=np.where(inner, at + 2, -1),
        missing_yes=np.zeros(len(at), dtype=bool),
        weights=np.ones((len(at), 1)),
        base=np.zeros(1),
    )
    rows = np.ones((1, depth))
    with pytest.raises(ValueError, match="asks for 63 players; at most 62"):
        tree_values(forest, rows, rows, np.arange(depth))
