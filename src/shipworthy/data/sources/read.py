"""Sources: files become one frame, with nothing guessed silently.

A path names a file, a directory, a pattern or a Delta table. How the files are written stands in the contract
(`dialect`); of a text file every column is text, other kinds keep the types that they carry. Several files are one
source if they have the same columns, in any order. A column name becomes an identifier (`names`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from shipworthy.contract.data_section import Source
from shipworthy.data.names import identifiers
from shipworthy.data.sources.block import BATCH_ROWS, MALFORMED_SCHEMA, Block
from shipworthy.data.sources.columnar import arrow_columns, parquet_columns, read_arrow, read_parquet
from shipworthy.data.sources.delimited import (
    CHUNK_BYTES,
    LONGEST_HEADER,
    delimited_blocks,
    delimited_columns,
    read_delimited,
)
from shipworthy.data.sources.delta import delta_batches, delta_columns, delta_digest, open_delta
from shipworthy.data.sources.dialect import TEXT_FORMATS, Dialect, cleared, declared, find_format
from shipworthy.data.sources.encodings import recoded
from shipworthy.data.sources.files import (
    HEAD_BYTES,
    SHOWN_CHARACTERS,
    changed,
    digest_files,
    file_name,
    find_files,
    pieces,
    read_bytes,
    shown,
    unpack,
)
from shipworthy.data.sources.json_lines import json_blocks, read_json_lines
from shipworthy.kernel.errors import SourceError

PLACES: dict[str, type[pl.DataType]] = {"file": pl.String, "line": pl.Int64}
PLACED_SCHEMA: dict[str, type[pl.DataType]] = {"file": pl.String, **MALFORMED_SCHEMA}
_UNREAD = (pl.Duration, pl.Time, pl.Binary, pl.Object)  # kinds of column that no type of the contract reads


@dataclass(frozen=True, slots=True)
class FileRead:
    """What was read from one file of a source."""

    path: Path
    name: str  # beside the others of the source
    digest: str  # of the file as it lies on the disk
    size_bytes: int
    rows: int  # well-formed ones, which are the source's next ones
    lines: pl.Series | None  # where each of them begins, from 1; None of files without lines


@dataclass(frozen=True, slots=True)
class SourceRead:
    """What was read from one source."""

    name: str
    frame: pl.DataFrame  # of text files: every column text
    path: Path
    digest: str  # of the file as it lies on the disk; of several, of their names and digests
    size_bytes: int
    rows: int  # read, malformed ones among them
    malformed: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=PLACED_SCHEMA))
    names: Mapping[str, str] = field(default_factory=dict)  # column -> its name in the file
    files: Sequence[FileRead] = ()  # in the order of the frame's rows

    def places(self, rows: pl.Series) -> pl.DataFrame:
        """File and line of rows of the frame.

        Args:
            rows: their numbers, from 0, ascending.

        Returns:
            `file` and `line`, a row for each; the line is null where files have none.
        """
        parts, before = [], 0
        for file in self.files:
            inside = rows.filter((rows >= before) & (rows < before + file.rows)) - before
            lines = pl.repeat(None, len(inside), dtype=pl.Int64, eager=True)
            lines = lines if file.lines is None else file.lines.gather(inside).cast(pl.Int64)
            parts.append(lines.to_frame("line").select(pl.lit(file.name).alias("file"), "line"))
            before += file.rows
        unknown = rows.filter(rows >= before)
        parts.append(pl.DataFrame(schema=PLACES).clear(len(unknown)))
        return pl.concat(parts)


def read_source(
    name: str, source: Source, root: Path, *, digest: str | None = None, numbers: Collection[str] = ()
) -> SourceRead:
    """The rows of `source`, whose path is relative to the project's `root`.

    Args:
        name: the source's name in the contract.
        source: where its rows come from.
        root: the project's directory.
        digest: of the files' content, when the caller knows it: what is read must have it.
        numbers: columns that the contract calls numbers, for sources that write them in their own way.

    Raises:
        SourceError: a file is missing, empty, damaged, malformed, not as the contract declares it, or changed
            meanwhile; or the source is of a kind that is not read yet.
    """
    if source.path is None:
        raise SourceError(
            f"source {name}: databases and HTTP addresses are not read yet; "
            f"export the rows to a CSV or Parquet file and name it with data.sources.{name}.path"
        )
    with of_source(name):
        return read_file(name, root / source.path, declared(source, numbers), digest=digest)


def read_file(name: str, path: Path, dialect: Dialect | None = None, *, digest: str | None = None) -> SourceRead:
    """The rows of what `path` names: a file, a directory of files, a pattern, or a Delta table; gzip is unpacked.

    Args:
        name: of the source.
        path: of one file or several.
        dialect: how they are written; None where each tells by itself.
        digest: of the content, where it is known: what is read must have it.

    Raises:
        SourceError: as for `read_source`.
    """
    dialect = dialect or Dialect()
    files = find_files(path)
    parts = [_read_part(file, path, dialect) for file in files]
    first = parts[0]
    frames = [first.frame, *(fitting(part.frame, first.frame, part.file.path, files[0]) for part in parts[1:])]
    frame = first.frame if len(parts) == 1 else pl.concat(frames, how="vertical_relaxed")
    lost = pl.concat(part.malformed for part in parts)
    digests = {part.file.path: part.file.digest for part in parts}
    if find_files(path) != files:
        raise changed(path)
    whole = digest_files(path, digests.__getitem__)
    if digest not in (None, whole):
        raise changed(path)
    return SourceRead(
        name=name,
        frame=frame,
        path=path,
        digest=whole,
        size_bytes=sum(part.file.size_bytes for part in parts),
        rows=frame.height + lost.height,
        malformed=lost,
        names=first.names,
        files=tuple(part.file for part in parts),
    )


def read_columns(name: str, source: Source, root: Path) -> tuple[str, ...]:
    """The column names of `source`, from the heads of its files where those suffice.

    Raises:
        SourceError: as for `read_source`, but for what lies beyond the heads.
    """
    if source.path is None:
        return tuple(read_source(name, source, root).frame.columns)
    with of_source(name):
        files, dialect = find_files(root / source.path), declared(source)
        first = identifiers(_columns(files[0], dialect), files[0])
        for file in files[1:]:
            _judge_columns(identifiers(_columns(file, dialect), file), first, file, files[0])
    return tuple(first)


def stream_text(
    path: Path, block_bytes: int = CHUNK_BYTES, dialect: Dialect | None = None, digest: str | None = None
) -> Iterator[Block]:
    """The rows of a CSV, TSV or JSON lines file in blocks of bounded size; judged as `read_file` judges it.

    Args:
        path: of the file; gzip is unpacked.
        block_bytes: about as many are read at a time; from the first ones delimiter and header are told.
        dialect: how it is written; None where it tells by itself.
        digest: of the file, where it is known: what is read must have it.

    Raises:
        SourceError: as for `read_file`; of what lies in the file, when the block comes.
    """
    dialect = dialect or Dialect()
    kind = find_format(path, dialect)
    if kind not in TEXT_FORMATS:
        raise SourceError(f"{path}: is {kind}, no text")
    yield from _stream_text(path, block_bytes, dialect, digest)


def stream_file(path: Path, dialect: Dialect | None = None, digest: str | None = None) -> Iterator[Block]:
    """The rows of one file of any kind, or of a Delta table, in blocks; text, Parquet and Delta in bounded memory.

    Args:
        path: of the file, or the table's folder.
        dialect: how it is written; None where it tells by itself.
        digest: of the file, where it is known: what is read must have it.

    Raises:
        SourceError: as for `read_file`; of what lies in the file, when the block comes.
    """
    dialect = dialect or Dialect()
    kind = find_format(path, dialect)
    if kind in TEXT_FORMATS:
        yield from _stream_text(path, CHUNK_BYTES, dialect, digest)
    elif kind == "delta":
        table = open_delta(path, dialect.version)
        yield from (Block.whole(frame) for frame in delta_batches(table, path, BATCH_ROWS))
    else:
        _, (block, _, _) = _read_any(path, dialect, digest)
        yield block


@contextmanager
def of_source(name: str) -> Iterator[None]:
    """What is wrong with a file, with the contract's name for it."""
    try:
        yield
    except SourceError as error:
        raise SourceError(f"{error} (data.sources.{name})") from error


def flat(frame: pl.DataFrame, path: Path, rows: int | None = None) -> pl.DataFrame:
    """`frame`, if each of its columns is of a kind that is read and it has rows.

    Args:
        frame: as it was read.
        path: of the file.
        rows: how many the file has, where `frame` has only its columns.

    Raises:
        SourceError: names the column.
    """
    for column, kind in frame.schema.items():
        if kind.is_nested() or kind in _UNREAD:
            held = str(kind)[:SHOWN_CHARACTERS]
            raise SourceError(
                f"{path}: column {shown(column)} holds {held}; write a number, text, bool or date in each row"
            )
    if not (frame.height if rows is None else rows):
        raise SourceError(f"{path}: the file has columns and no rows; it needs rows")
    return frame


# --- one file


@dataclass(frozen=True, slots=True)
class _Part:
    """One file of a source, with identifiers as names of its columns."""

    file: FileRead
    frame: pl.DataFrame
    malformed: pl.DataFrame
    names: Mapping[str, str]


def _read_part(path: Path, source: Path, dialect: Dialect) -> _Part:
    kind, (block, digest, size_bytes) = _read_any(path, dialect)
    if kind not in ("csv", "tsv"):
        flat(block.frame, path, block.frame.height + block.malformed.height)
    names = identifiers(block.frame.columns, path)
    frame = block.frame
    frame.columns = list(names)
    placed = file_name(source, path)
    file = FileRead(path, placed, digest, size_bytes, frame.height, block.lines)
    return _Part(file, frame, block.malformed.select(pl.lit(placed).alias("file"), pl.all()), names)


def _read_any(path: Path, dialect: Dialect, digest: str | None = None) -> tuple[str, tuple[Block, str, int]]:
    """The kind of a file; its rows, with the file's own column names; its digest and size."""
    kind = find_format(path, dialect)
    if kind == "delta":
        return kind, _read_delta(path, dialect)
    raw, found = read_bytes(path, digest)
    return kind, (_parsed(kind, raw, path, dialect), found, len(raw))


def _parsed(kind: str, raw: bytes, path: Path, dialect: Dialect) -> Block:
    content = unpack(raw, path)
    if not content or content.isspace():
        raise SourceError(f"{path}: the file is empty; it needs a header and rows")
    match kind:
        case "parquet":
            return Block.whole(read_parquet(content, path))
        case "arrow":
            return Block.whole(read_arrow(content, path))
        case "excel":
            from shipworthy.data.sources.excel import read_excel  # loaded for those who have one

            block = read_excel(content, path, dialect.sheet)
            return replace(block, frame=cleared(block.frame, dialect.nulls))
    content = b"".join(recoded([content], dialect.encoding, path))
    if kind == "jsonl":
        block = read_json_lines(content, path)
        return replace(block, frame=cleared(block.frame, dialect.nulls))
    return read_delimited(content, path, dialect)


def _read_delta(path: Path, dialect: Dialect) -> tuple[Block, str, int]:
    table = open_delta(path, dialect.version)
    batches = list(delta_batches(table, path, BATCH_ROWS))
    if not batches:
        raise SourceError(f"{path}: the Delta table has no rows; it needs rows")
    frame = pl.concat(batches)
    return Block.whole(frame), delta_digest(path, table.version()), int(frame.estimated_size())


def _stream_text(path: Path, block_bytes: int, dialect: Dialect, digest: str | None) -> Iterator[Block]:
    is_json = find_format(path, dialect) == "jsonl"
    content: Iterable[bytes] = recoded(pieces(path, block_bytes, digest), dialect.encoding, path)
    rows = 0
    blocks = json_blocks(content, path) if is_json else delimited_blocks(content, path, dialect, block_bytes)
    for block in blocks:
        rows += block.frame.height + block.malformed.height
        if is_json:
            flat(block.frame, path)
            block = replace(block, frame=cleared(block.frame, dialect.nulls))
        yield block
    if not rows:
        lacks = "is empty" if is_json else "has a header and no rows"
        raise SourceError(f"{path}: the file {lacks}; it needs rows")


def _columns(path: Path, dialect: Dialect) -> list[str]:
    kind = find_format(path, dialect)
    match kind:
        case "parquet":
            return parquet_columns(path)
        case "arrow":
            names = arrow_columns(path)
            if names is not None:
                return names
        case "delta":
            return delta_columns(open_delta(path, dialect.version))
        case "csv" | "tsv":
            return delimited_columns(_text_head(path, dialect), path, dialect)
    _, (block, _, _) = _read_any(path, dialect)
    return list(flat(block.frame, path, 1).columns)


def _text_head(path: Path, dialect: Dialect) -> bytes:
    """The beginning of a text file as UTF-8, its first line whole."""
    head, size_bytes, has_line = [], 0, False
    for piece in recoded(pieces(path, HEAD_BYTES), dialect.encoding, path):
        head.append(piece)
        size_bytes += len(piece)
        has_line = has_line or b"\n" in piece
        if size_bytes >= (HEAD_BYTES if has_line else LONGEST_HEADER + 1):
            break
    return b"".join(head)


# --- several files


def _judge_columns(columns: Collection[str], first: Collection[str], file: Path, first_file: Path) -> None:
    """Several files of one source have the same columns."""
    lacking = [name for name in first if name not in columns]
    added = [name for name in columns if name not in first]
    if lacking or added:
        words = [f"lacks {', '.join(lacking[:5])}"] if lacking else []
        words += [f"adds {', '.join(added[:5])}"] if added else []
        raise SourceError(
            f"{file}: {' and '.join(words)}, compared with {first_file.name}; the files of one source have the same "
            "columns"
        )


def fitting(frame: pl.DataFrame, first: pl.DataFrame, file: Path, first_file: Path) -> pl.DataFrame:
    """The frame of one of several files, with its columns in the first one's order.

    Raises:
        SourceError: it lacks or adds a column, or holds texts where the first one holds numbers.
    """
    _judge_columns(frame.columns, first.columns, file, first_file)
    frame = frame.select(first.columns)
    for name, kind in frame.schema.items():
        other = first.schema[name]
        if kind != other and not (_is_alike(kind, other) or pl.Null in (kind, other)):
            raise SourceError(
                f"{file}: column {name!r} holds {kind}, and {other} in {first_file.name}; write one type in all files"
            )
    return frame


def _is_alike(kind: pl.DataType, other: pl.DataType) -> bool:
    if kind.is_numeric() and other.is_numeric():
        return True
    return isinstance(kind, pl.Datetime) and isinstance(other, pl.Datetime) and kind.time_zone == other.time_zone
