"""Detection: how files are written, told once by `init` and then fixed in the contract."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from shipworthy.contract.data_section import Encoding, FileFormat
from shipworthy.data.sources.delimited import detect_delimiter
from shipworthy.data.sources.dialect import TEXT_FORMATS, Dialect, find_format
from shipworthy.data.sources.encodings import detect_encoding, recoded
from shipworthy.data.sources.files import HEAD_BYTES, find_files, pieces
from shipworthy.kernel.errors import UsageError

Value = TypeVar("Value")


def detect_dialect(path: Path) -> Dialect:
    """How what `path` names is written; numbers and nulls are told by its rows.

    Args:
        path: a file, a directory, a pattern, or a Delta table.

    Raises:
        SourceError: there is no file, or it is of a kind that is not read.
        UsageError: several files are written in different ways.
    """
    files = find_files(path)
    kind = _the_same([find_format(file, Dialect()) for file in files], files, "format")
    if kind == "excel":
        return Dialect(format=kind, sheet=_first_sheet(files[0]))
    if kind not in TEXT_FORMATS:
        return Dialect(format=kind)
    encoding = _encoding(files)
    dialect = Dialect(format=kind, encoding=encoding)
    if kind == "jsonl":
        return dialect
    delimiters = [detect_delimiter(_head(file, encoding)) for file in files]
    delimiter = _the_same(delimiters, files, "delimiter")
    text: FileFormat = "tsv" if delimiter == "\t" else "csv"
    return replace(dialect, format=text, delimiter=delimiter)


def _first_sheet(path: Path) -> str:
    from shipworthy.data.sources.excel import sheet_names  # loaded for those who have one

    return sheet_names(path)[0]


def _encoding(files: Sequence[Path]) -> Encoding:
    """The encoding of all files; plain ASCII is of any."""
    found = [detect_encoding(file) for file in files]
    telling = [
        (encoding, file)
        for encoding, file in zip(found, files, strict=True)
        if not (encoding == "utf-8" and _is_ascii(file))
    ]
    if len(files) == 1 or not telling:
        return found[0]
    return _the_same([encoding for encoding, _ in telling], [file for _, file in telling], "encoding")


def _is_ascii(path: Path) -> bool:
    return all(piece.isascii() for piece in pieces(path, HEAD_BYTES))


def _head(path: Path, encoding: Encoding) -> bytes:
    return next(recoded(pieces(path, HEAD_BYTES), encoding, path), b"").lstrip(b"\r\n")


def _the_same(found: Sequence[Value], files: Sequence[Path], key: str) -> Value:
    for other, file in zip(found, files, strict=True):
        if other != found[0]:
            raise UsageError(
                f"{file} and {files[0]} differ in {key} ({other!r} and {found[0]!r}); files of one source are written "
                "alike: convert one, or name them apart with --data"
            )
    return found[0]
