"""Several workers on one port: balanced, replaced when they fail, and as one to whoever asks."""

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shipworthy.records.read import read_records
from shipworthy.serving.caller import Meter
from shipworthy.serving.meters import MeterTable
from shipworthy.serving.tally import Tally, add, read_tally, write_tally
from tests.serving.conftest import SYSTEM, Place, Running, good_request, is_alive, loans_policy, start_server
from tests.serving.faulty_server import CRASHES, HANGS, LEAKS

FAULTY = Path(__file__).with_name("faulty_server.py")
PATH = f"/v1/systems/{SYSTEM}/predict"


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> float:
    """Seconds until the condition held."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "waited in vain"
        time.sleep(0.01)
    return time.monotonic() - started


def ask(connection: http.client.HTTPConnection, **changes: Any) -> dict[str, Any]:
    connection.request("POST", PATH, json.dumps(good_request(**changes)))
    response = connection.getresponse()
    content = response.read()
    assert response.status == 200, content
    return dict(json.loads(content))


def metric(running: Running, name: str) -> float:
    text = running.call("GET", "/metrics")[1].decode()
    return sum(float(value) for value in re.findall(rf"^shipworthy_{name}(?:\{{.*\}})? (\S+)$", text, re.M))


def is_whole(running: Running, workers: int) -> bool:
    return len(running.workers) == workers and metric(running, "workers") == workers


@pytest.fixture
def pair(place: Place, start: Callable[..., Running]) -> Running:
    """A server with two workers that both answer."""
    place.deploy(place.publish(1))
    running = start(workers=2)
    wait_for(lambda: is_whole(running, 2))
    return running


def test_connections_are_shared_out_evenly(pair: Running, place: Place) -> None:
    connections = [pair.connect() for _ in range(20)]
    for connection in connections:
        ask(connection)
    assert Counter(record.worker for record in read_records(place.records)) == {"w0": 10, "w1": 10}
    for connection in connections:
        connection.close()


def test_whoever_leaves_makes_room_for_the_next(pair: Running, place: Place) -> None:
    """Balance is by connections that are open now, not by turns."""
    kept = [pair.connect() for _ in range(6)]
    for connection in kept:
        ask(connection)
    of_first = [connection for connection, record in zip(kept, read_records(place.records), strict=True)]
    by_worker: dict[str, list[http.client.HTTPConnection]] = {}
    for connection in of_first:
        answer = ask(connection)
        found = next(r for r in read_records(place.records) if r.prediction_id == answer["prediction_id"])
        by_worker.setdefault(found.worker, []).append(connection)
    for connection in by_worker["w0"]:
        connection.close()
    time.sleep(0.2)
    late = [pair.connect() for _ in range(3)]
    answers = {ask(connection)["prediction_id"] for connection in late}
    assert {r.worker for r in read_records(place.records) if r.prediction_id in answers} == {"w0"}
    for connection in (*by_worker["w1"], *late):
        connection.close()


def test_a_killed_worker_is_replaced_and_the_other_answers_on(pair: Running) -> None:
    before = metric(pair, "answers_total")
    mine, other = pair.workers
    time.sleep(0.2)  # until the one that asked is known to have left
    connections = [pair.connect() for _ in range(2)]
    for connection in connections:
        ask(connection)
    time.sleep(1.2)  # until each has left its tally
    os.kill(mine, signal.SIGKILL)
    survivors = 0
    for connection in connections:
        try:
            ask(connection)
            survivors += 1
        except (OSError, http.client.HTTPException):
            connection.close()
    assert survivors == 1
    for _ in range(20):  # nobody who comes now notices anything
        assert pair.predict(good_request())[0] == 200
    took = wait_for(lambda: mine not in pair.workers and is_whole(pair, 2))
    assert took < 3  # goal 1 s alone on the machine: the fault matrix has the figure
    assert other in pair.workers
    assert metric(pair, 'worker_restarts_total{reason="crash"}'.partition("{")[0]) == 1
    assert metric(pair, "answers_total") == before + 23  # what the dead one had counted is not lost
    for connection in connections:
        connection.close()


def test_who_connects_while_no_worker_is_there_waits_and_is_answered(
    place: Place, start: Callable[..., Running]
) -> None:
    place.deploy(place.publish(1))
    running = start()
    os.kill(running.workers[0], signal.SIGKILL)
    answered: list[int] = []
    callers = [threading.Thread(target=lambda: answered.append(running.predict(good_request())[0])) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    assert answered == [200] * 20


def test_a_model_that_crashes_its_process_costs_its_worker_alone(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start(script=FAULTY)
    for _ in range(3):
        with pytest.raises((OSError, http.client.HTTPException)):
            running.predict(good_request(income=CRASHES))
        assert running.predict(good_request())[1]["source"] == "model"


def test_a_worker_that_gives_no_sign_of_life_is_killed_and_replaced(pair: Running) -> None:
    silent = pair.workers[0]
    os.kill(silent, signal.SIGSTOP)
    try:
        time.sleep(0.6)  # from now on nothing is handed to it
        for _ in range(20):
            assert pair.predict(good_request())[0] == 200
        wait_for(lambda: not is_alive(silent) or silent not in pair.workers)
        wait_for(lambda: is_whole(pair, 2))
        assert 'restarts_total{reason="silent"} 1' in pair.call("GET", "/metrics")[1].decode()
    finally:
        if is_alive(silent):
            os.kill(silent, signal.SIGKILL)


def test_a_worker_whose_model_hangs_is_replaced_and_answers_until_then(
    place: Place, start: Callable[..., Running]
) -> None:
    place.deploy(place.publish(1, policy=loans_policy(timeout_s=0.3)))
    running = start(script=FAULTY)
    stuck = running.workers[0]
    assert running.predict(good_request(income=HANGS))[1]["source"] == "fallback"
    answers = []

    def is_mended() -> bool:
        status, answer = running.predict(good_request())
        assert status == 200
        answers.append(answer["source"])
        return bool(answer["source"] == "model")

    wait_for(is_mended, 4)
    wait_for(lambda: not is_alive(stuck) or stuck not in running.workers, 4)
    assert set(answers) == {"fallback", "model"}
    assert 'restarts_total{reason="stuck"} 1' in running.call("GET", "/metrics")[1].decode()


def test_a_worker_that_grows_is_replaced_without_an_error(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start(script=FAULTY, worker_memory_bytes=200_000_000)
    grown = running.workers[0]
    for _ in range(40):
        assert running.predict(good_request(income=LEAKS))[0] == 200
        time.sleep(0.05)
        if grown not in running.workers:
            break
    wait_for(lambda: grown not in running.workers, 10)
    assert running.predict(good_request())[0] == 200
    assert 'restarts_total{reason="memory"} 1' in running.call("GET", "/metrics")[1].decode()


def test_every_worker_switches_to_a_new_release(pair: Running, place: Place) -> None:
    connections = [pair.connect() for _ in range(4)]
    assert {ask(connection)["release"] for connection in connections} == {"loans:1"}
    place.deploy(place.publish(2))
    wait_for(lambda: {ask(connection)["release"] for connection in connections} == {"loans:2"})
    for connection in connections:
        connection.close()


def test_metrics_are_those_of_all_workers(pair: Running) -> None:
    before = metric(pair, "answers_total")
    connections = [pair.connect() for _ in range(10)]
    for connection in connections:
        ask(connection)
    assert metric(pair, "answers_total") == before + 10
    assert metric(pair, "connections") == 11  # ours, and the one that asks
    for turn in range(20):  # whoever is asked, a count never goes back: Prometheus would take that for a new start
        ask(connections[turn % 10])
        assert metric(pair, "answers_total") == before + 11 + turn
    for connection in connections:
        connection.close()


def test_what_was_counted_adds_up(tmp_path: Path) -> None:
    one = Tally(answers={"model automatic": 2}, responses={200: 2}, latency=[1, 1], runs=2, connections=1, workers=1)
    two = Tally(answers={"fallback automatic": 1}, responses={200: 1}, latency=[0, 1], breaker_open={"a:1": True})
    both = add(add(Tally(), one), two)
    assert both.answers == {"model automatic": 2, "fallback automatic": 1}
    assert (both.responses, both.latency, both.runs, both.breaker_open) == ({200: 3}, [1, 2], 2, {"a:1": True})
    assert read_tally(tmp_path, "w0") == Tally()
    write_tally(tmp_path, "w0", both)
    assert read_tally(tmp_path, "w0") == both
    (tmp_path / "w0.tally").write_bytes(b"\xc1")
    assert read_tally(tmp_path, "w0") == Tally()


def test_a_stopped_server_lets_every_worker_drain(pair: Running, place: Place) -> None:
    workers = pair.workers
    body = json.dumps(good_request()).encode()
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection((pair.host, pair.port), timeout=10) as half:
        half.sendall(head + body[:-5])
        time.sleep(0.1)
        pair.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        half.sendall(body[-5:])  # what had begun is answered, and is the last
        answer = half.recv(65536)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"\r\nconnection: close\r\n" in answer
    assert pair.stop() == 0
    assert not any(is_alive(pid) for pid in workers)
    assert len(list(read_records(place.records))) == 1


def test_workers_end_with_a_killed_supervisor(pair: Running) -> None:
    workers = pair.workers
    pair.process.kill()
    wait_for(lambda: not any(is_alive(pid) for pid in workers))


def test_what_a_killed_server_left_is_removed_by_the_next(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start()
    shared = Path((place.records / ".server.lock").read_text())
    assert sorted(path.name for path in shared.iterdir() if path.suffix != ".tally") == ["meters"]
    running.stop(signal.SIGKILL)
    assert shared.exists()
    assert start().stop() == 0
    assert not shared.exists()


def test_a_second_server_of_the_same_records_is_refused(pair: Running, place: Place, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="another server writes records here; stop it first"):
        start_server(place.settings(), tmp_path / "second")


def test_a_new_worker_answers_from_the_last_good_state_where_newer_files_do_not_hold(
    pair: Running, place: Place
) -> None:
    (place.live / "deployment").write_bytes(b"garbage")
    lost = pair.workers[0]
    os.kill(lost, signal.SIGKILL)
    wait_for(lambda: lost not in pair.workers and is_whole(pair, 2))
    connections = [pair.connect() for _ in range(4)]
    assert {ask(connection)["release"] for connection in connections} == {"loans:1"}
    assert len({record.worker for record in read_records(place.records)}) == 2
    assert "was refused" in pair.call("GET", "/v2/health/ready")[1]["refused"]
    place.deploy(place.publish(2), generation=5)
    wait_for(lambda: {ask(connection)["release"] for connection in connections} == {"loans:2"})
    for connection in connections:
        connection.close()


def test_a_server_that_starts_anew_answers_from_the_last_good_state(
    place: Place, start: Callable[..., Running]
) -> None:
    place.deploy(place.publish(1))
    assert start().stop() == 0
    second = place.publish(2)
    place.deploy(second)
    model = place.live / "bundles" / second.digest.removeprefix("sha256:") / "payload" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    running = start()
    assert running.predict(good_request())[1]["release"] == "loans:1"
    assert "was refused" in running.call("GET", "/v2/health/ready")[1]["refused"]
    assert metric(running, "deployments_refused_total") == 1


def test_a_worker_that_cannot_start_stops_nothing(pair: Running, place: Place) -> None:
    deployment = (place.live / "deployment").read_bytes()
    (place.live / "deployment").unlink()  # nothing is deployed: no new worker has anything to answer from
    lost, kept = pair.workers
    os.kill(lost, signal.SIGKILL)
    time.sleep(1.5)
    assert kept in pair.workers
    assert pair.predict(good_request())[1]["release"] == "loans:1"
    (place.live / "deployment").write_bytes(deployment)
    wait_for(lambda: lost not in pair.workers and is_whole(pair, 2), 10)


# --- limits


def test_a_rate_is_that_of_all_workers(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    token = place.mint(principal="ann", per_second=5.0)
    running = start(workers=2, open=False)
    wait_for(lambda: is_whole(running, 2))
    header = {"authorization": f"Bearer {token}"}
    connections = [running.connect() for _ in range(4)]
    statuses: Counter[int] = Counter()
    for turn in range(40):
        connection = connections[turn % 4]
        connection.request("POST", PATH, json.dumps(good_request()), header)
        response = connection.getresponse()
        response.read()
        statuses[response.status] += 1
    assert 10 <= statuses[200] <= 16  # two seconds' worth at once, and what comes in while they are sent
    assert statuses[200] + statuses[429] == 40
    for connection in connections:
        connection.close()


def test_a_day_is_that_of_all_workers(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    token = place.mint(principal="ann", per_day=10)
    running = start(workers=2, open=False)
    wait_for(lambda: is_whole(running, 2))
    statuses = [running.predict(good_request(), {"authorization": f"Bearer {token}"})[0] for _ in range(14)]
    assert statuses == [200] * 10 + [429] * 4


def test_cells_are_found_again_and_do_not_mix(tmp_path: Path) -> None:
    one, two = MeterTable(tmp_path / "meters"), MeterTable(tmp_path / "meters")  # as two workers open it
    for number in range(300):
        assert Meter(None, 1000, time.monotonic, one.cell(f"p{number}")).take_rows(number + 1, 0.0) == 0.0
    for number in range(300):
        assert Meter(None, 1000, time.monotonic, two.cell(f"p{number}")).rows == number + 1
    one.cell("p0").change(lambda use: setattr(use, "rows", 7) or 0.0)
    assert Meter(None, 1000, time.monotonic, two.cell("p0")).rows == 7
