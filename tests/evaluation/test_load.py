"""The load is open: a server that stalls is charged for everyone who would have waited."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from shipworthy.evaluation.load import drive, post, take_answer
from shipworthy.kernel.errors import UnavailableError

Answer = Callable[[int], tuple[int, bytes] | None]


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # all connections of the load at once


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, int]]:
    """A server that answers the n-th request with `answer(n)`; None closes the connection."""
    seen = iter(range(10**9))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            given = answer(next(seen))
            if given is None:
                self.close_connection = True
                return
            self.send_response(given[0])
            self.send_header("Content-Length", str(len(given[1])))
            self.end_headers()
            self.wfile.write(given[1])

        def log_message(self, format: str, *args: object) -> None: ...

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield "127.0.0.1", server.server_address[1]
        server.shutdown()
        thread.join()


def requests_of(count: int) -> list[bytes]:
    return [post("/predict", b'{"inputs":{}}', {"X-Number": str(number)}) for number in range(count)]


def test_every_request_is_answered_in_its_place_at_the_declared_rate() -> None:
    with serving(lambda _: (200, b"{}")) as address:
        load = drive(address, requests_of(200), rate=400, timeout_s=5)
    assert (load.statuses == 200).all()
    assert np.isfinite(load.latencies_ms).all()
    assert set(load.bodies) == {b"{}"}
    assert load.rps == pytest.approx(400, rel=0.1)
    assert load.seconds == pytest.approx(0.5, rel=0.1)


def test_a_stall_is_charged_to_all_who_would_have_waited() -> None:
    lock = threading.Lock()

    def answer(number: int) -> tuple[int, bytes]:
        with lock:  # one at a time, as a stopped process would
            time.sleep(0.3 if number == 50 else 0)
        return 200, b"{}"

    with serving(answer) as address:
        load = drive(address, requests_of(200), rate=400, timeout_s=5)
    assert load.rps == pytest.approx(400, rel=0.15)
    assert (load.latencies_ms > 100).sum() > 40  # 0.2 s of the stall at 400 requests/s were due meanwhile
    assert load.latencies_ms.max() > 250


def test_answers_that_are_no_success_and_lost_connections_count_as_endless() -> None:
    def answer(number: int) -> tuple[int, bytes] | None:
        return None if number % 20 == 0 else (503, b"busy") if number % 20 == 1 else (200, b"{}")

    with serving(answer) as address:
        load = drive(address, requests_of(100), rate=500, timeout_s=1)
    assert np.isinf(load.latencies_ms[load.statuses != 200]).all()
    assert (load.statuses == 503).sum() >= 1
    assert (load.statuses == 0).sum() >= 5
    assert np.isfinite(load.latencies_ms[load.statuses == 200]).all()


def test_a_server_that_never_answers_ends_with_the_timeout() -> None:
    released = threading.Event()

    def answer(number: int) -> tuple[int, bytes]:
        released.wait(10)
        return 200, b"{}"

    with serving(answer) as address:
        started = time.perf_counter()
        load = drive(address, requests_of(10), rate=1000, timeout_s=0.2)
        took = time.perf_counter() - started
        released.set()
    assert np.isinf(load.latencies_ms).all()
    assert took < 2


def test_nothing_that_listens_is_said() -> None:
    with serving(lambda _: (200, b"{}")) as address:
        pass
    with pytest.raises(UnavailableError, match="no server answers at 127"):
        drive(address, requests_of(1), rate=10, timeout_s=1)


def test_answers_are_taken_whole_and_one_by_one() -> None:
    buffer = bytearray()
    found = []
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 422 No\r\nA: b\r\n\r\n":
        buffer.append(byte)
        if (answer := take_answer(buffer)) is not None:
            found.append(answer)
    assert found == [(200, b"abc"), (422, b"")]
