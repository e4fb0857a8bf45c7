"""Quarantine and replay: a person sees why rows were not accepted, corrects them, and they join once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.data.snapshot import Snapshot, read
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import IntegrityError
from shipworthy.workflows.replay import replayed_frames
from tests.stories.loans import CONTRACT, write_project


def snapshots(folder: Path) -> list[pl.DataFrame]:
    with open_parts(folder) as parts:
        taken = parts.ledger.snapshots()
    tables = folder / ".shipworthy" / "tables" / "loans"
    return [read(Snapshot(one["digest"], one["version"], one["rows"], tables)) for one in taken]


def spoil(folder: Path) -> Path:
    """Loans 2, 9 and 19 as they cannot be accepted."""
    file = folder / "loans.csv"
    lines = file.read_text().splitlines()
    for line, place, value in ((3, 1, "-5"), (10, 1, "abc"), (10, 3, "boat")):
        fields = lines[line].split(",")
        fields[place] = value
        lines[line] = ",".join(fields)
    lines[20] += ",extra"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_rows_are_seen_corrected_and_joined_once(
    tmp_path: Path, shipworthy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = write_project(tmp_path / "loans")
    original = (folder / "loans.csv").read_text()
    source = spoil(folder)
    assert shipworthy("ship", "--project", folder).code == 0
    [listed] = shipworthy("data", "quarantine", "--project", folder, "--json").document["files"]
    assert listed["reasons"] == {
        "income: not a number": 1,
        "income: outside [0, 1000]": 1,
        "purpose: unknown category": 1,
        "row: more fields than the header's 5": 1,
    }
    shown = shipworthy("data", "quarantine", listed["name"], "--project", folder, "--json").document["shown"]
    assert [(row["row"], row["line"], row["loan_id"]) for row in shown] == [
        ("3", "4", "loan-2"), ("10", "11", "loan-9"), (None, "21", None),
    ]  # fmt: skip
    assert shown[0]["reasons"] == "income: outside [0, 1000]"
    assert shown[2]["malformed"].startswith("line 21: loan-19,")

    fixed = tmp_path / "fixed.csv"
    fixed.write_text(Path(listed["file"]).read_text().replace(",-5,", ",5,"))
    first = shipworthy("data", "replay", fixed, "--project", folder, "--json").document
    assert (first["taken"], first["known"], first["refused"]) == (1, 0, 2)
    assert first["reasons"] == dict.fromkeys(
        ("income: not a number", "purpose: unknown category", "row: nothing in the columns"), 1
    )
    again = shipworthy("data", "replay", fixed, "--project", folder, "--json").document
    assert (again["taken"], again["known"], again["digest"]) == (0, 1, None)
    fixed.write_text(fixed.read_text().replace("abc,", "7,").replace("boat", "car"))
    third = shipworthy("data", "replay", fixed, "--project", folder)
    assert third.code == 0
    assert "1 row is taken for the next snapshot." in third.out
    assert "1 row was replayed before: nothing was added for them." in third.out

    done = shipworthy("ship", "--project", folder)
    assert "2,999 rows accepted (2 of them replayed), 3 quarantined" in " ".join(done.out.split())
    assert shipworthy("ship", "--project", folder, "--json").document["stages"][0]["reused"]
    before, after = snapshots(folder)
    added = after.join(before, on="loan_id", how="anti")
    assert added.select("loan_id", "income", "purpose").rows() == [("loan-2", 5.0, "home"), ("loan-9", 7.0, "car")]

    source.write_text(original)  # its owner corrects it as well, otherwise
    done = shipworthy("ship", "--project", folder)
    assert "3,000 rows accepted, 0 quarantined" in " ".join(done.out.split())
    assert snapshots(folder)[2]["loan_id"].n_unique() == 3_000

    with open_parts(folder) as parts:
        events = list(parts.ledger.events(verb="data.replayed"))
        assert [(event.body["rows"], event.body["file"]) for event in events] == [(1, "fixed.csv")] * 2
        assert all(event.actor.startswith("user:") for event in events)
        [kept, _] = replayed_frames(parts.project, parts.ledger, None)
        assert kept.select("loan_id", "income", "purpose").rows() == [("loan-2", "5", "home")]
        path = next((folder / ".shipworthy" / "replayed").glob("*.parquet"))
        pl.read_parquet(path).with_columns(income=pl.lit("999")).write_parquet(path)
        with pytest.raises(IntegrityError, match="the replayed rows were changed; restore the file"):
            replayed_frames(parts.project, parts.ledger, None)
        path.unlink()
        with pytest.raises(IntegrityError, match="the replayed rows are gone; restore the file from a backup"):
            replayed_frames(parts.project, parts.ledger, None)


def test_what_cannot_be_replayed_is_said(tmp_path: Path, shipworthy: Callable[..., Any]):
    folder = write_project(tmp_path / "loans")
    (folder / "shipworthy.yaml").write_text(CONTRACT)
    other = tmp_path / "other.csv"
    other.write_text("loan_id,incme\nx,1\n")
    done = shipworthy("data", "replay", other, "--project", folder)
    assert (done.code, "the data has no column income, debt, purpose, repaid" in done.err) == (1, True)
    other.write_text("loan_id,income,debt,purpose,repaid\nloan-1,-5,1,car,1\n")
    done = shipworthy("data", "replay", other, "--project", folder)
    assert done.code == 1
    assert "1 row is still not accepted" in done.out
    assert "income: outside [0, 1000]: 1" in done.out
    done = shipworthy("data", "quarantine", "nowhere", "--project", folder)
    assert (done.code, "there is no 'nowhere' in quarantine" in done.err) == (1, True)
