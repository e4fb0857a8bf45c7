"""Streaming: rows that are validated some at a time become what they become as a whole."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipworthy.contract.types import Contract
from shipworthy.data.schema_change import read_schema
from shipworthy.data.sources.dialect import number_columns
from shipworthy.data.sources.files import digest_file, find_files
from shipworthy.data.sources.read import SourceRead, read_source
from shipworthy.data.stream import Streamed, stream_source
from shipworthy.data.validate import Validated, validate
from shipworthy.kernel.errors import ShipworthyError
from tests.data.conftest import build

HEAD = "id,at,income,n,kind,note,repaid\n"
ODD = [
    "", " ", "a", "b", "001", "1", "1.0", "-3", "1e400", "inf", "NaN", "None", "NA", "?", "2", "car", " car", "home",
    "boat", "ä", "2026-01-01", "2026-01-02 03:04", "01/02/2026", "31/01/2026", "0",
    "yes", '"two\nlines"', '"a,b"', '""',
    '"a ""b"""', "9007199254740993", "0.1", "1_000", "0x10",
]  # fmt: skip
SECTIONS: dict[str, Any] = {
    "context": {
        "id": {"role": "key", "type": "text"},
        "at": {"role": "time", "type": "datetime", "request": "optional"},
        "note": {"role": "slice", "type": "text", "unique": True, "request": "optional"},
    },
    "features": {
        "income": {"type": "float", "range": [0, 1000], "outside": "clip", "missing": "allow"},
        "n": {"type": "int", "range": [0, 5], "missing": "allow"},
        "kind": {"type": "category", "values": ["car", "home"], "unknown": "missing"},
    },
    "derived": {"share": {"from": "income / n", "type": "float", "range": [0, 9], "outside": "reject"}},
    "checks": [{"name": "more", "expect": "income >= n", "failing": {"at_most": "100%"}}],
}
CELL = st.sampled_from(ODD)
LINE = st.builds(",".join, st.lists(CELL, min_size=7, max_size=7) | st.lists(CELL, min_size=6, max_size=8))
SOUND = st.integers(0, 40).map(lambda n: f"k{n},2026-03-{n % 28 + 1:02d},{n}.5,{n % 5},car,,{n % 2}")
LINES = st.lists(SOUND | LINE, min_size=1, max_size=40)


def both(
    contract: Contract, root: Path, block_bytes: int
) -> tuple[Streamed | None, tuple[SourceRead, Validated]] | tuple[str, str]:
    """What both ways make of a source, or what each says is wrong with it."""
    name, source = next(iter(contract.data.sources.items()))
    digests = {file: digest_file(file) for file in find_files(root / (source.path or ""))}
    said = []
    streamed: Streamed | None = None
    try:
        streamed = stream_source(contract, name, root, digests, block_bytes=block_bytes)
    except ShipworthyError as error:
        said.append(str(error))
    try:
        read = read_source(name, source, root, numbers=number_columns(contract))
        whole = validate(contract, read.frame, malformed=read.malformed if read.malformed.height else None)
    except ShipworthyError as error:
        return (said or [""])[0], str(error)
    if said:
        assert "rows have not the 7 fields" in said[0]  # most of the first block, which a whole may outweigh
        return said[0], said[0]
    return streamed, (read, whole)


def assert_same(streamed: Streamed, read: SourceRead, whole: Validated, contract: Contract) -> None:
    found = streamed.validated
    assert found.accepted.equals(whole.accepted)
    assert found.accepted.schema == whole.accepted.schema
    assert found.quarantined.equals(whole.quarantined)
    assert found.quarantined.schema == whole.quarantined.schema
    for one, other in (
        (found.reasons, whole.reasons), (found.examples, whole.examples), (found.noted, whole.noted),
        (found.checks, whole.checks), (found.formats, whole.formats),
    ):  # fmt: skip
        assert one == other
    assert (streamed.read.rows, streamed.read.digest, streamed.read.names) == (read.rows, read.digest, read.names)
    assert streamed.read.malformed.equals(read.malformed)
    assert streamed.read.frame.height == read.frame.height
    everything = pl.int_range(read.frame.height, eager=True)
    assert streamed.read.places(everything).equals(read.places(everything))
    assert streamed.schema == read_schema(contract, read.frame)


@settings(max_examples=25, deadline=None)
@given(LINES, st.integers(40, 600), st.booleans())
@example(["k1,2026-03-01,1.5,1,car,x,1", "k1,2026-03-01,2.5,1,car,x,0", "k2,2026-03-01,2.5,1,car,x,0"] * 9, 90, False)
def test_rows_become_the_same_in_blocks_and_as_a_whole(lines: list[str], block_bytes: int, two_files: bool) -> None:
    contract = build(**SECTIONS, data={"sources": {"loans": {"path": "loans"}}})
    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "loans").mkdir()
        (root / "loans" / "a.csv").write_text(HEAD + "\n".join(lines))
        if two_files:
            (root / "loans" / "b.csv").write_text(HEAD + "\n".join(lines[: len(lines) // 2 + 1]) + "\n")
        found = both(contract, root, block_bytes)
        if isinstance(found[0], Streamed):
            assert_same(found[0], *found[1], contract)
        elif isinstance(found[0], str) and found[0]:
            assert found[0].split(":")[0].split(" line ")[0] == found[1].split(":")[0].split(" line ")[0]


def lines_of(rows: int, **changes: Mapping[int, str]) -> str:
    texts = [f"k{n},2026-03-{n % 28 + 1:02d},{n % 100}.5,{n % 5},car,,{n % 2}" for n in range(rows)]
    for at, line in changes.get("at", {}).items():
        texts[at] = line
    return HEAD + "\n".join(texts) + "\n"


def test_a_file_of_many_blocks_comes_out_as_a_whole_with_lines_and_a_duplicate_far_away(tmp_path: Path) -> None:
    contract = build(**SECTIONS)
    odd = {700: "k3,2026-03-01,1.5,1,car,,0", 900: "k,k", 901: "x,2026-03-01,none,1,plane,,0"}
    (tmp_path / "loans.csv").write_text(lines_of(1000, at=odd))
    found = both(contract, tmp_path, 2_000)
    assert isinstance(found[0], Streamed)
    assert_same(found[0], *found[1], contract)
    assert found[0].validated.reasons["id: duplicate key"] == 1
    assert found[0].validated.examples["id: duplicate key"] == "row 701: 'k3'"


def test_dates_whose_format_only_later_rows_tell_are_read_by_it(tmp_path: Path) -> None:
    contract = build(**SECTIONS)
    rows = [f"k{n},{(1 if n < 500 else n % 28 + 1):02d}/02/2026,1.5,1,car,,{n % 2}" for n in range(1000)]
    (tmp_path / "loans.csv").write_text(HEAD + "\n".join(rows))
    found = both(contract, tmp_path, 2_000)
    assert isinstance(found[0], Streamed)
    assert_same(found[0], *found[1], contract)
    assert found[0].validated.formats == {"at": "%d/%m/%Y"}


@pytest.mark.parametrize(
    ("head", "row"),
    [("id,at,income,n,kind,repaid", "k,2026-01-01,1,1,car,0"), (HEAD.strip(), "k{n},01/02/2026,1,1,car,,0")],
    ids=["a column is lacking", "dates in doubt"],
)
def test_what_only_the_whole_can_tell_is_left_to_it(tmp_path: Path, head: str, row: str) -> None:
    contract = build(**SECTIONS)
    (tmp_path / "loans.csv").write_text("\n".join([head, *(row.format(n=n) for n in range(50))]))
    said = both(contract, tmp_path, 300)
    assert said[0] == ""
    assert isinstance(said[1], str)


def test_a_file_that_changed_since_it_was_looked_at_is_refused(tmp_path: Path) -> None:
    contract = build(**SECTIONS)
    file = tmp_path / "loans.csv"
    file.write_text(lines_of(100))
    before = {file: digest_file(file)}
    file.write_text(lines_of(101))
    with pytest.raises(ShipworthyError, match=r"changed while it was read.*\(data.sources.loans\)"):
        stream_source(contract, "loans", tmp_path, before, block_bytes=500)
