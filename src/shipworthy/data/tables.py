"""Tables of any size: rows in pieces, in an order that is the same each time they are asked for.

A Parquet file is read where it lies. What cannot be read twice alike, or not from the middle (text files, Delta tables,
databases), is first copied in a folder: judged whole before a single row is used, and read from there however often.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from shipworthy.data.names import identifiers
from shipworthy.data.sources.block import BATCH_ROWS, Block
from shipworthy.data.sources.databases import Query, stream_query
from shipworthy.data.sources.delta import delta_batches, delta_digest, open_delta
from shipworthy.data.sources.dialect import Dialect, find_format
from shipworthy.data.sources.files import digest_file, digest_files, file_name, find_files, first_line
from shipworthy.data.sources.read import fitting, flat, stream_file
from shipworthy.kernel.errors import SourceError

_FORMAT = 1
_MARK = "table.json"  # stands in a copy that is whole
_PARQUET = b"PAR1"

Tell = Callable[[int], None]  # rows read


@dataclass(frozen=True, slots=True)
class Table:
    """A table, and how its rows are come by."""

    digest: str  # of what was read: a file as it lies on the disk, a version, or a query's rows
    names: Mapping[str, str]  # column -> its name at the source
    schema: Mapping[str, pl.DataType]  # by column
    rows: int  # well-formed
    malformed_rows: int
    path: Path  # of the Parquet file, or of the copy
    parts: Sequence[tuple[int, int]] | None  # rows and malformed rows of each part of the copy; None: a Parquet file

    def batches(self, start: int = 0, columns: Sequence[str] | None = None) -> Iterator[pl.DataFrame]:
        """The rows from `start` on, some at a time, as columns of `schema`.

        Args:
            start: the first row, from 0.
            columns: those that are wanted; None for all.

        Raises:
            SourceError: the file is damaged, or was changed meanwhile.
        """
        wanted = list(self.names if columns is None else columns)
        if self.parts is None:
            yield from self._from_parquet(start, wanted)
            return
        before = 0
        for number, (rows, _) in enumerate(self.parts):
            if before + rows > start:
                frame = _aligned(_read_part(_part(self.path, number)), self.schema, wanted)
                yield from frame[max(start - before, 0) :].iter_slices(BATCH_ROWS)
            before += rows

    def malformed(self) -> Iterator[pl.DataFrame]:
        """Rows that could not be parted in fields: line, text and reason."""
        for number, (_, malformed) in enumerate(self.parts or ()):
            if malformed:
                yield _read_part(_part(self.path, number, "malformed"))

    def _from_parquet(self, start: int, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
        frame = pl.scan_parquet(self.path, glob=False, hive_partitioning=False).select(
            pl.col(self.names[name]).alias(name) for name in columns
        )
        try:
            yield from frame.slice(start).collect_batches(chunk_size=BATCH_ROWS, lazy=True)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise SourceError(f"{self.path}: the Parquet file is damaged ({first_line(error)})") from error


def open_table(source: Path | Query, copies: Path, tell: Tell | None = None) -> Table:
    """The table at `source`, ready to be read.

    Args:
        source: a file, a directory or pattern of files, a Delta table's folder, or a query.
        copies: folder for a copy, made if it is needed. A whole copy that lies there is used again, if the source is
            a file or table that has not changed, or a query of the same words: its rows are then those of the first
            time.
        tell: is told how far a copy is.

    Raises:
        SourceError: there is no such source, it cannot be read, or something in it is not as it must be.
    """
    if isinstance(source, Query):
        return _copied(source.digest, stream_query(source), source.place, copies, tell)
    files = find_files(source)
    if files == (source,):
        kind = find_format(source, Dialect())
        if kind == "delta":
            return _open_delta(source, copies, tell)
        if kind == "parquet" and _is_parquet(source):
            return _open_parquet(source)
    digests = {file: digest_file(file) for file in files}
    digest = digest_files(source, digests.__getitem__)
    return _copied(digest, _blocks(source, digests), str(source), copies, tell, digest=digest)


def _is_parquet(path: Path) -> bool:
    """Whether a file begins as Parquet does; one that is packed is read from a copy."""
    with path.open("rb") as file:
        return file.read(len(_PARQUET)) == _PARQUET


def _blocks(source: Path, digests: Mapping[Path, str]) -> Iterator[Block]:
    """The rows of all files, in turn, with the first file's names of columns."""
    first: pl.DataFrame | None = None
    first_file = next(iter(digests))
    for file, digest in digests.items():
        is_lines = find_format(file, Dialect()) == "jsonl"  # whose objects may leave a column out
        for block in stream_file(file, digest=digest):
            if first is None:
                first = block.frame.clear()
            if file == first_file:
                yield block
                continue
            frame = block.frame.rename(_first_names(block.frame, first, file, first_file))
            placed = pl.format("{}: {}", pl.lit(file_name(source, file)), "reason").alias("reason")
            if not is_lines:
                frame = fitting(frame, first, file, first_file)
            yield replace(block, frame=frame, malformed=block.malformed.with_columns(placed))


def _first_names(frame: pl.DataFrame, first: pl.DataFrame, file: Path, first_file: Path) -> dict[str, str]:
    """Each column's name in the first file: names that become one identifier are of one column."""
    known = identifiers(first.columns, first_file)
    return {column: known.get(name, column) for name, column in identifiers(frame.columns, file).items()}


def _open_parquet(path: Path) -> Table:
    try:
        schema = pl.read_parquet_schema(path)
        rows = pl.scan_parquet(path, glob=False, hive_partitioning=False).select(pl.len()).collect().item()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"{path}: the Parquet file is damaged ({first_line(error)}); write it again") from error
    names = identifiers(list(schema), path)
    flat(pl.DataFrame(schema=schema), path, rows)
    kinds = {name: schema[original] for name, original in names.items()}
    return Table(digest_file(path), names, kinds, rows, 0, path, None)


def _open_delta(path: Path, copies: Path, tell: Tell | None) -> Table:
    table = open_delta(path)
    key = delta_digest(path, table.version())
    blocks = (Block.whole(frame) for frame in delta_batches(table, path, BATCH_ROWS))
    return _copied(key, blocks, str(path), copies, tell)


def _copied(key: str, blocks: Iterable[Block], place: str, copies: Path, tell: Tell | None, digest: str = "") -> Table:
    """The whole copy that lies there under this key, else a new one; without `digest` it has that of its rows."""
    found = _read_mark(copies, key)
    if found is not None:
        return found
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir(parents=True)
    parts: list[tuple[int, int]] = []
    schema, hasher = pl.DataFrame(), hashlib.sha256()
    read = 0
    for number, block in enumerate(blocks):
        flat(block.frame, Path(place), 1)
        block.frame.write_ipc(_part(copies, number), compression="lz4")
        if block.malformed.height:
            block.malformed.write_ipc(_part(copies, number, "malformed"))
        if not digest:
            hasher.update(digest_file(_part(copies, number)).encode())
        parts.append((block.frame.height, block.malformed.height))
        schema = pl.concat([schema, block.frame.clear()], how="diagonal_relaxed")
        read += block.frame.height + block.malformed.height
        if tell is not None:
            tell(read)
    if not read:
        raise SourceError(f"{place}: there are no rows")
    names = identifiers(schema.columns, Path(place))
    mark = {
        "format": _FORMAT,
        "key": key,
        "digest": digest or f"sha256:{hasher.hexdigest()}",
        "names": names,
        "parts": parts,
    }
    pl.DataFrame(schema=dict(zip(names, schema.dtypes, strict=True))).write_ipc(copies / "schema.arrow")
    draft = copies / f"{_MARK}.draft"
    draft.write_text(json.dumps(mark), encoding="utf-8")
    draft.replace(copies / _MARK)
    copy = _read_mark(copies, key)
    if copy is None:  # removed under our hands
        raise SourceError(f"{copies}: the copy of {place} is gone; run it again")
    return copy


def _read_mark(copies: Path, key: str) -> Table | None:
    try:
        mark: dict[str, Any] = json.loads((copies / _MARK).read_text(encoding="utf-8"))
        schema = pl.read_ipc_schema(copies / "schema.arrow")
    except (OSError, ValueError, pl.exceptions.PolarsError):
        return None
    if (mark.get("format"), mark.get("key")) != (_FORMAT, key):
        return None
    parts = [(int(rows), int(malformed)) for rows, malformed in mark["parts"]]
    rows, malformed = (sum(counts) for counts in zip(*parts, strict=True))
    return Table(mark["digest"], mark["names"], schema, rows, malformed, copies, parts)


def _part(copies: Path, number: int, kind: str = "rows") -> Path:
    return copies / f"{number:08d}.{kind}.arrow"


def _read_part(path: Path) -> pl.DataFrame:
    with path.open("rb") as file:
        return pl.read_ipc(file)


def _aligned(frame: pl.DataFrame, schema: Mapping[str, pl.DataType], wanted: Sequence[str]) -> pl.DataFrame:
    """The part with the columns of the whole: a JSON line may leave some out, and a number be whole in one part."""
    frame.columns = list(identifiers(frame.columns, Path()))
    return frame.select(
        pl.col(name).cast(schema[name]) if name in frame.columns else pl.lit(None, schema[name]).alias(name)
        for name in wanted
    )
