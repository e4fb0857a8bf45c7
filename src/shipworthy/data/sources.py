"""Sources: a file becomes a frame, with nothing guessed silently.

Text files (CSV, TSV) are read with every column as text, so that `001` stays `001`; the contract alone says
what a value means. An empty field is missing. Rows with too many or too few fields are kept apart with their
line and text. JSON lines and Parquet keep the types that they carry. A column name becomes an identifier:
each run of other characters is one `_`, so that `sepal length (cm)` is `sepal_length_cm`.
"""

import csv
import gzip
import io
import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.contract.types import Source
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import SourceError

DELIMITERS = (",", ";", "\t", "|")
SAMPLE_LINES = 50  # enough to tell a delimiter from a comma in a text
CHUNK_BYTES = 16 * 2**20  # bounds the memory of the scan at a few times this
HEAD_BYTES = 2**20  # of a file whose columns are asked for
SHOWN_CHARACTERS = 80  # of a value in a message
MALFORMED_SCHEMA: dict[str, type[pl.DataType]] = {
    "line": pl.Int64,
    "text": pl.String,
    "reason": pl.String,
}
_UNREAD = (pl.Duration, pl.Time, pl.Binary, pl.Object)  # kinds of column that no type of the contract reads
_NEWLINE, _RETURN, _QUOTE = 10, 13, 34
_LONGEST_RECORD = 256 * 2**20  # a quote that is open for so long was never closed


def _no_malformed() -> pl.DataFrame:
    return pl.DataFrame(schema=MALFORMED_SCHEMA)


@dataclass(frozen=True, slots=True)
class SourceRead:
    """What was read from one source."""

    name: str
    frame: pl.DataFrame  # CSV: every column text
    path: Path
    digest: str  # of the file as it lies on the disk
    size_bytes: int
    rows: int  # read, malformed ones among them
    malformed: pl.DataFrame = field(default_factory=_no_malformed)  # line, text, reason
    names: Mapping[str, str] = field(default_factory=dict)  # column -> its name in the file


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a text file."""

    frame: pl.DataFrame  # with the file's own column names
    malformed: pl.DataFrame

    @classmethod
    def whole(cls, frame: pl.DataFrame) -> "Block":
        """Rows of a source that has no malformed ones."""
        return cls(frame, _no_malformed())


def read_source(name: str, source: Source, root: Path, *, digest: str | None = None) -> SourceRead:
    """The rows of `source`, whose path is relative to the project's `root`.

    Args:
        name: the source's name in the contract.
        source: where its rows come from.
        root: the project's directory.
        digest: of the file's content, when the caller already knows it.

    Raises:
        SourceError: the file is missing, empty, not UTF-8, malformed, or of a kind that is not read yet.
    """
    if source.path is None:
        raise SourceError(
            f"source {name}: databases and HTTP addresses are not read yet; "
            f"export the rows to a CSV or Parquet file and name it with data.sources.{name}.path"
        )
    return read_file(name, root / source.path, digest=digest)


def read_file(name: str, path: Path, *, digest: str | None = None) -> SourceRead:
    """The rows of the CSV, TSV, JSON lines or Parquet file at `path`; gzip is unpacked.

    Raises:
        SourceError: as for `read_source`.
    """
    raw = _read_bytes(path)
    content = _unpack(raw, path)
    if not content.strip():
        raise SourceError(f"{path}: the file is empty; it needs a header and rows")
    if content.startswith(b"PAR1"):
        frame, malformed = _read_parquet(content, path), _no_malformed()
    elif _suffix(path) == ".json":
        raise SourceError(f"{path}: one JSON document is not read; write one object on each line of a .jsonl file")
    elif _suffix(path) in (".jsonl", ".ndjson"):
        frame, malformed = _read_json_lines(content, path), _no_malformed()
    else:
        frame, malformed = _read_delimited(content, path)
    names = identifiers(frame.columns, path)
    frame.columns = list(names)
    return SourceRead(
        name=name,
        frame=frame,
        path=path,
        digest=digest or digest_bytes(raw),
        size_bytes=len(raw),
        rows=frame.height + malformed.height,
        malformed=malformed,
        names=names,
    )


def read_columns(name: str, source: Source, root: Path) -> tuple[str, ...]:
    """The column names of `source`, from the head of its file where that suffices.

    Raises:
        SourceError: as for `read_source`, but for what lies beyond the head.
    """
    path = root / (source.path or "")
    if source.path is None or _suffix(path) not in (".csv", ".tsv", ".txt"):
        return tuple(read_source(name, source, root).frame.columns)
    head = _text_head(path)
    if not head.strip():
        raise SourceError(f"{path}: the file is empty; it needs a header and rows")
    _judge_encoding(head, path)
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if b"\n" not in head:
        head = head.replace(b"\r", b"\n")
    delimiter = _detect_delimiter(head)
    return tuple(identifiers(_header(head, delimiter), path))


def stream_text(path: Path, block_bytes: int = CHUNK_BYTES) -> Iterator[Block]:
    """The rows of a CSV, TSV or JSON lines file in blocks of bounded size; judged as `read_file` judges it.

    Args:
        path: of the file; gzip is unpacked.
        block_bytes: about as many are read at a time; from the first ones delimiter and header are told.

    Raises:
        SourceError: as for `read_file`; of what lies in the file, when the block comes.
    """
    is_json = _suffix(path) in (".jsonl", ".ndjson")
    if _suffix(path) == ".json":
        raise SourceError(f"{path}: one JSON document is not read; write one object on each line of a .jsonl file")
    rows = 0
    pieces = _pieces(path, block_bytes)
    for block in _json_blocks(pieces, path) if is_json else _delimited_blocks(pieces, path, block_bytes):
        rows += block.frame.height + block.malformed.height
        yield block
    if not rows:
        lacks = "is empty" if is_json else "has a header and no rows"
        raise SourceError(f"{path}: the file {lacks}; it needs rows")


def _pieces(path: Path, block_bytes: int) -> Iterator[bytes]:
    """The file's content, unpacked, in pieces."""
    try:
        with path.open("rb") as file:
            raw = file.read(block_bytes)
            if raw.startswith(b"PK\x03\x04"):
                _unpack(raw, path)  # raises with the cure
            file.seek(0)
            unpacked = gzip.GzipFile(fileobj=file) if raw.startswith(b"\x1f\x8b") else file
            while raw := unpacked.read(block_bytes):
                yield raw
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        _read_bytes(path)  # raises with the cure
        raise
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: the gzip file is damaged ({error}); copy it again") from error


def _json_blocks(pieces: Iterable[bytes], path: Path) -> Iterator[Block]:
    rest, before = b"", 0
    for piece in _and_last(pieces):
        content = rest + piece
        end = content.rfind(b"\n") + 1 if piece else len(content)
        block, rest = content[:end], content[end:]
        if block.strip():
            yield Block(_read_json_lines(block, path, before), _no_malformed())
        before += block.count(b"\n")


def _delimited_blocks(pieces: Iterable[bytes], path: Path, block_bytes: int) -> Iterator[Block]:
    """Each block is read behind the file's header, as if it were the file."""
    rest, before, head, delimiter, has_newlines = b"", 0, b"", "", True
    for piece in _and_last(pieces):
        content = rest + piece
        if not head:
            if len(content) < min(HEAD_BYTES, block_bytes) and piece:
                rest = content
                continue
            _judge_encoding(content[: content.rfind(b"\n") + 1] if piece else content, path)
            content = content.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
            has_newlines = b"\n" in content
        if not has_newlines:
            content = content.replace(b"\r", b"\n")
        end = _records_end(content) if piece else len(content)
        block, rest = content[:end], content[end:]
        if len(rest) > _LONGEST_RECORD:
            raise SourceError(_open_quote(content, path, before))
        if not head:
            if not block.strip():
                if piece:
                    rest = content
                    continue
                raise SourceError(f"{path}: the file is empty; it needs a header and rows")
            delimiter = _detect_delimiter(block)
            head_end = int(_scan(block, delimiter, path).ends[0])
            head, text = block[:head_end] + b"\n", block
            rows_before = 0
        else:
            text, rows_before = head + block, before - head.count(b"\n")
        if block.strip():
            yield _delimited_block(text, delimiter, path, rows_before)
        before += block.count(b"\n")


def _delimited_block(content: bytes, delimiter: str, path: Path, before: int) -> Block:
    _judge_encoding(content, path, before)
    scan = _scan(content, delimiter, path, before)
    header = _header(content[: scan.ends[0]], delimiter)
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise SourceError(f"{path} line 1: two columns are named {twice[0]!r}; rename or remove one")
    ragged, whole = _ragged(scan, len(header))
    if len(ragged) > whole and before <= 0:
        raise SourceError(_wrong_delimiter(content, scan, ragged, header, delimiter, path))
    malformed = _malformed(content, scan, ragged, len(header), before)
    return Block(_parse(_without(content, scan, ragged), header, delimiter, path), malformed)


def _and_last(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces that hold something, and an empty one for the end."""
    yield from filter(None, pieces)
    yield b""


def _records_end(content: bytes) -> int:
    """Where the last whole record ends: behind a newline outside of quotes."""
    if b'"' not in content:
        return content.rfind(b"\n") + 1
    text = np.frombuffer(content, dtype=np.uint8)
    newlines = np.flatnonzero(text == _NEWLINE)
    outside = np.searchsorted(np.flatnonzero(text == _QUOTE), newlines) % 2 == 0
    return int(newlines[outside][-1]) + 1 if outside.any() else 0


def identifier(name: str, position: int) -> str:
    """The column name that stands for `name`, the column at `position` (from 1) of a file.

    >>> identifier("sepal length (cm)", 1), identifier("", 3), identifier("2020 total", 4)
    ('sepal_length_cm', 'column_3', '_2020_total')
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    words = re.sub(r"[^A-Za-z0-9_]+", " ", plain).strip().replace(" ", "_")
    if not words.strip("_"):
        return f"column_{position}"
    return f"_{words}"[:128] if words[0].isdigit() else words[:128]


def _suffix(path: Path) -> str:
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SourceError(f"{path}: there is no such file; correct the path") from error
    except IsADirectoryError as error:
        raise SourceError(f"{path}: is a directory; name one file") from error
    except PermissionError as error:
        raise SourceError(f"{path}: may not be read; give yourself the right with chmod u+r") from error


def _text_head(path: Path) -> bytes:
    """The first lines of a text file, whole ones unless the first alone is longer."""
    try:
        with path.open("rb") as file:
            unpacked = gzip.GzipFile(fileobj=file) if path.name.lower().endswith(".gz") else file
            head = unpacked.read(HEAD_BYTES)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        return _read_bytes(path)  # raises with the cure
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: the gzip file is damaged ({error}); copy it again") from error
    whole = head.rfind(b"\n") + 1
    return head[:whole] if whole and len(head) == HEAD_BYTES else head


def _unpack(raw: bytes, path: Path) -> bytes:
    if raw.startswith(b"PK\x03\x04"):
        raise SourceError(f"{path}: is a zip archive (or a spreadsheet); unpack it, or export it as CSV")
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: the gzip file is damaged ({error}); copy it again") from error


def identifiers(columns: Sequence[str], path: Path) -> dict[str, str]:
    """The identifier of each column, with the column's name in the file.

    Raises:
        SourceError: two columns have one name.
    """
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise SourceError(f"{path} line 1: two columns are named {twice[0]!r}; rename or remove one")
    names: dict[str, str] = {}
    for position, column in enumerate(columns, 1):
        name = identifier(column, position)
        if name in names:
            raise SourceError(f"{path} line 1: columns {names[name]!r} and {column!r} both become {name}; rename one")
        names[name] = column
    return names


def _read_parquet(content: bytes, path: Path) -> pl.DataFrame:
    try:
        frame = pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"{path}: the Parquet file is damaged ({_first_line(error)}); write it again") from error
    return flat(frame, path)


def _read_json_lines(content: bytes, path: Path, before: int = 0) -> pl.DataFrame:
    _judge_encoding(content, path, before)
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        frame = pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise SourceError(_json_problem(content, path, before) or f"{path}: {_first_line(error)}") from error
    return flat(frame, path)


def _json_problem(content: bytes, path: Path, before: int = 0) -> str | None:
    for number, line in enumerate(content.splitlines(), before + 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            return f"{path} line {number}: is not JSON ({error}): {_shown(line)}; write one object on each line"
        if not isinstance(value, dict):
            return f"{path} line {number}: is not an object: {_shown(line)}; write one object on each line"
    return None


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
            raise SourceError(f"{path}: column {column!r} holds {kind}; write a number, text, bool or date in each row")
    if not (frame.height if rows is None else rows):
        raise SourceError(f"{path}: the file has columns and no rows; it needs rows")
    return frame


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _shown(text: bytes | str) -> str:
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return repr(plain if len(plain) <= SHOWN_CHARACTERS else plain[:SHOWN_CHARACTERS] + "…")


# --- text files ---


def _read_delimited(content: bytes, path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    _judge_encoding(content, path)
    content = content.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    block = _delimited_block(content, _detect_delimiter(content), path, 0)
    if not block.frame.height and not block.malformed.height:
        raise SourceError(f"{path}: the file has a header and no rows; it needs rows")
    return block.frame, block.malformed


def _judge_encoding(content: bytes, path: Path, before: int = 0) -> None:
    """Refuse what is not UTF-8 text; `before` lines of the file stand before `content`."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise SourceError(f"{path}: is UTF-16; convert it: iconv -f UTF-16 -t UTF-8")
    try:
        _decode(content)
    except UnicodeDecodeError as error:
        start = content.rfind(b"\n", 0, error.start) + 1
        line = content[start : start + SHOWN_CHARACTERS].split(b"\n")[0].decode("latin-1")
        raise SourceError(
            f"{path} line {before + _line_of(content, error.start)}, byte {error.start - start + 1}: "
            f"0x{content[error.start]:02x} is not UTF-8 (as Latin-1 the line begins {line!r}); "
            "convert the file: iconv -f LATIN1 -t UTF-8; a file that mixes encodings has to be mended at its source"
        ) from None
    nul = content.find(b"\0")
    if nul >= 0:
        raise SourceError(f"{path} line {before + _line_of(content, nul)}: holds a NUL byte; is this a text file?")


def _line_of(content: bytes, at: int) -> int:
    return content.count(b"\n", 0, at) + 1


def _decode(content: bytes) -> None:
    """Raise at the first byte that is not UTF-8, without a second copy of a large file."""
    start = 0
    view = memoryview(content)
    while start < len(content):
        end = min(start + CHUNK_BYTES, len(content))
        while end < len(content) and content[end] & 0xC0 == 0x80:  # never between the bytes of one character
            end += 1
        try:
            str(view[start:end], "utf-8")
        except UnicodeDecodeError as error:
            raise UnicodeDecodeError("utf-8", b"", start + error.start, start + error.end, error.reason) from None
        start = end


def _detect_delimiter(content: bytes) -> str:
    """The candidate that parts the most of the first lines in as many fields as the header, and in most fields."""
    sample = content[: 2**20].decode("utf-8", "ignore")
    lines = sample.splitlines()[: SAMPLE_LINES + 1]

    def rate(delimiter: str) -> tuple[float, int]:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        fields = len(rows[0]) if rows else 1
        if fields < 2:
            return 0.0, 1
        return sum(len(row) == fields for row in rows) / len(rows), fields

    csv.field_size_limit(2**31 - 1)
    return max(DELIMITERS, key=rate)


@dataclass(frozen=True, slots=True)
class _Scan:
    """Where records end and how many delimiters each has, quotes respected; the header is record 0."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]  # exclusive, without the newline
    delimiters: NDArray[np.int64]
    blank: NDArray[np.bool_]


def _scan(content: bytes, delimiter: str, path: Path, lines_before: int = 0) -> _Scan:
    if not content.endswith(b"\n"):
        content += b"\n"
    text = np.frombuffer(content, dtype=np.uint8)
    quoted = b'"' in content
    ends, counts, inside, before = [], [], 0, 0
    for start in range(0, len(text), CHUNK_BYTES):
        chunk = text[start : start + CHUNK_BYTES]
        newline, delimits = chunk == _NEWLINE, chunk == ord(delimiter)
        if quoted:
            quotes = chunk == _QUOTE
            parity = np.bitwise_xor.accumulate(quotes.view(np.uint8)) ^ inside
            _judge_quotes(text, np.flatnonzero(quotes) + start, inside, ord(delimiter), path, lines_before)
            inside = int(parity[-1])
            outside = parity == 0
            newline &= outside
            delimits &= outside
        end = np.flatnonzero(newline)
        seen = np.searchsorted(np.flatnonzero(delimits), end) + before
        ends.append(end + start)
        counts.append(seen)
        before += int(np.count_nonzero(delimits))
    if inside:
        raise SourceError(_open_quote(content, path, lines_before))
    all_ends = np.concatenate(ends)
    starts = np.concatenate(([0], all_ends[:-1] + 1))
    length = all_ends - starts
    blank = (length == 0) | ((length == 1) & (text[starts] == _RETURN))
    return _Scan(starts, all_ends, np.diff(np.concatenate(([0], np.concatenate(counts)))), blank)


def _judge_quotes(
    text: NDArray[np.uint8], quotes: NDArray[np.int64], inside: int, delimiter: int, path: Path, lines_before: int
) -> None:
    """A quote opens only at a field's start and closes only at its end; inside it is doubled."""
    opening, closing = quotes[inside::2], quotes[1 - inside :: 2]
    before = text[np.maximum(opening - 1, 0)]
    opens = (opening == 0) | np.isin(before, (delimiter, _NEWLINE, _QUOTE))
    after = text[np.minimum(closing + 1, len(text) - 1)]
    closes = np.isin(after, (delimiter, _NEWLINE, _RETURN, _QUOTE))
    wrong = np.concatenate((opening[~opens], closing[~closes]))
    if len(wrong):
        at = int(wrong.min())
        line = lines_before + int(np.count_nonzero(text[:at] == _NEWLINE)) + 1
        shown = _shown(text[max(at - 20, 0) : at + 20].tobytes())
        raise SourceError(
            f"{path} line {line}: a quote inside a field: {shown}; quote the whole field and double the inner one"
        )


def _open_quote(content: bytes, path: Path, before: int = 0) -> str:
    quotes = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == _QUOTE)
    at = int(quotes[-1])
    line = before + _line_of(content, at)
    return f"{path} line {line}: the quote at {_shown(content[at : at + 40])} is never closed; close or double it"


def _header(text: bytes, delimiter: str) -> list[str]:
    row = next(csv.reader(io.StringIO(text.decode("utf-8", "ignore"), newline=""), delimiter=delimiter))
    return [name.strip() for name in row]


def _ragged(scan: _Scan, fields: int) -> tuple[list[int], int]:
    """Records (from 1) whose number of fields is not the header's, and how many rows are well-formed."""
    differing = (scan.delimiters != fields - 1) & ~scan.blank
    ragged = [int(record) for record in np.flatnonzero(differing) if record]
    return ragged, int(np.count_nonzero(~differing & ~scan.blank)) - 1


def _text(content: bytes, scan: _Scan, record: int) -> bytes:
    return content[scan.starts[record] : scan.ends[record]].rstrip(b"\r\n")


def _malformed(content: bytes, scan: _Scan, ragged: list[int], fields: int, before: int = 0) -> pl.DataFrame:
    rows = []
    line, seen = before + 1, 0
    for record in ragged:
        start = int(scan.starts[record])
        line += content.count(b"\n", seen, start)
        seen = start
        many = scan.delimiters[record] >= fields
        reason = f"row: {'more' if many else 'fewer'} fields than the header's {fields}"
        rows.append((line, _text(content, scan, record).decode(), reason))
    return pl.DataFrame(rows, schema=MALFORMED_SCHEMA, orient="row")


def _wrong_delimiter(
    content: bytes, scan: _Scan, ragged: list[int], header: list[str], delimiter: str, path: Path
) -> str:
    first = ragged[0]
    line = _line_of(content, int(scan.starts[first]))
    return (
        f"{path}: {len(ragged)} of {len(scan.ends) - 1} rows have not the {len(header)} fields of the header "
        f"(parted by {delimiter!r}), the first in line {line}: {_shown(_text(content, scan, first))}; "
        "is the delimiter one of , ; tab |, and are texts with a delimiter quoted?"
    )


def _without(content: bytes, scan: _Scan, ragged: list[int]) -> bytes:
    """The rows alone: no header, no ragged record, no blank line."""
    if not ragged and not scan.blank.any():
        return content[scan.ends[0] + 1 :]
    dropped = sorted({0, *ragged, *np.flatnonzero(scan.blank).tolist()})
    pieces, start = [], 0
    for record in dropped:
        pieces.append(content[start : scan.starts[record]])
        start = int(scan.ends[record]) + 1
    pieces.append(content[start:])
    return b"".join(pieces)


def _parse(rows: bytes, header: list[str], delimiter: str, path: Path) -> pl.DataFrame:
    names = [f"{position}" for position in range(len(header))]
    try:
        frame = pl.read_csv(
            rows,
            has_header=False,
            separator=delimiter,
            schema=dict.fromkeys(names, pl.String),
            raise_if_empty=False,
        )
    except pl.exceptions.PolarsError as error:
        raise SourceError(f"{path}: {_first_line(error)}") from error
    if b'""' in rows:  # a quoted empty field is as missing as an unquoted one
        frame = frame.with_columns(pl.when(pl.all() != "").then(pl.all()))
    frame.columns = [name or f"column_{position}" for position, name in enumerate(header, 1)]
    return frame
