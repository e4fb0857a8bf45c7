"""Sources: what a file holds is what is read, and every refusal says where and how to mend it."""

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.contract.data_section import Source
from shipworthy.data.names import identifier
from shipworthy.data.sources.read import read_columns, read_file, read_source
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import SourceError


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Writes bytes or text to a file and gives its path."""

    def write(content: bytes | str, name: str = "loans.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def rows(path: Path) -> list[tuple[str | None, ...]]:
    return read_file("loans", path).frame.rows()


def test_every_column_of_a_csv_is_text_and_an_empty_field_is_missing(written: Any) -> None:
    read = read_file("loans", written('code,n\n001,1\n,"two, ""three"""\n'))
    assert read.frame.schema == {"code": pl.String, "n": pl.String}
    assert read.frame.rows() == [("001", "1"), (None, 'two, "three"')]
    assert read.rows == 2


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_found(written: Any, delimiter: Any) -> None:
    path = written(f"a{delimiter}b\n1{delimiter}2\n")
    assert rows(path) == [("1", "2")]
    assert read_columns("x", Source(path=path.name), path.parent) == ("a", "b")


def test_a_byte_order_mark_carriage_returns_and_blank_lines_are_no_data(written: Any) -> None:
    read = read_file("x", written(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3,\r\n"))
    assert (read.frame.rows(), read.rows, read.malformed.height) == ([("1", "2"), ("3", None)], 2, 0)
    assert read_file("x", written(b"\xef\xbb\xbfa,b\r\n1,2\r\n")).frame.columns == ["a", "b"]
    assert rows(written(b"a\r1\r2\r")) == [("1",), ("2",)]


def test_a_quoted_field_keeps_delimiters_and_newlines(written: Any) -> None:
    assert rows(written('a,b\n"x\ny, z",2\n"",3')) == [("x\ny, z", "2"), (None, "3")]


def test_a_compressed_file_reads_the_same_under_its_own_digest(written: Any) -> None:
    plain, packed = written("a,b\n1,2\n"), written(gzip.compress(b"a,b\n1,2\n"), "loans.csv.gz")
    assert rows(plain) == rows(packed)
    assert read_file("x", packed).digest == digest_bytes(packed.read_bytes())
    assert read_columns("x", Source(path="loans.csv.gz"), packed.parent) == ("a", "b")


def test_ragged_rows_are_kept_apart_with_line_and_text(written: Any) -> None:
    read = read_file("loans", written('a,b\n1,2\n"x\ny",4\n5\n6,7,8\n9,0\n'))
    assert read.frame.rows() == [("1", "2"), ("x\ny", "4"), ("9", "0")]
    assert read.malformed.rows() == [
        ("loans.csv", 5, "5", "row: fewer fields than the header's 2"),
        ("loans.csv", 6, "6,7,8", "row: more fields than the header's 2"),
    ]
    assert read.rows == 5


def test_a_million_characters_in_a_cell_are_read(written: Any) -> None:
    read = read_file("loans", written("a,b\n" + "x" * 1_000_000 + ",1\n2,3\n"))
    assert read.frame["a"].str.len_bytes().to_list() == [1_000_000, 1]


def test_a_line_of_100_megabytes_is_a_cell_but_never_a_header(written: Any) -> None:
    size = 100 * 2**20
    path = written(b"a,b\n" + b"x" * size + b",1\n2,3\n")
    assert read_file("loans", path).frame["a"].str.len_bytes().to_list() == [size, 1]
    written(b"x" * size)
    for read in (lambda: read_file("loans", path), lambda: read_columns("loans", Source(path=path.name), path.parent)):
        with pytest.raises(SourceError, match=r"line 1: the header has more than 4,194,304 bytes") as caught:
            read()
        assert len(str(caught.value)) < 400
    path.unlink()


REFUSED = {
    "empty": (b"", "the file is empty; it needs a header and rows"),
    "blank": (b"\n \n", "the file is empty"),
    "header only": (b"a,b\n", "a header and no rows"),
    "header without newline": (b"a,b", "a header and no rows"),
    "mixed encodings": ("a,b\ncafé,1\n".encode() + "café,2\n".encode("latin-1"), r"line 3, byte 4: 0xe9 .* -t UTF-8"),
    "utf-16": ("a,b\n1,2\n".encode("utf-16"), "is UTF-16; convert it"),
    "nul": (b"a,b\n1,\x00\n", "line 2: holds a NUL byte"),
    "two columns of a name": (b"a,b,a\n1,2,3\n", "two columns are named 'a'; rename or remove one"),
    "two names become one": (b"a b,a-b\n1,2\n", "columns 'a b' and 'a-b' both become a_b"),
    "mostly ragged": (b"a,b\n1,2,3\n4,5,6\n7,8\n", r"2 of 3 rows .* in line 2: '1,2,3'; is the delimiter"),
    "stray quote": (b'a,b\n1,5" pipe\n', "line 2: a quote inside a field"),
    "open quote": (b'a,b\n1,"2\n3,4\n', "line 2: the quote .* is never closed"),
    "archive": (b"PK\x03\x04rest", "zip archive"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_file_is_refused_with_place_and_cure(written: Any, case: str) -> None:
    content, message = REFUSED[case]
    with pytest.raises(SourceError, match=message) as caught:
        read_file("loans", written(content))
    assert "loans.csv" in str(caught.value)


def test_a_delimiter_that_is_not_known_leaves_one_column_whose_name_shows_it(written: Any) -> None:
    assert read_file("loans", written("a^b\n1^2\n")).names == {"a_b": "a^b"}


def test_a_damaged_archive_a_directory_and_a_missing_file_are_refused(written: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="gzip file is damaged"):
        read_file("loans", written(gzip.compress(b"a,b\n1,2\n" * 100)[:-20], "x.csv.gz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty: the directory has no files; put some in"):
        read_file("loans", tmp_path / "empty")
    with pytest.raises(SourceError, match="no such file; correct the path"):
        read_file("loans", tmp_path / "absent.csv")


def test_databases_are_refused_with_the_way_round(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"not read yet; .* data\.sources\.bureau\.path"):
        read_source("bureau", Source(url="postgresql://host/x", query="select 1"), tmp_path)


def test_json_lines_keep_their_types_and_name_a_bad_line(written: Any) -> None:
    read = read_file("loans", written('{"a": "001", "b": 1.5}\n{"a": null, "b": 2}\n', "loans.jsonl"))
    assert read.frame.rows() == [("001", 1.5), (None, 2.0)]
    with pytest.raises(SourceError, match="line 2: is not JSON"):
        read_file("loans", written('{"a": 1}\n{"a": 2\n', "loans.jsonl"))
    with pytest.raises(SourceError, match="column 'a' holds List"):
        read_file("loans", written('{"a": [1]}\n', "loans.jsonl"))


def test_parquet_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "loans.data"
    pl.DataFrame({"a b": [1, 2]}).write_parquet(path)
    read = read_file("loans", path)
    assert (read.frame.columns, read.frame["a_b"].to_list(), read.names) == (["a_b"], [1, 2], {"a_b": "a b"})
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SourceError, match="Parquet file is damaged"):
        read_file("loans", path)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("größe", "groe"), ("名", "column_4"), ("_a", "_a"), ("2020", "_2020"), ("a  b", "a_b"), ("x" * 200, "x" * 128)],
)
def test_a_column_name_becomes_an_identifier(name: Any, expected: Any) -> None:
    assert identifier(name, 4) == expected


cells = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"], exclude_characters="\0\r"), max_size=8)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory: Any, table: Any, delimiter: str) -> None:
    path = tmp_path_factory.mktemp("csv") / "loans.csv"
    frame = pl.DataFrame(table, schema=["a", "b", "c"], orient="row")
    frame.write_csv(path, separator=delimiter, quote_style="always")
    read = read_file("loans", path)
    assert read.frame.rows() == [tuple(cell or None for cell in row) for row in table]
    assert read.malformed.is_empty()


def test_one_json_document_is_told_apart_from_lines(tmp_path: Path):
    (tmp_path / "rows.json").write_text('[{"a": 1}]')
    with pytest.raises(SourceError, match=r"rows\.json: one JSON document is not read; write one object on each line"):
        read_file("rows", tmp_path / "rows.json")


def test_a_column_of_durations_is_refused_by_name(tmp_path: Path):
    pl.DataFrame({"took": pl.Series([1, 2], dtype=pl.Duration)}).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(SourceError, match=r"column 'took' holds Duration.*; write a number, text, bool or date"):
        read_file("rows", tmp_path / "rows.parquet")
