"""The digests by which `ship` sees that nothing is new are those of what it then reads."""

import json
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from shipworthy.contract.parse import parse_contract
from shipworthy.data.sources.read import read_source
from shipworthy.kernel.errors import UnavailableError
from shipworthy.workflows.fingerprints import Fingerprints
from shipworthy.workflows.layout import Project
from shipworthy.workflows.sources import find_file
from tests.data.conftest import BASE

FRAME = pl.DataFrame({"income": [1.0, 2.0], "repaid": [0, 1]})
SOURCES = {
    "file": {"path": "one.csv"},
    "folder": {"path": "months"},
    "pattern": {"path": "months/*2.csv"},
    "table": {"path": "table"},
    "version": {"path": "table", "version": 0},
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "months").mkdir()
    for name in ("one.csv", "months/01.csv", "months/02.csv"):
        FRAME.write_csv(tmp_path / name)
    for _ in range(2):
        write_deltalake(str(tmp_path / "table"), FRAME, mode="append")
    return Project(tmp_path)


def digests(project: Project) -> dict[str, str]:
    data = {"sources": SOURCES, "prepare": "select * from file"}
    contract = parse_contract(json.dumps({**BASE, "data": data}))
    fingerprints, sources = Fingerprints(project.root / "cache", 2**62), contract.data.sources
    found = {name: find_file(project, contract, fingerprints, name, it).digest for name, it in sources.items()}
    reads = {name: read_source(name, source, project.root) for name, source in contract.data.sources.items()}
    assert {name: read.digest for name, read in reads.items()} == found
    return found


def test_what_is_looked_at_is_what_is_read(project: Project) -> None:
    before = digests(project)
    assert len(set(before.values())) == len(SOURCES)
    FRAME.write_csv(project.root / "months" / "03.csv")
    write_deltalake(str(project.root / "table"), FRAME, mode="append")
    after = digests(project)
    assert {name for name in SOURCES if before[name] != after[name]} == {"folder", "table"}


def test_a_path_that_names_nothing_is_refused(project: Project) -> None:
    (project.root / "months" / "01.csv").unlink()
    (project.root / "months" / "02.csv").unlink()
    with pytest.raises(UnavailableError, match="the directory has no files"):
        digests(project)
