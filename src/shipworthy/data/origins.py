"""Origins: the line of a source that each row of a snapshot came from, as runs of rows.

Without `data.prepare`, and behind declared steps on one source, every row is traced. Behind SQL and functions a row is
traced into sources that were kept row for row, or put one below the other, and else to the source's row of the same
key, where that key stands once at both ends.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.contract.data_section import Source
from shipworthy.contract.expressions import parse_expression
from shipworthy.contract.lookups import main_sources, place_of
from shipworthy.contract.types import Contract
from shipworthy.data.columns import kinds
from shipworthy.data.prepare.run import Prepared
from shipworthy.data.sources.read import SourceRead
from shipworthy.data.validate import Validated
from shipworthy.kernel.errors import IntegrityError

RUNS: dict[str, type[pl.DataType]] = {
    "source": pl.String,  # its name in the contract
    "place": pl.String,  # the file as the contract names it
    "unit": pl.String,  # what `line` counts: lines of a text file, rows of another source; both from 1
    "line": pl.Int64,  # of the run's first row
    "lines": pl.Int64,  # of each row: more than 1 where a quoted field holds line breaks
    "prepared": pl.Int64,  # row of the prepared frame, from 1; null where the line is malformed
    "row": pl.Int64,  # row of the snapshot, from 1; null where the row is in quarantine
    "rows": pl.Int64,  # in the run
}
Unit = Literal["line", "row"]
CHUNK_ROWS = 1_000_000  # that are looked at together
_NOWHERE = np.iinfo(np.int64).max  # a line behind all others


@dataclass(frozen=True, slots=True)
class Origin:
    """One row, at both ends."""

    source: str
    place: str
    unit: Unit
    line: int
    prepared: int | None
    row: int | None  # of the snapshot; None: it is in quarantine


def trace(
    contract: Contract,
    reads: Mapping[str, SourceRead],
    prepared: Prepared,
    validated: Validated,
    root: Path,
    standing: pl.DataFrame | None = None,
) -> bytes:
    """The runs of rows that came from each source, as Parquet with the columns `RUNS`; no values of any row.

    Args:
        contract: says whether rows were prepared, and names the key.
        reads: of every source.
        prepared: the prepared rows, and of declared steps alone which rows of the source they are.
        validated: what became of them.
        root: of the project, from which files are named.
        standing: the runs of files whose rows stand before these; None: there are none.
    """
    frame = prepared.frame
    ahead = pl.DataFrame(schema=RUNS) if standing is None else standing
    first, accepted = _ends(ahead)
    rows = _snapshot_rows(frame.height, validated, first)
    found = [pl.DataFrame(schema=RUNS)]
    is_union, offset = sum(read.frame.height for read in reads.values()) == frame.height, 0
    for name, read in reads.items():
        start, count = (offset, read.frame.height) if is_union else (0, frame.height)
        if name in prepared.rows:
            places: NDArray[np.int64] | None = prepared.rows[name].cast(pl.Int64).to_numpy()
        elif _is_kept(read.frame, frame[start : start + count]):
            places = _kept(frame.height, count, start)
        else:
            places = _keyed(contract, read, frame)
        offset += read.frame.height
        before, named = 0, {}
        for file, piece in zip_longest(read.files, _parts(contract.data.sources[name], read, root)):
            if file is not None:
                named[file.name] = piece.place
            if places is not None:
                inside = (places >= before) & (places < before + len(piece.lines))
                found.append(_runs(name, piece, np.where(inside, places - before, -1), rows))
            before += len(piece.lines)
        found.append(_malformed(name, read.malformed, named))
    buffer = io.BytesIO()
    runs = pl.concat(found).with_columns(pl.col("prepared") + first, pl.col("row") + accepted)
    pl.concat([ahead, runs]).write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def trace_columns(
    contract: Contract, reads: Mapping[str, SourceRead], missing: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Of each column of the snapshot, in order: name, type, missing values, its origin, and whether models read it.

    A derived column names its `expression` and the columns of the snapshot that it reads (`columns`); without
    `data.prepare`, and of what is looked up, it names its `source` and what it is called there (`field`).
    """
    known = kinds(contract) | {contract.target.column: "float" if contract.target.values is None else "category"}
    only = reads[main_sources(contract.data)[0]] if contract.data.prepare is None else None
    return [
        {"name": name, "type": known[name], "missing": count}
        | ({"model": True} if name in contract.model_columns else {})
        | _parentage(contract, only, reads, name)
        for name, count in missing.items()
    ]


def _parentage(
    contract: Contract, only: SourceRead | None, reads: Mapping[str, SourceRead], name: str
) -> dict[str, Any]:
    if name in contract.derived:
        text = contract.derived[name].from_
        return {"expression": text, "columns": list(parse_expression(text, kinds(contract)).columns)}
    place = place_of(name, contract.features[name]) if name in contract.features else None
    if place is not None:
        source = reads[contract.data.lookups[place[0]].source or place[0]]
        return {"source": source.name, "field": source.names.get(place[1], place[1]), "lookup": place[0]}
    return {} if only is None else {"source": only.name, "field": only.names.get(name, name)}


def read_origins(content: bytes) -> pl.DataFrame:
    """The runs that `trace` wrote; none of nothing.

    Raises:
        IntegrityError: it is not that.
    """
    if not content:
        return pl.DataFrame(schema=RUNS)
    try:
        runs = pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise IntegrityError(f"the origins of a snapshot do not hold a table: {error}") from None
    if runs.columns != list(RUNS):
        raise IntegrityError(f"the origins of a snapshot have the columns {', '.join(runs.columns)}")
    return runs


def find_line(runs: pl.DataFrame, place: str, line: int) -> list[Origin]:
    """What became of line (or row) `line` of the source or file `place`."""
    at = (line - pl.col("line")) // pl.col("lines")
    inside = (line >= pl.col("line")) & (at < pl.col("rows"))
    named = (pl.col("place") == place) | (pl.col("source") == place)
    return _origins(runs.filter(named & inside), at)


def find_row(runs: pl.DataFrame, row: int) -> list[Origin]:
    """Where row `row` of the snapshot, from 1, came from: one place for each source that it is traced into."""
    at = row - pl.col("row")
    return _origins(runs.filter((at >= 0) & (at < pl.col("rows"))), at)


def _origins(runs: pl.DataFrame, at: pl.Expr) -> list[Origin]:
    placed = runs.select(
        "source", "place", "unit", pl.col("line") + at * pl.col("lines"), pl.col("prepared") + at, pl.col("row") + at
    )
    return [Origin(*row) for row in placed.iter_rows()]


# --- where rows are


def _ends(runs: pl.DataFrame) -> tuple[int, int]:
    """How many prepared rows, and rows of the snapshot, the runs have."""
    ends = runs.select((pl.col("prepared", "row") + pl.col("rows") - 1).max().fill_null(0)).row(0)
    return int(ends[0]), int(ends[1])


def _snapshot_rows(height: int, validated: Validated, first: int) -> NDArray[np.int64]:
    """The snapshot's row of each prepared row, both from 0; -1 where it is in quarantine."""
    held = validated.quarantined.to_series(0).drop_nulls().to_numpy() - (first + 1)
    accepted = np.ones(height, dtype=bool)
    accepted[held] = False
    return np.where(accepted, np.cumsum(accepted) - 1, -1).astype(np.int64)


def _kept(height: int, rows: int, start: int) -> NDArray[np.int64]:
    """The source's row of each prepared row, both from 0, where its rows stand from `start` on; -1 elsewhere."""
    places = np.full(height, -1)
    places[start : start + rows] = np.arange(rows)
    return places


def _keyed(contract: Contract, read: SourceRead, frame: pl.DataFrame) -> NDArray[np.int64] | None:
    """The source's row of each prepared row by the contract's key; None where one of them lacks it."""
    for key in contract.context_by_role("key"):
        if key in read.frame.columns and key in frame.columns:
            return _by_key(read.frame[key].cast(pl.String), frame[key].cast(pl.String))
    return None


def _by_key(source: pl.Series, frame: pl.Series) -> NDArray[np.int64]:
    """The source's row of the same key, where that stands once at both ends."""
    once = source.to_frame("key").with_row_index("place").drop_nulls("key").unique("key", keep="none")
    wanted = frame.to_frame("key").with_columns(once=pl.col("key").is_unique())
    found = wanted.join(once, on="key", how="left", maintain_order="left")
    return found.select(pl.when("once").then("place")).to_series().cast(pl.Int64).fill_null(-1).to_numpy()


def _is_kept(source: pl.DataFrame, frame: pl.DataFrame) -> bool:
    """Whether these rows are the source's: as many, and alike in columns that tell one row from the other."""
    shared = [name for name in source.columns if source.schema[name] == frame.schema.get(name)]
    kept = bool(shared) and source.height == frame.height and source.select(shared).equals(frame.select(shared))
    return kept and (len(shared) == source.width or source.select(shared).n_unique() == source.height)


def _runs(source: str, part: "_Part", places: NDArray[np.int64], rows: NDArray[np.int64]) -> pl.DataFrame:
    prepared = np.flatnonzero(places >= 0)
    first = [_starts(part, places, rows, prepared, at) for at in range(0, len(prepared), CHUNK_ROWS)]
    starts = np.concatenate([np.empty(0, dtype=np.int64), *first])
    at = prepared[starts]
    return pl.DataFrame(
        {
            "source": pl.repeat(source, len(starts), dtype=pl.String, eager=True),
            "place": pl.repeat(part.place, len(starts), dtype=pl.String, eager=True),
            "unit": pl.repeat(part.unit, len(starts), dtype=pl.String, eager=True),
            "line": part.lines[places[at]],
            "lines": part.spans(places[at]),
            "prepared": at + 1,
            "row": pl.Series(rows[at] + 1).replace(0, None),
            "rows": np.diff(np.append(starts, len(prepared))),
        },
        schema=RUNS,
    )


def _starts(
    part: "_Part", places: NDArray[np.int64], rows: NDArray[np.int64], prepared: NDArray[np.int64], at: int
) -> NDArray[np.int64]:
    """Which of a chunk of the prepared rows, from the one at `at` on, begin a run; some at a time need less memory."""
    first = max(at - 1, 0)
    chunk = prepared[first : at + CHUNK_ROWS]
    line, span, row = part.lines[places[chunk]], part.spans(places[chunk]), rows[chunk]
    goes_on = (np.diff(chunk) == 1) & (np.diff(line) == span[:-1]) & (np.diff(span) == 0)
    goes_on &= np.where(row[1:] < 0, row[:-1] < 0, (row[:-1] >= 0) & (np.diff(row) == 1))
    begins = np.flatnonzero(~goes_on) + 1 + first
    return begins if at else np.concatenate(([0], begins))


def _malformed(source: str, malformed: pl.DataFrame, places: Mapping[str, str]) -> pl.DataFrame:
    """The lines that could not be parted in fields."""
    return malformed.select(
        pl.lit(source).alias("source"),
        pl.col("file").replace(dict(places)).alias("place"),
        pl.lit("line").alias("unit"),
        pl.col("line").cast(pl.Int64),
        pl.lit(1, pl.Int64).alias("lines"),
        pl.lit(None, pl.Int64).alias("prepared"),
        pl.lit(None, pl.Int64).alias("row"),
        pl.lit(1, pl.Int64).alias("rows"),
    )


# --- where lines are


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The rows of one file of a source, or of a source without files."""

    place: str
    unit: Unit
    lines: NDArray[np.int64]  # where each row begins
    malformed: NDArray[np.int64] | None = None  # lines that are no rows, ascending; None: each row has one line

    def spans(self, at: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many lines the rows at `at` have."""
        if self.malformed is None:
            return np.ones(len(at), dtype=np.int64)
        starts = self.lines[at]
        follows = np.where(at + 1 < len(self.lines), self.lines[np.minimum(at + 1, len(self.lines) - 1)], _NOWHERE)
        lost = np.append(self.malformed, _NOWHERE)
        after = np.minimum(follows, lost[np.searchsorted(lost, starts, side="right")])
        return np.where(after == _NOWHERE, 1, after - starts)


def _parts(source: Source, read: SourceRead, root: Path) -> Iterator[_Part]:
    if not read.files:
        yield _Part(source.path or read.name, "row", _counted(read.frame.height))
    for file in read.files:
        place = file.name if source.path is None else _place(file.path, root)
        if file.lines is None:
            yield _Part(place, "row", _counted(file.rows))
            continue
        malformed = read.malformed.filter(pl.col("file") == file.name)["line"].sort().to_numpy()
        yield _Part(place, "line", file.lines.cast(pl.Int64).to_numpy(), malformed)


def _counted(rows: int) -> NDArray[np.int64]:
    return np.arange(1, rows + 1)


def _place(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)
