"""Excel: cells keep their types, and what a table cannot hold is told by cell."""

import datetime as dt
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import xlsxwriter

from shipworthy.contract.data_section import Source
from shipworthy.data.sources.dialect import Dialect
from shipworthy.data.sources.read import read_columns, read_file, read_source
from shipworthy.data.tables import open_table
from shipworthy.kernel.errors import SourceError

DAY = dt.datetime(2026, 3, 1)


def workbook(path: Path, fill: Callable[[Any, Any], None], *, others: tuple[str, ...] = ()) -> Path:
    """A workbook whose sheet `Loans` is filled by `fill`."""
    with xlsxwriter.Workbook(str(path), {"default_date_format": "yyyy-mm-dd"}) as book:
        fill(book.add_worksheet("Loans"), book)
        for name in others:
            book.add_worksheet(name).write_row(0, 0, ["x"])
    return path


def rows(*lines: list[Any]) -> Callable[[Any, Any], None]:
    def fill(sheet: Any, _: Any) -> None:
        for row, line in enumerate(lines):
            sheet.write_row(row, 0, line)

    return fill


def test_cells_keep_their_types_and_empty_rows_are_no_data(tmp_path: Path) -> None:
    header = ["code", "n", "part", "when", "flag", "mixed", "nothing"]
    path = workbook(
        tmp_path / "loans.xlsx",
        rows(header, ["001", 1, 1.5, DAY, True, 7, None], [], ["", None, 2, DAY, False, "x", None], ["😀 שלום", 3]),
    )
    read = read_file("loans", path)
    assert dict(read.frame.schema) == {
        "code": pl.String, "n": pl.Int64, "part": pl.Float64, "when": pl.Datetime("ms"), "flag": pl.Boolean,
        "mixed": pl.String, "nothing": pl.String,
    }  # fmt: skip
    assert read.frame.rows() == [
        ("001", 1, 1.5, DAY, True, "7", None),
        (None, None, 2.0, DAY, False, "x", None),
        ("😀 שלום", 3, None, None, None, None, None),
    ]
    assert read.places(pl.Series([0, 1, 2]))["line"].to_list() == [2, 4, 5]
    assert read_columns("loans", Source(path="loans.xlsx"), tmp_path) == tuple(header)
    assert open_table(path, tmp_path / "copy").rows == 3


def test_a_formula_with_an_error_or_without_a_value_is_kept_apart_by_its_row(tmp_path: Path) -> None:
    def fill(sheet: Any, _: Any) -> None:
        rows(["id", "", "ratio"], ["a", 1, 2], ["b", 2], ["c", 3], ["d", 4, 5], ["e", 5])(sheet, _)
        sheet.write_formula(2, 2, "=1/0", None, "#DIV/0!")
        sheet.write_formula(3, 2, "=B4*2", None, 6)
        sheet.write_formula(5, 2, "=NA()", None, "#N/A")
        sheet.write_formula(6, 2, "=B1", None, "")

    path = workbook(tmp_path / "loans.xlsx", fill)
    read = read_file("loans", path)
    assert read.frame.rows() == [("a", 1, 2), ("c", 3, 6), ("d", 4, 5), ("e", 5, None)]
    assert read.malformed.rows() == [
        ("loans.xlsx", 3, "b,2,", "column C: the formula's error '#DIV/0!'"),
    ]
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "raw.xlsx", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b"<f>B4*2</f><v>6</v>", b"<f>B4*2</f>"))
    raw = read_file("loans", tmp_path / "raw.xlsx")
    assert [row[1] for row in raw.malformed.rows()] == [3, 4]
    assert "column C: a formula that was never computed; save the workbook" in raw.malformed["reason"][1]


def merged(sheet: Any, _: Any) -> None:
    rows(["a", "b"], [1, 2], [3, 4])(sheet, _)
    sheet.merge_range("A4:A6", "both")


def clocks(sheet: Any, book: Any) -> None:
    rows(["a", "at"], [1])(sheet, book)
    sheet.write_datetime(1, 1, dt.time(12, 30), book.add_format({"num_format": "hh:mm"}))


REFUSED = {
    "merged": (merged, "sheet 'Loans': cells A4:A6 are merged, so that only the first of them holds a value"),
    "clocks": (clocks, "column 'at' holds times of day; write date and time in each row"),
    "twice": (rows(["a", "a"], [1, 2]), "two columns are named 'a'"),
    "empty": (rows(), "sheet 'Loans': is empty; it needs a header and rows"),
    "header only": (rows(["a", "b"]), "the file has columns and no rows"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_table_can_hold_is_refused(tmp_path: Path, case: str) -> None:
    fill, words = REFUSED[case]
    with pytest.raises(SourceError, match=words):
        read_file("loans", workbook(tmp_path / "loans.xlsx", fill))


def test_a_sheet_is_named_where_there_are_several(tmp_path: Path) -> None:
    path = workbook(tmp_path / "loans.xlsx", rows(["a"], [1]), others=("Notes",))
    with pytest.raises(SourceError, match=r"has several sheets; name one at its source, sheet: Loans \| Notes"):
        read_file("loans", path)
    assert read_file("loans", path, Dialect(sheet="Loans")).frame.rows() == [(1,)]
    with pytest.raises(SourceError, match=r"has no sheet 'Loan'; .* \(data\.sources\.loans\)"):
        read_source("loans", Source(path="loans.xlsx", format="excel", sheet="Loan"), tmp_path)


def test_a_table_that_does_not_begin_in_the_first_cell_keeps_its_rows_numbers(tmp_path: Path) -> None:
    def fill(sheet: Any, _: Any) -> None:
        sheet.write_row(3, 2, ["a", "b"])
        sheet.write_row(4, 2, [1, 2])
        sheet.write(6, 2, 3)
        sheet.write_formula(6, 3, "=1/0", None, "#DIV/0!")

    read = read_file("loans", workbook(tmp_path / "loans.xlsx", fill))
    assert read.frame.rows() == [(1, 2)]
    assert read.places(pl.Series([0]))["line"].to_list() == [5]
    assert read.malformed.select("line", "reason").rows() == [(7, "column D: the formula's error '#DIV/0!'")]


def archive(**parts: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, text in parts.items():
            file.writestr(name.replace("__", "/").replace("_dot_", "."), text)
    return buffer.getvalue()


OTHERS = {
    "a zip": (archive(a="b"), "is a zip archive; unpack it"),
    "an ods": (archive(content_dot_xml="<a/>"), "a spreadsheet of another kind than .xlsx; save it as .xlsx"),
    "an xlsb": (archive(xl__workbook_dot_bin="x"), "a spreadsheet of another kind than .xlsx"),
    "an xls": (b"\xd0\xcf\x11\xe0rest", "an old Excel workbook"),
    "half a workbook": (archive(xl__workbook_dot_xml="<a/>"), "the Excel workbook is damaged .*; save it again"),
    "a damaged zip": (b"PK\x03\x04rest", "a damaged zip archive, or a damaged Excel workbook"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_is_no_workbook_is_told_apart(tmp_path: Path, case: str) -> None:
    content, words = OTHERS[case]
    (tmp_path / "loans.xlsx").write_bytes(content)
    with pytest.raises(SourceError, match=words):
        read_file("loans", tmp_path / "loans.xlsx")
