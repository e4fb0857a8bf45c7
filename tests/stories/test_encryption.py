"""Encryption at rest: after a whole story no planted value lies in the open, and everything still works."""

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.ledger.events import Entry
from tests.stories.conftest import Done
from tests.stories.loans import write_project

Run = Callable[..., Done]

PLANTED = "loan-planted-7731"  # the id of a row that is trained on
BAD = "loan-planted-9942"  # of a row that goes to quarantine
ASKED = "loan-planted-5518"  # of a request
INCOME = 61.73519284  # of the request: as text, and as the eight bytes that msgpack writes
TOLD = "loan-planted-3307"  # of an outcome that joins nothing


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """The loans project with planted rows, to be encrypted at rest."""
    project = write_project(tmp_path / "loans")
    table = project / "loans.csv"
    frame = pl.read_csv(table)
    planted = frame.head(2).with_columns(loan_id=pl.Series([PLANTED, BAD]), income=pl.Series([50.5, 5000.0]))
    pl.concat([frame, planted]).write_csv(table)
    contract = project / "shipworthy.yaml"
    contract.write_text(contract.read_text() + "encryption: at_rest\n")
    return project


def state_files(project: Path) -> Iterator[Path]:
    """Every file that Shipworthy keeps for the project."""
    return (path for path in (project / ".shipworthy").rglob("*") if path.is_file())


def in_the_open(project: Path, *needles: bytes) -> list[tuple[str, bytes]]:
    """Which needle lies readable in which file."""
    contents = {path: path.read_bytes() for path in state_files(project)}
    return [(str(path.relative_to(project)), it) for it in needles for path, text in contents.items() if it in text]


def model_bytes(project: Path, shipworthy: Run, tmp_path: Path) -> bytes:
    """The plain model, as `key open` gives it."""
    (sealed,) = (project / ".shipworthy" / "releases").rglob("model.onnx")
    done = shipworthy("key", "open", sealed, "--out", tmp_path / "model.onnx", "--project", project)
    assert done.code == 0, done.err
    return (tmp_path / "model.onnx").read_bytes()


def test_after_a_whole_story_nothing_planted_lies_in_the_open_and_keys_can_change(
    written: Path, tmp_path: Path, shipworthy: Run, serving: Callable[..., Any], home: dict[str, str]
) -> None:
    project = written
    done = shipworthy("ship", "--project", project)
    assert done.code == 0, done.err
    with serving(project) as server:
        request = {"id": ASKED, "inputs": {"income": INCOME, "debt": 3.5, "purpose": "car"}}
        status, answer = server.post(request)
        assert status == 200, answer
        path = server.ready["path"].replace("predict", "outcomes")
        assert server.post({"id": ASKED, "value": "1"}, path)[0] == 200
    rows = tmp_path / "monday.csv"
    pl.read_csv(project / "loans.csv").filter(pl.col("loan_id") == PLANTED).drop("repaid").write_csv(rows)
    assert shipworthy("score", rows, tmp_path / "answers.csv", "--project", project).code == 0
    (tmp_path / "truth.csv").write_text(f"id,value\n{PLANTED},1\n{TOLD},0\n")
    assert shipworthy("outcomes", tmp_path / "truth.csv", "--project", project).code == 0

    binary = struct.pack(">d", INCOME)
    needles = [word.encode() for word in (PLANTED, BAD, ASKED, TOLD, str(INCOME))] + [binary]
    model = model_bytes(project, shipworthy, tmp_path)
    at = model.index(b"ai.onnx.ml")
    tensors = [model[start : start + 24] for start in (0, at, len(model) // 2, len(model) - 24)]
    assert in_the_open(project, *needles, *tensors, b"SHIPREC1") == []
    assert not (project / ".shipworthy" / "work").exists() or not any((project / ".shipworthy" / "work").iterdir())

    verified = shipworthy("verify", "--project", project, "--json")
    assert verified.code == 0, verified.out + verified.err
    assert shipworthy("lineage", answer["prediction_id"], "--project", project).code == 0
    (bad,) = (project / ".shipworthy" / "quarantine").glob("????????????.csv.sealed")
    opened = shipworthy("key", "open", bad, "--out", tmp_path / "bad.csv", "--project", project)
    assert opened.code == 0, opened.err
    assert BAD in (tmp_path / "bad.csv").read_text()
    assert (tmp_path / "bad.csv").stat().st_mode & 0o777 == 0o600
    entries = b"".join(path.read_bytes() for path in (project / ".shipworthy" / "log" / "entries").rglob("*"))
    verbs = [Entry.from_bytes(line).verb for line in entries.splitlines()]
    assert verbs.count("rows.opened") == 2
    assert "key.created" in verbs

    # the keys follow each other, and without the master nothing is served
    keys = Path(home["XDG_CONFIG_HOME"]) / "shipworthy" / "keys"
    for what in ("--data", "--master"):
        done = shipworthy("key", "rotate", what, "--project", project)
        assert done.code == 0, done.err
    with serving(project) as server:
        assert server.post(request | {"id": "after"})[0] == 200
    assert shipworthy("verify", "--project", project).code == 0
    (keys / "master.key").rename(tmp_path / "master.key")
    refused = shipworthy("serve", "--project", project, "--port", "0")
    assert refused.code == 1
    assert "is encrypted. The master key file:" in refused.err.replace("\n", " ")
    assert f"copy master.key to {keys}" in " ".join(refused.err.split())
    broken = shipworthy("verify", "--project", project, "--json")
    assert broken.code == 1
    assert any("master key" in (proof["problem"] or "") for proof in broken.document["proofs"])


def test_what_lay_in_the_open_stays_readable_when_encryption_is_turned_on(
    project: Path, tmp_path: Path, shipworthy: Run, serving: Callable[..., Any]
) -> None:
    with serving(project) as server:
        answer = server.post({"id": "plain", "inputs": {"income": 60.5, "debt": 3.5, "purpose": "car"}})[1]
    contract = project / "shipworthy.yaml"
    contract.write_text(contract.read_text() + "encryption: at_rest\n")
    assert shipworthy("ship", "--project", project).code == 0
    with serving(project) as server:
        assert server.post({"id": ASKED, "inputs": {"income": 60.5, "debt": 3.5, "purpose": "car"}})[0] == 200
    assert {found[1] for found in in_the_open(project, b"plain", ASKED.encode())} == {b"plain"}
    verified = shipworthy("verify", "--project", project, "--json")
    assert verified.code == 0, verified.out
    assert any("2 predictions in 2 segments" in proof["found"] for proof in verified.document["proofs"])
    told = shipworthy("lineage", answer["prediction_id"], "--project", project, "--json")
    assert told.code == 0, told.err
