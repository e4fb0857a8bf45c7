"""Files: what a path names, and that what is read is what lay there, whole."""

import gzip
from pathlib import Path

import polars as pl
import pytest

from shipworthy.contract.data_section import Source
from shipworthy.data.sources.files import digest_file, digest_files, find_files, pieces, read_bytes
from shipworthy.data.sources.read import read_columns, read_file, read_source, stream_file
from shipworthy.data.tables import open_table
from shipworthy.kernel.digest import digest_json
from shipworthy.kernel.errors import SourceError


@pytest.fixture
def months(tmp_path: Path) -> Path:
    """A folder with two months, and what other programs left there."""
    folder = tmp_path / "months"
    (folder / "older").mkdir(parents=True)
    (folder / "2026-02.csv").write_text("a,b\n3,4\n\n5,6\n7\n")
    (folder / "2026-01.csv").write_text('b,a\n"x\ny",1\n')
    (folder / ".DS_Store").write_text("rubbish")
    (folder / "_SUCCESS").write_text("")
    (folder / "older" / "2025-12.csv").write_text("a,b\n8,9\n")
    return folder


def names(path: Path) -> list[str]:
    return [file.name for file in find_files(path)]


def test_a_directory_and_a_pattern_name_files_in_the_order_of_their_names(months: Path) -> None:
    assert names(months) == ["2026-01.csv", "2026-02.csv"]
    assert names(months / "*-02.csv") == ["2026-02.csv"]
    assert names(months / "**" / "*.csv") == ["2026-01.csv", "2026-02.csv", "2025-12.csv"]
    (months / "odd[1].csv").write_text("a\n1\n")
    assert names(months / "odd[1].csv") == ["odd[1].csv"]


def test_files_of_one_source_are_one_table_whatever_the_order_of_their_columns(months: Path) -> None:
    read = read_source("months", Source(path="months"), months.parent)
    assert read.frame.columns == ["b", "a"]
    assert read.frame.rows() == [("x\ny", "1"), ("4", "3"), ("6", "5")]
    assert read.malformed.rows() == [("2026-02.csv", 5, "7", "row: fewer fields than the header's 2")]
    assert read.rows == 4
    assert read_columns("months", Source(path="months"), months.parent) == ("b", "a")


def test_each_row_has_its_file_and_line(months: Path) -> None:
    read = read_file("months", months)
    places = read.places(pl.Series([0, 1, 2]))
    assert places.rows() == [("2026-01.csv", 2), ("2026-02.csv", 2), ("2026-02.csv", 4)]
    assert read.places(pl.Series([2])).rows() == [("2026-02.csv", 4)]


def test_rows_of_a_file_without_lines_have_none(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1, 2]}).write_parquet(tmp_path / "rows.parquet")
    read = read_file("rows", tmp_path / "rows.parquet")
    assert read.places(pl.Series([1])).rows() == [("rows.parquet", None)]


def test_the_digest_of_several_files_is_of_their_names_and_contents(months: Path) -> None:
    read = read_file("months", months)
    expected = {name: digest_file(months / name) for name in ("2026-01.csv", "2026-02.csv")}
    assert read.digest == digest_json(expected) == digest_files(months, digest_file)
    assert {file.name: file.digest for file in read.files} == expected
    (months / "2026-02.csv").rename(months / "2026-03.csv")
    assert read_file("months", months).digest != read.digest


def test_a_file_with_other_columns_is_named_with_those(months: Path) -> None:
    (months / "2026-03.csv").write_text("a,c\n1,2\n")
    words = r"2026-03\.csv: lacks b and adds c, compared with 2026-01\.csv"
    with pytest.raises(SourceError, match=words):
        read_file("months", months)
    with pytest.raises(SourceError, match=words + r".*\(data\.sources\.m\)"):
        read_columns("m", Source(path="months/*.csv"), months.parent)


def test_a_file_whose_column_is_of_another_type_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "1.parquet")
    pl.DataFrame({"a": [1.5]}).write_parquet(tmp_path / "2.parquet")
    assert read_file("x", tmp_path).frame["a"].to_list() == [1.0, 1.5]
    pl.DataFrame({"a": ["001"]}).write_parquet(tmp_path / "3.parquet")
    with pytest.raises(SourceError, match=r"3\.parquet: column 'a' holds String, and Int64 in 1\.parquet; write one"):
        read_file("x", tmp_path)


NOTHING = {
    "none.csv": "there is no such file; correct the path",
    "none-*.csv": "no file matches the pattern; put some there",
    "empty": "the directory has no files; put some in",
}


@pytest.mark.parametrize("path", NOTHING)
def test_a_path_that_names_nothing_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=NOTHING[path]):
        find_files(tmp_path / path)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"a,b\n" + b"1,2\n" * 1000)
    content = pieces(path, 100)
    next(content)
    with path.open("ab") as file:
        file.write(b"3,4\n")
    with pytest.raises(SourceError, match=r"rows\.csv: changed while it was read; wait until it is complete"):
        list(content)


def test_a_file_that_is_written_over_at_its_old_size_and_time_is_refused_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n")
    before = digest_file(path)
    assert read_bytes(path, before) == (b"a,b\n1,2\n", before)
    path.write_text("a,b\n1,3\n")
    for read in (
        lambda: read_bytes(path, before),
        lambda: list(pieces(path, 3, before)),
        lambda: read_file("rows", path, digest=before),
        lambda: list(stream_file(path, digest=before)),
    ):
        with pytest.raises(SourceError, match="changed while it was read"):
            read()


def test_a_directory_that_gets_a_file_meanwhile_is_refused_by_its_digest(months: Path) -> None:
    before = digest_files(months, digest_file)
    (months / "2026-03.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SourceError, match="months: changed while it was read"):
        read_file("months", months, digest=before)


def test_a_packed_file_is_read_in_pieces_under_the_digest_of_what_lies_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    content = b"a,b\n" + b"1,2\n" * 1000
    path.write_bytes(gzip.compress(content[:2000]) + gzip.compress(content[2000:]))
    assert b"".join(pieces(path, 300, digest_file(path))) == content
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(SourceError, match=r"rows\.csv\.gz: the gzip file is damaged \(.*\); copy it again"):
        list(pieces(path, 300))


@pytest.mark.parametrize(
    ("mark", "packer"), [(b"BZh9", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstandard")]
)
def test_another_packer_is_named(tmp_path: Path, mark: bytes, packer: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(mark + b"rest")
    with pytest.raises(SourceError, match=f"is packed with {packer}; unpack it, or pack it with gzip"):
        read_file("rows", path)
    with pytest.raises(SourceError, match=f"is packed with {packer}"):
        read_columns("rows", Source(path="rows.csv"), tmp_path)


def test_a_folder_of_files_is_scored_as_one_table(months: Path, tmp_path: Path) -> None:
    table = open_table(months, tmp_path / "copy")
    assert (table.rows, table.malformed_rows) == (3, 1)
    assert pl.concat(table.batches()).rows() == [("x\ny", "1"), ("4", "3"), ("6", "5")]
    assert pl.concat(table.malformed())["reason"].to_list() == ["2026-02.csv: row: fewer fields than the header's 2"]
    assert open_table(months, tmp_path / "copy") == table
    (months / "2026-03.csv").write_text("a,c\n1,2\n")
    with pytest.raises(SourceError, match=r"2026-03\.csv: lacks b and adds c"):
        open_table(months, tmp_path / "copy")
