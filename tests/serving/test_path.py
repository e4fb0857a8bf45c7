"""The path inside a worker: gathered runs, a disk that is slow or refuses, limits."""

import asyncio
import errno
import json
import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.format import Policy
from shipworthy.bundle.verify import VerifiedPayload, verify_payload
from shipworthy.records.disk import LocalDisk
from shipworthy.records.read import read_records
from shipworthy.records.write import SegmentWriter
from shipworthy.serving.answer import Answer, IdMint
from shipworthy.serving.breaker import Breaker
from shipworthy.serving.counters import Counters, render_metrics
from shipworthy.serving.job import Job, Outcome
from shipworthy.serving.pace import MAX_RUN_ROWS
from shipworthy.serving.path import PathSettings, PredictionPath
from shipworthy.serving.problem import Problem
from shipworthy.serving.runtimes.load import load_runtime
from shipworthy.serving.servable import Servable, make_servable
from tests.serving.conftest import Place, good_request, loans_policy


class CountingRuntime:
    """Counts the rows of each run after the two that warm it."""

    is_apart = False

    def close(self) -> None:
        self._inner.close()

    def __init__(self, payload: VerifiedPayload) -> None:
        self._inner = load_runtime(payload)
        self.runs: list[int] = []

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        self.runs.append(len(matrix))
        return self._inner.run(matrix)


class SlowDisk(LocalDisk):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.is_slow = False

    def sync(self, descriptor: int) -> None:
        if self.is_slow:
            time.sleep(self.seconds)
        super().sync(descriptor)


class RefusingDisk(LocalDisk):
    def __init__(self) -> None:
        self.refuses = False

    def sync(self, descriptor: int) -> None:
        if self.refuses:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(descriptor)


def make_loans(place: Place, policy: Policy | None = None) -> Servable:
    place.publish(1, policy=policy)
    directory = max(place.root.glob("payload-*"))
    return make_servable(verify_payload(directory), "loans:1", "sha256:0", CountingRuntime)


def run_jobs(
    place: Place,
    servable: Servable | list[Servable],
    count: int,
    disk: LocalDisk | None = None,
    before: Callable[[], None] = lambda: None,
) -> tuple[list[Outcome], Counters]:
    """Submit `count` jobs in one tick to a fresh path, for each release in turn, and wait for all."""
    counters = Counters()
    servables = servable if isinstance(servable, list) else [servable]

    async def run() -> list[Outcome]:
        loop = asyncio.get_running_loop()
        writer = SegmentWriter(place.records, "local", "w0", now=time.time, monotonic=time.monotonic, disk=disk)
        names = PathSettings("local", "w0", time.time, time.monotonic, os.urandom)
        path = PredictionPath(loop, writer, counters, names)
        before()
        assert path.admit(count)
        futures: list[asyncio.Future[Outcome]] = []
        for at in range(count):
            future: asyncio.Future[Outcome] = loop.create_future()
            chosen = servables[at % len(servables)]
            sample = chosen.decoder.decode(json.dumps(good_request()).encode())
            path.submit(Job(chosen, sample, time.monotonic(), future.set_result))
            futures.append(future)
        outcomes = list(await asyncio.wait_for(asyncio.gather(*futures), 10))
        assert path.admission.open_rows == 0
        await asyncio.sleep(0.05)
        path.stop(3)
        writer.close()
        return outcomes

    return asyncio.run(run()), counters


def test_what_came_in_one_tick_is_one_run_of_at_most_256(place: Place) -> None:
    servable = make_loans(place)
    outcomes, counters = run_jobs(place, servable, 600)
    assert all(isinstance(outcome, Answer) and outcome.source == "model" for outcome in outcomes)
    assert servable.runtime.runs[2:] == [MAX_RUN_ROWS, MAX_RUN_ROWS, 88]  # type: ignore[attr-defined]
    assert (counters.records, counters.runs, counters.run_rows) == (600, 3, 600)
    assert len(list(read_records(place.records))) == 600


def test_releases_that_share_the_traffic_have_a_run_each_and_not_one_for_each_neighbour(place: Place) -> None:
    first, second = make_loans(place), make_loans(place)
    outcomes, counters = run_jobs(place, [first, second, second], 300)
    assert (counters.records, counters.runs, counters.run_rows) == (300, 2, 300)
    assert len({outcome.prediction_id for outcome in outcomes if isinstance(outcome, Answer)}) == 300


def test_a_disk_too_slow_for_the_deadline_is_a_503_and_not_a_wait(place: Place) -> None:
    servable = make_loans(place, loans_policy(timeout_s=0.1))
    disk = SlowDisk(0.7)
    started = time.monotonic()
    outcomes, _ = run_jobs(place, servable, 3, disk, lambda: setattr(disk, "is_slow", True))
    assert [outcome.status for outcome in outcomes if isinstance(outcome, Problem)] == [503] * 3
    assert time.monotonic() - started < 5


def test_a_slow_disk_does_not_touch_async_records(place: Place) -> None:
    servable = make_loans(place, loans_policy(durability="async", timeout_s=1.0))
    run_jobs(place, servable, 1)  # the segment is there
    disk = SlowDisk(2.0)
    started: list[float] = []

    def before() -> None:
        disk.is_slow = True
        started.append(time.monotonic())

    outcomes, counters = run_jobs(place, servable, 5, disk, before)
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert counters.latency_sum_s < 1.5
    assert len(list(read_records(place.records))) == 6


def test_a_failing_sync_refuses_or_drops_as_declared(place: Place) -> None:
    for when_full, expected in (("refuse", Problem), ("drop", Answer)):
        disk = RefusingDisk()
        servable = make_loans(place, loans_policy(when_full=when_full))
        outcomes, counters = run_jobs(place, servable, 4, disk, lambda disk=disk: setattr(disk, "refuses", True))  # type: ignore[misc]
        assert {type(outcome) for outcome in outcomes} == {expected}
        assert (counters.records_refused, counters.records_dropped) == ((4, 0) if when_full == "refuse" else (0, 4))
    assert list(read_records(place.records)) == []


def test_without_records_nothing_is_written(place: Place) -> None:
    outcomes, _ = run_jobs(place, make_loans(place, loans_policy(durability="off")), 2)
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert list(read_records(place.records)) == []


def test_prediction_ids_are_new_and_ascend() -> None:
    clock = iter(range(1, 10))
    mint = IdMint(lambda: next(clock), os.urandom)
    ids = [*mint.mint(3000), *mint.mint(1), *mint.mint(2)]
    assert ids == sorted(set(ids))
    assert {len(each) for each in ids} == {28}


def test_metrics_have_a_bounded_form() -> None:
    counters = Counters()
    counters.observe(0.003)
    counters.observe(99)
    counters.responses[200] += 2
    tally = counters.tally(refusals={"rate": 4}, breakers={"loans:1": Breaker()}, is_ready=True)
    text = render_metrics(tally, "loans:1", 3, restarts={"crash": 2}, certificate_expires=1_800_000_000.0).decode()
    assert 'shipworthy_latency_seconds_bucket{le="0.0025"} 0' in text
    assert 'shipworthy_latency_seconds_bucket{le="0.005"} 1' in text
    assert 'shipworthy_latency_seconds_bucket{le="+Inf"} 2' in text
    assert "shipworthy_latency_seconds_count 2" in text
    for line in text.splitlines():
        assert line.startswith(("# HELP shipworthy_", "# TYPE shipworthy_", "shipworthy_"))
