"""Shapley values: how far each input moved a score away from what it is on other rows. Pure.

The game: a coalition's inputs have the row's values, the others those of a background row; the score is averaged over
the background (interventional values). They add up to the row's score minus the background's mean score.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Score = Callable[[NDArray[np.float32]], Floats]  # (n, columns) -> (n, outputs)

LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, EQUAL, NOT_EQUAL, LEAF = range(7)
MAX_PLAYERS = 62  # that one path may ask for: their states are the bits of an int64
_COMPARE: Sequence[Callable[[Floats, float], NDArray[np.bool_]]] = (
    np.less,
    np.less_equal,
    np.greater,
    np.greater_equal,
    np.equal,
    np.not_equal,
)


@dataclass(frozen=True, slots=True)
class Forest:
    """A sum of trees, their nodes in one flat table."""

    roots: NDArray[np.int64]
    mode: NDArray[np.int64]  # (nodes,) one of the comparisons above, or LEAF
    column: NDArray[np.int64]  # (nodes,) of the input that is compared
    threshold: Floats  # (nodes,)
    yes: NDArray[np.int64]  # (nodes,) where a row for which the comparison holds goes on
    no: NDArray[np.int64]
    missing_yes: NDArray[np.bool_]  # (nodes,) whether a missing value goes the way of `yes`
    weights: Floats  # (nodes, outputs) of leaves
    base: Floats  # (outputs,)

    def follow(self, node: int, values: Floats) -> NDArray[np.bool_]:
        """Which values go the way of `yes` at a node."""
        holds = _COMPARE[self.mode[node]](values, self.threshold[node])
        return np.asarray(np.where(np.isnan(values), self.missing_yes[node], holds), dtype=np.bool_)

    def score(self, rows: Floats) -> Floats:
        """The sum for each row, shape (n, outputs)."""
        total = np.tile(self.base, (len(rows), 1))
        for root in self.roots.tolist():
            stack = [(root, np.arange(len(rows)))]
            while stack:
                node, places = stack.pop()
                if self.mode[node] == LEAF:
                    total[places] += self.weights[node]
                elif len(places):
                    goes = self.follow(node, rows[places, self.column[node]])
                    stack += [(int(self.yes[node]), places[goes]), (int(self.no[node]), places[~goes])]
        return total


def tree_values(forest: Forest, rows: Floats, background: Floats, players: NDArray[np.intp]) -> Floats:
    """Exact values of a sum of trees.

    Args:
        forest: what is summed.
        rows: shape (n, inputs); missing is NaN.
        background: shape (m, inputs), m >= 1.
        players: shape (inputs,), the player that each input belongs to.

    Returns:
        shape (n, players, outputs).

    Raises:
        ValueError: a path asks for more players than `MAX_PLAYERS`.

    Source: Lundberg et al. 2020, doi:10.1038/s42256-019-0138-9, interventional; a leaf's share depends only on which of
    its players a row and a background row each satisfy, so background rows that are alike are counted, not walked.
    """
    both = np.concatenate([rows, background])
    values = np.zeros((len(rows), int(players.max()) + 1, len(forest.base)))
    for root in forest.roots.tolist():
        stack: list[tuple[int, dict[int, NDArray[np.bool_]]]] = [(root, {})]
        while stack:
            node, held = stack.pop()
            if forest.mode[node] == LEAF:
                _credit(values, forest.weights[node], held)
                continue
            goes = forest.follow(node, both[:, forest.column[node]])
            player = int(players[forest.column[node]])
            for child, side in ((forest.yes[node], goes), (forest.no[node], ~goes)):
                inside = held[player] & side if player in held else side
                if inside.any():  # else no mixture of two rows comes here
                    stack.append((int(child), {**held, player: inside}))
    return values


def _credit(values: Floats, weights: Floats, held: dict[int, NDArray[np.bool_]]) -> None:
    """Add a leaf's share; `held[player]` says which rows, then which background rows, satisfy its conditions."""
    count = len(held)
    if count == 0:
        return
    if count > MAX_PLAYERS:
        raise ValueError(f"a path of a tree asks for {count} players; at most {MAX_PLAYERS} are taken")
    bits = np.zeros(len(next(iter(held.values()))), dtype=np.int64)
    for place, inside in enumerate(held.values()):
        bits |= inside.astype(np.int64) << place
    mine, which = np.unique(bits[: len(values)], return_inverse=True)
    theirs, times = np.unique(bits[len(values) :], return_counts=True)
    gives, takes = mine[:, None] & ~theirs, theirs & ~mine[:, None]
    alive = (mine[:, None] | theirs) == (1 << count) - 1
    share = alive * (times / times.sum())
    given, taken = np.bitwise_count(gives), np.bitwise_count(takes)
    for_row, against = _orders(count)
    plus, minus = share * for_row[given, taken], share * against[given, taken]
    table = np.stack(
        [(plus * (gives >> b & 1)).sum(axis=1) - (minus * (takes >> b & 1)).sum(axis=1) for b in range(count)], axis=1
    )
    values[:, list(held)] += table[which][:, :, None] * weights


def _orders(count: int) -> tuple[Floats, Floats]:
    """Share of orders in which a given one of s players is their last, and none of r others came yet; and reversed."""
    for_row, against = np.zeros((count + 1, count + 1)), np.zeros((count + 1, count + 1))
    for s in range(count + 1):
        for r in range(count + 1 - s):
            if s:
                for_row[s, r] = math.factorial(s - 1) * math.factorial(r) / math.factorial(s + r)
            if r:
                against[s, r] = math.factorial(s) * math.factorial(r - 1) / math.factorial(s + r)
    return for_row, against


def linear_values(terms: Floats, background: Floats, weights: Floats, players: NDArray[np.intp]) -> Floats:
    """Exact values of `terms @ weights`.

    Args:
        terms: shape (n, inputs).
        background: shape (m, inputs).
        weights: shape (inputs, outputs).
        players: shape (inputs,).

    Returns:
        shape (n, players, outputs).

    >>> linear_values(np.array([[3.0]]), np.array([[1.0], [0.0]]), np.array([[2.0]]), np.array([0])).tolist()
    [[[5.0]]]
    """
    values = np.zeros((len(terms), int(players.max()) + 1, weights.shape[1]))
    moved = (terms - background.mean(axis=0))[:, :, None] * weights
    for at, player in enumerate(players.tolist()):
        values[:, player] += moved[:, at]
    return values


def enumerated_values(score: Score, rows: NDArray[np.float32], background: NDArray[np.float32]) -> Floats:
    """Exact values of any score, by all coalitions: 2 ** columns * n * m rows are scored.

    Args:
        score: the model.
        rows: shape (n, columns).
        background: shape (m, columns).

    Returns:
        shape (n, columns, outputs).
    """
    columns = rows.shape[1]
    worth = {
        coalition: _worth(score, rows, background, list(coalition))
        for size in range(columns + 1)
        for coalition in combinations(range(columns), size)
    }
    values = np.zeros((len(rows), columns, worth[()].shape[1]))
    for coalition, found in worth.items():
        size = len(coalition)
        for player in range(columns):
            if player in coalition:
                weight = math.factorial(size - 1) * math.factorial(columns - size) / math.factorial(columns)
                values[:, player] += weight * (found - worth[tuple(p for p in coalition if p != player)])
    return values


def _worth(score: Score, rows: NDArray[np.float32], background: NDArray[np.float32], coalition: list[int]) -> Floats:
    mixed = np.repeat(background[None], len(rows), axis=0)
    mixed[:, :, coalition] = rows[:, None, coalition]
    found = score(mixed.reshape(-1, rows.shape[1])).reshape(len(rows), len(background), -1)
    return np.asarray(found.mean(axis=1), dtype=np.float64)


def sampled_values(
    score: Score, rows: NDArray[np.float32], background: NDArray[np.float32], *, orders: int, seed: int
) -> Floats:
    """Estimated values of any score: each random order is walked forwards and backwards from a random background row.

    Args:
        score: the model.
        rows: shape (n, columns).
        background: shape (m, columns).
        orders: how many pairs of orders, >= 1.
        seed: of the orders.

    Returns:
        shape (n, columns, outputs).

    Source: Strumbelj and Kononenko 2014, doi:10.1007/s10115-013-0679-x; antithetic pairs after Mitchell et al. 2022.
    """
    chance = np.random.default_rng(seed)
    columns = rows.shape[1]
    total: Floats | None = None
    for _ in range(orders):
        order = chance.permutation(columns)
        start = background[chance.integers(len(background), size=len(rows))]
        for walk in (order, order[::-1]):
            steps = np.repeat(start[:, None, :], columns + 1, axis=1)
            for step, column in enumerate(walk.tolist(), 1):
                steps[:, step:, column] = rows[:, None, column]
            found = score(steps.reshape(-1, columns)).reshape(len(rows), columns + 1, -1)
            if total is None:
                total = np.zeros((len(rows), columns, found.shape[2]))
            total[:, walk] += np.diff(found, axis=1)
    if total is None:
        raise ValueError("at least one order is needed")
    return total / (2 * orders)
