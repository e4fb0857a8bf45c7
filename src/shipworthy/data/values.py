"""Values: how a text of a file, or a typed value, becomes a value of the contract's type.

Texts are trimmed, except in columns of type text. An empty text and the words of `MISSING` are missing, unless a
category lists them; in a column of type text only the empty one is.
"""

import polars as pl

from shipworthy.contract.expressions import MISSING
from shipworthy.contract.types import Column
from shipworthy.data.datetimes import localise, parse_datetimes

WORDS = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}
EXACT_WHOLE = 2.0**53  # beyond it a float64 is not sure to be the whole number that was written


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
        return pl.when(values.is_in([0, 1])).then(values == 1)
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
