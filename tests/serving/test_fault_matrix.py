"""Rows of the fault matrix that take a real server with workers: killed, hung, leaking, on a slow disk."""

import http.client
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shipworthy.records.read import read_records
from tests.conftest import Seen
from tests.serving.conftest import Place, Running, good_request, loans_policy
from tests.serving.faulty_server import HANGS, HOLDS, LEAKS
from tests.serving.test_workers import FAULTY, PATH, is_whole, wait_for

REPEAT = int(os.environ.get("SHIPWORTHY_SOAK", "0"))
CALLERS = 8


class Callers:
    """Callers that go on whatever happens, and remember what did."""

    def __init__(self, running: Running, count: int = CALLERS, *, pause_s: float = 0.0) -> None:
        self.acknowledged: list[str] = []
        self.sources: list[str] = []
        self.lost = 0  # requests without an answer
        self.refused = 0  # connections
        self.statuses: list[int] = []  # other than 200
        self.latencies: list[float] = []
        self._running = running
        self._pause_s = pause_s
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _call(self) -> None:
        connection = self._running.connect(10)
        body = json.dumps(good_request())
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                connection.request("POST", PATH, body)
                response = connection.getresponse()
                content = response.read()
            except ConnectionRefusedError:
                self.refused += 1
                connection.close()
                continue
            except (OSError, http.client.HTTPException):
                self.lost += 1
                connection.close()
                continue
            self.latencies.append(time.monotonic() - started)
            if response.status == 200:
                answer = json.loads(content)
                self.acknowledged.append(answer["prediction_id"])
                self.sources.append(answer["source"])
            else:
                self.statuses.append(response.status)
            self._stop.wait(self._pause_s)
        connection.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.mark.timeout(36_000)
def test_workers_killed_at_random_under_load_lose_nothing_that_was_acknowledged(
    place: Place, start: Callable[..., Running], seen: Seen
) -> None:
    """F01, a worker at a time: the other answers on, nobody is refused a connection, what is lost was under way."""
    place.deploy(place.publish(1))
    running = start(workers=2)
    wait_for(lambda: is_whole(running, 2))
    chance = random.Random(1)
    kills = REPEAT or 3
    took = []
    callers = Callers(running, pause_s=0.01)
    for _ in range(kills):
        time.sleep(0.2 + chance.random() * 0.2)
        victim = chance.choice(running.workers)
        os.kill(victim, signal.SIGKILL)
        took.append(wait_for(lambda victim=victim: victim not in running.workers and is_whole(running, 2), 20))  # type: ignore[misc]
    callers.stop()
    recorded = [record.prediction_id for record in read_records(place.records)]
    assert len(recorded) == len(set(recorded))
    assert set(callers.acknowledged) <= set(recorded)
    assert callers.refused == 0
    assert callers.statuses == []
    assert callers.lost <= CALLERS * kills
    assert set(callers.sources) == {"model"}
    seen("workers killed", kills)
    seen("answers acknowledged", len(callers.acknowledged))
    seen("acknowledged and lost", len(set(callers.acknowledged) - set(recorded)))
    seen("requests lost a kill", round(callers.lost / kills, 2))
    seen("connections refused", callers.refused)
    seen("s until replaced, median", round(sorted(took)[len(took) // 2], 2))
    seen("s until replaced, longest", round(max(took), 2))


def hang_one(running: Running, hang: float) -> tuple[float, Callers]:
    """Let the model of one of two workers hang under load: seconds until it is replaced, and what callers saw."""
    wait_for(lambda: is_whole(running, 2), 10)
    before = set(running.workers)
    callers = Callers(running, 4, pause_s=0.01)
    try:
        assert running.predict(good_request(income=hang))[1]["source"] == "fallback"
    except (OSError, http.client.HTTPException):
        assert hang == HOLDS  # nothing of such a process answers: its caller is told by the closed connection
    took = wait_for(lambda: len(before & set(running.workers)) == 1 and is_whole(running, 2), 15)
    time.sleep(0.2)
    callers.stop()
    return took, callers


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("hang", [HANGS, HOLDS], ids=["native code", "native code that holds the interpreter"])
def test_a_model_that_hangs_costs_its_worker_which_is_replaced(
    place: Place, start: Callable[..., Running], hang: float, seen: Seen
) -> None:
    """F12: the other worker answers on; the one that hangs is replaced and the model answers again."""
    place.deploy(place.publish(1, policy=loans_policy(timeout_s=0.3)))
    times = REPEAT or 1
    took, lost = [], 0
    for _ in range(times):
        running = start(script=FAULTY, workers=2)
        seconds, callers = hang_one(running, hang)
        took.append(seconds)
        lost += callers.lost
        assert callers.refused == 0
        assert callers.lost <= 4
        assert running.predict(good_request())[1]["source"] == "model"
        running.stop(signal.SIGKILL)
        assert set(callers.acknowledged) <= {record.prediction_id for record in read_records(place.records)}
    seen("hangs", times)
    seen("other requests lost", lost)
    seen("s until replaced, longest", round(max(took), 2))


@pytest.mark.timeout(36_000)
def test_a_model_that_leaks_is_recycled_before_it_takes_the_machine(
    place: Place, start: Callable[..., Running], seen: Seen
) -> None:
    """F15: 20 MB a second, up to 200 MB; the worker is replaced, callers notice at most a closed connection."""
    place.deploy(place.publish(1))
    running = start(script=FAULTY, worker_memory_bytes=200_000_000)
    recycles = REPEAT or 1
    callers = Callers(running, 4, pause_s=0.01)
    largest, leaks = 0.0, 0
    for _ in range(recycles):
        leaking = running.workers[0]
        while leaking in running.workers:
            assert running.predict(good_request(income=LEAKS))[0] == 200
            leaks += 1
            largest = max(largest, running.resident_mb)
            time.sleep(1.0 if REPEAT else 0.2)
    callers.stop()
    assert callers.refused == 0
    assert callers.statuses == []
    assert callers.lost <= 4 * recycles  # one retryable error for each caller and recycle
    assert 'restarts_total{reason="memory"}' in running.call("GET", "/metrics")[1].decode()
    seen("recycles", recycles)
    seen("leaks of 20 MB", leaks)
    seen("requests lost", callers.lost)
    seen("MB of all processes at most", round(largest))


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_slow_disk_refuses_in_time_or_costs_nothing(
    place: Place,
    start: Callable[..., Running],
    durability: str,
    tmp_path: Path,
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """F09: syncs of two seconds. `sync` answers 503 soon after the deadline, `async` does not notice."""
    slow = tmp_path / "slow"
    monkeypatch.setenv("SLOW_DISK", str(slow))
    place.deploy(place.publish(1, policy=loans_policy(timeout_s=0.3, durability=durability)))
    running = start(script=FAULTY)
    assert running.predict(good_request())[0] == 200
    slow.touch()
    answers, took = [], []
    for _ in range(REPEAT or 4):
        started = time.monotonic()
        status, _, headers = running.call("POST", PATH, good_request())
        took.append(time.monotonic() - started)
        answers.append((status, headers.get("retry-after")))
        if durability == "async":
            time.sleep(0.3)  # the next one comes while what was written before is being synced
    slow.unlink()
    metrics = running.call("GET", "/metrics")[1]
    assert b"worker_restarts_total{" not in metrics  # it is not the model that hangs
    assert b'breaker_opened_total{release="loans:1"} 0' in metrics
    seen(f"{durability}: answers", len(answers))
    seen(f"{durability}: s to an answer, longest", round(max(took), 3))
    if durability == "async":
        assert set(answers) == {(200, None)}
        assert max(took) < 0.3
    else:
        assert set(answers) == {(503, "1")}
        assert max(took) < 1.5  # the deadline, the grace of a record under way, and a busy machine
    time.sleep(2.1)
    assert running.predict(good_request())[0] == 200
