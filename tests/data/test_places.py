"""Places: the line in which a row stands, with quoted newlines, blank lines and malformed rows between."""

import gzip
from pathlib import Path

import pytest

from shipworthy.data.places import lines_of
from shipworthy.data.sources import read_file

FILES = [
    ("a,b\n1,2\n3,4\n", [1, 2], [2, 3]),
    ("a,b\r\n1,2\r\n\r\n3,4", [2], [4]),
    ('a,b\n1,"x\ny"\n\n3,4\n5,6,7\n8,9\n', [1, 2, 3], [2, 5, 7]),
    ("\na,b\n1,2\n", [1], [3]),
    ("a,b\n1,2\n3\n4,5\n6,7\n", [2, 3], [4, 5]),
    ("\na,b\n1,2\n3\n4,5\n", [2], None),
]


@pytest.mark.parametrize(("text", "rows", "lines"), FILES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_row_is_found_in_its_line(tmp_path: Path, text: str, rows: list[int], lines: list[int] | None, packed: bool):
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert lines_of(read_file("t", path), rows) == lines


def test_a_file_that_is_not_one_of_lines_has_none(tmp_path: Path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n')
    assert lines_of(read_file("t", path), [1]) is None
