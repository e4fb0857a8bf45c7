"""Dialect: a file that is not as the contract declares it is refused; one that tells its kind is known by it."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from deltalake import write_deltalake

from shipworthy.contract.data_section import Source
from shipworthy.contract.parse import parse_contract
from shipworthy.data.detection import detect_dialect
from shipworthy.data.numerals import Numerals
from shipworthy.data.sources.dialect import Dialect, declared, number_columns
from shipworthy.data.sources.read import read_columns, read_file, read_source, stream_file
from shipworthy.data.tables import open_table
from shipworthy.kernel.errors import ContractError, SourceError, UsageError
from tests.data.conftest import BASE

FRAME = pl.DataFrame({"a b": [1, 2], "c": ["001", None]})


def write(folder: Path, kind: str) -> Path:
    """The frame as a file of one kind, whose name tells nothing."""
    path = folder / "rows.data"
    match kind:
        case "parquet":
            FRAME.write_parquet(path)
        case "arrow":
            FRAME.write_ipc(path)
        case "arrow stream":
            FRAME.write_ipc_stream(path)
        case "excel":
            FRAME.write_excel(path.with_suffix(".xlsx"))
            path.with_suffix(".xlsx").rename(path)
        case "delta":
            write_deltalake(str(path), FRAME.rename({"a b": "a_b"}))
        case "csv":
            FRAME.write_csv(path)
        case "tsv":
            FRAME.write_csv(path, separator="\t")
        case _:
            FRAME.write_ndjson(path)
    return path


KINDS = {
    "parquet": Dialect(format="parquet"),
    "arrow": Dialect(format="arrow"),
    "arrow stream": Dialect(format="arrow"),
    "excel": Dialect(format="excel", sheet="Sheet1"),
    "delta": Dialect(format="delta"),
    "csv": Dialect(format="csv", delimiter=","),
    "tsv": Dialect(format="tsv", delimiter="\t"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_known_by_its_content_and_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, kind)
    assert detect_dialect(path) == KINDS[kind]
    read = read_file("rows", path)
    assert read.frame.cast({"a_b": pl.Int64}).rows() == [(1, "001"), (2, None)]
    assert read_file("rows", path, KINDS[kind]).frame.equals(read.frame)
    assert read_columns("rows", Source(path="rows.data"), tmp_path) == ("a_b", "c")
    streamed = pl.concat([block.frame for block in stream_file(path)])
    assert streamed.rows() == read.frame.rows()
    table = open_table(path, tmp_path / "copy")
    assert pl.concat(table.batches()).rows() == read.frame.rows()


def test_a_suffix_or_the_contract_tells_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "jsonl")
    assert read_file("rows", path, Dialect(format="jsonl")).frame.rows() == [(1, "001"), (2, None)]
    assert detect_dialect(path.rename(tmp_path / "rows.jsonl")) == Dialect(format="jsonl")


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrow stream"])
@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_a_columnar_file_that_is_cut_short_is_refused(tmp_path: Path, kind: str, kept: float) -> None:
    path = write(tmp_path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(SourceError, match=r"rows\.data: the (Parquet|Arrow) file is damaged or cut short"):
        read_file("rows", path)


DIFFERENT: dict[str, tuple[str, dict[str, str], str]] = {
    "text for Parquet": ("csv", {"format": "parquet"}, "is text, and its source declares format: parquet"),
    "Parquet for text": ("parquet", {"format": "csv"}, "is Parquet, and its source declares format: csv"),
    "another delimiter": (
        "tsv",
        {"format": "csv", "delimiter": ";"},
        r"line 1: the header 'a b\\tc' is not parted by ';', which its source declares, but by '\\t' in 2",
    ),
    "another encoding": ("csv", {"encoding": "utf-16"}, "has no byte order mark"),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_a_file_that_does_not_fit_its_dialect_is_refused_by_head_and_whole(tmp_path: Path, case: str) -> None:
    kind, keys, words = DIFFERENT[case]
    write(tmp_path, kind)
    source = Source.model_validate({"path": "rows.data", **keys})
    for read in (read_source, read_columns):
        with pytest.raises(SourceError, match=words + r".*\(data\.sources\.rows\)"):
            read("rows", source, tmp_path)


def test_a_delimiter_of_ones_own_is_kept_to(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a^b\n1,5^2\n")
    read = read_source("rows", Source(path="rows.csv", delimiter="^"), tmp_path)
    assert read.frame.rows() == [("1,5", "2")]


def test_files_that_are_written_in_different_ways_are_no_one_source(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("a;b\n1;2\n")
    with pytest.raises(UsageError, match=r"2\.csv and .*1\.csv differ in delimiter \(';' and ','\)"):
        detect_dialect(tmp_path)


def test_a_version_of_a_delta_table_is_fixed_and_a_table_of_ours_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "table"
    write_deltalake(str(path), pl.DataFrame({"__row": [2, 0, 1], "a": ["z", "x", "y"]}))
    write_deltalake(str(path), pl.DataFrame({"__row": [3], "a": ["new"]}), mode="append")
    old = read_source("rows", Source(path="table", format="delta", version=0), tmp_path)
    assert old.frame.to_dict(as_series=False) == {"a": ["x", "y", "z"]}
    new = read_source("rows", Source(path="table"), tmp_path)
    assert new.frame["a"].to_list() == ["x", "y", "z", "new"]
    assert (old.digest[-2:], new.digest[-2:]) == (":0", ":1")
    assert read_columns("rows", Source(path="table"), tmp_path) == ("a",)
    with pytest.raises(SourceError, match="has no version 7; its newest is 1"):
        read_source("rows", Source(path="table", version=7), tmp_path)
    next(path.glob("*.parquet")).unlink()
    with pytest.raises(SourceError, match=r"table: the Delta table cannot be read \(.*\); restore its files"):
        read_source("rows", Source(path="table"), tmp_path)


def test_a_contract_without_a_dialect_means_what_it_meant() -> None:
    assert declared(Source(path="a")) == Dialect()
    assert declared(Source(path="a", format="csv")).delimiter == ","
    assert declared(Source(path="a", decimal=",", thousands="."), {"n"}) == Dialect(
        numerals=Numerals(",", "."), numbers=frozenset({"n"})
    )


SENSE: dict[str, tuple[dict[str, Any], str]] = {
    "sheet of text": ({"format": "csv", "sheet": "x"}, "sheet goes with format excel, not with csv; remove it"),
    "delimiter of Parquet": ({"format": "parquet", "delimiter": ";"}, "delimiter goes with format csv or tsv"),
    "version of text": ({"format": "jsonl", "version": 0}, "version goes with format delta"),
    "one sign for two": ({"thousands": "."}, "'.' parts thousands and decimals at once; .* decimal: \",\""),
    "a long delimiter": ({"delimiter": "::"}, "delimiter"),
    "no encoding": ({"encoding": "ebcdic"}, "encoding"),
}


@pytest.mark.parametrize("case", SENSE)
def test_keys_that_do_not_go_together_are_told(case: str) -> None:
    keys, words = SENSE[case]
    data = {"sources": {"loans": {"path": "loans.csv", **keys}}}
    with pytest.raises(ContractError, match=words):
        parse_contract(json.dumps({**BASE, "data": data}))


def test_a_querys_answer_has_no_dialect() -> None:
    data = {"sources": {"loans": {"url": "postgresql://host/x", "query": "select 1", "encoding": "latin-1"}}}
    with pytest.raises(ContractError, match="encoding tells how a file is written; the answer to a query is read as"):
        parse_contract(json.dumps({**BASE, "data": data}))


def test_the_numbers_of_a_contract_are_its_numeric_columns_and_the_target_of_a_regression(
    make: object, make_regression: object
) -> None:
    features = {"a": {"type": "float"}, "b": {"type": "int"}, "c": {"type": "text"}, "d": {"type": "bool"}}
    assert number_columns(make(features=features)) == {"a", "b"}  # type: ignore[operator]
    assert number_columns(make_regression(features=features)) == {"a", "b", "repaid"}  # type: ignore[operator]


JSON = {
    "a number of another size": ('{"a": 1}\n{"a": 1e400}', "line 2: is not JSON .1e400 is beyond what a float64 holds"),
    "no number": ('{"a": 1}\n\n{"a": NaN}', "line 3: is not JSON .NaN is no number of JSON"),
    "truth and number": ('{"a": true}\n{"b": 1}\n{"a": 1}', "line 3: 'a' is a number, '1', and from line 1 on a bool"),
    "no object": ('{"a": 1}\n[1]', r"line 2: is not an object: '\[1\]'"),
    "cut short": ('{"a": 1}\n{"a": ', r"line 2: is not JSON"),
    "nested": ('{"a": {"b": 1}}', "column 'a' holds Struct"),
    "a text of UTF-16": ('{"a": 1}', "is UTF-16"),
}


@pytest.mark.parametrize("case", JSON)
def test_json_lines_that_cannot_be_rows_are_refused_with_their_line(tmp_path: Path, case: str) -> None:
    text, words = JSON[case]
    path = tmp_path / "rows.jsonl"
    path.write_text(text, encoding="utf-16" if "UTF-16" in case else "utf-8")
    with pytest.raises(SourceError, match=words):
        read_file("rows", path)
    with pytest.raises(SourceError, match=words):
        list(stream_file(path))


def test_a_json_column_of_numbers_and_texts_is_one_of_texts_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "001"}\n\n{"a": 1}\n{"a": "None"}\n{"a": null}\n')
    read = read_file("rows", path)
    assert read.frame["a"].to_list() == ["001", "1", "None", None]
    assert read.places(pl.Series([0, 1, 3]))["line"].to_list() == [1, 3, 5]
    assert read_file("rows", path, Dialect(nulls=("None",))).frame["a"].to_list() == ["001", "1", None, None]
