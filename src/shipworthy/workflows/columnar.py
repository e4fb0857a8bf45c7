"""Many rows judged at once: what `serving.decode` says of each row by itself, said of a whole table in columns.

Only rows that need nothing special are answered from here: all that a request must have, every value of its type and
within its bounds, no check failed. For those the model's matrix is, bit for bit, what the row decoder makes. Every
other row is left to the row decoder, which has the words for what is wrong, clipped, missing or for a person to see.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from msgspec import UNSET
from numpy.typing import NDArray

from shipworthy.bundle.format import ContextField, DerivedField, FeatureField, Schema
from shipworthy.contract.expression_text import MAX_TEXT
from shipworthy.contract.expressions import FLOAT32_MAX, Kind, parse_derived, parse_expression
from shipworthy.contract.patterns import Pattern
from shipworthy.data.columns import class_codes, evaluate
from shipworthy.data.requests import MOMENT, RequestPlan, Values, read_values
from shipworthy.serving.decode import INT64_MAX, INT64_MIN, RequestDecoder
from shipworthy.serving.lookups import Lookup

Field = FeatureField | ContextField

# what both readers of datetimes take alike; odder spellings are left to the row decoder
_MOMENT = r"^\d{4}-\d\d-\d\d([ T]\d\d:\d\d(:[0-5]\d(\.\d+)?)?([Zz]|[+-]\d\d(:?\d\d)?)?)?$"
_KINDS: Mapping[Kind, pl.DataType] = {
    "float": pl.Float64(),
    "int": pl.Int64(),
    "bool": pl.Boolean(),
    "category": pl.String(),
    "text": pl.String(),
    "datetime": pl.Datetime("us", "UTC"),
}


@dataclass(frozen=True, slots=True)
class Judged:
    """A table's rows as one release sees them."""

    plain: NDArray[np.bool_]  # (n,) rows that need nothing special
    matrix: NDArray[np.float32]  # (n, model columns); of a row that is not plain, anything
    sent: Mapping[str, pl.Series]  # features and context as JSON has them, by name


def judge_rows(decoder: RequestDecoder, plan: RequestPlan, rows: pl.DataFrame) -> Judged:
    """Judge `rows` as a release sees them.

    Args:
        decoder: of the release.
        plan: of the table, which has `rows`.
        rows: some rows of it.
    """
    schema = decoder.schema
    asked: tuple[Field, ...] = (*schema.asked, *schema.context)
    read = {field.name: _read(field, plan, rows) for field in asked}
    plain = np.ones(rows.height, dtype=np.bool_)
    fields: list[Field] = list(asked)
    for lookup in decoder.lookups:
        found = _find(decoder, lookup, read)
        plain &= found >= 0
        for feature, column in zip(lookup.features, lookup.gather(found.tolist()), strict=True):
            read[feature.name] = _looked_up(feature, column)
            fields.append(feature)
    for field in fields:
        _keep(plain, _suits(field, read[field.name]))
    typed = pl.DataFrame([values.typed.alias(name) for name, values in read.items()])
    typed = _derive(schema, typed, plain)
    for check in schema.checks:
        _keep(plain, _evaluated(schema, check.condition, typed).fill_null(True))
    return Judged(plain, _matrix(schema, typed), {name: values.sent for name, values in read.items()})


def _find(decoder: RequestDecoder, lookup: Lookup, read: Mapping[str, Values]) -> NDArray[np.int64]:
    """The row of the lookup's table that each row gets, or why none, as the row decoder finds it."""
    parts = [read[name].typed.to_list() for name in lookup.field.key]
    keys = parts[0] if len(parts) == 1 else list(zip(*parts, strict=True))
    clock = next((field.name for field in decoder.schema.context if field.role == "time"), None)
    if clock is None or not lookup.field.is_timed:
        moments = [0] * len(keys)
    else:
        moments = read[clock].typed.dt.timestamp("us").fill_null(decoder.moment_us()).to_list()
    return np.fromiter(map(lookup.find, keys, moments), dtype=np.int64, count=len(keys))


def _looked_up(field: FeatureField, column: Sequence[Any]) -> Values:
    """What a lookup gives, as if it had been sent."""
    kind = pl.String() if field.kind == "datetime" else _KINDS[field.kind]
    return read_values(field, pl.DataFrame({field.name: pl.Series(column, dtype=kind)}), MOMENT)


def _keep(plain: NDArray[np.bool_], suits: pl.Series) -> None:
    np.logical_and(plain, suits.to_numpy(), out=plain)


def _read(field: Field, plan: RequestPlan, rows: pl.DataFrame) -> Values:
    if field.name in rows.columns:
        return read_values(field, rows, plan.formats.get(field.name, ""))
    absent = pl.repeat(None, rows.height, dtype=_KINDS[field.kind], eager=True).alias(field.name)
    return Values(absent, absent, absent, pl.repeat(False, rows.height, eager=True))


def _suits(field: Field, values: Values) -> pl.Series:
    """Where a value is as it should be, or missing where it may be."""
    typed, name = values.typed, field.name
    may_miss = field.missing == "allow" if isinstance(field, FeatureField) else not field.required
    missing = typed.is_null() & ~values.odd
    if missing.all():
        return pl.repeat(may_miss, len(typed), eager=True)
    match field.kind:
        case "float" | "int":
            low, high = _bounds(field)
            good = (typed >= low) & (typed <= high)
        case "bool":
            good = typed.is_not_null()
        case "category" if field.values is not None:
            good = typed.is_in(list(field.values))
        case "text":
            good = typed.str.len_chars() <= MAX_TEXT
            if field.pattern is not UNSET:
                good &= typed.str.contains(Pattern(field.pattern).rust)
        case "datetime":
            good = values.sent.str.contains(_MOMENT) & typed.is_not_null()
        case _:
            good = pl.repeat(False, len(typed), eager=True)
    good = good.fill_null(False)
    return (good | missing if may_miss else good).alias(name)


def _bounds(field: Field) -> tuple[float, float]:
    low = max(-FLOAT32_MAX, -math.inf if field.low is None else field.low)
    high = min(FLOAT32_MAX, math.inf if field.high is None else field.high)
    if field.kind == "float":
        return low, high
    return max(math.ceil(low), INT64_MIN), min(math.floor(high), INT64_MAX)


def _derive(schema: Schema, typed: pl.DataFrame, plain: NDArray[np.bool_]) -> pl.DataFrame:
    """`typed` with the derived columns; rows whose value is out of bounds, or lacks its time, are not plain."""
    for field in schema.derived:
        labels = None if field.values is UNSET else field.values
        values = _evaluated(schema, field.expression, typed, labels).alias(field.name)
        if labels is not None:
            _keep(plain, values.is_in(list(labels)).fill_null(True))
        elif values.dtype != pl.Boolean:
            values = values.cast(pl.Float64)
            held = (values.abs() <= FLOAT32_MAX).fill_null(False)
            values = values.set(~held, None)
        if field.low is not None or field.high is not None:
            number = values.cast(pl.Float64)
            low = -math.inf if field.low is None else field.low
            high = math.inf if field.high is None else field.high
            _keep(plain, ((number >= low) & (number <= high)).fill_null(True))
        read = parse_expression(field.expression, _kinds(schema)).columns
        for time in schema.context:
            if time.name in read:
                _keep(plain, values.is_not_null() | typed[time.name].is_not_null())
        typed = typed.with_columns(values)
    return typed


def _evaluated(
    schema: Schema, expression: str, typed: pl.DataFrame, labels: tuple[str, ...] | None = None
) -> pl.Series:
    fields: tuple[Field, ...] = (*schema.features, *schema.context)
    zones = {field.name: field.zone for field in fields if field.zone is not None}
    return evaluate(parse_derived(expression, _kinds(schema), labels), typed, zones)


def _kinds(schema: Schema) -> dict[str, Kind]:
    fields: tuple[Field | DerivedField, ...] = (*schema.features, *schema.context, *schema.derived)
    return {field.name: field.kind for field in fields}


def _matrix(schema: Schema, typed: pl.DataFrame) -> NDArray[np.float32]:
    fields: tuple[FeatureField | DerivedField, ...] = (*schema.features, *schema.derived)
    labels = {field.name: field.values or () for field in fields if field.kind == "category"}
    columns: Sequence[pl.Expr] = [
        (class_codes(pl.col(name), labels[name]) if name in labels else pl.col(name).cast(pl.Float64))
        .cast(pl.Float32)
        .alias(name)
        for name in schema.columns
    ]
    return typed.select(columns).fill_null(math.nan).to_numpy(order="c")
