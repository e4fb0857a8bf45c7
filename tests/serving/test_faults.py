"""A model or a disk that fails, a process that is killed: labelled, recorded, never lost."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy.records.read import read_records, read_segment
from shipworthy.serving.breaker import REST_S
from tests.conftest import Seen
from tests.serving.conftest import SYSTEM, Place, Running, good_request, loans_policy
from tests.serving.faulty_server import CAUSES, HANGS, LATE, RAISES
from tests.serving.test_workers import wait_for

FAULTY = Path(__file__).with_name("faulty_server.py")
KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "0")) or 3


@pytest.fixture
def faulty(place: Place, start: Callable[..., Running]) -> Running:
    place.deploy(place.publish(1, policy=loans_policy(timeout_s=0.3)))
    return start(script=FAULTY)


@pytest.mark.parametrize(("income", "cause"), CAUSES.items())
def test_a_model_that_fails_is_answered_by_labelled_fallback(
    faulty: Running, place: Place, income: float, cause: str
) -> None:
    started = time.monotonic()
    status, answer = faulty.predict(good_request(income=income))
    assert status == 200
    assert time.monotonic() - started < 1.2
    assert answer["source"] == "fallback"
    assert answer["decision"] == "refer"
    assert (answer["prediction"], answer["probability"], answer["confidence"]) == (None, None, None)
    assert answer["warnings"] == [f"answered by fallback: {cause}"]
    time.sleep(1.6 if income == LATE else 0)
    records = list(read_records(place.records))
    assert [(record.prediction_id, record.source) for record in records] == [(answer["prediction_id"], "fallback")]
    assert faulty.predict(good_request())[1]["source"] == "model"
    assert f'fallbacks_total{{cause="{cause}"}} 1'.encode() in faulty.call("GET", "/metrics")[1]


def test_the_rule_that_holds_answers_instead_of_the_default(faulty: Running) -> None:
    assert faulty.predict(good_request(income=RAISES, debt=500.0))[1]["decision"] == "refuse"


def test_one_poison_row_costs_its_batch_mates_nothing(faulty: Running) -> None:
    items = [good_request(income=RAISES if i == 7 else 50.0) for i in range(100)]
    sources = [answer["source"] for answer in faulty.predict(items)[1]]
    assert sources == ["fallback" if i == 7 else "model" for i in range(100)]


def test_a_model_that_keeps_failing_is_left_alone_and_asked_again(faulty: Running) -> None:
    answers = [faulty.predict(good_request(income=RAISES))[1] for _ in range(6)]
    assert [answer["warnings"][-1] for answer in answers[4:]] == [
        "answered by fallback: the model failed",
        "answered by fallback: the model rests after it failed",
    ]
    assert faulty.predict(good_request())[1]["source"] == "fallback"
    assert faulty.call("GET", "/v2/health/ready")[1]["breakers"] == {f"{SYSTEM}:1": "open"}
    metrics = faulty.call("GET", "/metrics")[1]
    assert f'breaker_open{{release="{SYSTEM}:1"}} 1'.encode() in metrics
    assert f'breaker_opened_total{{release="{SYSTEM}:1"}} 1'.encode() in metrics
    time.sleep(REST_S)
    assert faulty.predict(good_request())[1]["source"] == "model"
    assert faulty.predict(good_request(income=RAISES))[1]["warnings"] == ["answered by fallback: the model failed"]
    assert faulty.predict(good_request())[1]["source"] == "model"


def test_a_hanging_model_does_not_hang_the_server(faulty: Running) -> None:
    first = faulty.predict(good_request(income=HANGS))[1]
    assert first["source"] == "fallback"
    took = []
    for _ in range(5):
        started = time.monotonic()
        assert faulty.predict(good_request())[1]["source"] == "fallback"
        took.append(time.monotonic() - started)
    assert min(took) < 0.25  # nobody waits for a model that is known to hang
    assert faulty.call("GET", "/v2/health/live")[0] == 200


# --- kill -9


class Load:
    """Callers that remember every acknowledged prediction id."""

    def __init__(self, running: Running, callers: int) -> None:
        self.acknowledged: list[str] = []
        self.failures: list[int | str] = []
        self._running = running
        self._stop = False
        self._threads = [threading.Thread(target=self._call) for _ in range(callers)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        connection = http.client.HTTPConnection(self._running.host, self._running.port, timeout=5)
        body = json.dumps(good_request())
        while not self._stop:
            try:
                connection.request("POST", f"/v1/systems/{SYSTEM}/predict", body)
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                break
            if response.status == 200:
                self.acknowledged.append(json.loads(content)["prediction_id"])
            else:
                self.failures.append(response.status)
        connection.close()

    def join(self) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join()


@pytest.mark.timeout(36_000)
def test_kill_9_under_load_loses_no_acknowledged_record(
    place: Place, start: Callable[..., Running], seen: Seen
) -> None:
    place.deploy(place.publish(1))
    acknowledged: list[str] = []
    for number in range(KILLS):
        running = start()
        load = Load(running, 8)
        time.sleep(0.15 + 0.05 * (number % 5))
        running.stop(signal.SIGKILL)
        load.join()
        acknowledged += load.acknowledged
    assert len(acknowledged) > 5 * KILLS
    recorded = [record.prediction_id for record in read_records(place.records)]
    assert len(recorded) == len(set(recorded))
    assert set(acknowledged) <= set(recorded)
    seen("kills", KILLS)
    seen("answers acknowledged", len(acknowledged))
    seen("acknowledged and lost", len(set(acknowledged) - set(recorded)))


def _generation(running: Running) -> int:
    return int(running.call("GET", "/v2/health/ready")[1]["generation"])


def test_switching_under_load_loses_no_request(place: Place, start: Callable[..., Running]) -> None:
    first, second = place.publish(1), place.publish(2)
    place.deploy(first)
    running = start()
    load = Load(running, 8)
    for generation in range(6):
        place.deploy((first, second)[generation % 2])
        time.sleep(0.12)
    end = time.monotonic() + 30
    while _generation(running) != 7:
        assert time.monotonic() < end
        time.sleep(0.05)
    load.join()
    assert running.process.poll() is None
    assert load.failures == []
    assert len({record.release for record in read_records(place.records)}) == 2


# --- a full disk

SMALL_DISK = """
mount -t tmpfs -o size=200k tmpfs "$1" && exec "$2" -m shipworthy.serving.server --settings "$3"
"""


def start_on_small_disk(place: Place, tmp_path: Path) -> Running:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare to mount a small disk")
    place.records.mkdir(parents=True)
    command = ["unshare", "-m", "sh", "-c", SMALL_DISK, "sh", str(place.records.parent), sys.executable]
    settings = msgspec.json.encode(place.settings(spool=str(place.spool))).decode()
    with open(tmp_path / "log", "ab") as log:
        process = subprocess.Popen([*command, settings], stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(5)
        process.stdout.close()
        pytest.skip("this machine mounts no tmpfs")
    host, _, port = json.loads(line)["address"].removeprefix("http://").rpartition(":")
    return Running(process, host, int(port), tmp_path / "log")


def records_inside(running: Running, place: Place) -> set[str]:
    """Prediction ids on the disk that only the server's process sees."""
    return {record.prediction_id for record in read_records(Path(f"/proc/{running.process.pid}/root{place.records}"))}


@pytest.mark.parametrize("when_full", ["refuse", "spool", "drop"])
def test_a_full_disk_refuses_spools_or_drops_as_declared(place: Place, tmp_path: Path, when_full: str) -> None:
    place.deploy(place.publish(1, policy=loans_policy(when_full=when_full, spool_bytes=10**9)))
    running = start_on_small_disk(place, tmp_path)
    try:
        answers: list[tuple[int, Any]] = [running.predict(good_request()) for _ in range(700)]
        acknowledged = {answer["prediction_id"] for status, answer in answers if status == 200}
        recorded = records_inside(running, place)
        if when_full == "refuse":
            assert {status for status, _ in answers} == {200, 503}
            assert acknowledged == recorded
            assert running.call("GET", "/v2/health/live")[0] == 200
        elif when_full == "spool":
            assert {status for status, _ in answers} == {200}
            waiting = {record.prediction_id for record in read_records(place.spool / "records" / "local")}
            assert acknowledged == recorded | waiting
            assert recorded
            assert not recorded & waiting
        else:
            assert {status for status, _ in answers} == {200}
            assert recorded < acknowledged
            dropped = len(acknowledged) - len(recorded)
            assert f"shipworthy_records_dropped_total {dropped}".encode() in running.call("GET", "/metrics")[1]
        first = Path(f"/proc/{running.process.pid}/root{place.records}/w0-00000001")
        kept = acknowledged - {record.prediction_id for record in read_segment(first)}
        first.unlink()  # space returns
        time.sleep(0.6)
        status, answer = running.predict(good_request())
        assert status == 200
        if when_full == "spool":
            wait_for(lambda: not [*(place.spool / "records" / "local").glob("w*")], 20)
            assert records_inside(running, place) == kept | {answer["prediction_id"]}
        assert answer["prediction_id"] in records_inside(running, place)
    finally:
        running.stop(signal.SIGKILL)
