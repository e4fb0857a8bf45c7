"""The review queue over HTTP: a real server answers, two people look at its answers through the control plane."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.faces.api import make_app
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import StorageError
from shipworthy.records.read import read_outcomes, read_records
from shipworthy.records.write import SegmentWriter
from shipworthy.security.access import ROLES, Principal
from shipworthy.workflows import reviews
from shipworthy.workflows.principals import add_principal
from shipworthy.workflows.quality import came_true
from tests.faces.conftest import serving as listen

OWNER = Principal("olga", frozenset(ROLES))
PEOPLE = {"ruth": "risk", "bob": "business", "max": "auditor", "eve": "ml-engineer"}


@dataclass
class Plane:
    """A control plane, and its people's tokens."""

    root: Path
    port: int
    tokens: dict[str, str]

    def ask(self, name: str, path: str, body: Any = None) -> tuple[int, Any]:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.tokens[name]}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", content, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def queue(self, name: str = "ruth", **query: Any) -> list[dict[str, Any]]:
        words = "&".join(f"{key}={value}" for key, value in query.items())
        status, document = self.ask(name, f"/api/reviews?{words}")
        assert status == 200, document
        found: list[dict[str, Any]] = document["reviews"]
        return found


@contextmanager
def control(root: Path) -> Iterator[Plane]:
    with open_parts(root) as parts:
        tokens = {name: add_principal(parts, OWNER, name, (role,)) for name, role in PEOPLE.items()}
    with listen(make_app(lambda: open_parts(root), owner=OWNER)) as port:
        yield Plane(root, port, tokens)


@pytest.fixture
def answered(
    project: Path, home: dict[str, str], serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    """What a server said to 60 loans; it is down again, its records are not closed by anybody else."""
    monkeypatch.setenv("XDG_CONFIG_HOME", home["XDG_CONFIG_HOME"])
    rows = pl.read_csv(project / "loans.csv", infer_schema_length=None).head(60)
    inputs = [{name: row[name] for name in ("income", "debt", "purpose")} for row in rows.iter_rows(named=True)]
    requests = [{"id": f"l-{at}", "inputs": values} for at, values in enumerate(inputs)]
    with serving(project) as server:
        status, answers = server.post(requests)
        assert status == 200
        with control(project) as plane:  # while the server runs: what it said is there at once
            waiting = {item["prediction_id"] for item in plane.queue(limit=1000)}
    assert waiting == {answer["prediction_id"] for answer in answers if answer["handling"] == "review"}
    assert len(waiting) > 4
    found: list[dict[str, Any]] = answers
    return found


@pytest.fixture
def plane(answered: list[dict[str, Any]], project: Path) -> Iterator[Plane]:
    with listen(make_app(lambda: open_parts(project), owner=OWNER)) as port, open_parts(project) as parts:
        tokens = {name: add_principal(parts, OWNER, f"{name}2", (role,)) for name, role in PEOPLE.items()}
        yield Plane(project, port, tokens)


def together(count: int, act: Callable[[int], Any]) -> list[Any]:
    """What `count` threads get that begin at once."""
    barrier = threading.Barrier(count)

    def run(at: int) -> Any:
        barrier.wait()
        return act(at)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_of_two_reviewers_at_once_one_has_each_answer(plane: Plane) -> None:
    people = ["ruth", "bob"]
    ids = [item["prediction_id"] for item in plane.queue(limit=4)]
    for prediction in ids:
        path = f"/api/reviews/{prediction}/claim"
        found = together(2, lambda at, path=path: plane.ask(people[at], path, {}))
        assert sorted(status for status, _ in found) == [200, 409], found
        winner = people[[status for status, _ in found].index(200)]
        shown = plane.ask("ruth", f"/api/reviews/{prediction}")[1]
        assert shown["claimed_by"] == f"{winner}2"
        loser = next(name for name in people if name != winner)
        decision = {"decision": shown["actions"][0], "reason": "seen"}
        assert plane.ask(loser, f"/api/reviews/{prediction}/decide", decision)[0] == 409
    assert [item["prediction_id"] for item in plane.queue(state="claimed")] == ids
    mine = [item["prediction_id"] for name in people for item in plane.queue(by=f"{name}2")]
    assert sorted(mine) == ids
    assert not {*ids} & {item["prediction_id"] for item in plane.queue(state="unclaimed", limit=1000)}


def test_of_many_who_decide_at_once_one_does(plane: Plane) -> None:
    prediction = plane.queue(limit=1)[0]["prediction_id"]
    people = ["ruth", "bob"] * 3
    path = f"/api/reviews/{prediction}/decide"
    found = together(6, lambda at: plane.ask(people[at], path, {"decision": "approve", "reason": f"as {at} saw"}))
    assert sorted(status for status, _ in found) == [200] + [409] * 5
    told = [one for one in read_outcomes(plane.root / ".shipworthy/outcomes/local") if one.id == prediction]
    assert len(told) == 1


def test_a_reviewer_sees_inputs_answer_and_reasons_and_the_decision_becomes_an_outcome(
    plane: Plane, answered: list[dict[str, Any]]
) -> None:
    first = plane.queue(limit=1)[0]
    prediction = first["prediction_id"]
    status, shown = plane.ask("ruth", f"/api/reviews/{prediction}")
    record = next(r for r in read_records(plane.root / ".shipworthy/records/local") if r.prediction_id == prediction)
    answer = next(answer for answer in answered if answer["prediction_id"] == prediction)
    assert status == 200
    assert shown["inputs"] == first["inputs"] == record.inputs
    for name in ("prediction", "probability", "confidence", "decision", "source"):
        assert shown[name] == answer[name]
    assert shown["reasons"]["method"] == "ablation-to-reference"  # made now: nobody had asked for them
    assert {change["feature"] for change in shown["reasons"]["changes"]} <= {"income", "debt", "purpose"}
    assert (shown["actions"], shown["claimed_by"], shown["decided"]) == (["refer", "approve"], None, None)
    with open_parts(plane.root) as parts:
        known = came_true(parts.project, parts.ledger, "local")["known"]
    body = {"decision": "approve", "reason": "salary confirmed"}
    status, decided = plane.ask("ruth", f"/api/reviews/{prediction}/decide", body)
    assert (status, decided["by"], decided["reason"], decided["outcome"]) == (200, "ruth2", "salary confirmed", "1")
    with open_parts(plane.root) as parts:
        assert came_true(parts.project, parts.ledger, "local")["known"] == known + 1
    (told,) = read_outcomes(plane.root / ".shipworthy/outcomes/local", writer="review")
    assert (told.id, told.value, told.source) == (prediction, "1", "review:ruth2")
    (kept,) = plane.queue(state="decided")
    assert kept["decided"] == {name: decided[name] for name in ("by", "decided", "decision", "reason")}
    assert prediction not in {item["prediction_id"] for item in plane.queue(limit=1000)}


def test_the_queue_is_read_page_by_page_and_by_release(plane: Plane) -> None:
    whole = [item["prediction_id"] for item in plane.queue(limit=1000)]
    pages, after = [], None
    while True:
        query = "/api/reviews?limit=3" + (f"&after={after}" if after else "")
        document = plane.ask("bob", query)[1]
        pages += [item["prediction_id"] for item in document["reviews"]]
        after = document["next"]
        if after is None:
            break
    assert pages == whole == sorted(whole)
    assert len(plane.queue(release="loans:1", limit=1000)) == len(whole)
    assert plane.queue(release="loans:2") == []
    assert plane.ask("bob", "/api/reviews?state=lost")[0] == 422


def test_only_reviewers_review_and_only_who_may_read_decisions_sees_one(plane: Plane) -> None:
    prediction = plane.queue(limit=1)[0]["prediction_id"]
    assert plane.ask("eve", f"/api/reviews/{prediction}")[0] == 200
    assert plane.ask("max", f"/api/reviews/{prediction}")[0] == 403  # an auditor reads acts, not people's data
    for name in ("max", "eve"):
        assert plane.ask(name, f"/api/reviews/{prediction}/claim", {})[0] == 403
    assert plane.ask("ruth", "/api/reviews/p_nothing")[0] == 404


def test_a_claim_that_ended_is_anybodys(plane: Plane) -> None:
    contract = plane.root / "shipworthy.yaml"
    contract.write_text(contract.read_text().replace("confidence_below: 0.6", "confidence_below: 0.6, claim: 1ms"))
    prediction = plane.queue(limit=1)[0]["prediction_id"]
    for name in ("ruth", "bob"):
        status, body = plane.ask(name, f"/api/reviews/{prediction}/claim", {})
        assert (status, body["by"]) == (200, f"{name}2")


def test_an_outcome_that_a_full_disk_refused_is_told_later(plane: Plane) -> None:
    prediction, other = (item["prediction_id"] for item in plane.queue(limit=2))
    folder = plane.root / ".shipworthy/outcomes/local"
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("no folder")
    with open_parts(plane.root) as parts:
        ruth = Principal("ruth", frozenset({"risk"}))
        with pytest.raises(StorageError):
            reviews.decide(parts, ruth, "local", prediction, "approve", "clear")
        folder.unlink()
        reviews.decide(parts, ruth, "local", other, "refer", "unclear")
    told = {one.id: one.value for one in read_outcomes(folder)}
    assert told == {prediction: "1", other: "0"}


def test_two_processes_tell_in_turn(plane: Plane) -> None:
    """The writer of another process is waited for, and its failure to come is said."""
    prediction = plane.queue(limit=1)[0]["prediction_id"]
    clock = iter(range(1000))
    with open_parts(plane.root) as parts:
        folder = parts.project.outcomes("local")
        held = SegmentWriter(folder, "local", reviews.WRITER, now=parts.now, monotonic=lambda: 0.0)
        release = threading.Timer(0.3, held.close)
        release.start()
        body = {"decision": "approve", "reason": "clear"}
        assert plane.ask("ruth", f"/api/reviews/{prediction}/decide", body)[0] == 200
        release.join()
        held = SegmentWriter(folder, "local", reviews.WRITER, now=parts.now, monotonic=lambda: 0.0)
        with pytest.raises(reviews.ConflictError, match="another process writes records as review"):
            reviews.tell(parts, "local", lambda: float(next(clock)))
        held.close()
        assert reviews.tell(parts, "local") == 0
