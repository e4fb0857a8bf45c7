"""Dialect: how the files of a source are written, as the contract declares it."""

import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shipworthy.contract.data_section import Encoding, FileFormat, Source
from shipworthy.contract.lookups import place_of
from shipworthy.contract.types import Contract
from shipworthy.data.numerals import PLAIN, Numerals
from shipworthy.data.sources.files import DELTA_LOG, read_head, suffix
from shipworthy.kernel.errors import SourceError

TEXT_FORMATS: tuple[FileFormat, ...] = ("csv", "tsv", "jsonl")
_ZIP, _OLE = b"PK\x03\x04", b"\xd0\xcf\x11\xe0"  # archives, among them .xlsx; compound documents, such as .xls
_WORDS: dict[FileFormat, str] = {
    "csv": "text", "tsv": "text", "jsonl": "JSON lines", "parquet": "Parquet", "arrow": "Arrow", "excel": "Excel",
    "delta": "a Delta table",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Dialect:
    """How files are written; what is None is told by each file."""

    format: FileFormat | None = None
    delimiter: str | None = None
    encoding: Encoding = "utf-8"
    numerals: Numerals = PLAIN
    numbers: frozenset[str] = frozenset()  # columns, as identifiers, whose texts are numbers
    nulls: tuple[str, ...] = ()  # texts that stand for no value
    sheet: str | None = None
    version: int | None = None


def declared(source: Source, numbers: Collection[str] = ()) -> Dialect:
    """The dialect that the contract declares for a source.

    Args:
        source: of the contract.
        numbers: columns that the contract calls numbers.
    """
    delimiter = source.delimiter or {"csv": ",", "tsv": "\t"}.get(source.format or "")
    return Dialect(
        format=source.format,
        delimiter=delimiter,
        encoding=source.encoding,
        numerals=Numerals(source.decimal, source.thousands or ""),
        numbers=frozenset(numbers),
        nulls=source.nulls,
        sheet=source.sheet,
        version=source.version,
    )


def number_columns(contract: Contract) -> frozenset[str]:
    """The columns of the sources that the contract calls numbers."""
    columns = {**contract.context, **contract.features}
    numbers = {name for name, column in columns.items() if column.type in ("float", "int")}
    places = {name: place_of(name, feature) for name, feature in contract.features.items() if name in numbers}
    numbers |= {place[1] for place in places.values() if place is not None}
    return frozenset(numbers | ({contract.target.column} if contract.target.type == "regression" else set()))


def find_format(path: Path, dialect: Dialect) -> FileFormat:
    """The kind of the file at `path`, by its content, and of a text by its suffix unless it is declared.

    Raises:
        SourceError: it is of another kind than was declared, or of one that is not read.
    """
    found = _by_content(path)
    wanted = dialect.format
    if found is None and wanted in TEXT_FORMATS:
        return wanted
    if found is None:
        found = _text_format(path)
    if wanted is not None and found != wanted:
        raise SourceError(
            f"{path}: is {_WORDS[found]}, and its source declares format: {wanted}; correct the format or the file"
        )
    return found


def cleared(frame: pl.DataFrame, nulls: Collection[str]) -> pl.DataFrame:
    """The frame without the texts that stand for no value."""
    if not nulls:
        return frame
    texts = pl.col(pl.String)
    return frame.with_columns(pl.when(~texts.str.strip_chars().is_in(list(nulls))).then(texts))


def _by_content(path: Path) -> FileFormat | None:
    """The kind that the first bytes tell; None of a text."""
    if (path / DELTA_LOG).is_dir():
        return "delta"
    head = read_head(path, 4096)
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
        return "arrow"
    if head.startswith(_ZIP):
        return _archive(path)
    if head.startswith(_OLE):
        raise SourceError(f"{path}: is an old Excel workbook (.xls), or one with a password; save it as .xlsx, without")
    return None


def _archive(path: Path) -> FileFormat:
    try:
        names = zipfile.ZipFile(path).namelist()
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError):
        raise SourceError(
            f"{path}: is a damaged zip archive, or a damaged Excel workbook; copy it again, or save it anew"
        ) from None
    if "xl/workbook.xml" in names:
        return "excel"
    if "xl/workbook.bin" in names or "content.xml" in names:
        raise SourceError(f"{path}: is a spreadsheet of another kind than .xlsx; save it as .xlsx, or as CSV")
    raise SourceError(f"{path}: is a zip archive; unpack it")


def _text_format(path: Path) -> FileFormat:
    match suffix(path):
        case ".jsonl" | ".ndjson":
            return "jsonl"
        case ".json":
            raise SourceError(f"{path}: one JSON document is not read; write one object on each line of a .jsonl file")
        case ".tsv" | ".tab":
            return "tsv"
        case _:
            return "csv"
