"""Encodings: what the contract declares is what is read, and what does not fit it is refused with its place."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.contract.data_section import Encoding, Source
from shipworthy.data.detection import detect_dialect
from shipworthy.data.sources.dialect import Dialect
from shipworthy.data.sources.encodings import detect_encoding, recoded
from shipworthy.data.sources.read import read_columns, read_file, stream_text
from shipworthy.kernel.errors import SourceError, UsageError

ENCODINGS: dict[Encoding, str] = {
    "utf-8": "utf-8",
    "utf-8-sig": "utf-8-sig",
    "utf-16": "utf-16",
    "latin-1": "latin-1",
    "windows-1252": "cp1252",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_of_a_declared_encoding_is_read_at_once_in_blocks_and_by_its_head(
    tmp_path: Path, encoding: Encoding
) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes("Größe;Ort\n1;Zürich\n2;Genève\n".encode(ENCODINGS[encoding]))
    dialect = Dialect(encoding=encoding)
    read = read_file("rows", path, dialect)
    assert read.frame.rows() == [("1", "Zürich"), ("2", "Genève")]
    assert list(read.names.values()) == ["Größe", "Ort"]
    assert [row for block in stream_text(path, 7, dialect) for row in block.frame.rows()] == read.frame.rows()
    assert read_columns("rows", Source(path="rows.csv", encoding=encoding), tmp_path) == ("Groe", "Ort")


def test_emoji_and_right_to_left_text_are_read_as_they_are(tmp_path: Path) -> None:
    cells = ["😀👩‍👩‍👧", "שלום, עולם", "\u202eabc\u202c", "e\u0301", "👍🏽"]
    path = tmp_path / "rows.csv"
    for encoding in ("utf-8", "utf-16"):
        path.write_bytes(("a,b\n" + "".join(f'"{cell}",1\n' for cell in cells)).encode(encoding))
        read = read_file("rows", path, Dialect(encoding=encoding))  # type: ignore[arg-type]
        assert read.frame["a"].to_list() == cells


def test_what_turns_a_line_round_is_escaped_in_a_message(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("\u202ea,\u202ea\n1,2\n")
    with pytest.raises(SourceError) as caught:
        read_file("rows", path)
    assert r"'\u202ea'" in str(caught.value)
    assert "\u202e" not in str(caught.value)


REFUSED: dict[str, tuple[Encoding, bytes, str]] = {
    "UTF-16 undeclared": ("utf-8", "a,b\n1,2\n".encode("utf-16"), "is UTF-16; .* declare encoding: utf-16"),
    "UTF-16 as Latin-1": ("latin-1", "a,b\n1,2\n".encode("utf-16"), "is UTF-16, and its source declares latin-1"),
    "UTF-16 without a mark": ("utf-16", "a,b\n1,2\n".encode("utf-16-le"), "has no byte order mark"),
    "UTF-16 cut short": ("utf-16", "a,b\n1,2\n".encode("utf-16")[:-1], "near line 2: is not UTF-16"),
    "UTF-8 as Windows": ("windows-1252", "a,b\né,2\n".encode(), "is UTF-8, and its source declares windows-1252"),
    "no Windows": ("windows-1252", b"a,b\n1,2\nx\x81,2\n", "line 3, byte 2: 0x81 is not windows-1252"),
    "Windows undeclared": ("utf-8", b"a,b\n1,\xe9\n", "line 2, byte 3: 0xe9 is not UTF-8 .* encoding: windows-1252"),
    "NUL": ("utf-8", b"a,b\n1,2\n\x003,4\n", "line 3: holds a NUL byte"),
    "a program": ("utf-8", b"\x7fELF\0\0\xd0a\n", "line 1: holds a NUL byte; is this a text file"),
    "NUL in UTF-16": ("utf-16", "a,b\n1,2\n\x003,4\n".encode("utf-16"), "line 3: holds a NUL byte"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_not_of_its_encoding_is_refused(tmp_path: Path, case: str) -> None:
    encoding, content, words = REFUSED[case]
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=words):
        read_file("rows", path, Dialect(encoding=encoding))
    with pytest.raises(SourceError, match=words):
        list(stream_text(path, 4, Dialect(encoding=encoding)))


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=30), st.integers(1, 7), st.data())
def test_a_text_in_pieces_of_any_size_is_the_text(text: str, size: int, data: Any) -> None:
    encoding: Encoding = data.draw(st.sampled_from(["utf-8-sig", "utf-16"]))
    content = text.encode(encoding)
    parts = [content[at : at + size] for at in range(0, len(content), size)]
    if encoding == "utf-16" and size == 1:
        parts = [content[:2], *parts[2:]]  # a mark is never parted: files are read in large pieces
    assert b"".join(recoded(parts, encoding, Path("x"))).decode() == text


DETECTED = {
    "ASCII": (b"a,b\n1,2\n", "utf-8"),
    "UTF-8": ("a,b\né,2\n".encode(), "utf-8"),
    "UTF-16": ("a,b\né,2\n".encode("utf-16"), "utf-16"),
    "Windows": ("a,b\n“é”,2\n".encode("cp1252"), "windows-1252"),
    "mixed": ("a,b\né,2\n".encode() + "é,2\n".encode("cp1252"), "utf-8"),
}


@pytest.mark.parametrize("case", DETECTED)
def test_the_encoding_of_a_file_is_told_from_all_of_it(tmp_path: Path, case: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(DETECTED[case][0])
    assert detect_encoding(path) == DETECTED[case][1]
    path.write_bytes(b"a,b\n" + b"1,2\n" * 4_500_000 + DETECTED[case][0][4:])  # beyond the first piece
    if case != "UTF-16":
        assert detect_encoding(path) == DETECTED[case][1]


def test_files_of_one_source_have_one_encoding_and_ascii_goes_with_each(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_bytes(b"a;b\n1;2\n")
    (tmp_path / "2.csv").write_bytes("a;b\né;2\n".encode("cp1252"))
    assert detect_dialect(tmp_path) == Dialect(format="csv", delimiter=";", encoding="windows-1252")
    (tmp_path / "3.csv").write_bytes("a;b\né;2\n".encode())
    with pytest.raises(UsageError, match=r"3\.csv and .*2\.csv differ in encoding \('utf-8' and 'windows-1252'\)"):
        detect_dialect(tmp_path)
