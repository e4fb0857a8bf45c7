"""Point in time: no feature of a row sees what became known only after the row's own time.

Proven by doing it: `prepare` is run again on the sources as they were known at a time, and every row that is not
younger must have the same features and context as in the whole run. The target is the truth, and may see the future.

A difference between floats that another order of adding makes is none (`TOLERANCE`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import polars as pl

from shipworthy.contract.columns import Column
from shipworthy.contract.data_section import Source
from shipworthy.contract.types import Contract
from shipworthy.data.datetimes import detect_format
from shipworthy.data.values import cleaned, typed
from shipworthy.kernel.errors import DataError

CUTS = (0.5, 0.9)  # so many of the rows lie before each, about
NEAR = 0.05  # of the rows lie so far from there at most
TOLERANCE = 1e-9  # relative; sums of a million float64 in another order differ by less
OF_SCALE = 1e-12  # of a column's largest value: what is left where large numbers cancel
SHOWN_COLUMNS = 5  # of those that see the future, in a refusal
GUIDE = "docs/data.md#no-feature-sees-the-future"

Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Ahead:
    """A column that sees the future."""

    column: str
    rows: int  # whose value differs, at the cut where most do
    cut: int  # index in `Proof.cuts`


@dataclass(frozen=True, slots=True)
class Cut:
    """One look at what was known at a time."""

    share: float  # of the rows that are not younger, as it was aimed at
    at: datetime  # UTC
    rows: int  # that were compared


@dataclass(frozen=True, slots=True)
class Proof:
    """What was compared, and what sees the future."""

    watched: Mapping[str, int]  # source with a time -> its rows without one, which count as always known
    whole: tuple[str, ...]  # sources without, which were taken whole
    cuts: tuple[Cut, ...]
    ahead: tuple[Ahead, ...]

    @property
    def rows(self) -> int:
        """Rows that were compared; 0 says nothing."""
        return sum(cut.rows for cut in self.cuts)

    def to_json(self) -> dict[str, Any]:
        """As events and `ship --json` have it: counts, no time of any row."""
        return {
            "watched": list(self.watched),
            "without_time": {name: rows for name, rows in self.watched.items() if rows},
            "whole": list(self.whole),
            "cuts": [{"share": cut.share, "rows": cut.rows} for cut in self.cuts],
            "ahead": [{"column": found.column, "rows": found.rows} for found in self.ahead],
            "words": self.words,
        }

    @property
    def words(self) -> str:
        """One line for a person, without a time of any row."""
        watched = ", ".join(self.watched)
        if self.ahead:
            return ", ".join(f"{found.column} sees the future in {found.rows:,} rows" for found in self.ahead)
        if not self.rows:
            return f"not proven that no feature sees later rows of {watched}: no row is older than all of them"
        return f"no feature sees later rows of {watched}: without them {self.rows:,} rows are the same"

    def told(self) -> str:
        """What sees the future, with the cure; empty where nothing does."""
        if not self.ahead:
            return ""
        cut = self.cuts[self.ahead[0].cut]
        first, *others = self.ahead[:SHOWN_COLUMNS]
        named = [f"{first.column} differs in {first.rows:,}", *(f"{one.column} in {one.rows:,}" for one in others)]
        more = f" and {len(self.ahead) - SHOWN_COLUMNS} more columns" if len(self.ahead) > SHOWN_COLUMNS else ""
        return (
            f"data.prepare sees the future: without the rows of {', '.join(self.watched)} that became known later, "
            f"{', '.join(named)}{more} of the {cut.rows:,} rows up to {_written(cut.at)}; join as of the row's time, "
            f"aggregate only over rows before it, and draw nothing at random ({GUIDE})"
        )


def watched_sources(contract: Contract) -> dict[str, Source]:
    """The sources whose rows have a time; none where rows have no time that it could be held against."""
    if not contract.context_by_role("time"):
        return {}
    return {name: source for name, source in contract.data.sources.items() if source.time is not None}


def prove(
    contract: Contract, tables: Tables, whole: pl.DataFrame, again: Callable[[Tables], pl.DataFrame]
) -> Proof | None:
    """Run `prepare` on what was known at two times, and compare; None where no source has a time.

    Args:
        contract: names the times, the features and the context.
        tables: of each source, all its rows.
        whole: what `prepare` made of them.
        again: runs `prepare` on other rows of the same sources.

    Raises:
        DataError: a time column is missing or holds no times, or `prepare` fails on what was known at a time.
    """
    sources = watched_sources(contract)
    if not sources:
        return None
    name = contract.context_by_role("time")[0]
    row_time = _Times.of(name, "the prepared rows", whole, contract.context[name])
    known = {
        source: _known_at(source, declared, tables[source], contract.context[name].zone)
        for source, declared in sources.items()
    }
    times = row_time.read(whole)
    cuts: list[Cut] = []
    found: dict[str, Ahead] = {}
    for share, at in _cuts(times):
        rows = {
            table: frame.filter((known[table] <= at).fill_null(True)) if table in known else frame
            for table, frame in tables.items()
        }
        try:
            then = again(rows)
            compared, differing = _compare(contract, (whole, times), (then, row_time.read(then)), at)
        except DataError as error:
            raise DataError(
                f"on what was known at {_written(at)}, without later rows of {', '.join(sources)}, {error}"
            ) from error
        for column, count in differing.items():
            if count > (found[column].rows if column in found else 0):
                found[column] = Ahead(column, count, len(cuts))
        cuts.append(Cut(share, at, compared))
    return Proof(
        {source: known[source].null_count() for source in sources},
        tuple(table for table in tables if table not in sources),
        tuple(cuts),
        tuple(sorted(found.values(), key=lambda ahead: -ahead.rows)),
    )


def _known_at(name: str, source: Source, frame: pl.DataFrame, zone: str | None) -> pl.Series:
    times = _Times.of(source.time or "", f"source {name}", frame, Column(type="datetime", zone=zone)).read(frame)
    if frame.height and times.null_count() == frame.height:
        raise DataError(f"source {name}: {source.time} holds no times; name a column of datetimes")
    return times + timedelta(seconds=source.delay or 0.0)


@dataclass(frozen=True, slots=True)
class _Times:
    """How a column's times are read."""

    name: str
    where: str  # in a message
    column: Column
    pattern: str  # of texts

    @classmethod
    def of(cls, name: str, where: str, frame: pl.DataFrame, column: Column) -> "_Times":
        """As the texts of `frame` are mostly written."""
        unread = cls(name, where, column, "%Y-%m-%d")
        clean = unread.clean(frame)
        found = detect_format(clean) if clean.dtype == pl.String else None
        if found is not None and found.ambiguous:
            raise DataError(
                f"{where}: every date of {name} reads as month/day and as day/month; write year-month-day, such as "
                "2026-03-31"
            )
        return unread if found is None else replace(unread, pattern=found.pattern)

    def clean(self, frame: pl.DataFrame) -> pl.Series:
        """The column without the words for no value."""
        if self.name not in frame.columns:
            shown = ", ".join(frame.columns[:20])
            raise DataError(f"{self.where}: no column {self.name!r} tells the time; there are {shown}")
        return frame.select(cleaned(self.name, self.column, frame.schema[self.name])).to_series()

    def read(self, frame: pl.DataFrame) -> pl.Series:
        """The column's times in UTC, null where there is none."""
        clean = self.clean(frame)
        return clean.to_frame().select(typed(self.name, self.column, clean.dtype, self.pattern)).to_series()


def _cuts(times: pl.Series) -> Iterator[tuple[float, datetime]]:
    """About these shares of the rows are not younger; of the times near there, the one that most rows have.

    A look ahead that reaches a little way is seen in the rows that lie just before the cut.
    """
    ordered, seen = times.drop_nulls().sort(), None
    for share in CUTS:
        start, stop = (int((share + side) * len(ordered)) for side in (-NEAR, NEAR))
        near = ordered[start : stop + 1].filter(ordered[start : stop + 1] < times.max())
        if not len(near):
            near = ordered.filter(ordered < times.max()).tail(1)
        most = near.mode().sort()
        at = most[len(most) // 2] if len(most) else None
        if isinstance(at, datetime) and at != seen:
            seen = at
            yield share, at


# --- the same rows, twice


def _compare(
    contract: Contract, whole: tuple[pl.DataFrame, pl.Series], then: tuple[pl.DataFrame, pl.Series], at: datetime
) -> tuple[int, dict[str, int]]:
    """How many rows up to `at` stand in both runs, and of each column in how many it differs."""
    time, keys = contract.context_by_role("time")[0], contract.context_by_role("key")[:1]
    asked = [name for name in (*contract.features, *contract.context) if name not in (time, *keys)]
    named = [name for name in keys if name in whole[0].columns and name in then[0].columns]
    shared = [name for name in asked if all(_is_told(name, frame) for frame, _ in (whole, then))]
    one, other = (_known_rows(frame, times.alias(time), at, named, shared) for frame, times in (whole, then))
    values = [name for name in one.columns if name not in named]
    apart = [name for name in values if one.schema[name] != other.schema[name]]  # such as one that is empty there
    one, other = (side.with_columns(pl.col(apart).cast(pl.String)) for side in (one, other))
    if named and not (one[named[0]].is_duplicated().any() or other[named[0]].is_duplicated().any()):
        both = one.join(other, on=named, suffix=_AGAIN)
        return both.height, _differing(both, values)
    return _compare_sets(one, other, [*named, time], [name for name in values if name != time])


def _is_told(name: str, frame: pl.DataFrame) -> bool:
    return name in frame.columns and not frame.schema[name].is_nested()


_AGAIN = "\n"  # no column ends so


def _known_rows(
    frame: pl.DataFrame, times: pl.Series, at: datetime, named: Sequence[str], names: Sequence[str]
) -> pl.DataFrame:
    """The rows that are not younger than `at`: key and other values as text, time as a number, numbers as float64."""
    kinds = frame.schema
    values = [
        pl.col(name).cast(pl.Float64).fill_nan(None) if kinds[name].is_numeric() else pl.col(name).cast(pl.String)
        for name in names
    ]
    known = frame.select(*(pl.col(name).cast(pl.String) for name in named), times.dt.epoch("us"), *values)
    return known.filter(times <= at)


def _differing(both: pl.DataFrame, names: Sequence[str]) -> dict[str, int]:
    counts = {}
    for name in names:
        one, other = both[name], both[f"{name}{_AGAIN}"]
        differs = one.ne_missing(other)
        if one.dtype.is_float():
            differs &= ~_is_close(one, other).fill_null(False)
        if differs.any():
            counts[name] = int(differs.sum())
    return counts


def _is_close(one: pl.Series, other: pl.Series) -> pl.Series:
    scale = float(other.abs().max() or 0.0)  # type: ignore[arg-type]
    gap, size = (one - other).abs(), pl.DataFrame([one.abs().alias("a"), other.abs().alias("b")]).max_horizontal()
    return (gap <= TOLERANCE * size) | (gap <= OF_SCALE * scale)


def _compare_sets(
    whole: pl.DataFrame, then: pl.DataFrame, identity: list[str], names: list[str]
) -> tuple[int, dict[str, int]]:
    """Without a key that tells rows apart: a value counts as the same if some row of that time has it."""
    standing = then.join(whole, on=identity, how="semi", nulls_equal=True)
    counts = {}
    for name in names:
        lost = standing.join(whole, on=[*identity, name], how="anti", nulls_equal=True)
        if lost.height and lost.schema[name].is_float():
            near = _nearest(lost, whole, identity, name)
            lost = near.filter(~_is_close(near[name], near[f"{name}{_AGAIN}"]).fill_null(False))
        if lost.height:
            counts[name] = lost.height
    return standing.height, counts


def _nearest(lost: pl.DataFrame, whole: pl.DataFrame, identity: list[str], name: str) -> pl.DataFrame:
    """The lost values, each with the nearest one of the same time in the whole run."""
    rows = whole.select(*identity, name, pl.col(name).alias(f"{name}{_AGAIN}")).drop_nulls(name).sort(name)
    wanted = lost.select(*identity, name)
    missing = wanted.filter(pl.col(name).is_null()).with_columns(pl.lit(None, pl.Float64).alias(f"{name}{_AGAIN}"))
    found = wanted.drop_nulls(name).sort(name).join_asof(
        rows, on=name, by=identity, strategy="nearest", check_sortedness=False
    )  # fmt: skip
    return pl.concat([found.select(missing.columns), missing])


def _written(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
