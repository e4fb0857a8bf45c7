"""Requests: the rows of a table as a server would be sent them, each value read as training reads it.

A text becomes the value of the schema's type, missing values are left out, and what is not of its type stays as it
was read, for the decoder to name. Columns that the schema does not know are passed over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from shipworthy.bundle.format import ContextField, FeatureField, Schema
from shipworthy.contract.columns import Column
from shipworthy.contract.expressions import did_you_mean
from shipworthy.data.datetimes import detect_format
from shipworthy.data.values import cleaned, typed
from shipworthy.kernel.errors import DataError, UsageError

MOMENT = "%Y-%m-%dT%H:%M:%S%.6fZ"  # in UTC, to the microsecond that tables keep
ISO = "%Y-%m-%d"  # a text that begins so is read alike by the server
SHOWN_NAMES = 20  # of columns in a message

Field = FeatureField | ContextField


@dataclass(frozen=True, slots=True)
class RequestPlan:
    """How the columns of one table become requests."""

    features: tuple[FeatureField, ...]  # that the table has
    context: tuple[ContextField, ...]
    key: str | None  # the column that gives each request its id
    absent: tuple[str, ...]  # features that the table lacks and that may be missing
    formats: Mapping[str, str]  # of datetime columns that are text


def plan_requests(schema: Schema, frame: pl.DataFrame, key: str | None = None) -> RequestPlan:
    """Find the schema's columns in `frame`, and the one that names its rows.

    Args:
        schema: of the release that answers.
        frame: as it was read; text columns, or typed ones.
        key: the column whose values become ids; None for the schema's key, where the table has it.

    Raises:
        UsageError: there is no column `key`.
        DataError: a column that every request must carry is not there, or its dates cannot be told apart.
    """
    if key is not None and key not in frame.columns:
        raise UsageError(f"there is no column {key!r} for --id; {_known(key, frame)}")
    needed = [field.name for field in schema.asked if field.missing == "reject"]
    needed += [field.name for field in schema.context if field.required]
    lacking = [name for name in needed if name not in frame.columns]
    if lacking:
        raise DataError(f"the file has no column {', '.join(lacking)}; {_known(lacking[0], frame)}")
    features = tuple(field for field in schema.asked if field.name in frame.columns)
    context = tuple(field for field in schema.context if field.name in frame.columns)
    named = key or next((field.name for field in context if field.role == "key"), None)
    absent = tuple(field.name for field in schema.asked if field.name not in frame.columns)
    return RequestPlan(features, context, named, absent, _formats((*features, *context), frame))


def make_requests(plan: RequestPlan, rows: pl.DataFrame) -> list[dict[str, Any]]:
    """One request object for each row: `inputs`, `context` and `id`, without what is missing.

    Args:
        plan: of the whole table.
        rows: some of its rows.
    """
    requests: list[dict[str, Any]] = [{"inputs": inputs} for inputs in _objects(plan.features, plan, rows)]
    if plan.context:
        for request, context in zip(requests, _objects(plan.context, plan, rows), strict=True):
            if context:
                request["context"] = context
    if plan.key is not None:
        for request, name in zip(requests, read_ids(rows[plan.key]), strict=True):
            if name is not None:
                request["id"] = name
    return requests


def _known(name: str, frame: pl.DataFrame) -> str:
    shown = ", ".join(frame.columns[:SHOWN_NAMES]) + (", …" if frame.width > SHOWN_NAMES else "")
    return f"it has {shown}{did_you_mean(name, frame.columns)}"


def _formats(fields: Sequence[Field], frame: pl.DataFrame) -> dict[str, str]:
    formats = {}
    for field in fields:
        if field.kind != "datetime" or frame.schema[field.name] != pl.String:
            continue
        found = detect_format(frame[field.name].str.strip_chars())
        if found is not None and found.ambiguous:
            raise DataError(
                f"{field.name}: every date reads as month/day and as day/month; write year-month-day, "
                "such as 2026-03-31"
            )
        formats[field.name] = found.pattern if found else "%Y-%m-%d"
    return formats


def _objects(fields: Sequence[Field], plan: RequestPlan, rows: pl.DataFrame) -> list[dict[str, Any]]:
    columns = [_values(field, rows, plan.formats.get(field.name, "")) for field in fields]
    names = [field.name for field in fields]
    if not any(None in column for column in columns):
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return [
        {name: value for name, value in zip(names, row, strict=True) if value is not None}
        for row in zip(*columns, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Values:
    """One column of a table, read; each series has a value for each row."""

    sent: pl.Series  # as JSON has them; null where missing, and where `odd` says so
    typed: pl.Series  # of the contract's type, moments in UTC; null where missing or odd
    known: pl.Series  # as read, without what means missing
    odd: pl.Series  # whether it is not of the column's type


def read_values(field: Field, rows: pl.DataFrame, pattern: str = "") -> Values:
    """The column of `field`, which `rows` has.

    Args:
        field: of the schema.
        rows: some rows of a table.
        pattern: of a datetime's texts.
    """
    column = Column(type=field.kind, values=field.values, zone=field.zone)
    known = rows.select(cleaned(field.name, column, rows.schema[field.name]))
    held = known.to_series()
    values = known.select(typed(field.name, column, held.dtype, pattern)).to_series()
    odd = values.is_null() & held.is_not_null()
    sent = values
    if field.kind == "datetime":
        sent = held.set(odd, None) if pattern.startswith(ISO) else values.dt.strftime(MOMENT)
    return Values(sent, values, held, odd)


def _values(field: Field, rows: pl.DataFrame, pattern: str) -> list[Any]:
    """The values as JSON has them; what is not of the field's type as it was read."""
    read = read_values(field, rows, pattern)
    found: list[Any] = read.sent.to_list()
    for place in read.odd.arg_true().to_list():
        raw = read.known[place]
        found[place] = raw if isinstance(raw, str | int | float) else str(raw)
    return found


def read_ids(series: pl.Series) -> list[str | None]:
    """The ids that a column gives its rows: texts as they stand, a whole number without a point."""
    column = Column(type="text")
    known = series.to_frame().select(cleaned(series.name, column, series.dtype))
    found: list[str | None] = known.select(typed(series.name, column, known.schema[series.name])).to_series().to_list()
    return found
