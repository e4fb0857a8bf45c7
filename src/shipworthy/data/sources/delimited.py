"""Delimited: CSV and TSV files, with every column as text, so that `001` stays `001`.

The contract alone says what a value means. An empty field is missing. Rows with too many or too few fields, and those
whose numbers are not written as the dialect says, are kept apart with their line and text.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.data.names import identifier, judge_distinct
from shipworthy.data.sources.block import MALFORMED_SCHEMA, Block
from shipworthy.data.sources.dialect import Dialect, cleared
from shipworthy.data.sources.encodings import judge_utf8, line_of
from shipworthy.data.sources.files import HEAD_BYTES, first_line, shown
from shipworthy.kernel.errors import SourceError

DELIMITERS = (",", ";", "\t", "|")
SAMPLE_LINES = 50  # enough to tell a delimiter from a comma in a text
CHUNK_BYTES = 16 * 2**20  # bounds the memory of the scan at a few times this
LONGEST_HEADER = 4 * 2**20  # a thousand columns of the longest names have half of it
_NEWLINE, _RETURN, _QUOTE = 10, 13, 34
_LONGEST_RECORD = 256 * 2**20  # a quote that is open for so long was never closed


def read_delimited(content: bytes, path: Path, dialect: Dialect) -> Block:
    """The rows of a file.

    Args:
        content: as UTF-8, without a byte order mark.
        path: of the file.
        dialect: delimiter, numerals and nulls.

    Raises:
        SourceError: it is empty, no text, has a quote that is not closed, two columns of a name, or mostly rows of
            other lengths than the header's.
    """
    judge_utf8(content, path)
    content, before = _without_blank_start(content)
    if not content or content.isspace():
        raise _empty(path)
    if b"\n" not in content:
        content = content.replace(b"\r", b"\n")
    _judge_header(content, path)
    block = _read_block(content, path, _settled(dialect, content, path), before)
    if not block.frame.height and not block.malformed.height:
        raise SourceError(f"{path}: the file has a header and no rows; it needs rows")
    return block


def delimited_blocks(pieces: Iterable[bytes], path: Path, dialect: Dialect, block_bytes: int) -> Iterator[Block]:
    """The rows of a file that comes in pieces; each block is read behind the header, as if it were the file.

    Args:
        pieces: of the content as UTF-8, without a byte order mark.
        path: of the file.
        dialect: as for `read_delimited`.
        block_bytes: about as many make the first block, which delimiter and header are told from.

    Raises:
        SourceError: as for `read_delimited`, when the block comes.
    """
    rest, before, head, has_newlines = b"", 0, b"", True
    for piece in _and_last(pieces):
        content = rest + piece
        if not head:
            if len(content) < min(HEAD_BYTES, block_bytes) and piece:
                rest = content
                continue
            judge_utf8(content[: content.rfind(b"\n") + 1] if piece else content, path, before)
            content, blank = _without_blank_start(content)
            before += blank
            has_newlines = b"\n" in content
            _judge_header(content, path)
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
                raise _empty(path)
            dialect = _settled(dialect, block, path)
            head_end = _header_end(block, dialect.delimiter or ",", path)
            head, text = block[:head_end] + b"\n", block
            rows_before = before
        else:
            text, rows_before = head + block, before - head.count(b"\n")
        if block and not block.isspace():
            judge_utf8(text, path, rows_before)
            yield _read_block(text, path, dialect, rows_before, is_first=text is block)
        before += block.count(b"\n")


def delimited_columns(head: bytes, path: Path, dialect: Dialect) -> list[str]:
    """The names in the header, from the beginning of a file.

    Raises:
        SourceError: as for `read_delimited`, of what the beginning tells.
    """
    whole = head.rfind(b"\n") + 1
    if whole and len(head) >= HEAD_BYTES:
        head = head[:whole]
    judge_utf8(head, path)
    head, _ = _without_blank_start(head)
    if not head.strip():
        raise _empty(path)
    if b"\n" not in head:
        head = head.replace(b"\r", b"\n")
    _judge_header(head, path)
    dialect = _settled(dialect, head, path)
    return _named(_header(head, dialect.delimiter or ","))


def detect_delimiter(content: bytes) -> str:
    """The candidate that parts the most of the first lines in as many fields as the header, and in most fields."""
    sample = content[:HEAD_BYTES].decode("utf-8", "ignore")
    lines = sample.splitlines()[: SAMPLE_LINES + 1]

    def rate(delimiter: str) -> tuple[float, int]:
        rows = [row for row in csv.reader(lines, delimiter=delimiter) if row]
        fields = len(rows[0]) if rows else 1
        if fields < 2:
            return 0.0, 1
        return sum(len(row) == fields for row in rows) / len(rows), fields

    csv.field_size_limit(2**31 - 1)
    return max(DELIMITERS, key=rate)


def _settled(dialect: Dialect, content: bytes, path: Path) -> Dialect:
    """The dialect with its delimiter: the declared one, which must part the header if another does."""
    likely = detect_delimiter(content)
    if dialect.delimiter is None:
        return replace(dialect, delimiter=likely)
    header = _header(content, dialect.delimiter)
    others = len(_header(content, likely))
    if len(header) == 1 < others:
        raise SourceError(
            f"{path} line 1: the header {shown(header[0])} is not parted by {dialect.delimiter!r}, which its source "
            f"declares, but by {likely!r} in {others}; correct delimiter, or the file"
        )
    return dialect


def _without_blank_start(content: bytes) -> tuple[bytes, int]:
    """The content from its first line that is not blank on, and how many stood before."""
    bare = content.lstrip(b"\r\n")
    return bare, content[: len(content) - len(bare)].count(b"\n")


def _judge_header(content: bytes, path: Path) -> None:
    """Refuse a first line that nobody can have meant as a header, before it is parted."""
    start = content[: LONGEST_HEADER + 1]
    if len(start) > LONGEST_HEADER and b"\n" not in start and b"\r" not in start:
        raise SourceError(
            f"{path} line 1: the header has more than {LONGEST_HEADER:,} bytes and begins with {shown(start[:40])}; is "
            "it a text of lines, with the columns' names in the first?"
        )


def _empty(path: Path) -> SourceError:
    return SourceError(f"{path}: the file is empty; it needs a header and rows")


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


# --- one block


@dataclass(frozen=True, slots=True)
class _Scan:
    """Where records end and how many delimiters each has, quotes respected; the header is record 0."""

    starts: NDArray[np.int64]
    ends: NDArray[np.int64]  # exclusive, without the newline
    delimiters: NDArray[np.int64]
    blank: NDArray[np.bool_]
    is_quoted: bool  # whether there is a quote at all


def _read_block(content: bytes, path: Path, dialect: Dialect, before: int, *, is_first: bool = True) -> Block:
    """The rows behind the header that `content` begins with; `before` lines of the file stand before it."""
    delimiter = dialect.delimiter or ","
    scan = _scan(content, delimiter, path, before)
    header = _header(content[: scan.ends[0]], delimiter)
    judge_distinct(header, path)
    ragged, whole = _ragged(scan, len(header))
    if len(ragged) > whole and is_first:
        raise SourceError(_wrong_delimiter(content, scan, ragged, header, delimiter, path))
    many = scan.delimiters >= len(header)
    reasons = {
        record: f"row: {'more' if many[record] else 'fewer'} fields than the header's {len(header)}"
        for record in ragged
    }
    frame = cleared(_parse(_without(content, scan, ragged), header, delimiter, path, scan.is_quoted), dialect.nulls)
    kept = _kept(scan, ragged)
    frame, mistaken = _with_numbers(frame, dialect)
    if mistaken:
        reasons |= {int(kept[row]): reason for row, reason in mistaken.items()}
        sound = np.ones(len(kept), dtype=np.bool_)
        sound[list(mistaken)] = False
        frame, kept = frame.filter(pl.Series(sound)), kept[sound]
    lost = np.array(sorted(reasons), dtype=np.int64)
    texts = [_text(content, scan, record).decode() for record in lost]
    malformed = pl.DataFrame(
        {"line": _lines(content, scan, lost) + before, "text": texts, "reason": [reasons[record] for record in lost]},
        schema=MALFORMED_SCHEMA,
    )
    return Block(frame, malformed, pl.Series(_lines(content, scan, kept) + before))


def _lines(content: bytes, scan: _Scan, records: NDArray[np.int64]) -> NDArray[np.int64]:
    """The line, from 1, in which each record begins: its own number, unless quotes hold newlines."""
    if not scan.is_quoted:
        return records + 1
    newlines = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == _NEWLINE)
    return np.searchsorted(newlines, scan.starts[records]).astype(np.int64) + 1


def _with_numbers(frame: pl.DataFrame, dialect: Dialect) -> tuple[pl.DataFrame, Mapping[int, str]]:
    """Numbers as every program reads them, and the rows where one is not written as it should be, with the reason."""
    if dialect.numerals.is_plain:
        return frame, {}
    numbers = {
        column: name
        for position, column in enumerate(frame.columns, 1)
        if (name := identifier(column, position)) in dialect.numbers
    }
    reasons: dict[int, str] = {}
    for column, name in numbers.items():
        rows = frame.select(dialect.numerals.mistaken(pl.col(column)).fill_null(False)).to_series().arg_true()
        for row in rows:
            more = f"{reasons[row]}; " if row in reasons else ""
            reasons[row] = f"{more}{name}: not a number written as {dialect.numerals.example}"
    return frame.with_columns(dialect.numerals.plain(pl.col(column)) for column in numbers), reasons


def _scan(content: bytes, delimiter: str, path: Path, lines_before: int = 0) -> _Scan:
    if not content.endswith(b"\n"):
        content += b"\n"
    text = np.frombuffer(content, dtype=np.uint8)
    quoted = b'"' in content
    ends, counts, inside, before = [], [], 0, 0  # before: delimiters of the record that a chunk begins in
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
        seen = _between(delimits, end)
        seen[0] += before
        ends.append(end + start)
        counts.append(seen[:-1])
        before = int(seen[-1])
    if inside:
        raise SourceError(_open_quote(content, path, lines_before))
    all_ends = np.concatenate(ends)
    starts = np.concatenate(([0], all_ends[:-1] + 1))
    length = all_ends - starts
    blank = (length == 0) | ((length == 1) & (text[starts] == _RETURN))
    return _Scan(starts, all_ends, np.concatenate(counts), blank, quoted)


def _between(marks: NDArray[np.bool_], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many marks stand before each end, counted from the end before it; and behind the last."""
    starts = np.concatenate(([0], ends + 1))
    if np.diff(starts).max(initial=len(marks) - starts[-1]) > np.iinfo(np.uint8).max:
        seen = np.searchsorted(np.flatnonzero(marks), np.append(ends, len(marks)))
        return np.diff(seen, prepend=0).astype(np.int64)
    inside = starts[starts < len(marks)]
    counts = np.zeros(len(starts), dtype=np.int64)
    counts[: len(inside)] = np.add.reduceat(marks.view(np.uint8), inside, dtype=np.uint8)  # wider ones are cast first
    return counts


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
        near = shown(text[max(at - 20, 0) : at + 20].tobytes())
        raise SourceError(
            f"{path} line {line}: a quote inside a field: {near}; quote the whole field and double the inner one"
        )


def _open_quote(content: bytes, path: Path, before: int = 0) -> str:
    quotes = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == _QUOTE)
    at = int(quotes[-1])
    line = before + line_of(content, at)
    return f"{path} line {line}: the quote at {shown(content[at : at + 40])} is never closed; close or double it"


def _header_end(content: bytes, delimiter: str, path: Path) -> int:
    """Where the first record ends."""
    line = content.find(b"\n")
    if line < 0 or b'"' in content[:line]:
        return int(_scan(content, delimiter, path).ends[0])
    return line


def _header(content: bytes, delimiter: str) -> list[str]:
    text = content[:LONGEST_HEADER]
    csv.field_size_limit(2**31 - 1)
    row = next(csv.reader(io.StringIO(text.decode("utf-8", "ignore"), newline=""), delimiter=delimiter), [""])
    return [name.strip() for name in row]


def _named(header: list[str]) -> list[str]:
    return [name or f"column_{position}" for position, name in enumerate(header, 1)]


def _ragged(scan: _Scan, fields: int) -> tuple[list[int], int]:
    """Records (from 1) whose number of fields is not the header's, and how many rows are well-formed."""
    differing = (scan.delimiters != fields - 1) & ~scan.blank
    ragged = [int(record) for record in np.flatnonzero(differing) if record]
    return ragged, int(np.count_nonzero(~differing & ~scan.blank)) - 1


def _kept(scan: _Scan, ragged: list[int]) -> NDArray[np.int64]:
    """The records that are rows of the frame, in order."""
    is_kept = ~scan.blank
    is_kept[[0, *ragged]] = False
    return np.flatnonzero(is_kept)


def _text(content: bytes, scan: _Scan, record: int) -> bytes:
    return content[scan.starts[record] : scan.ends[record]].rstrip(b"\r\n")


def _wrong_delimiter(
    content: bytes, scan: _Scan, ragged: list[int], header: list[str], delimiter: str, path: Path
) -> str:
    first = ragged[0]
    line = line_of(content, int(scan.starts[first]))
    return (
        f"{path}: {len(ragged)} of {len(scan.ends) - 1} rows have not the {len(header)} fields of the header "
        f"(parted by {delimiter!r}), the first in line {line}: {shown(_text(content, scan, first))}; "
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


def _parse(rows: bytes, header: list[str], delimiter: str, path: Path, is_quoted: bool) -> pl.DataFrame:
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
        raise SourceError(f"{path}: {first_line(error)}") from error
    if is_quoted and b'""' in rows:  # a quoted empty field is as missing as an unquoted one
        frame = frame.with_columns(pl.when(pl.all() != "").then(pl.all()))
    frame.columns = _named(header)
    return frame
