"""Places: in which line of its text file a row stands, so that a person finds it."""

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from shipworthy.data.sources import SourceRead

TEXTS = (".csv", ".tsv", ".txt")


def lines_of(read: SourceRead, rows: Sequence[int]) -> list[int] | None:
    """The line (from 1) in which each row of a source begins; None where the file is not one of lines.

    Args:
        read: of a CSV or TSV file.
        rows: well-formed rows, from 1, ascending.
    """
    if not Path(read.path.name.lower().removesuffix(".gz")).suffix.endswith(TEXTS) or not read.path.is_file():
        return None
    raw = read.path.read_bytes()
    content = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    if b'"' not in content and content.rstrip(b"\n").count(b"\n") == read.frame.height:
        return [row + 1 for row in rows]  # behind the header, each line is a row
    if read.malformed.height and content.startswith((b"\n", b"\r")):
        return None  # lines of malformed rows are told without the blank ones before the header
    return _counted(content, read, rows)


def _counted(content: bytes, read: SourceRead, rows: Sequence[int]) -> list[int] | None:
    malformed = set(read.malformed["line"])
    found: list[int] = []
    at, wanted = 0, iter([*rows, 0])
    row = next(wanted)
    for line in _records(content):
        if line in malformed:
            continue
        if at == row and at:
            found.append(line)
            row = next(wanted)
            if not row:
                return found
        at += 1
    return None


def _records(content: bytes) -> Iterator[int]:
    """The line in which each record that is not blank begins, the header among them."""
    text = io.StringIO(content.decode("utf-8-sig", "replace"), newline="")
    reader, before = csv.reader(text), 0
    for fields in reader:
        if fields:
            yield before + 1
        before = reader.line_num
