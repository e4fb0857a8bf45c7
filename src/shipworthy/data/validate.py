"""Validate: every row is accepted with the contract's types, or quarantined with all its reasons.

How a text becomes a value stands in `values`; nothing else is repaired unless the contract says so
(`outside: clip`, `unknown: missing`, ...).
"""

import difflib
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.contract.columns import Column, ContextColumn, Feature
from shipworthy.contract.expressions import FLOAT32_MAX, parse_expression
from shipworthy.contract.patterns import Pattern
from shipworthy.contract.types import Contract
from shipworthy.data.columns import derived_values, evaluate, is_outside, kinds, settled, zones
from shipworthy.data.datetimes import detect_format
from shipworthy.data.values import Read, read_columns
from shipworthy.kernel.errors import DataError

NAMES = ("row", "reasons", "malformed")  # of the columns before those of the rows, which may need others
SHOWN_CHARACTERS = 60  # of a value in a message
_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "datetime": "a datetime"}


@dataclass(frozen=True, slots=True)
class Validated:
    """What validation made of a frame. `reasons` counts rows for each reason, most frequent first."""

    accepted: pl.DataFrame  # context, features, derived columns, target; typed by the contract
    quarantined: pl.DataFrame  # row (from 1), reasons, malformed, then the columns as they were read
    reasons: dict[str, int]
    examples: dict[str, str]  # reason -> its first row and value
    noted: dict[str, int]  # accepted, but clipped, set missing or for review
    checks: dict[str, int]  # check -> rows that fail it
    formats: dict[str, str]  # datetime column -> the format that was taken

    @property
    def rows(self) -> int:
        """Accepted and quarantined."""
        return self.accepted.height + self.quarantined.height


@dataclass(frozen=True, slots=True)
class _Flag:
    """The rows that have one reason."""

    reason: str
    rows: pl.Series  # bool, no nulls
    column: str = ""  # whose value is the example
    noted: bool = False  # accepted all the same


def validate(contract: Contract, frame: pl.DataFrame, *, malformed: pl.DataFrame | None = None) -> Validated:
    """Part `frame` in accepted and quarantined rows; `accept` says whether that is good enough.

    Args:
        contract: its context, features, derived columns, checks and target are held.
        frame: as `prepare` left it; text columns, or typed ones.
        malformed: rows that the sources could not part in fields (`SourceRead.malformed`).

    Raises:
        DataError: a column of the contract is not in the frame, or its dates cannot be told apart.
    """
    judged = judge_rows(contract, frame, find_formats(contract, frame))
    return completed(hold_unique(contract, judged, lambda rows: frame[rows]), frame.columns, malformed)


def find_formats(contract: Contract, frame: pl.DataFrame) -> dict[str, str]:
    """The format of each datetime column that is text.

    Raises:
        DataError: as for `validate`.
    """
    wanted = _wanted(contract)
    _judge_columns(wanted, frame)
    formats = {}
    for name, column in wanted.items():
        if column.type != "datetime" or frame.schema[name] != pl.String:
            continue
        found = detect_format(frame[name])
        if found is not None and found.ambiguous:
            raise DataError(
                f"{name}: every date reads as month/day and as day/month; write year-month-day, such as 2026-03-31"
            )
        formats[name] = found.pattern if found else "%Y-%m-%d"
    return formats


def judge_rows(contract: Contract, frame: pl.DataFrame, formats: Mapping[str, str], *, first: int = 0) -> Validated:
    """Part rows by all rules that look at one row alone.

    Args:
        contract: as for `validate`.
        frame: some of the rows, or all.
        formats: of `find_formats`.
        first: how many rows stand before them.
    """
    wanted = _wanted(contract)
    reads = read_columns(wanted, frame, formats)
    values = pl.DataFrame([read.values for read in reads.values()])
    limits = _limits(values)
    flags = [
        flag
        for name, column in wanted.items()
        for flag in _column_flags(contract, name, column, reads[name], limits.get(name), formats)
    ]
    flagged = {flag.column for flag in flags}
    left = values.with_columns(settled(name, column) for name, column in contract.features.items() if name in flagged)
    complete, derived_flags = _derived(contract, left)
    check_flags = list(_check_flags(contract, complete))
    flags = [flag for flag in (*flags, *derived_flags, *check_flags) if flag.rows.any()]
    grounds = [flag for flag in flags if not flag.noted]
    bad = _any(grounds, frame.height)
    return Validated(
        accepted=complete.filter(~bad) if grounds else complete,
        quarantined=_quarantined(frame, grounds, bad, first),
        reasons={flag.reason: int(flag.rows.sum()) for flag in grounds},
        examples={flag.reason: _example(frame, flag, first) for flag in grounds},
        noted={flag.reason: int(flag.rows.sum()) for flag in flags if flag.noted},
        checks={flag.reason: int(flag.rows.sum()) for flag in check_flags},
        formats=dict(formats),
    )


def joined(parts: Sequence[Validated]) -> Validated:
    """What `judge_rows` made of rows that stand one below the other."""
    if len(parts) == 1:
        return parts[0]
    return Validated(
        accepted=pl.concat(part.accepted for part in parts),
        quarantined=pl.concat(part.quarantined for part in parts),
        reasons=summed(part.reasons for part in parts),
        examples={reason: text for part in reversed(parts) for reason, text in part.examples.items()},
        noted=summed(part.noted for part in parts),
        checks=summed(part.checks for part in parts),
        formats=parts[0].formats,
    )


def hold_unique(
    contract: Contract,
    judged: Validated,
    rows_at: Callable[[pl.Series], pl.DataFrame],
    *,
    first: int = 0,
    held_before: Callable[[Sequence[str]], pl.DataFrame] | None = None,
) -> Validated:
    """Of each key the first acceptable row stays, then of each value or combination that is to be unique.

    Args:
        contract: says what is unique.
        judged: all rows of the batch.
        rows_at: the rows of these numbers, from 0 and ascending, as they were read.
        first: how many rows stand before them.
        held_before: columns of the accepted ones among those; None: there are none.
    """
    for columns, words in unique_columns(contract):
        held = judged.accepted.select(columns)
        known = _all_known(held)
        held = held if known is None else held.filter(known)
        repeated = pl.repeat(False, held.height, dtype=pl.Boolean, eager=True)
        if held.hash_rows().n_unique() != held.height:  # other hashes, other values
            repeated = ~held.select(pl.struct(pl.all()).is_first_distinct()).to_series()
        if held_before is not None:
            repeated = repeated | _stand_in(held, held_before(columns))
        if not repeated.any():
            continue
        if known is not None:
            repeated = pl.repeat(False, len(known), eager=True).scatter(known.arg_true().filter(repeated), True)
        judged = _without(judged, repeated, columns, words, rows_at, first)
    return judged


def completed(judged: Validated, columns: Sequence[str], malformed: pl.DataFrame | None) -> Validated:
    """With the rows that could not be parted in fields, and the most frequent reasons first.

    Args:
        judged: all rows of the batch.
        columns: of the rows as they were read.
        malformed: as for `validate`.
    """
    reasons, quarantined = dict(judged.reasons), judged.quarantined
    if malformed is not None:
        reasons |= dict(malformed.group_by("reason").len().sort("reason").iter_rows())
        _, reason, broken = (_free(name, columns) for name in NAMES)
        lost = malformed.select(pl.col("reason").alias(reason), pl.format("line {}: {}", "line", "text").alias(broken))
        quarantined = pl.concat([quarantined, lost], how="diagonal") if lost.height else quarantined
    return replace(judged, quarantined=quarantined, reasons=most_frequent(reasons))


def summed(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Rows of each reason, of several parts."""
    found: dict[str, int] = {}
    for part in parts:
        for reason, count in part.items():
            found[reason] = found.get(reason, 0) + count
    return found


def most_frequent(reasons: Mapping[str, int]) -> dict[str, int]:
    """The reasons, those of most rows first."""
    return dict(sorted(reasons.items(), key=lambda item: -item[1]))


def accepted_rows(judged: Validated, first: int = 0) -> NDArray[np.int64]:
    """The number, from 0, that each accepted row has in the rows as they were read; `first` stand before them."""
    held = judged.quarantined.to_series(0).drop_nulls().to_numpy() - (first + 1)
    is_accepted = np.ones(judged.accepted.height + len(held), dtype=np.bool_)
    is_accepted[held] = False
    return np.flatnonzero(is_accepted)


# --- what the contract asks for


def _wanted(contract: Contract) -> dict[str, Column]:
    target = contract.target
    if target.type == "regression":
        truth = Column(type="float", range=target.range)
    else:
        truth = Column(type="category", values=target.values)
    return {**contract.context, **contract.features, target.column: truth}


def _judge_columns(wanted: dict[str, Column], frame: pl.DataFrame) -> None:
    lacking = [name for name in wanted if name not in frame.columns]
    if not lacking:
        return
    near = difflib.get_close_matches(lacking[0], frame.columns, 1)
    guess = f"; did you mean {near[0]}?" if near else ""
    shown = ", ".join(frame.columns[:20]) + (", …" if frame.width > 20 else "")
    raise DataError(f"the data has no column {', '.join(lacking)}; it has {shown}{guess}")


# --- reasons


def _limits(values: pl.DataFrame) -> dict[str, tuple[float, float]]:
    """The least and the greatest number of each column that has one."""
    numeric = [name for name, kind in values.schema.items() if kind.is_numeric()]
    if not numeric:
        return {}
    lowest, highest = values.select(numeric).min().row(0), values.select(numeric).max().row(0)
    found = zip(numeric, lowest, highest, strict=True)
    return {name: (low, high) for name, low, high in found if low is not None}


def _column_flags(
    contract: Contract,
    name: str,
    column: Column,
    read: Read,
    limits: tuple[float, float] | None,
    formats: Mapping[str, str],
) -> Iterator[_Flag]:
    """The rows that break a rule of one column; nothing is yielded for rules that hold, as most do."""
    values, is_target = read.values, name == contract.target.column
    if _must_be_there(contract, column) and read.absent is not None:
        yield _Flag(f"{name}: missing", read.absent, name)
    if column.type in _KINDS and values.null_count() > (0 if read.absent is None else read.absent.sum()):
        pattern = f" of the format {formats[name]}" if name in formats else ""
        yield _Flag(f"{name}: not {_KINDS[column.type]}{pattern}", read.odd, name)
    if column.values is not None and not read.is_listed:
        noted = isinstance(column, Feature) and column.unknown != "reject"
        unknown = (~values.is_in(list(column.values))).fill_null(False)
        if unknown.any():
            yield _Flag(f"{name}: unknown {'class' if is_target else 'category'}", unknown, name, noted)
    if column.pattern is not None:
        strange = (~values.str.contains(Pattern(column.pattern).rust)).fill_null(False)
        if strange.any():
            yield _Flag(f"{name}: not of the pattern {_shortened(column.pattern)}", strange, name)
    if limits is None:
        return
    low, high = limits
    if column.type == "float" and not is_target and max(abs(low), abs(high)) > FLOAT32_MAX:
        yield _Flag(f"{name}: beyond {FLOAT32_MAX:.2g}, what a model's float32 holds", _too_large(values), name)
    if column.range is not None and not column.range[0] <= low <= high <= column.range[1]:
        noted = isinstance(column, Feature) and column.outside != "reject"
        outside = values.to_frame(name).select(is_outside(pl.col(name), column.range)).to_series()
        yield _Flag(f"{name}: outside [{column.range[0]:g}, {column.range[1]:g}]", outside, name, noted)


def _too_large(values: pl.Series) -> pl.Series:
    return (values.abs() > FLOAT32_MAX).fill_null(False)


def _must_be_there(contract: Contract, column: Column) -> bool:
    """The target, what a caller must send, and the context that the split needs."""
    if isinstance(column, Feature):
        return column.missing == "reject"
    if isinstance(column, ContextColumn):
        needed = column.role == "key" or column.role == contract.training.split.by
        return needed or column.request == "required"
    return True


def _derived(contract: Contract, frame: pl.DataFrame) -> tuple[pl.DataFrame, list[_Flag]]:
    flags = []
    for name, column in contract.derived.items():
        values = derived_values(contract, frame, column).alias(name)
        frame = frame.with_columns(values)
        if column.values is not None:
            unknown = (~values.is_in(list(column.values))).fill_null(False)
            flags.append(_Flag(f"{name}: unknown category", unknown, "", column.unknown != "reject"))
        if column.range is not None:
            outside = frame.select(is_outside(pl.col(name), column.range)).to_series()
            reason = f"{name}: outside [{column.range[0]:g}, {column.range[1]:g}]"
            flags.append(_Flag(reason, outside, "", column.outside != "reject"))
        frame = frame.with_columns(settled(name, column))
    return frame, flags


def _check_flags(contract: Contract, frame: pl.DataFrame) -> Iterator[_Flag]:
    """A check fails where it is false; where a value that it reads is missing it says nothing."""
    for check in contract.checks:
        expression = parse_expression(check.expect, kinds(contract))
        fails = ~evaluate(expression, frame, zones(contract)).fill_null(True)
        yield _Flag(f"check {check.name}: false", fails)


def unique_columns(contract: Contract) -> list[tuple[tuple[str, ...], str]]:
    """The columns, one or several together, of which no two accepted rows have the same values, with the reason."""
    keys = contract.context_by_role("key")
    others = [
        name
        for name, column in (*contract.context.items(), *contract.features.items())
        if column.unique and name not in keys
    ]
    return [
        *(((name,), "duplicate key") for name in keys),
        *(((name,), "duplicate value") for name in others),
        *((columns, "duplicate key") for columns in contract.data.unique),
    ]


def _any(flags: list[_Flag], height: int) -> pl.Series:
    rows = pl.repeat(False, height, dtype=pl.Boolean, eager=True)
    for flag in flags:
        if not flag.noted:
            rows = rows | flag.rows
    return rows


# --- the two parts


def _all_known(held: pl.DataFrame) -> pl.Series | None:
    """Where no column is missing; None: everywhere."""
    lacking = [series.is_not_null() for series in held if series.null_count()]
    return functools.reduce(operator.and_, lacking) if lacking else None


def _stand_in(held: pl.DataFrame, before: pl.DataFrame) -> pl.Series:
    """Which rows of `held` are among those of before: the few are looked for in the many."""
    known = before.join(held.unique(), on=held.columns, how="semi").unique()
    found = held.with_row_index("__at").join(known, on=held.columns, how="semi")["__at"]
    return pl.repeat(False, held.height, dtype=pl.Boolean, eager=True).scatter(found, True)


def _without(
    judged: Validated,
    repeated: pl.Series,
    columns: Sequence[str],
    words: str,
    rows_at: Callable[[pl.Series], pl.DataFrame],
    first: int,
) -> Validated:
    """Accepted rows that repeat others, in quarantine."""
    reason = f"{', '.join(columns)}: {words}"
    rows = pl.Series(accepted_rows(judged, first)[repeated.arg_true().to_numpy()])
    raw = rows_at(rows)
    flag = _Flag(reason, pl.repeat(True, raw.height, eager=True), columns[0] if len(columns) == 1 else "")
    held = _quarantined(raw, [flag], flag.rows).with_columns((rows + (first + 1)).alias(judged.quarantined.columns[0]))
    return replace(
        judged,
        accepted=judged.accepted.filter(~repeated),
        quarantined=pl.concat([judged.quarantined, held]).sort(judged.quarantined.columns[0]),
        reasons={**judged.reasons, reason: raw.height},
        examples={**judged.examples, reason: _example(raw, flag, first + int(rows[0]))},
    )


def _quarantined(frame: pl.DataFrame, grounds: list[_Flag], bad: pl.Series, first: int = 0) -> pl.DataFrame:
    row, reasons, broken = (_free(name, frame.columns) for name in NAMES)
    rows = bad.arg_true()
    named = [
        pl.when(flag.rows.gather(rows)).then(pl.lit(flag.reason)).alias(str(number))
        for number, flag in enumerate(grounds)
    ]
    texts = pl.select(pl.concat_str(named, separator="; ", ignore_nulls=True)) if grounds else pl.DataFrame({"": []})
    return pl.DataFrame(
        {
            row: (rows + (first + 1)).cast(pl.Int64),
            reasons: texts.to_series().cast(pl.String),
            broken: pl.repeat(None, len(rows), dtype=pl.String, eager=True),
        }
    ).hstack(frame.filter(bad))


def _free(name: str, columns: Sequence[str]) -> str:
    while name in columns:
        name += "_"
    return name


def _example(frame: pl.DataFrame, flag: _Flag, first: int = 0) -> str:
    row = int(flag.rows.arg_max() or 0)
    if not flag.column:
        return f"row {first + row + 1}"
    return f"row {first + row + 1}: {_shortened(repr(frame[flag.column][row]))}"


def _shortened(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…"
