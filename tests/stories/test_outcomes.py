"""What came true, told as a user tells it: over HTTP and by file, late and again, and through kills."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy.feedback.labels import Truths
from shipworthy.records.format import Record
from shipworthy.records.read import read_outcomes
from shipworthy.records.write import SegmentWriter
from shipworthy.workflows.layout import Project
from tests.conftest import Seen
from tests.stories.conftest import Done

KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "4"))
ROWS = 40_000


def request(number: int) -> dict[str, Any]:
    return {"id": f"loan-{number}", "inputs": {"income": 50.0, "debt": 10.0, "purpose": "car"}}


def write_csv(path: Path, rows: list[tuple[str, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("loan_id", "repaid"), *rows])
    return path


def truths(project: Path) -> dict[str, Any]:
    return {truth.id: truth.value for truth in Truths(read_outcomes(Project(project).outcomes("local")))}


def test_outcomes_come_back_over_http_and_by_file_and_everything_still_verifies(
    project: Path, tmp_path: Path, shipworthy: Callable[..., Done], serving: Callable[..., Any]
):
    with serving(project) as server:
        status, answers = server.post([request(number) for number in range(100)])
        assert status == 200
        told = [
            {"id": "loan-0", "value": "1"},
            {"id": answers[1]["prediction_id"], "value": "0"},
            {"id": "nobody", "value": "1"},
            {"id": "loan-2", "value": "perhaps"},
        ]
        status, answer = server.post(told, path="/v1/systems/loans/outcomes")
        assert (status, answer["accepted"]) == (200, 3)
        assert answer["problems"][0]["field"] == "value"
        file = write_csv(tmp_path / "march.csv", [(f"loan-{number}", str(number % 2)) for number in range(90, 110)])
        done = shipworthy("outcomes", file, "--project", project, "--json")  # while the server runs
        assert done.code == 0, done.err
        assert (done.document["accepted"], done.document["unknown"]) == (10, 10)
    shown = shipworthy("outcomes", file, "--project", project)
    assert shown.code == 0
    assert "repeated    10    told before; no effect" in shown.out
    assert "unknown id  10    nothing was predicted under it in local" in shown.out
    assert f"outcomes-{done.document['digest'][7:19]}.csv" in shown.out
    assert len(truths(project)) == 13
    proofs = shipworthy("verify", "all", "--project", project, "--json").document["proofs"]
    assert [proof["found"] for proof in proofs if proof["name"] == "outcomes local"] == ["13 outcomes in 2 segments"]


def test_a_file_that_joins_nothing_or_cannot_be_read_ends_with_the_exit_code_that_says_so(
    project: Path, tmp_path: Path, shipworthy: Callable[..., Done]
):
    file = write_csv(tmp_path / "a.csv", [("loan-1", "1")])
    done = shipworthy("outcomes", file, "--project", project)
    assert done.code == 1
    assert "nothing was predicted in local yet" in done.err
    predict(project, 1)
    done = shipworthy("outcomes", file, "--project", project, "--json")
    assert (done.code, done.document["unknown"]) == (1, 1)
    done = shipworthy("outcomes", tmp_path / "b.csv", "--project", project, "--json")
    assert (done.code, done.document["error"]["code"]) == (1, "source")
    done = shipworthy("outcomes", file, "--project", project, "--env", "mars", "--json")
    assert (done.code, done.document["error"]["code"]) == (2, "usage")
    done = shipworthy("outcomes", file, "--project", project, "--id", "repaid", "--value", "loan_id", "--json")
    assert done.document["invalid"] == {"repaid: unknown class": 1}


@pytest.mark.timeout(36_000)
def test_a_telling_killed_at_any_moment_and_told_again_ends_as_if_told_once(
    project: Path, tmp_path: Path, home: dict[str, str], shipworthy: Callable[..., Done], seen: Seen
):
    predict(project, ROWS)
    rows = [(f"loan-{number}", str(number % 2)) for number in range(ROWS)]
    rows += [(f"loan-{number}", str(1 - number % 2)) for number in range(0, ROWS, 7)]  # the file contradicts itself
    file = write_csv(tmp_path / "all.csv", rows)
    argv = [sys.executable, "-m", "shipworthy", "outcomes", str(file), "--project", str(project), "--json"]
    started = time.monotonic()
    first = shipworthy("outcomes", write_csv(tmp_path / "one.csv", rows[:1]), "--project", project, "--json")
    alone_s = time.monotonic() - started
    assert first.document["accepted"] == 1
    chance = random.Random(7)
    killed = 0
    for _ in range(KILLS):
        telling = subprocess.Popen(argv, env=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(alone_s * chance.uniform(0.6, 1.3))
        telling.send_signal(signal.SIGKILL)
        killed += telling.wait() == -signal.SIGKILL
    done = shipworthy(*argv[3:])
    assert done.code == 0, done.err
    assert done.document["rows"] == len(rows)
    assert done.document["accepted"] + done.document["repeated"] + done.document["contradicting"] == len(rows)
    expected = dict(rows)
    assert truths(project) == expected
    again = shipworthy(*argv[3:])
    assert again.document["repeated"] == len(rows)
    told = list(read_outcomes(Project(project).outcomes("local")))
    assert len({(outcome.id, outcome.value, outcome.source) for outcome in told}) == len(told)  # nothing written twice
    assert len(told) == len(rows) + 1
    assert shipworthy("verify", "all", "--project", project).code == 0
    seen("tellings killed", killed)


def predict(project: Path, rows: int) -> None:
    """Records as a server of the project would have written them."""
    names: dict[str, Any] = {"system": "loans", "release": "loans:1", "environment": "local", "worker": "w0"}
    directory = Project(project).records("local")
    writer = SegmentWriter(directory, "local", "w0", now=time.time, monotonic=time.monotonic)
    records = (Record(prediction_id=f"p_{row}", time=1.0, id=f"loan-{row}", **names) for row in range(rows))
    writer.append([msgspec.msgpack.encode(record) for record in records])
    writer.close()
