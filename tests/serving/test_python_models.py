"""Python models in the real server: they answer as ONNX does, and whatever they do costs the rows of one run."""

import http.client
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shipworthy.bundle.format import Policy
from shipworthy.bundle.verify import verify_payload
from shipworthy.evaluation.processes import family
from shipworthy.kernel.errors import IntegrityError, ModelError
from shipworthy.records.read import read_records
from shipworthy.serving.runtimes.load import load_patiently, load_runtime
from tests.conftest import Seen
from tests.engines import models
from tests.engines.models import SOURCE, model_data
from tests.serving.conftest import SYSTEM, WEIGHTS, Place, Running, good_request, loans_policy
from tests.serving.test_fault_matrix import Callers
from tests.serving.test_workers import metric, wait_for

REPEAT = int(os.environ.get("SHIPWORTHY_SOAK", "0"))
MEMORY = 250_000_000
TIMEOUT_S = 0.4


def python_model(source: bytes = SOURCE) -> dict[str, bytes]:
    return {"model.py": source, **{f"data.{name}": content for name, content in model_data(WEIGHTS).items()}}


def python_policy(**changes: Any) -> Policy:
    return loans_policy(**{"timeout_s": TIMEOUT_S, "model_memory_bytes": MEMORY, **changes})


def publish(place: Place, version: int = 1, source: bytes = SOURCE, **changes: Any) -> Any:
    return place.publish(version, model=python_model(source), policy=python_policy(**changes))


def model_pids(running: Running) -> list[int]:
    """The processes in which models run."""
    return [
        pid
        for pid in family(running.process.pid)
        if b"shipworthy.engines.model_child" in (words := words_of(pid)) and b"guard.py" not in words
    ]


def words_of(pid: int) -> bytes:
    """The command of a process; nothing of one that has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def answers_again(running: Running) -> bool:
    return bool(running.predict(good_request())[1]["source"] == "model")


@pytest.fixture
def python(place: Place, start: Callable[..., Running]) -> Running:
    place.deploy(publish(place))
    return start()


def test_it_answers_what_onnx_answers(place: Place, start: Callable[..., Running], python: Running) -> None:
    requests = [good_request(income=float(i), score=1 + i % 6, owner=None if i % 3 else True) for i in range(1, 300)]
    ours = python.predict(requests)[1]
    other = Place(place.root / "onnx")
    other.deploy(other.publish(1))
    place.root = other.root
    theirs = start().predict(requests)[1]
    for one, two in zip(ours, theirs, strict=True):
        assert one["source"] == two["source"] == "model"
        assert one["decision"] == two["decision"]
        assert one["probability"]["1"] == pytest.approx(two["probability"]["1"], abs=1e-6)
    assert python.predict({**good_request(), "reasons": True})[1]["reasons"]["changes"]


def test_the_workers_never_import_the_models_code(python: Running) -> None:
    (model,) = model_pids(python)
    for pid in (python.process.pid, *python.workers):
        assert pid != model
        assert "model_child" not in Path(f"/proc/{pid}/maps").read_text()
    assert Path(f"/proc/{model}/environ").read_bytes().find(b"SHIPWORTHY") == -1


FAULTS = {
    "raises": (models.RAISES, "the model failed"),
    "sleeps": (models.SLEEPS, "the model was late"),
    "native code that holds the interpreter": (models.SPINS, "the model was late"),
    "exits": (models.EXITS, "the model failed"),
    "crashes": (models.CRASHES, "the model failed"),
    "wants too much memory": (models.HOARDS, "the model failed"),
    "leaves processes behind": (models.FORKS, "the model failed"),
    "lies": (models.LIES, "the model failed"),
    "talks over": (models.TALKS_OVER, "the model failed"),
    "another shape": (models.WIDE, "the model gave no usable output"),
    "fewer rows": (models.FEWER, "the model gave no usable output"),
    "no numbers": (models.WORDS, "the model failed"),
    "NaN": (models.NAN, "the model gave no usable output"),
}


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_a_model_does_costs_its_rows_and_no_worker(
    place: Place, start: Callable[..., Running], fault: str, seen: Seen
) -> None:
    """F11, F12, F13 of Python models: labelled fallback in time, and the model answers again in the same worker."""
    place.deploy(publish(place))
    how, cause = FAULTS[fault]
    times = REPEAT or 1
    took, back = [], []
    for _ in range(times):
        running = start()
        workers = running.workers
        began = time.monotonic()
        status, answer = running.predict(good_request(income=how))
        took.append(time.monotonic() - began)
        assert (status, answer["source"]) == (200, "fallback")
        assert answer["warnings"] == [f"answered by fallback: {cause}"]
        back.append(wait_for(lambda running=running: answers_again(running), 20))  # type: ignore[misc]
        assert running.workers == workers
        assert metric(running, "worker_restarts_total") == 0
        assert metric(running, "breaker_opened_total") == 0  # one run failed; those that found it away were none
        assert len(model_pids(running)) == 1
        running.stop()
    assert max(took) < TIMEOUT_S + 1
    recorded = [record for record in read_records(place.records) if record.inputs["income"] == how]
    assert [record.source for record in recorded] == ["fallback"] * times
    seen(f"{fault}: times", times)
    seen(f"{fault}: s to the fallback, longest", round(max(took), 2))
    seen(f"{fault}: s until the model answers again, longest", round(max(back), 2))


def test_one_poison_row_that_raises_costs_its_batch_mates_nothing(python: Running) -> None:
    items = [good_request(income=models.RAISES if i == 7 else 50.0) for i in range(100)]
    sources = [answer["source"] for answer in python.predict(items)[1]]
    assert sources == ["fallback" if i == 7 else "model" for i in range(100)]


def test_a_crash_costs_the_rows_of_its_run(python: Running) -> None:
    items = [good_request(income=models.CRASHES if i == 7 else 50.0) for i in range(100)]
    warnings = [warning for answer in python.predict(items)[1] for warning in answer["warnings"]]
    assert warnings == ["answered by fallback: the model failed"] * 100
    wait_for(lambda: answers_again(python), 10)


def test_a_model_that_prints_a_lot_answers_all_the_same(python: Running) -> None:
    for _ in range(5):
        assert python.predict(good_request(income=models.CHATS))[1]["source"] == "model"
    assert b"chatter" not in python.stderr.read_bytes()


@pytest.mark.timeout(36_000)
def test_a_model_that_grows_is_succeeded_and_nobody_notices(
    place: Place, start: Callable[..., Running], seen: Seen
) -> None:
    """F15 of Python models: 20 MB a second, up to 80 % of 250 MB; the successor is warmed beside."""
    place.deploy(publish(place, timeout_s=1.0, durability="async"))  # this is not about a busy disk
    running = start()
    workers = running.workers
    callers = Callers(running, 4, pause_s=0.01)
    times, leaks = REPEAT or 1, 0
    for _ in range(times):
        (first,) = model_pids(running)
        while first in model_pids(running):
            assert running.predict(good_request(income=models.LEAKS))[0] == 200
            leaks += 1
            time.sleep(1.0 if REPEAT else 0.3)
        wait_for(lambda: len(model_pids(running)) == 1, 10)
    callers.stop()
    assert running.workers == workers
    assert (callers.refused, callers.lost, callers.statuses) == (0, 0, [])
    assert set(callers.sources) == {"model"}
    seen("successions", times)
    seen("leaks of 20 MB", leaks)
    seen("answers while they were", len(callers.acknowledged))
    seen("of them by fallback", callers.sources.count("fallback"))


def test_one_that_dies_while_nobody_asks_is_started_again_before_somebody_does(python: Running) -> None:
    (first,) = model_pids(python)
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: "another process of the model answers" in python.stderr.read_text(), 10)
    assert python.predict(good_request())[1]["source"] == "model"


def test_one_that_dies_again_and_again_is_started_with_pauses(place: Place) -> None:
    publish(place)
    runtime = load_runtime(verify_payload(max(place.root.glob("payload-*"))))
    runtime.run(np.ones((1, len(WEIGHTS)), np.float32))
    deaths, end = 0, time.monotonic() + 3
    while time.monotonic() < end:
        with pytest.raises(ModelError) as caught:
            runtime.run(np.full((1, len(WEIGHTS)), models.EXITS, np.float32))
        deaths += caught.value.fault == "ended"
        time.sleep(0.005)
    runtime.close()
    assert 3 <= deaths <= 7  # after pauses of 0, 0.1, 0.2, 0.4, 0.8, 1.6 s


def test_a_killed_worker_takes_its_models_process_along(python: Running) -> None:
    (first,) = model_pids(python)
    (worker,) = python.workers
    connection = python.connect(1)
    connection.request("POST", f"/v1/systems/{SYSTEM}/predict", json.dumps(good_request(income=models.SPINS)))
    time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises((OSError, http.client.HTTPException)):
        connection.getresponse()
    connection.close()
    wait_for(lambda: not Path(f"/proc/{first}/cmdline").exists() or not Path(f"/proc/{first}/cmdline").read_bytes())
    wait_for(lambda: len(python.workers) == 1 and answers_again(python), 10)


def test_releases_switch_between_runtimes_and_leave_no_process_behind(
    place: Place, start: Callable[..., Running]
) -> None:
    onnx, python = place.publish(1), publish(place, 2)
    place.deploy(onnx)
    running = start()
    callers = Callers(running, 4, pause_s=0.005)
    for release in (python, onnx, python, onnx):
        place.deploy(release)
        wait_for(lambda: running.predict(good_request())[1]["release"] == release.release, 10)  # noqa: B023
        time.sleep(0.3)
    callers.stop()
    assert (callers.refused, callers.lost, callers.statuses) == (0, 0, [])
    assert set(callers.sources) == {"model"}
    wait_for(lambda: model_pids(running) == [], 5)


def test_a_slow_model_is_warmed_beyond_its_deadline_and_gets_few_rows_at_a_time(
    place: Place, start: Callable[..., Running]
) -> None:
    """3 ms a row: 256 rows, which warm it, take twice as long as any row may."""
    slow = SOURCE.replace(b"        asked = set(", b"        time.sleep(0.003 * len(matrix))\n        asked = set(")
    assert slow != SOURCE
    place.deploy(publish(place, source=slow))
    running = start()
    assert {answer["source"] for answer in running.predict([good_request()] * 60)[1]} == {"model"}


def test_a_hang_behind_a_slow_run_costs_no_worker(place: Place, start: Callable[..., Running]) -> None:
    """Its rows waited, so they are late long before its process is killed: the worker is not to blame."""
    place.deploy(publish(place, timeout_s=1.4))
    running = start()
    workers = running.workers
    connection = running.connect(10)
    body = json.dumps([good_request(income=models.SLOW)] * 160)  # 0.8 s
    connection.request("POST", f"/v1/systems/{SYSTEM}/predict", body)
    time.sleep(0.1)
    began = time.monotonic()
    assert running.predict(good_request(income=models.SLEEPS))[1]["source"] == "fallback"
    assert time.monotonic() - began < 1.4 + 0.5
    connection.getresponse().read()
    connection.close()
    wait_for(lambda: answers_again(running), 10)
    assert running.workers == workers
    assert metric(running, "worker_restarts_total") == 0


def test_a_model_that_cannot_be_loaded_is_refused_and_the_last_good_state_answers(
    place: Place, start: Callable[..., Running]
) -> None:
    good, bad = place.publish(1), publish(place, 2, b"import nosuchpackage")
    place.deploy(good)
    running = start()
    place.deploy(bad)
    wait_for(lambda: running.call("GET", "/v2/health/ready")[1]["refused"] is not None, 10)
    assert running.predict(good_request())[1]["release"] == good.release
    assert "No module named 'nosuchpackage'" in running.stderr.read_text()


@pytest.mark.parametrize(
    ("files", "policy"),
    [({**python_model()}, loans_policy()), ({"model.onnx": b"x"}, python_policy())],
    ids=["Python that the policy does not declare", "ONNX that it declares to be Python"],
)
def test_a_payload_is_of_the_kind_that_its_policy_declares(
    place: Place, files: dict[str, bytes], policy: Policy
) -> None:
    place.publish(1, model=files, policy=policy)
    with pytest.raises(IntegrityError, match="not of a model of the payload's kind"):
        verify_payload(max(place.root.glob("payload-*")))


def test_a_changed_byte_of_source_or_data_is_refused_before_anything_runs(
    place: Place, start: Callable[..., Running]
) -> None:
    good, bad = place.publish(1), publish(place, 2)
    place.deploy(good)
    running = start()
    folder = place.live / "bundles" / bad.digest.removeprefix("sha256:") / "payload"
    for name in ("model.py", "data.weights.npy"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        refused = metric(running, "deployments_refused_total")
        place.deploy(bad)
        wait_for(lambda: metric(running, "deployments_refused_total") > refused, 10)  # noqa: B023
        assert name in running.stderr.read_text()
        assert model_pids(running) == []
        (folder / name).write_bytes(content)


def test_offline_a_model_that_dies_is_waited_for(place: Place) -> None:
    publish(place)
    runtime = load_patiently(verify_payload(max(place.root.glob("payload-*"))))

    rows = np.full((2, len(WEIGHTS)), 1.0, np.float32)
    first = runtime.run(rows)
    with pytest.raises(Exception, match="status 3"):
        runtime.run(np.full((2, len(WEIGHTS)), models.EXITS, np.float32))
    np.testing.assert_array_equal(runtime.run(rows), first)
