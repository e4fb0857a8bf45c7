"""Excel: one sheet of an .xlsx workbook, with a header in its first row that is not empty; cells keep their types.

What a spreadsheet shows and a table cannot hold is not passed over: a row with a formula's error, or with a formula
that was never computed, is malformed, and merged cells are refused. `#N/A` is Excel's own word for no value.
"""

import io
import logging
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as Xml

import fastexcel
import polars as pl

from shipworthy.data.names import judge_distinct
from shipworthy.data.sources.block import MALFORMED_SCHEMA, Block
from shipworthy.data.sources.files import first_line, read_bytes, shown
from shipworthy.kernel.errors import SourceError

EXACT_WHOLE = 2.0**53  # Excel has one kind of number, a float64
FIRST_YEAR = 1900  # Excel's days begin there; a time of day alone is a part of day 0
LARGEST_BYTES = 4 * 2**30  # a million rows of fifty columns unpack to less
_NO_VALUE = "#N/A"
_BROKEN = (  # what the readers of a workbook, its archive and its XML raise
    fastexcel.FastExcelError, zipfile.BadZipFile, zlib.error, Xml.ParseError, pl.exceptions.PolarsError,
    LookupError, ValueError, EOFError, OSError, NotImplementedError, RuntimeError,
)  # fmt: skip
_CELL = re.compile(rb"<(?:\w+:)?c\b([^>]*?)(?:/>|>(.*?)</(?:\w+:)?c>)", re.DOTALL)
_REFERENCE = re.compile(rb"""\br=["']([A-Z]+)(\d+)["']""")
_ERROR = re.compile(rb"""\bt=["']e["']""")
_TEXT = re.compile(rb"""\bt=["']str["']""")
_VALUE = re.compile(rb"<(?:\w+:)?v\b[^>]*>([^<]+)<")
_HELD = re.compile(rb"<(?:\w+:)?(?:v|is)\b[^>/]*>")
_FORMULA = re.compile(rb"<(?:\w+:)?f\b")
_MERGED = re.compile(rb"""<(?:\w+:)?mergeCell\b[^>]*\bref=["']([^"']+)["']""")
_SHEET = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}sheet"
_STRICT_SHEET = "{http://purl.oclc.org/ooxml/spreadsheetml/main}sheet"


@dataclass(frozen=True, slots=True)
class _Marks:
    """What the cells' values do not tell."""

    first_row: int  # of the sheet that holds something, from 1
    broken: dict[int, str]  # row of the sheet -> cell and what is wrong with it
    merged: str | None  # the first range of merged cells


def read_excel(content: bytes, path: Path, sheet: str | None = None) -> Block:
    """The rows of a sheet; numbers that are all whole are whole numbers, cells of several kinds are texts.

    Args:
        content: of the workbook.
        path: of the file.
        sheet: its name; None for the only one.

    Raises:
        SourceError: the workbook is damaged or has no such sheet; the sheet has merged cells, two columns of a name, or
            times of day.
    """
    logging.getLogger("fastexcel.types.dtype").setLevel(logging.ERROR)  # that a column is empty is no warning
    with _readable(path):
        _judge_size(content, path)
        workbook = fastexcel.read_excel(content)
        name = _chosen(workbook.sheet_names, sheet, path)
        place = f"{path} sheet {name!r}"
        marks = _marks(content, name)
        header = workbook.load_sheet(name, header_row=None, n_rows=1, dtypes="string").to_polars()
        if not header.height:
            raise SourceError(f"{place}: is empty; it needs a header and rows")
        columns = [str(value or "").strip() for value in header.row(0)]
        frame = workbook.load_sheet(name, schema_sample_rows=None).to_polars()
    if marks.merged is not None:
        raise SourceError(
            f"{place}: cells {marks.merged} are merged, so that only the first of them holds a value; "
            "unmerge them and fill in each"
        )
    judge_distinct(columns, path)
    frame = _named(frame, columns, place)
    return _parted(frame, marks)


def sheet_names(path: Path) -> list[str]:
    """The names of a workbook's sheets, in order.

    Raises:
        SourceError: the workbook is damaged.
    """
    content, _ = read_bytes(path)
    with _readable(path):
        return fastexcel.read_excel(content).sheet_names


def _chosen(names: list[str], sheet: str | None, path: Path) -> str:
    if sheet is None and len(names) == 1:
        return names[0]
    if sheet is None or sheet not in names:
        lacks = "has several sheets" if sheet is None else f"has no sheet {sheet!r}"
        raise SourceError(f"{path}: {lacks}; name one at its source, sheet: {' | '.join(names[:20])}")
    return sheet


def _judge_size(content: bytes, path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        size_bytes = sum(part.file_size for part in archive.infolist())
    if size_bytes > LARGEST_BYTES:
        raise SourceError(f"{path}: the workbook unpacks to {size_bytes:,} bytes; export the sheet as CSV")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except SourceError:
        raise
    except _BROKEN as error:
        raise SourceError(
            f"{path}: the Excel workbook is damaged ({type(error).__name__}: {first_line(error)}); save it again"
        ) from error


def _named(frame: pl.DataFrame, columns: list[str], place: str) -> pl.DataFrame:
    frame.columns = [name or f"column_{position}" for position, name in enumerate(columns, 1)]
    for name, kind in frame.schema.items():
        if kind.is_temporal() and frame.filter(pl.col(name).dt.year() < FIRST_YEAR).height:
            raise SourceError(
                f"{place}: column {name!r} holds times of day; write date and time in each row, or the time as text"
            )
    whole = [
        name
        for name, kind in frame.schema.items()
        if kind == pl.Float64 and ((frame[name] % 1 == 0) & (frame[name].abs() < EXACT_WHOLE)).all(ignore_nulls=True)
    ]
    return frame.with_columns(pl.col(whole).cast(pl.Int64))


def _parted(frame: pl.DataFrame, marks: _Marks) -> Block:
    """The rows that hold something and are sound, and those that are not, by their number in the sheet."""
    first = marks.first_row + 1
    lines = pl.int_range(first, first + frame.height, eager=True)
    broken = lines.is_in(list(marks.broken))
    sound = ~broken & ~frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
    rows = [
        (line, ",".join("" if value is None else str(value) for value in frame.row(line - first)), marks.broken[line])
        for line in lines.filter(broken).to_list()
    ]
    malformed = pl.DataFrame(rows, schema=MALFORMED_SCHEMA, orient="row")
    return Block(frame.filter(sound), malformed, lines.filter(sound))


# --- the sheet's own text


def _marks(content: bytes, sheet: str) -> _Marks:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        text = archive.read(_part(archive, sheet))
    first, broken = 0, {}
    if _needs_look(text):
        broken = dict(reversed(list(_broken(text))))
    for cell in _CELL.finditer(text):
        reference = _REFERENCE.search(cell[1])
        if reference is not None and cell[2] is not None and _HELD.search(cell[2]):
            first = int(reference[2])
            break
    merged = _MERGED.search(text)
    return _Marks(first or 1, broken, merged[1].decode() if merged else None)


def _needs_look(text: bytes) -> bool:
    return _ERROR.search(text) is not None or _FORMULA.search(text) is not None


def _broken(text: bytes) -> Iterator[tuple[int, str]]:
    """Rows with a cell that holds an error, or a formula without its value."""
    for cell in _CELL.finditer(text):
        attributes, inner = cell[1], cell[2] or b""
        reference = _REFERENCE.search(attributes)
        if reference is None:
            continue
        name, row = (reference[1] + reference[2]).decode(), int(reference[2])
        value = _VALUE.search(inner)
        if _ERROR.search(attributes):
            error = value[1].decode("utf-8", "replace") if value else "#VALUE!"
            if error != _NO_VALUE:
                yield row, f"{_column(name)}: the formula's error {shown(error)}"
        elif value is None and _FORMULA.search(inner) and not _TEXT.search(attributes):
            yield row, f"{_column(name)}: a formula that was never computed; save the workbook in a spreadsheet program"


def _column(cell: str) -> str:
    return f"column {cell.rstrip('0123456789')}"


def _part(archive: zipfile.ZipFile, sheet: str) -> str:
    """The part of the workbook that holds the sheet."""
    book = Xml.fromstring(archive.read("xl/workbook.xml"))  # noqa: S314  # expat bounds what entities make of it
    links = Xml.fromstring(archive.read("xl/_rels/workbook.xml.rels"))  # noqa: S314
    targets = {link.get("Id"): link.get("Target", "") for link in links}
    for node in (*book.iter(_SHEET), *book.iter(_STRICT_SHEET)):
        if node.get("name") == sheet:
            key = next((value for name, value in node.items() if name.endswith("}id")), "")
            target = targets[key]
            return target.lstrip("/") if target.startswith("/") else f"xl/{target}"
    raise KeyError(sheet)
