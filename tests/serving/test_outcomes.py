"""What came true, told to the real server: on disk before the answer, every bad field named, everything counted."""

import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.client import Client, InvalidRequestError, OutcomeProblem, OutcomeReport
from shipworthy.kernel.errors import NotFoundError, UnavailableError
from shipworthy.records.format import Outcome
from shipworthy.records.read import read_outcomes
from shipworthy.records.write import SegmentWriter
from shipworthy.serving.outcomes import read_outcome
from tests.serving.conftest import SYSTEM, Place, Running, good_request, loans_policy, start_server

PATH = f"/v1/systems/{SYSTEM}/outcomes"


@dataclass
class Taking:
    """A server that takes outcomes, and where it keeps them."""

    running: Running
    directory: Path

    def tell(self, body: Any, headers: dict[str, str] | None = None) -> tuple[int, Any]:
        status, document, _ = self.running.call("POST", PATH, body, headers)
        return status, document

    def find(self, id: str) -> list[Outcome]:
        return [outcome for outcome in read_outcomes(self.directory) if outcome.id == id]


@pytest.fixture(scope="module")
def taking(shared_place: Place) -> Iterator[Taking]:
    directory = shared_place.root / "outcomes" / "local"
    records = str(shared_place.root / "records" / "told")  # another server writes those of the place
    running = start_server(
        shared_place.settings(outcomes=str(directory), records=records), shared_place.root / "stderr"
    )
    yield Taking(running, directory)
    running.stop(signal.SIGKILL)


def test_an_outcome_is_on_disk_when_it_is_acknowledged(taking: Taking):
    told = {"id": "application-1", "value": "1", "time": "2026-03-01T10:00:00+01:00"}
    assert taking.tell(told) == (200, {"accepted": 1, "problems": []})
    (outcome,) = taking.find("application-1")
    assert (outcome.value, outcome.time, outcome.source) == ("1", 1_772_355_600.0, "api:open")
    assert abs(outcome.received - time.time()) < 60


def test_without_a_time_the_truth_is_known_from_now_on(taking: Taking):
    assert taking.tell([{"id": "now-1", "value": "0"}, {"id": "now-2", "value": "0", "time": None}])[0] == 200
    for name in ("now-1", "now-2"):
        (outcome,) = taking.find(name)
        assert outcome.time == outcome.received
    taking.tell({"id": "now-3", "value": "0", "time": 1_700_000_000.5})
    assert taking.find("now-3")[0].time == 1_700_000_000.5


def test_a_list_keeps_what_is_good_and_names_what_is_not(taking: Taking):
    told = [{"id": f"list-{i}", "value": "boat" if i % 10 == 3 else "1"} for i in range(1000)]
    status, answer = taking.tell(told)
    assert (status, answer["accepted"], len(answer["problems"])) == (200, 900, 100)
    assert answer["problems"][1] == {
        "index": 13, "field": "value", "expected": 'one of "0", "1"', "got": '"boat"',
    }  # fmt: skip
    assert len(taking.find("list-12")) == 1
    assert taking.find("list-13") == []


@pytest.mark.parametrize(
    ("told", "field", "said"),
    [
        ({"value": "1"}, "id", "a text of 1 to 256 characters"),
        ({"id": "", "value": "1"}, "id", "a text of 1 to 256 characters"),
        ({"id": "x" * 257, "value": "1"}, "id", "a text of 1 to 256 characters"),
        ({"id": 7, "value": "1"}, "id", "a text of 1 to 256 characters"),
        ({"id": "a"}, "value", 'one of "0", "1"'),
        ({"id": "a", "value": 1}, "value", 'one of "0", "1"'),
        ({"id": "a", "value": ["1"]}, "value", 'one of "0", "1"'),
        ({"id": "a", "value": "1", "time": "soon"}, "time", "a time such as 2026-01-31T09:30:00Z, or Unix seconds"),
        ({"id": "a", "value": "1", "time": 1.8e12}, "time", "a time such as 2026-01-31T09:30:00Z, or Unix seconds"),
        ({"id": "a", "value": "1", "time": True}, "time", "a time such as 2026-01-31T09:30:00Z, or Unix seconds"),
        ({"id": "a", "value": "1", "when": 1}, "when", "no such field; there are id, value and time"),
        ("a", "", "an object with id and value"),
        (7, "", "an object with id and value"),
    ],
)
def test_a_bad_outcome_is_refused_naming_field_and_cure(taking: Taking, told: Any, field: str, said: str):
    status, problem = taking.tell(told)
    assert (status, problem["title"]) == (422, "The request is not valid")
    assert [(error["field"], error["expected"]) for error in problem["errors"]] == [(field, said)]
    status, problem = taking.tell([told])
    assert status == 422
    assert [error["field"] for error in problem["errors"]] == [f"[0].{field}" if field else "[0]"]


def test_every_fault_of_one_outcome_is_named_at_once(taking: Taking):
    _, problem = taking.tell({"id": "", "value": "boat", "time": "x", "more": 1})
    assert [error["field"] for error in problem["errors"]] == ["id", "more", "time", "value"]


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"[", 400), (b"[1,", 400), (b"{", 422), (b"", 422), (b"\xff", 422), (b"[" * 5000, 400), (b'[{"id":1e999}]', 422)],
)
def test_what_is_not_json_is_refused_and_the_server_goes_on(taking: Taking, body: bytes, status: int):
    assert taking.tell(body)[0] == status
    assert taking.tell([])[1] == {"accepted": 0, "problems": []}


def test_a_list_has_an_end(taking: Taking):
    assert taking.tell([{"id": f"many-{i}", "value": "1"} for i in range(10_000)])[1]["accepted"] == 10_000
    assert taking.tell([{}] * 10_001)[0] == 413


def test_outcomes_that_were_refused_take_no_place_from_those_that_follow(taking: Taking):
    for _ in range(4):  # twice as many as may wait
        assert taking.tell([{}] * 10_000)[0] == 422
    assert taking.tell({"id": "after", "value": "1"})[0] == 200


def test_other_methods_and_media_are_refused(taking: Taking):
    assert taking.running.call("GET", PATH)[0] == 405
    assert taking.tell(b"{}", {"content-type": "text/plain"})[0] == 415


def test_many_callers_at_once_are_written_in_groups_and_none_is_lost(taking: Taking):
    def tell(caller: int) -> None:
        for number in range(25):
            assert taking.tell({"id": f"c{caller}-{number}", "value": "1"})[0] == 200

    callers = [threading.Thread(target=tell, args=(caller,)) for caller in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    found = {outcome.id for outcome in read_outcomes(taking.directory)}
    assert {f"c{caller}-{number}" for caller in range(8) for number in range(25)} <= found


def test_outcomes_are_counted_and_described(taking: Taking):
    taking.tell([{"id": "counted", "value": "1"}])
    _, metrics, _ = taking.running.call("GET", "/metrics")
    line = next(line for line in metrics.decode().splitlines() if line.startswith("shipworthy_outcomes_total "))
    assert int(line.split()[1]) == sum(1 for _ in read_outcomes(taking.directory))
    _, document, _ = taking.running.call("GET", "/openapi.json")
    assert PATH in document["paths"]
    schema = document["components"]["schemas"]["Outcome"]
    assert schema["properties"]["value"] == {"type": "string", "enum": ["0", "1"]}
    assert schema["required"] == ["id", "value"]


def test_predictions_are_answered_and_recorded_as_before(taking: Taking):
    assert taking.running.predict(good_request())[1]["source"] == "model"


def test_a_server_without_a_place_for_outcomes_says_so(server: Running, tmp_path: Path):
    status, problem, _ = server.call("POST", PATH, {"id": "a", "value": "1"})
    assert (status, problem["detail"]) == (
        404, "This server takes no outcomes: it was started without a place to keep them.",
    )  # fmt: skip
    assert PATH not in server.call("GET", "/openapi.json")[1]["paths"]


# --- who may


def test_a_token_for_outcomes_tells_and_does_not_predict(place: Place, start: Callable[..., Running]):
    place.deploy(place.publish(1))
    token = place.mint(scopes=(f"tell:{SYSTEM}",))
    directory = place.root / "outcomes" / "local"
    running = start(open=False, outcomes=str(directory))
    header = {"authorization": f"Bearer {token}"}
    body = {"id": "a", "value": "1"}
    assert running.call("POST", PATH, body, header)[0] == 200
    assert next(read_outcomes(directory)).source == "api:test"
    status, problem = running.predict(good_request(), header)
    assert (status, problem["detail"]) == (403, "This caller's token has no scope for predict here.")
    assert running.call("POST", PATH, body)[0] == 401
    assert running.call("POST", PATH, body, {"authorization": "Bearer nonsense"})[0] == 401
    for scopes, status in [(("tell:other",), 403), ((f"predict:{SYSTEM}",), 403), ((f"outcomes:{SYSTEM}",), 403)]:
        other = {"authorization": f"Bearer {place.mint(scopes=scopes)}"}
        time.sleep(0.3)
        assert running.call("POST", PATH, body, other)[0] == status


# --- faults


def test_what_was_acknowledged_outlives_a_kill(place: Place, start: Callable[..., Running]):
    place.deploy(place.publish(1))
    directory = place.root / "outcomes" / "local"
    for round_ in range(2):
        running = start(outcomes=str(directory))
        for number in range(20):
            assert running.call("POST", PATH, {"id": f"{round_}-{number}", "value": "1"})[0] == 200
        running.stop(signal.SIGKILL)
    assert {outcome.id for outcome in read_outcomes(directory)} == {f"{r}-{n}" for r in range(2) for n in range(20)}


def test_a_stop_finishes_what_is_under_way(place: Place, start: Callable[..., Running]):
    place.deploy(place.publish(1))
    directory = place.root / "outcomes" / "local"
    running = start(outcomes=str(directory))
    assert running.call("POST", PATH, {"id": "a", "value": "1"})[0] == 200
    assert running.stop() == 0
    writer = SegmentWriter(directory, "local", "w0", now=time.time, monotonic=time.monotonic)  # let go
    writer.close()
    assert [outcome.id for outcome in read_outcomes(directory)] == ["a"]


def test_outcomes_that_cannot_be_kept_are_not_acknowledged_and_predictions_go_on(
    place: Place, start: Callable[..., Running]
):
    place.deploy(place.publish(1))
    directory = place.root / "outcomes" / "local"
    holder = SegmentWriter(directory, "local", "w0", now=time.time, monotonic=time.monotonic)
    running = start(outcomes=str(directory))
    status, problem, _ = running.call("POST", PATH, {"id": "a", "value": "1"})
    assert (status, problem["detail"]) == (503, "Outcomes cannot be recorded now; tell them again later.")
    assert "w0" not in problem["detail"]
    assert running.predict(good_request())[0] == 200
    holder.close()
    assert running.call("POST", PATH, {"id": "a", "value": "1"})[0] == 200
    limit_files(running, 0)
    assert running.call("POST", PATH, {"id": "b", "value": "1"})[0] == 503
    limit_files(running, resource.RLIM_INFINITY)
    time.sleep(0.6)  # a refused disk is left alone for half a second
    assert running.call("POST", PATH, {"id": "c", "value": "1"})[0] == 200
    assert [outcome.id for outcome in read_outcomes(directory)] == ["a", "c"]


def limit_files(running: Running, size: int) -> None:
    """No file of the server may grow beyond `size`: as a full disk does."""
    for pid in running.workers:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


# --- the client


def test_the_client_tells_outcomes_and_says_which_were_not_taken(taking: Taking):
    with Client(f"http://{taking.running.host}:{taking.running.port}", system=SYSTEM) as client:
        assert client.tell_outcomes([{"id": "client-1", "value": "1", "time": 1.5}]) == OutcomeReport(1)
        report = client.tell_outcomes([{"id": "client-2", "value": "0"}, {"id": "client-3", "value": "2"}])
        assert report == OutcomeReport(1, (OutcomeProblem(1, "value", 'one of "0", "1"', '"2"'),))
        with pytest.raises(InvalidRequestError, match=r'\[0\]\.value: expected one of "0", "1", got "2"'):
            client.tell_outcomes([{"id": "client-4", "value": "2"}])


def test_the_client_tells_again_after_a_lost_connection(place: Place, start: Callable[..., Running]):
    """The server dies after the first telling and comes back on the same port while the client retries."""
    place.deploy(place.publish(1))
    directory = place.root / "outcomes" / "local"
    running = start(outcomes=str(directory))
    pauses: list[float] = []

    def restart(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 1:
            start(outcomes=str(directory), port=running.port)

    with Client(f"http://{running.host}:{running.port}", system=SYSTEM, sleep=restart) as client:
        assert client.tell_outcomes([{"id": "a", "value": "1"}]).accepted == 1
        running.stop(signal.SIGKILL)
        assert client.tell_outcomes([{"id": "a", "value": "1"}]).accepted == 1
    assert len(pauses) >= 1
    assert [outcome.id for outcome in read_outcomes(directory)] == ["a", "a"]


def test_the_client_says_when_nobody_takes_outcomes(server: Running):
    outcomes = [{"id": "a", "value": "1"}]
    with (
        Client(f"http://{server.host}:{server.port}", system=SYSTEM) as client,
        pytest.raises(NotFoundError, match="takes no outcomes"),
    ):
        client.tell_outcomes(outcomes)
    with (
        Client("http://127.0.0.1:9", system=SYSTEM, retries=0) as client,
        pytest.raises(UnavailableError, match="does not listen"),
    ):
        client.tell_outcomes(outcomes)


# --- reading one outcome


def read(told: bytes, **policy: Any) -> Any:
    return read_outcome(msgspec.Raw(told), loans_policy(**policy), 9.0, "api:x")


@pytest.mark.parametrize("value", [b"true", b'"12"', b"null", b"[1]", b"1" + b"0" * 400])
def test_the_number_of_a_regression_is_a_number(value: bytes):
    problems = read(b'{"id": "a", "value": %b}' % value, task="regression")
    assert [(problem.field, problem.expected) for problem in problems] == [("value", "a number")]
    assert read(b'{"id": "a", "value": 12}', task="regression").value == 12.0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "value", "time", "x"]), inner),
    max_leaves=8,
)


@given(told=json_values)
def test_any_json_is_an_outcome_or_named_problems(told: Any):
    found = read(msgspec.json.encode(told))
    if isinstance(found, Outcome):
        assert found.id == told["id"]
        assert found.value in ("0", "1")
    else:
        assert found
        assert all(problem.expected for problem in found)


def test_a_server_that_is_told_nothing_makes_nothing(place: Place, start: Callable[..., Running]):
    place.deploy(place.publish(1))
    directory = place.root / "outcomes" / "local"
    running = start(outcomes=str(directory))
    assert running.predict(good_request())[0] == 200
    assert not directory.exists()
