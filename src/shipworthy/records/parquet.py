"""Compacted segments: Parquet that others read without us, from which we make the segment again, byte for byte.

One row is one record. Its columns are typed; the column `record` holds the record as it was written, and the file's
metadata the segment's header: so the digest that the ledger has of the segment still proves every record.
"""

import base64
import io
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
from polars.exceptions import PanicException, PolarsError

from shipworthy.kernel.errors import IntegrityError
from shipworthy.records.format import MAGIC, Record, frame, join_frames, whole_frames

HEADER = "shipworthy.segment"  # in the file's metadata: the header's frame content, base64
ROW = "record"
ROWS_PER_GROUP = 2**16

_decode = msgspec.msgpack.Decoder(Record).decode


def to_parquet(segment: bytes) -> bytes:
    """The Parquet file of a segment of records that is not encrypted.

    Args:
        segment: its bytes, whole frames alone.

    Raises:
        ValueError: the bytes are not a segment.
    """
    header, *spans = whole_frames(segment)
    contents = [segment[start:end] for start, end in spans]
    rows = pl.Series(ROW, contents, dtype=pl.Binary)
    table = make_table([_decode(content) for content in contents]).with_columns(rows)
    out = io.BytesIO()
    metadata = {HEADER: base64.b64encode(segment[slice(*header)]).decode()}
    table.write_parquet(out, compression="zstd", row_group_size=ROWS_PER_GROUP, metadata=metadata)
    return out.getvalue()


def from_parquet(content: bytes, place: Path) -> bytes:
    """The segment of which the Parquet file was made, byte for byte.

    Args:
        content: of the file.
        place: its path, for what is said of it.

    Raises:
        IntegrityError: it is no compacted segment, or is damaged.
    """
    try:
        header = base64.b64decode(pl.read_parquet_metadata(io.BytesIO(content))[HEADER], validate=True)
        records = pl.read_parquet(io.BytesIO(content), columns=[ROW])[ROW].cast(pl.Binary).to_list()
        return MAGIC + frame(header) + join_frames(records)
    except (PolarsError, PanicException, KeyError, ValueError, TypeError, OSError) as error:
        raise IntegrityError(f"{place} is damaged ({type(error).__name__}); restore it from a copy.") from None


def make_table(records: Sequence[Record]) -> pl.DataFrame:
    """The typed columns: `inputs_NAME`, `context_NAME` and `probability_CLASS` where any record has a value there.

    A column is Boolean, Float64 for every number, or String; where its values are of several kinds, each is JSON text.
    """
    micros = pl.Series("time", [round(record.time * 1e6) for record in records], dtype=pl.Int64)
    columns: list[pl.Series] = [
        pl.Series("prediction_id", [record.prediction_id for record in records], dtype=pl.String),
        micros.cast(pl.Datetime("us", "UTC")),
        *(
            pl.Series(name, [getattr(record, name) for record in records], dtype=pl.String)
            for name in ("system", "release", "environment", "worker", "id", "source", "handling")
        ),
        _typed("prediction", [record.prediction for record in records]),
        _typed("decision", [record.decision for record in records]),
        pl.Series("confidence", [record.confidence for record in records], dtype=pl.Float64),
        pl.Series("interval_low", [record.interval and record.interval[0] for record in records], dtype=pl.Float64),
        pl.Series("interval_high", [record.interval and record.interval[1] for record in records], dtype=pl.Float64),
        pl.Series("latency_ms", [record.latency_ms for record in records], dtype=pl.Float64),
        pl.Series("warnings", [list(record.warnings) for record in records], dtype=pl.List(pl.String)),
        pl.Series("reasons", [_text(record.reasons) for record in records], dtype=pl.String),
    ]
    for part in ("probability", "inputs", "context"):
        columns += _parts(part, [getattr(record, part) for record in records])
    return pl.DataFrame(columns)


def _parts(prefix: str, values: Sequence[Any]) -> list[pl.Series]:
    if any(not isinstance(value, dict | None) for value in values):
        return [pl.Series(prefix, [_text(value) for value in values], dtype=pl.String)]
    names = dict.fromkeys(chain.from_iterable(value for value in values if value))
    found = (
        _typed(f"{prefix}_{name}", [None if value is None else value.get(name) for value in values]) for name in names
    )
    return [column for column in found if column.null_count() < len(column)]


def _typed(name: str, values: Sequence[Any]) -> pl.Series:
    kinds = {type(value) for value in values if value is not None}
    if kinds and kinds <= {int, float}:
        return pl.Series(name, [None if value is None else float(value) for value in values], dtype=pl.Float64)
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    if kinds <= {str}:
        return pl.Series(name, values, dtype=pl.String)
    return pl.Series(name, [_text(value) for value in values], dtype=pl.String)


def _text(value: Any) -> str | None:
    return None if value is None else msgspec.json.encode(value).decode()
