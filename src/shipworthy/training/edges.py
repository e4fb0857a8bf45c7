"""Generated edge rows: where a converted model is likeliest to answer differently from the trained one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

EDGE_ROWS = 10_000
QUANTILES = 33  # of each column's training values; each is probed with its two float32 neighbours
TINY = np.float32(1e-30)  # a magnitude that float32 holds exactly as a normal number
BEYOND = 10.0  # without a declared range, probe this many spans beyond the training values

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EdgeColumn:
    """What can reach the model in one column."""

    name: str
    low: float | None = None  # smallest value that the server lets through; None: no bound
    high: float | None = None
    codes: int | None = None  # of a category or bool: values are 0 to codes - 1
    is_integer: bool = False
    missing: bool = False  # whether NaN can reach the model


def edge_rows(
    columns: Sequence[EdgeColumn],
    train: Floats,
    splits: Mapping[int, Floats],
    seed: int,
    rows: int = EDGE_ROWS,
) -> Floats:
    """`rows` edge rows; the same arguments give the same rows.

    First come rows that are one thing throughout (all low, all high, zeros, negative zeros, tiny, all missing), then
    training rows with one column replaced by each of its probes, then random mixes of training rows with several
    columns probed at once.

    Args:
        columns: one for each column of `train`.
        train: shape (n, k), n at least 1; missing is NaN.
        splits: a tree model's thresholds by column.
        seed: of the random choices.
        rows: how many rows to return.
    """
    random = np.random.default_rng(seed)
    probes = [
        _probes(column, train[:, at], splits.get(at, np.zeros(0, np.float32))) for at, column in enumerate(columns)
    ]
    uniform = _uniform_rows(columns, probes)
    single = _single_rows(columns, train, probes, random, rows // 2)
    found = np.concatenate([uniform, single])[:rows]
    return np.concatenate([found, _mixed_rows(columns, train, probes, random, rows - len(found))])


def _probes(column: EdgeColumn, values: Floats, splits: Floats) -> Floats:
    """Distinct values worth trying in one column, all of them allowed ones; NaN is not among them."""
    if column.codes is not None:
        return np.arange(column.codes, dtype=np.float32)
    known = values[np.isfinite(values)]
    if known.size == 0:
        known = np.zeros(1, np.float32)
    low, high = _bounds(column, known)
    inner = np.concatenate([np.quantile(known, np.linspace(0, 1, QUANTILES)).astype(np.float32), splits])
    extremes = np.array([low, high, 0.0, -0.0, TINY, -TINY, low / 2, high / 2], np.float32)
    near = [np.nextafter(inner, np.float32(-np.inf)), inner, np.nextafter(inner, np.float32(np.inf)), extremes]
    found = np.concatenate(near)
    if column.is_integer:
        found = np.concatenate([np.floor(found), np.ceil(found)])
    within = found[(found >= low) & (found <= high)]
    distinct = np.unique(within)
    has_zero = bool(np.any(distinct == 0))
    return np.append(distinct, np.float32(-0.0)) if has_zero else distinct


def _bounds(column: EdgeColumn, known: Floats) -> tuple[np.float32, np.float32]:
    smallest, largest = float(known.min()), float(known.max())
    reach = BEYOND * max(largest - smallest, abs(largest), abs(smallest), 1.0)
    low = column.low if column.low is not None else smallest - reach
    high = column.high if column.high is not None else largest + reach
    return np.float32(low), np.float32(high)


def _uniform_rows(columns: Sequence[EdgeColumn], probes: Sequence[Floats]) -> Floats:
    lowest = [values[0] if values.size else np.float32(0) for values in probes]
    highest = [values.max() if values.size else np.float32(0) for values in probes]
    middle = [values[len(values) // 2] if values.size else np.float32(0) for values in probes]

    def nearest(goal: float) -> list[np.float32]:
        return [
            values[np.argmin(np.abs(values.astype(np.float64) - goal))] if values.size else np.float32(0)
            for values in probes
        ]

    signed = [values[-1] if values.size else np.float32(0) for values in probes]  # -0.0 where zero is allowed
    rows = [lowest, highest, middle, nearest(0.0), signed, nearest(float(TINY)), nearest(-float(TINY))]
    gone = [np.float32(np.nan) if column.missing else value for column, value in zip(columns, middle, strict=True)]
    return np.array([*rows, gone], np.float32)


def _single_rows(
    columns: Sequence[EdgeColumn], train: Floats, probes: Sequence[Floats], random: np.random.Generator, most: int
) -> Floats:
    """Training rows with one column replaced: missing first, then each probe (a random part, if there are too many)."""
    places = [(at, np.float32(np.nan)) for at, column in enumerate(columns) if column.missing]
    wanted = [(at, value) for at, values in enumerate(probes) for value in values]
    room = max(most - len(places), 0)
    if len(wanted) > room:
        chosen = np.sort(random.choice(len(wanted), room, replace=False))
        wanted = [wanted[index] for index in chosen]
    places += wanted
    found = train[random.integers(0, len(train), len(places))].copy()
    for row, (at, value) in enumerate(places):
        found[row, at] = value
    return found


def _mixed_rows(
    columns: Sequence[EdgeColumn], train: Floats, probes: Sequence[Floats], random: np.random.Generator, rows: int
) -> Floats:
    """Each value from a random training row; some columns probed, some missing."""
    picks = random.integers(0, len(train), (rows, len(columns)))
    found = train[picks, np.arange(len(columns))]
    share = random.choice([0.0, 0.1, 0.5, 1.0], rows)  # how much of a row is probed
    for at, (column, values) in enumerate(zip(columns, probes, strict=True)):
        hit = random.random(rows) < share
        if values.size:
            found[hit, at] = values[random.integers(0, len(values), int(hit.sum()))]
        if column.missing:
            found[random.random(rows) < 0.1, at] = np.nan
    return found.astype(np.float32)
