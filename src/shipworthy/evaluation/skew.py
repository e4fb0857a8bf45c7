"""Skew: whether the server makes of a request what the table made of the same row when the model was trained."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.bundle.format import FallbackRule, Schema
from shipworthy.data.requests import make_requests, plan_requests
from shipworthy.kernel.errors import ConversionError
from shipworthy.serving.decode import InvalidRequestError, RequestDecoder, Sample, show
from shipworthy.serving.problem import FieldProblem

ROWS = 10_000  # compared: with none that differs, at most 3 rows in 10,000 do, with 95 % confidence
MAX_COLUMNS = 1_000  # looked at for strange values, 3 for each measure of a column
_OWN = ("derived.", "check ")  # begins the name of a problem with what was computed, and not with what was sent


@dataclass(frozen=True, slots=True)
class Difference:
    """One row of which table and server think differently."""

    row: int  # of the snapshot, from 1
    column: str
    in_table: str
    in_server: str


@dataclass(frozen=True, slots=True)
class Skew:
    """What came of the comparison."""

    rows: int  # compared
    columns: int  # of the model
    different: int  # rows, of those compared
    unsent: int  # rows of which what was sent is not known: a value that had to be there was taken as missing
    first: Difference | None = None

    def to_json(self) -> dict[str, int]:
        """As a document, without any value of a row."""
        return {"rows": self.rows, "columns": self.columns, "different": self.different, "unsent": self.unsent}

    def __str__(self) -> str:
        first = self.first
        if first is None:
            return f"{self.rows:,} rows x {self.columns} model columns are the same in the table and in the server"
        return (
            f"{first.column}: row {first.row:,} of the snapshot has {first.in_table} and the server computes "
            f"{first.in_server} of the same row; {self.different:,} of {self.rows:,} rows differ, so the model would "
            "not be asked what it was taught. Compute the column in data.prepare instead"
        )


def prove_no_skew(
    schema: Schema, rules: tuple[FallbackRule, ...], frame: pl.DataFrame, matrix: NDArray[np.float32]
) -> Skew:
    """`measure_skew`, which has to find no difference.

    Raises:
        ConversionError: it found one; names the column and both results.
    """
    skew = measure_skew(schema, rules, frame, matrix)
    if skew.different:
        raise ConversionError(str(skew))
    return skew


def measure_skew(
    schema: Schema, rules: tuple[FallbackRule, ...], frame: pl.DataFrame, matrix: NDArray[np.float32]
) -> Skew:
    """Send up to 10,000 rows to the server's own decoder, as JSON, and compare bit for bit.

    The strangest values are among the rows: the least and the greatest of each column, missing ones, the longest texts.

    Args:
        schema: of the payload.
        rules: of its fallback.
        frame: accepted rows, with the derived columns that training saw.
        matrix: shape (n, columns), the same rows as the model was given them.
    """
    needed = [field.name for field in schema.features if field.missing == "reject"]
    sendable = np.ones(frame.height, dtype=np.bool_)
    for name in needed:
        sendable &= frame[name].is_not_null().to_numpy()
    places = _chosen(frame, matrix, np.flatnonzero(sendable))
    rows = frame[places]
    plan = replace(plan_requests(schema, rows), key=None)
    decoder = RequestDecoder(schema, rules)
    derived = {field.name: rows[field.name].to_list() for field in schema.derived}
    compared = different = 0
    first: Difference | None = None
    for number, (place, request) in enumerate(zip(places.tolist(), make_requests(plan, rows), strict=True)):
        given = {name: values[number] for name, values in derived.items()}
        try:
            found = _first(schema, decoder.decode(json.dumps(request).encode()), given, matrix[place])
        except InvalidRequestError as error:
            own = [problem for problem in error.errors if problem.field.startswith(_OWN)]
            if not own:
                continue
            found = _refused(own[0], given)
        compared += 1
        if found is not None:
            different += 1
            first = first or Difference(place + 1, *found)
    return Skew(compared, len(schema.columns), different, frame.height - int(sendable.sum()), first)


def _chosen(frame: pl.DataFrame, matrix: NDArray[np.float32], places: NDArray[np.intp]) -> NDArray[np.intp]:
    """Up to `ROWS` of `places`, ascending: those with the strangest values, and others spread over all."""
    if len(places) <= ROWS:
        return places
    strange = np.unique(np.fromiter(_strangest(frame[places], matrix[places]), np.intp))
    others = np.setdiff1d(np.arange(len(places)), strange)
    spread = others[np.linspace(0, len(others) - 1, ROWS - len(strange)).astype(np.intp)]
    return places[np.union1d(strange, spread)]


def _strangest(frame: pl.DataFrame, matrix: NDArray[np.float32]) -> Iterator[int]:
    """Places of the extremes of each column; fewer than `ROWS` for any table that a contract can hold."""
    columns = [*(pl.Series(column) for column in matrix.T[:MAX_COLUMNS]), *_measures(frame)]
    for column in columns:
        values = column.fill_nan(None) if column.dtype.is_float() else column
        for place in (values.arg_min(), values.arg_max(), values.is_null().arg_max()):
            if place is not None:
                yield place


def _measures(frame: pl.DataFrame) -> Iterator[pl.Series]:
    """Texts by their length and by how far they are from ASCII, moments as they are."""
    for column in frame.get_columns()[:MAX_COLUMNS]:
        if column.dtype == pl.String:
            yield column.str.len_bytes()
            yield column.str.len_bytes() - column.str.len_chars()
        elif column.dtype.is_temporal():
            yield column


def _first(
    schema: Schema, sample: Sample, given: dict[str, Any], row: NDArray[np.float32]
) -> tuple[str, str, str] | None:
    """The first column that differs, and what it is in the table and in the server."""
    for name, value in given.items():
        served = (sample.values or {}).get(name)
        if not _is_same(value, served):
            return f"derived.{name}", show(value), show(served)
    floats = np.array(sample.floats, dtype=np.float32)
    if floats.tobytes() == row.tobytes():
        return None
    for name, one, other in zip(schema.columns, row.tolist(), floats.tolist(), strict=True):
        if not _is_same(one, other) and not (math.isnan(one) and math.isnan(other)):
            return name, show(one), show(other)
    return None


def _refused(problem: FieldProblem, given: dict[str, Any]) -> tuple[str, str, str]:
    """What the table has where the server has a problem with what it computed, or with a check."""
    name = problem.field.removeprefix("derived.")
    in_table = show(given[name]) if name in given else "true"
    return problem.field, in_table, f"{problem.got or 'false'}, which it refuses,"


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float | int) and not isinstance(other, bool):
        return one.hex() == float(other).hex()
    return bool(one == other and isinstance(one, bool) == isinstance(other, bool))
