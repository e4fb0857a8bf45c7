"""Values: how a text of a file, or a typed value, becomes a value of the contract's type.

Texts are trimmed, except in columns of type text. An empty text and the words of `MISSING` are missing, unless a
category lists them; in a column of type text only the empty one is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from shipworthy.contract.columns import Column
from shipworthy.contract.expressions import MISSING
from shipworthy.data.datetimes import EARLIEST_YEAR, LATEST_YEAR, localise, parse_datetimes

WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}
EXACT_WHOLE = 2.0**53  # beyond it a float64 is not sure to be the whole number that was written


FEW = 8  # values to be compared with one by one
MOSTLY = 0.1  # of the values that need the whole way; with more of them it is taken for all at once


@dataclass(frozen=True, slots=True)
class Read:
    """A column, read. A value that is null though it is there is not of the column's type."""

    values: pl.Series  # of the contract's type
    absent: pl.Series | None  # bool: where nothing stands; None: nowhere
    is_listed: bool = False  # known to hold nothing but the category's values

    @property
    def odd(self) -> pl.Series:
        """Where something stands that is not of the type."""
        nulls = self.values.is_null()
        return nulls if self.absent is None else nulls & ~self.absent


def read_columns(wanted: Mapping[str, Column], frame: pl.DataFrame, patterns: Mapping[str, str]) -> dict[str, Read]:
    """The columns of `frame` by their contract: what `typed` makes of `cleaned`, in fewer passes.

    Most values need neither trimming nor a look at the words for missing: they are converted as they stand, and only
    what that does not read goes the whole way.

    Args:
        wanted: columns of `frame` with their contract.
        frame: as it was read.
        patterns: of the datetimes that are texts.
    """
    quick = {name: column for name, column in wanted.items() if _is_quick(column, frame.schema[name])}
    tried = frame.select(
        _quickly(name, column, _usual(patterns.get(name, ""), frame[name])) for name, column in quick.items()
    )
    found: dict[str, Read] = {}
    for name, column in quick.items():
        kept = _kept(column, tried[name], frame[name])
        if kept is not None and kept.null_count() - frame[name].null_count() <= MOSTLY * frame.height:
            found[name] = _completed(name, column, frame[name], kept, patterns.get(name, ""))
    rest = {name: column for name, column in wanted.items() if name not in found}
    known = frame.select(cleaned(name, column, frame.schema[name]) for name, column in rest.items())
    values = known.select(
        typed(name, column, known.schema[name], patterns.get(name, "")) for name, column in rest.items()
    )
    for name in rest:
        found[name] = Read(values[name], known[name].is_null() if known[name].null_count() else None)
    return {name: found[name] for name in wanted}


def _is_quick(column: Column, kind: pl.DataType) -> bool:
    """Whether a value that is read as it stands is read as it would be the whole way."""
    match column.type:
        case "float":
            return kind == pl.String or kind.is_float() or kind.is_integer()
        case "int":
            return kind == pl.String or kind.is_integer()
        case "datetime":
            return kind == pl.String and column.zone is None
        case "category":
            return kind == pl.String and all(value.strip() == value for value in column.values or (" ",))
        case _:
            return False


def _quickly(name: str, column: Column, pattern: str) -> pl.Expr:
    values = pl.col(name)
    match column.type:
        case "float":
            return values.cast(pl.Float64, strict=False)
        case "int":
            return values.cast(pl.Int64, strict=False)
        case "datetime":
            return values.str.to_datetime(pattern, strict=False, time_unit="us")
        case _:
            return _is_any(values, column.values or ())


def _usual(pattern: str, texts: pl.Series) -> str:
    """The pattern of most texts: to look for a fraction that is not there takes four times as long."""
    first = texts.first(ignore_nulls=True)
    return pattern if not isinstance(first, str) or re.search(r":\d\d\.\d", first) else pattern.replace("%.f", "")


def _is_any(texts: pl.Expr, values: Sequence[str]) -> pl.Expr:
    if len(values) > FEW:
        return texts.is_in(list(values))
    return pl.any_horizontal(texts == value for value in values).alias(texts.meta.output_name())


def _kept(column: Column, tried: pl.Series, found: pl.Series) -> pl.Series | None:
    """What was read quickly, null where more is to be looked at; None where that is all of it."""
    if column.type == "category":
        return found if tried.all() else found.to_frame().select(pl.when(tried).then(pl.all())).to_series()
    if column.type == "float" and not tried.is_finite().all():
        return tried.to_frame().select(pl.when(pl.all().is_finite()).then(pl.all())).to_series()
    if column.type == "datetime":
        ends = tried.to_frame().select(pl.all().min().dt.year().alias("first"), pl.all().max().dt.year().alias("last"))
        first, last = ends.row(0)  # years: Python knows no year 0
        if first is None or first < EARLIEST_YEAR or last > LATEST_YEAR:
            return None
        has_zone = isinstance(tried.dtype, pl.Datetime) and tried.dtype.time_zone is not None
        return tried if has_zone else tried.dt.replace_time_zone("UTC")
    return tried


def _completed(name: str, column: Column, found: pl.Series, tried: pl.Series, pattern: str) -> Read:
    """What was read quickly, with the few other values read the whole way."""
    absent = found.is_null() if found.null_count() else None
    if tried.null_count() == found.null_count():
        return Read(tried, absent, is_listed=column.type == "category")
    rows = (tried.is_null() & found.is_not_null()).arg_true()
    known = found.gather(rows).to_frame().select(cleaned(name, column, found.dtype))
    values = known.select(typed(name, column, known.schema[name], pattern)).to_series()
    missing = rows.filter(known.to_series().is_null())
    if len(missing):
        nowhere = pl.repeat(False, len(found), dtype=pl.Boolean, eager=True) if absent is None else absent
        absent = nowhere.scatter(missing, True)
    return Read(tried.scatter(rows, values), absent)


def cleaned(name: str, column: Column, kind: pl.DataType) -> pl.Expr:
    """Column `name`, whose dtype is `kind`: texts trimmed and without the words for missing, no NaN."""
    values = pl.col(name)
    if kind == pl.Categorical or kind == pl.Enum:
        values, kind = values.cast(pl.String), pl.String()
    if kind != pl.String:
        return values.fill_nan(None) if kind.is_float() else values
    if column.type == "text":
        return pl.when(values != "").then(values).alias(name)
    trimmed = values.str.strip_chars()
    words = [word for word in MISSING if word not in (column.values or ())]
    return pl.when(~trimmed.is_in(words)).then(trimmed).alias(name)


def typed(name: str, column: Column, kind: pl.DataType, pattern: str = "") -> pl.Expr:
    """Cleaned column `name`, whose dtype is `kind`, with the contract's type; null where a value is not of it.

    Args:
        name: of the column.
        column: its contract.
        kind: its dtype after `cleaned`.
        pattern: of a datetime's texts.
    """
    values = pl.col(name)
    return _converted(values, column, kind, pattern).alias(name)


def _converted(values: pl.Expr, column: Column, kind: pl.DataType, pattern: str) -> pl.Expr:
    match column.type:
        case "float":
            return _number(values, kind)
        case "int":
            return _whole(values, kind)
        case "bool":
            return _truth(values, kind)
        case "datetime":
            return _instant(values, kind, pattern, column.zone)
        case _:
            return _label(values, kind)


def _nothing(values: pl.Expr, kind: pl.DataType) -> pl.Expr:
    return pl.when(values.is_null() & values.is_not_null()).then(pl.lit(None, dtype=kind))


def _number(values: pl.Expr, kind: pl.DataType) -> pl.Expr:
    if kind.is_temporal() or kind == pl.Boolean:
        return _nothing(values, pl.Float64())
    number = values.cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def _whole(values: pl.Expr, kind: pl.DataType) -> pl.Expr:
    number = _number(values, kind)
    rounded = pl.when((number == number.floor()) & (number.abs() <= EXACT_WHOLE)).then(number)
    whole = rounded.cast(pl.Int64, strict=False)
    if kind == pl.String or kind.is_integer():
        return pl.coalesce(values.cast(pl.Int64, strict=False), whole)
    return whole


def _truth(values: pl.Expr, kind: pl.DataType) -> pl.Expr:
    if kind == pl.Boolean:
        return values
    if kind == pl.String:
        return values.str.to_lowercase().replace_strict(WORDS, default=None, return_dtype=pl.Boolean)
    if kind.is_numeric():
        return pl.when((values == 0) | (values == 1)).then(values == 1)
    return _nothing(values, pl.Boolean())


def _instant(values: pl.Expr, kind: pl.DataType, pattern: str, zone: str | None) -> pl.Expr:
    if kind == pl.String:
        return parse_datetimes(values, pattern, zone)
    if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
        return values.cast(pl.Datetime("us", kind.time_zone)).dt.convert_time_zone("UTC")
    if kind.is_temporal() and kind not in (pl.Time, pl.Duration):
        return localise(values.cast(pl.Datetime("us")), zone)
    return _nothing(values, pl.Datetime("us", "UTC"))


def _label(values: pl.Expr, kind: pl.DataType) -> pl.Expr:
    if kind.is_float():  # 1.0 from a column of whole numbers with gaps is the label 1
        whole = (values == values.floor()) & (values.abs() <= EXACT_WHOLE)
        return (
            pl.when(whole).then(values.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(values.cast(pl.String))
        )
    return values.cast(pl.String)
