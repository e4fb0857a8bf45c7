"""Clients that mean no good: bounded, answered by type, and nobody else suffers."""

import contextlib
import json
import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.conftest import Seen
from tests.serving.conftest import SYSTEM, Place, Running, good_request

PATH = f"/v1/systems/{SYSTEM}/predict"
LEAKS = ("/tmp", "/work", "site-packages", ".py", "Traceback", "shipworthy.serving", "msgspec", "onnx", "object at 0x")
HOSTILE = int(os.environ.get("SHIPWORTHY_SOAK", "0")) or 1_000
GOOD = json.dumps(good_request()).encode()


def send(server: Running, data: bytes, seconds: float = 3.0, *, half_close: bool = True) -> bytes:
    """All that the server says to these bytes until it closes or is silent."""
    with socket.create_connection((server.host, server.port), timeout=seconds) as client:
        with contextlib.suppress(OSError):
            client.sendall(data)
            if half_close:
                client.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            while chunk := client.recv(65536):
                received += chunk
        return received


def post(body: bytes, *headers: str, method: str = "POST", path: str = PATH) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


@pytest.fixture(autouse=True)
def others_are_served(server: Running) -> None:
    yield  # type: ignore[misc]
    assert server.predict(good_request())[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\x00" * 100,
        b'{"inputs":' * 50_000,
        b"[" * 500_000,
        b'{"inputs": {"income": NaN}}',
        b'{"inputs": {"income": ' + b"9" * 100_000 + b"}}",
        b'{"inputs": {"income": 1e400}}',
        b'{"inputs": {"' + b"k" * 100_000 + b'": 1}}',
        b'{"inputs": {' + b",".join(b'"k%d": 1' % i for i in range(10_000)) + b"}}",
        b'"\xff\xff"',
        b'[{"inputs": {}}',
        b'[1, null, [], {}, "x"]',
    ],
)
def test_bodies_that_are_no_request_are_refused_and_leak_nothing(server: Running, body: bytes) -> None:
    answer = send(server, post(body))
    assert status(answer) in (200, 400, 413, 422)
    assert not any(leak.encode() in answer for leak in LEAKS)
    if status(answer) == 200:  # a list: each item is a problem
        assert all(item["status"] == 422 for item in json.loads(answer.partition(b"\r\n\r\n")[2]))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", 400),  # a TLS hello
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (b"GET /\r\n\r\n", 400),
        (b"\r\n\r\n\r\nPOTATO / HTTP/1.1\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", 400),
        (post(b"{}", "content-length: 3"), 400),
        (post(b"{}", "transfer-encoding: chunked"), 400),
        (f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n".encode(), 400),
        (f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999999\r\n\r\n".encode(), 413),
        (f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20000000\r\n\r\n".encode(), 413),
        (f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".encode(), 400),
        (post(b"{}", "expect: magic"), 417),
        (post(b"{}", "x: " + "y" * 40_000), 431),
        (post(b"{}", *(f"x{i}: {'y' * 100}" for i in range(400))), 431),
        (b"GET /" + b"a" * 50_000 + b" HTTP/1.1\r\n\r\n", 431),
        (b"GET /v2 HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", 400),
        (b"CONNECT example.com:443 HTTP/1.1\r\n\r\n", 400),
        (post(GOOD, method="PUT"), 405),
        (post(GOOD, "content-type: application/x-python-pickle"), 415),
        (post(GOOD, "content-encoding: gzip"), 415),
        (post(GOOD, "content-encoding: identity"), 200),
        (post(GOOD, "inference-header-content-length: 10"), 400),
        (post(GOOD, path="/v1/systems/..%2f..%2fetc/predict"), 404),
    ],
)
def test_http_that_is_broken_or_too_large_is_refused(server: Running, data: bytes, expected: int) -> None:
    answer = send(server, data)
    assert status(answer) == expected
    assert not any(leak.encode() in answer for leak in LEAKS)


def test_a_chunked_body_is_read_and_capped(server: Running) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(GOOD[i : i + 7]), GOOD[i : i + 7]) for i in range(0, len(GOOD), 7))
    assert status(send(server, head + chunks + b"0\r\n\r\n")) == 200
    endless = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    assert status(send(server, head + endless * 17)) == 413


def test_a_single_request_has_at_most_a_megabyte(server: Running) -> None:
    assert status(send(server, post(GOOD + b" " * 2**20))) == 413


def test_an_expectation_is_met(server: Running) -> None:
    with socket.create_connection((server.host, server.port), timeout=3) as client:
        client.sendall(post(GOOD, "expect: 100-continue")[: -len(GOOD)])
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(GOOD)
        assert status(client.recv(65536)) == 200


def test_pipelined_requests_are_answered_in_order(server: Running) -> None:
    requests, expected = b"", []
    for i in range(300):
        kind = i % 3
        if kind == 0:
            requests += post(json.dumps(good_request(income=100 + i)).encode())
            expected.append(200)
        elif kind == 1:
            requests += b"GET /v2/health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"
            expected.append(200)
        else:
            requests += post(b"{}")
            expected.append(422)
    answer = send(server, requests, 10)
    parts = answer.split(b"HTTP/1.1 ")[1:]
    assert [int(part[:3]) for part in parts] == expected
    confidences = [json.loads(part.partition(b"\r\n\r\n")[2])["probability"]["1"] for part in parts[::3]]
    assert confidences == sorted(confidences)
    assert len(set(confidences)) == 100


def test_a_request_may_come_byte_by_byte(server: Running) -> None:
    with socket.create_connection((server.host, server.port), timeout=5) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in post(GOOD):
            client.sendall(bytes([byte]))
        assert status(client.recv(65536)) == 200


def test_http_1_0_and_close_end_the_connection(server: Running) -> None:
    assert b"connection: close" in send(server, post(GOOD, "connection: close"), half_close=False)
    old = post(GOOD).replace(b"HTTP/1.1", b"HTTP/1.0")
    assert status(send(server, old, half_close=False)) == 200


def test_slow_senders_are_cut_off_and_hold_nobody_up(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start(receive_timeout_s=1.0)
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((running.host, running.port), timeout=15)) for _ in range(50)
        ]
        for client in clients:
            client.sendall(post(GOOD)[:-20])
        started = time.monotonic()
        assert running.predict(good_request())[0] == 200
        assert time.monotonic() - started < 1
        for client in clients[:25]:  # a byte now and then does not help
            client.sendall(b" ")
        assert {status(client.recv(65536)) for client in clients} == {408}


def test_memory_stays_bounded_under_large_bodies(server: Running) -> None:
    before = server.resident_mb
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=5)) for _ in range(20)
        ]
        for client in clients:
            client.settimeout(0.5)
            with contextlib.suppress(OSError):
                client.sendall(post(b"[" + b" " * 15_000_000)[:14_000_000])
        assert server.resident_mb - before < 64
        assert server.predict(good_request())[0] == 200


def mutated(chance: random.Random, content: bytes) -> bytes:
    """With one to six bytes of it changed."""
    changed = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


@pytest.mark.timeout(3_000)
def test_mutated_requests_break_nothing_and_leave_memory_flat(server: Running, seen: Seen) -> None:
    chance = random.Random(7)
    whole = post(GOOD)
    statuses: Counter[int] = Counter()
    before = 0.0
    rounds = HOSTILE // 50
    for number in range(rounds):
        if number == min(rounds // 2, 200):  # pools and caches are filled by then
            before = server.resident_mb
        answers = [send(server, mutated(chance, whole), 2) for _ in range(25)]  # a broken head ends its connection
        inside = send(server, b"".join(post(mutated(chance, GOOD)) for _ in range(25)), 5)
        answers += [b"HTTP/1.1 " + answer for answer in inside.split(b"HTTP/1.1 ")[1:]]
        assert len(answers) == 50  # a broken body gets its answer, and the next request its own
        for answer in answers:
            assert not any(leak.encode() in answer for leak in LEAKS)
        statuses.update(map(status, answers))
    assert server.process.poll() is None
    assert not [code for code in statuses if code >= 500]
    assert {200, 400, 404, 422} <= set(statuses)
    grown = server.resident_mb - before
    assert grown < 24
    seen("requests", statuses.total())
    seen("MB grown", round(grown, 1))
    assert "Traceback" not in server.stderr.read_text()


def test_more_than_can_wait_is_refused_at_once_and_room_comes_back(server: Running) -> None:
    batch = post(json.dumps([good_request()] * 10_000).encode())
    bad = post(json.dumps([{}] * 10_000).encode())
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=20)) for _ in range(4)
        ]
        for client in clients:
            client.sendall(batch[:-1])  # all but the last byte: whole at nearly the same moment
        for client in clients:
            client.sendall(batch[-1:])
        answers = [client.recv(100) for client in clients]
    assert sorted({status(answer) for answer in answers}) == [200, 503]
    for request in (bad, batch):
        assert status(send(server, request + request, 10)) == 200
