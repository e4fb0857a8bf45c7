"""Diff: what became of a table between two versions: its columns, its rows, and how each column is distributed.

Rows are told apart by the contract's key. Without a key, or where the key does not name one row each, they are compared
as they are, each as often as it occurs: then a changed row is one removed and one added.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.stats.effect import Magnitude, kolmogorov, magnitude, total_variation
from shipworthy.stats.two_sample import homogeneity

CUTS = 31  # where two distributions of numbers are compared: a share of 3 % may hide between two
SAMPLED = 10_000  # values of each version that the cuts are taken from; any cuts are fair, these are well spread
MOST_VALUES = 1_000  # of a text: beyond, it names things rather than groups them
EXAMPLES = 5
Counts = dict[str, int] | None
_KEY, _HASH, _PLACE = "__key", "__hash", "__place"


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """What became of the columns."""

    added: dict[str, str]  # name to type
    removed: dict[str, str]
    retyped: dict[str, tuple[str, str]]
    is_reordered: bool  # the columns of both stand in another order

    @property
    def is_none(self) -> bool:
        """Whether the columns are the same."""
        return not (self.added or self.removed or self.retyped or self.is_reordered)


@dataclass(frozen=True, slots=True)
class RowChange:
    """What became of the rows; compared in the columns that both versions have with one type."""

    key: tuple[str, ...]  # that tells rows apart; empty: rows were compared as they are
    before: int
    after: int
    added: int
    removed: int
    changed: int | None  # None without a key
    is_reordered: bool  # the same rows in another order
    note: str  # why the key could not be used
    examples: dict[str, list[str]]  # keys of some rows added, removed and changed


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """What became of one column."""

    column: str
    type: str
    changed: int | None  # cells, in rows that both versions have
    missing: tuple[float, float]  # share before and after
    typical: tuple[str, str] | None  # mean, span or most frequent value; None of what must not be shown
    effect: float | None  # 0 to 1; None where a distribution says nothing
    magnitude: Magnitude | None
    p_value: float | None  # chance that two samples of one distribution differ so much


@dataclass(frozen=True, slots=True)
class Difference:
    """How one version differs from another."""

    schema: SchemaChange
    rows: RowChange
    columns: tuple[ColumnChange, ...]

    def to_json(self) -> dict[str, Any]:
        """As a mapping."""
        return asdict(self)


def diff(
    old: pl.DataFrame, new: pl.DataFrame, key: Sequence[str] = (), hidden: frozenset[str] = frozenset()
) -> Difference:
    """What became of `old`.

    Args:
        old: rows of one version.
        new: rows of another.
        key: columns that name a row together.
        hidden: columns whose values are not repeated.
    """
    shared = [name for name in old.columns if name in new.columns]
    same = [name for name in shared if old.schema[name] == new.schema[name]]
    why_not = _why_not(old, new, key, same)
    if key and not why_not:
        rows, cells = _by_key(old, new, tuple(key), [name for name in same if name not in key])
        if hidden & set(key):
            rows = RowChange(**{**_fields(rows), "examples": {}})
    else:
        rows, cells = _as_they_are(old, new, same, why_not), {}
    columns = [_column(old[name], new[name], cells.get(name), name in key, name in hidden) for name in shared]
    return Difference(_schema(old, new, shared), rows, tuple(columns))


def _fields(rows: RowChange) -> dict[str, Any]:
    return {name: getattr(rows, name) for name in RowChange.__dataclass_fields__}


def _schema(old: pl.DataFrame, new: pl.DataFrame, shared: list[str]) -> SchemaChange:
    before, after = ({name: str(kind) for name, kind in frame.schema.items()} for frame in (old, new))
    return SchemaChange(
        added={name: kind for name, kind in after.items() if name not in before},
        removed={name: kind for name, kind in before.items() if name not in after},
        retyped={name: (before[name], after[name]) for name in shared if before[name] != after[name]},
        is_reordered=shared != [name for name in new.columns if name in before],
    )


def _why_not(old: pl.DataFrame, new: pl.DataFrame, key: Sequence[str], same: list[str]) -> str:
    """Why the key does not tell rows apart; empty if it does, or there is none."""
    for name in key:
        if name not in same:
            return f"the key {name} is not in both versions with one type"
    for word, frame in (("old", old), ("new", new)):
        if key and (frame.select(key).null_count().sum_horizontal().item() or 0):
            return f"the key is missing in rows of the {word} version"
        if key and _hashes(frame, list(key)).n_unique() < frame.height:
            return f"the key names several rows of the {word} version"
    return ""


def _by_key(
    old: pl.DataFrame, new: pl.DataFrame, key: tuple[str, ...], columns: list[str]
) -> tuple[RowChange, dict[str, int]]:
    """The rows by their key, and how many cells of each column changed."""
    both = _pairs(old, new, key, columns)
    changed = both.filter(pl.col(_HASH) != pl.col(f"{_HASH}_right"))
    before, after = old[changed[_PLACE]], new[changed[f"{_PLACE}_right"]]
    cells = {name: int(before[name].ne_missing(after[name]).sum()) for name in columns}
    gone, come = _left_out(both[_PLACE], old.height), _left_out(both[f"{_PLACE}_right"], new.height)
    return RowChange(
        key=key,
        before=old.height,
        after=new.height,
        added=len(come),
        removed=len(gone),
        changed=changed.height,
        is_reordered=not both[f"{_PLACE}_right"].is_sorted() if both[_PLACE].is_sorted() else True,
        note="",
        examples={
            word: [" ".join(str(value) for value in row) for row in rows.select(key).rows()]
            for word, rows in (
                ("added", new[come[:EXAMPLES]]),
                ("removed", old[gone[:EXAMPLES]]),
                ("changed", after[:EXAMPLES]),
            )
        },
    ), cells


def _pairs(old: pl.DataFrame, new: pl.DataFrame, key: tuple[str, ...], columns: list[str]) -> pl.DataFrame:
    """Place and hash of each row that both versions have, in the order of the old one."""
    left, right = (
        pl.DataFrame([_hashes(frame, list(key)).alias(_KEY), _hashes(frame, columns)]).with_row_index(_PLACE)
        for frame in (old, new)
    )
    return left.join(right, on=_KEY, how="inner", maintain_order="left")


def _hashes(frame: pl.DataFrame, columns: list[str]) -> pl.Series:
    """64 bits of each row: that any two of a million keys look alike happens once in 4e7 times."""
    if not columns:
        return pl.zeros(frame.height, dtype=pl.UInt64, eager=True).alias(_HASH)
    return frame.select(columns).hash_rows(seed=0).alias(_HASH)


def _left_out(places: pl.Series, rows: int) -> NDArray[np.intp]:
    """The places that are not among `places`, ascending."""
    found = np.zeros(rows, dtype=bool)
    found[places.to_numpy()] = True
    return np.flatnonzero(~found)


def _as_they_are(old: pl.DataFrame, new: pl.DataFrame, columns: list[str], note: str) -> RowChange:
    first, second = _hashes(old, columns), _hashes(new, columns)
    weighed = pl.concat(
        [
            first.to_frame().with_columns(weight=pl.lit(1, pl.Int64)),
            second.to_frame().with_columns(weight=pl.lit(-1, pl.Int64)),
        ]
    )
    weights = weighed.group_by(_HASH).agg(pl.col("weight").sum())["weight"]
    added, removed = -int(weights.filter(weights < 0).sum()), int(weights.filter(weights > 0).sum())
    is_reordered = not added and not removed and not first.equals(second)
    return RowChange((), old.height, new.height, added, removed, None, is_reordered, note, {})


def _column(old: pl.Series, new: pl.Series, changed: int | None, is_key: bool, is_hidden: bool) -> ColumnChange:
    counts = None if is_key else (_counts(old), _counts(new))
    measured = None if counts is None else _effect(old, new, *counts)
    return ColumnChange(
        column=old.name,
        type=str(new.dtype),
        changed=changed,
        missing=(_share_missing(old), _share_missing(new)),
        typical=None if counts is None or is_hidden else (_typical(old, counts[0]), _typical(new, counts[1])),
        effect=None if measured is None else measured[0],
        magnitude=None if measured is None else magnitude(measured[0]),
        p_value=None if measured is None else measured[1],
    )


def _share_missing(values: pl.Series) -> float:
    return values.null_count() / max(len(values), 1)


def _effect(old: pl.Series, new: pl.Series, before: Counts, after: Counts) -> tuple[float, float] | None:
    """Effect and p-value; None where a distribution says nothing."""
    if old.dtype.is_numeric() and new.dtype.is_numeric():
        return _of_numbers(old, new)
    if old.dtype.is_temporal() and old.dtype == new.dtype:
        return _of_numbers(old.to_physical(), new.to_physical())
    if before is None or after is None or old.dtype != new.dtype:
        return None
    values = sorted({*before, *after})
    first, second = ([counts.get(value, 0) for value in values] for counts in (before, after))
    return total_variation(first, second), homogeneity(first, second, ordered=False)


def _of_numbers(old: pl.Series, new: pl.Series) -> tuple[float, float]:
    sampled = [values.gather_every(max(1, len(values) // SAMPLED)).drop_nulls() for values in (old, new)]
    pooled = np.concatenate([values.to_numpy().astype(np.float64) for values in sampled])
    if not len(pooled):
        return 0.0, 1.0
    ranked = np.quantile(pooled, np.arange(1, CUTS + 1) / (CUTS + 1), method="inverted_cdf")
    cuts = [float(cut) for cut in np.unique(ranked)]
    first, second = _up_to(old, cuts), _up_to(new, cuts)
    bins = [np.diff([0, *counts, rows]).tolist() for counts, rows in (first, second)]
    return kolmogorov(first, second), homogeneity(bins[0], bins[1], ordered=True)


def _up_to(values: pl.Series, cuts: list[float]) -> tuple[list[int], int]:
    """How many values lie at or below each cut, and how many there are."""
    counts = values.to_frame().select((pl.col(values.name) <= cut).sum().alias(str(at)) for at, cut in enumerate(cuts))
    return [int(count) for count in counts.row(0)], len(values) - values.null_count()


def _counts(values: pl.Series) -> Counts:
    """Rows of each value, of what has no order; None for numbers and times, and of what has too many values."""
    if values.dtype.is_numeric() or values.dtype.is_temporal():
        return None
    if values.to_frame().select(pl.all().approx_n_unique()).item() > MOST_VALUES:
        return None
    return dict(values.drop_nulls().cast(pl.String).alias("value").value_counts(name="rows").iter_rows())


def _typical(values: pl.Series, counts: Counts) -> str:
    """The mean, the span of times, or the most frequent value and its share."""
    if values.null_count() == len(values):
        return "-"
    if values.dtype.is_numeric():
        return f"{values.to_frame().select(pl.all().mean()).item():.6g}"
    if values.dtype.is_temporal():
        return f"{str(values.min())[:19]} to {str(values.max())[:19]}"
    if counts is None:
        return "-"
    value = min(counts, key=lambda value: (-counts[value], value))
    return f"{value[:40]} ({counts[value] / sum(counts.values()):.0%})"
