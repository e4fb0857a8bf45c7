"""Streams: a project of large text files gets the snapshot, quarantine and lineage that it gets from small ones."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.data.origins import find_line, find_row, read_origins
from shipworthy.data.snapshot import content_digest
from shipworthy.data.sources.read import read_source
from shipworthy.data.stream import LARGE_BYTES
from shipworthy.data.validate import validate
from shipworthy.data.versions import merge_files
from shipworthy.faces.wiring import open_parts
from shipworthy.workflows.fingerprints import Fingerprints
from shipworthy.workflows.project import read_contract
from shipworthy.workflows.ship import take_snapshot
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.sources import gathering
from tests.stories.loans import write_project

ROWS = 190  # few: what takes time is to look for findings in many
NOTE = "n" * 370_000  # of a column that the contract does not name


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


@pytest.fixture
def months(large: Path) -> Path:
    """The same rows in a folder, and room for more."""
    (large / "rows").mkdir()
    (large / "loans.csv").rename(large / "rows" / "2026-01.csv")
    contract = (large / "shipworthy.yaml").read_text().replace("path: loans.csv", "path: rows")
    contract = contract.replace("loan_id: {role: key, type: text}", CONTEXT)
    (large / "shipworthy.yaml").write_text(contract)
    return large


CONTEXT = "loan_id: {role: key, type: text}\n  place: {role: slice, type: text, personal: true, request: optional}"


def add_month(folder: Path, name: str, rows: int = 14) -> None:
    """Some more rows, some of them odd."""
    first, note = ROWS + int(name) * rows, NOTE if rows > 20 else "few"
    lines = [
        f"loan-{at},{at % 90}.5,{at % 70},{'car' if at % 2 else 'home'},{at % 2},{note}"
        for at in range(first, first + rows)
    ]
    lines[3] = f"loan-8,1,2,car,0,{NOTE}"  # of the first file
    lines[5] = lines[4]
    lines[7] = f"loan-x{name},-7,2,plane,0,{NOTE}"
    lines[9] = "too,few"
    header = "loan_id,income,debt,purpose,repaid,place\n"
    (folder / "rows" / f"2026-{int(name) + 2:02d}.csv").write_text(header + "\n".join(lines) + "\n")


def events(folder: Path) -> list[dict[str, Any]]:
    with open_parts(folder) as parts:
        return [dict(entry.body) for entry in parts.ledger.events(verb="snapshot.taken")]


def artefact(folder: Path, body: dict[str, Any], kind: str) -> bytes:
    digest = next(item["digest"] for item in body["artefacts"] if item["kind"] == kind)
    with open_parts(folder) as parts:
        return parts.artefacts.get_bytes(digest)


def test_rows_that_are_added_cost_their_own_and_come_to_what_all_rows_come_to(months: Path) -> None:
    file = months / "rows" / "2026-01.csv"
    file.write_text(file.read_text().replace(",note\n", ",place\n", 1))
    ingest(months)
    for name in "01":
        add_month(months, name)
        merge_files(months / ".shipworthy" / "tables" / "loans", at_least=int(name) + 1)  # as `data compact` does
        added, _ = ingest(months)
        assert added["findings_of"] == ROWS
    assert events(months)[-1]["rows"] == added["rows"]
    alone = months.parent / "alone"
    shutil.copytree(months, alone, ignore=shutil.ignore_patterns(".shipworthy"))
    whole, runs = ingest(alone)
    assert "findings_of" not in whole
    for key in ("snapshot", "rows", "quarantined", "reasons", "noted", "formats"):
        assert added[key] == whole[key], key
    held = [
        pl.read_csv(folder / out["quarantine"], infer_schema=False) for folder, out in ((months, added), (alone, whole))
    ]
    assert held[0].equals(held[1])
    assert held[0]["reasons"].to_list()[:2] == ["loan_id: duplicate key", "income: outside [0, 1000]"]
    one, other = events(months)[-1], events(alone)[-1]
    for key in ("columns", "schema"):
        assert one[key] == other[key], key
    for key in ("schemas", "read", "digests"):
        assert one["observed"][key] == other["observed"][key], key
    profiles = [json.loads(artefact(folder, body, "profile")) for folder, body in ((months, one), (alone, other))]
    assert_alike(*profiles)
    found = read_origins(artefact(months, one, "origins"))
    for row in (1, ROWS, ROWS + 1, ROWS + 12, added["rows"]):
        assert find_row(found, row) == find_row(read_origins(runs), row)
    for line in (2, 5, 6, 9, 10, 11, 12, 15, 100):
        for place in ("rows/2026-01.csv", "rows/2026-02.csv", "rows/2026-03.csv"):
            assert find_line(found, place, line) == find_line(read_origins(runs), place, line)


def assert_alike(one: Any, other: Any) -> None:
    """Profiles, but for quantiles, edges and what follows from them: those of the first rows stay."""
    for name, column in other.items():
        for key, value in column.items():
            if key in ("quantiles", "median", "edges", "counts"):
                continue
            near = pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            assert one[name][key] == near, (name, key)


@pytest.mark.parametrize("change", ["an old file", "the contract", "much is new", "a column of another kind"])
def test_where_more_than_added_files_changed_all_rows_are_read(months: Path, change: str) -> None:
    file = months / "rows" / "2026-01.csv"
    file.write_text(file.read_text().replace(",note\n", ",place\n", 1))
    ingest(months)
    add_month(months, "0", 60 if change == "much is new" else 14)
    new = months / "rows" / "2026-02.csv"
    if change == "an old file":
        file.write_text(file.read_text().replace("loan-7,", "loan-y,", 1))
    elif change == "the contract":
        text = (months / "shipworthy.yaml").read_text()
        (months / "shipworthy.yaml").write_text(text.replace("range: [0, 1000], missing", "range: [0, 79], missing"))
    elif change == "a column of another kind":
        new.write_text(re.sub(r"(loan-\d+,[\d.]+),\d+", r"\1,lots", new.read_text()))
    outputs, _ = ingest(months)
    assert "findings_of" not in outputs


def test_a_large_file_that_lacks_a_column_is_refused_with_the_words_of_a_small_one(large: Path) -> None:
    text = (large / "loans.csv").read_text()
    (large / "loans.csv").write_text(text.replace("income", "salary", 1))
    with pytest.raises(Exception, match=r"the data has no column income; it has loan_id, salary"):
        ingest(large)
