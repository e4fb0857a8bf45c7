"""Streams: a project of large text files gets the snapshot, quarantine and lineage that it gets from small ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.data.origins import find_line, find_row, read_origins
from shipworthy.data.snapshot import content_digest
from shipworthy.data.sources import read_source
from shipworthy.data.stream import LARGE_BYTES
from shipworthy.data.validate import validate
from shipworthy.faces.wiring import open_parts
from shipworthy.workflows.fingerprints import Fingerprints
from shipworthy.workflows.project import read_contract
from shipworthy.workflows.ship import take_snapshot
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.sources import gathering
from tests.stories.loans import write_project

ROWS = 90_000
NOTE = "n" * 800  # of a column that the contract does not name


def ingest(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The outputs of the ingest, and the origins."""
    with open_parts(folder) as opened:
        parts = replace(opened)
        contract = read_contract(parts.project)
        shipping = Shipping(parts, contract, parts.project.contract_text(), lambda *_: None, {}, [])
        with gathering(shipping, Fingerprints(folder / "none", 0)) as gathered:
            outputs = take_snapshot(shipping, gathered, {})
        return outputs, parts.artefacts.get_bytes(outputs["artefacts"]["origins"])


@pytest.fixture
def large(tmp_path: Path) -> Path:
    folder = write_project(tmp_path / "loans", rows=ROWS)
    frame = pl.read_csv(folder / "loans.csv", infer_schema=False).with_columns(note=pl.lit(NOTE))
    odd = frame[:2].with_columns(loan_id=pl.lit("loan-7"), income=pl.Series(["1.0", "-4"]))
    pl.concat([frame, odd]).write_csv(folder / "loans.csv")
    with (folder / "loans.csv").open("a") as file:
        file.write("too,few\n")
    assert (folder / "loans.csv").stat().st_size > LARGE_BYTES
    return folder


def test_a_large_file_becomes_what_it_becomes_as_a_whole(large: Path) -> None:
    outputs, origins = ingest(large)
    with open_parts(large) as parts:
        contract = read_contract(parts.project)
    read = read_source("loans", contract.data.sources["loans"], large)
    whole = validate(contract, read.frame, malformed=read.malformed)
    assert (outputs["snapshot"], outputs["rows"]) == (content_digest(whole.accepted), ROWS)
    assert outputs["reasons"] == whole.reasons
    held = pl.read_csv(large / outputs["quarantine"], infer_schema=False)
    assert held["line"].to_list() == [str(ROWS + 2), str(ROWS + 3), str(ROWS + 4)]
    assert held["reasons"].to_list() == [
        "loan_id: duplicate key", "income: outside [0, 1000]", "row: fewer fields than the header's 6"
    ]  # fmt: skip
    assert held["note"].to_list() == [NOTE, NOTE, None]
    runs = read_origins(origins)
    assert [origin.line for origin in find_row(runs, ROWS)] == [ROWS + 1]
    assert [origin.row for origin in find_line(runs, "loans.csv", ROWS + 2)] == [None]


def test_a_large_file_that_lacks_a_column_is_refused_with_the_words_of_a_small_one(large: Path) -> None:
    text = (large / "loans.csv").read_text()
    (large / "loans.csv").write_text(text.replace("income", "salary", 1))
    with pytest.raises(Exception, match=r"the data has no column income; it has loan_id, salary"):
        ingest(large)
