"""Overload: refused at once, and those who are admitted are answered as quickly as usual."""

import json
import time
from collections.abc import Callable

import numpy as np
import pytest

from shipworthy.evaluation.load import drive, post
from shipworthy.serving.admission import MAX_OPEN_ROWS, Admission
from shipworthy.serving.pace import Pace
from tests.serving.conftest import SYSTEM, Place, Running, good_request, loans_policy
from tests.serving.faulty_server import SLOW, SLOW_S
from tests.serving.test_faults import FAULTY


class Simulated:
    """A model that takes `run_s` and `row_s` for each row, under arrivals that come by chance."""

    def __init__(self, *, run_s: float, row_s: float, timeout_s: float = 1.0, seed: int = 1) -> None:
        self._run_s, self._row_s, self._timeout_s = run_s, row_s, timeout_s
        self._chance = np.random.default_rng(seed)
        self.admission = Admission()
        self.admission.expect(row_s)
        self._pace = Pace(timeout_s)
        self._clock = 0.0
        self._queue: list[float] = []
        self._running: list[float] = []
        self._ends = 0.0

    @property
    def capacity(self) -> float:
        """Rows a second in full runs."""
        return self._pace.limit / (self._run_s + self._pace.limit * self._row_s)

    def load(self, rate: float, seconds: float) -> tuple[float, float, float]:
        """99th percentile of the admitted, s; answered a second; share refused."""
        latencies: list[float] = []
        refused = arrived = 0
        end = self._clock + seconds
        due = self._clock + self._chance.exponential(1 / rate)
        while self._clock < end:
            if self._running and self._ends <= due:
                self._clock = self._ends
                latencies += [self._clock - arrival for arrival in self._running]
                self._finish()
            else:
                self._clock = due
                due += self._chance.exponential(1 / rate)
                arrived += 1
                if self.admission.admit(1):
                    self._queue.append(self._clock)
                else:
                    refused += 1
            self._start()
        return float(np.quantile(latencies, 0.99)), len(latencies) / seconds, refused / arrived

    def _start(self) -> None:
        if not self._running and self._queue:
            self._running, self._queue = self._queue[: self._pace.limit], self._queue[self._pace.limit :]
            self._ends = self._clock + self._run_s + len(self._running) * self._row_s

    def _finish(self) -> None:
        rows = len(self._running)
        seconds = self._run_s + rows * self._row_s
        self.admission.learn(rows=rows, seconds=seconds, timeout_s=self._timeout_s)
        self._pace.learn(rows, seconds)
        self.admission.release(rows)
        self._running = []


@pytest.mark.parametrize("times", [5, 20])
@pytest.mark.parametrize(
    ("run_s", "row_s"), [(0.0, 0.005), (0.0003, 0.005), (0.002, 0.0005), (0.0003, 0.00003)], ids=str
)
def test_the_admitted_wait_little_longer_than_at_half_of_capacity_and_the_model_never_idles(
    run_s: float, row_s: float, times: int
) -> None:
    server = Simulated(run_s=run_s, row_s=row_s)
    seconds = max(2.0, 4000 * row_s)
    usual, _, refused = server.load(server.capacity / 2, seconds)
    assert refused < 0.01
    server.load(server.capacity * times, seconds / 4)
    loaded, answered, refused = server.load(server.capacity * times, seconds)
    assert answered > 0.85 * server.capacity  # of full runs; a short queue makes smaller ones
    assert refused > 1 - 1.2 / times
    assert loaded < max(2.5 * usual, 0.04)  # of a fast model: within its share of the deadline
    server.load(server.capacity / 2, 0.5)
    again, _, refused = server.load(server.capacity / 2, seconds)
    assert again < 1.5 * usual
    assert refused < 0.01


def test_a_burst_after_quiet_hours_waits_no_longer_than_any_other() -> None:
    server = Simulated(run_s=0.0003, row_s=0.005)
    server.load(server.capacity / 20, 60)  # nearly all in runs of one row, which say nothing of one more
    for _ in range(3):
        loaded, _, refused = server.load(server.capacity * 5, 0.2)
        assert loaded < 0.08
        assert refused > 0.5
        server.load(server.capacity / 20, 60)


def test_a_hiccup_of_the_disk_refuses_nobody() -> None:
    admission = Admission()
    for _ in range(50):
        admission.learn(rows=2, seconds=0.0005, timeout_s=1.0)
    admission.learn(rows=2, seconds=0.2, timeout_s=1.0)
    assert all(admission.admit(1) for _ in range(64))


def test_lists_and_single_requests_are_counted_apart() -> None:
    admission = Admission()
    for _ in range(20):
        admission.learn(rows=50, seconds=0.25, timeout_s=1.0)
    assert admission.admit(10_000, is_list=True)  # nothing is under way: whoever wants it done may have it
    assert not admission.admit(10, is_list=True)
    assert admission.admit(1)
    admission.release(10_000, is_list=True)
    assert admission.admit(10, is_list=True)
    assert admission.open_rows == 11


def test_there_is_an_end_to_what_is_open() -> None:
    admission = Admission()
    assert admission.admit(MAX_OPEN_ROWS, is_list=True)
    assert not admission.admit(1)


def test_five_times_the_capacity_is_refused_at_once_and_the_rest_is_answered_by_the_model(
    place: Place, start: Callable[..., Running]
) -> None:
    """F24: a model of 5 ms a row is offered 1,000 rows a second."""
    place.deploy(place.publish(1, policy=loans_policy(timeout_s=1.0)))
    running = start(script=FAULTY)
    request = post(f"/v1/systems/{SYSTEM}/predict", json.dumps(good_request(income=SLOW)).encode(), {})
    address = (running.host, running.port)
    drive(address, [request] * 100, rate=0.5 / SLOW_S, timeout_s=2)
    load = drive(address, [request] * 1500, rate=5 / SLOW_S, timeout_s=3)
    assert set(load.statuses.tolist()) == {200, 503}
    admitted = load.statuses == 200
    assert 0.1 < admitted.mean() < 0.5
    answers = [json.loads(body) for body, good in zip(load.bodies, admitted, strict=True) if good]
    assert sum(answer["source"] == "model" for answer in answers) > 0.95 * len(answers)
    assert np.quantile(load.latencies_ms[admitted], 0.99) < 1000  # none waited for the deadline
    time.sleep(0.5)
    after = drive(address, [request] * 50, rate=0.5 / SLOW_S, timeout_s=2)
    assert (after.statuses == 200).mean() > 0.9
    assert f"shipworthy_overloaded_total {(~admitted).sum()}" in running.call("GET", "/metrics")[1].decode()
