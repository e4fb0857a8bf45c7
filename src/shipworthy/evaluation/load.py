"""Open-loop HTTP load: requests leave when they are due, whether or not earlier ones were answered.

Latency counts from the *intended* send time, so a server that stalls is charged for everyone who would have
waited (no coordinated omission). One thread and `select`, whose timeouts are in microseconds: an event loop's
timers would add up to a millisecond of their own.
"""

import math
import select
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shipworthy.kernel.errors import UnavailableError

CONNECTIONS = 64  # kept open; at most so many requests are in flight before they queue on a connection
READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """What came of the requests, in the order of their sending.

    Attributes:
        latencies_ms: shape (n,), from the intended send time to the whole answer; infinite without one, or one but 200.
        replied_ms: shape (n,), to the whole answer of whatever status; infinite without one.
        statuses: shape (n,), HTTP status, 0 without an answer.
        bodies: of the answers, empty without one.
        rps: requests per second really sent.
        seconds: from the first intended send to the last real one, with the usual gap after it.
    """

    latencies_ms: NDArray[np.float64]
    replied_ms: NDArray[np.float64]
    statuses: NDArray[np.int64]
    bodies: tuple[bytes, ...]
    rps: float
    seconds: float


@dataclass(slots=True)
class _Connection:
    """A keep-alive connection: what is to be written, what was read, which requests wait in order."""

    wire: socket.socket
    unsent: bytearray = field(default_factory=bytearray)
    unread: bytearray = field(default_factory=bytearray)
    waiting: deque[int] = field(default_factory=deque)
    broken: bool = False


class _Generator:
    """One run of the load: connections, the schedule, and what came back."""

    def __init__(
        self, address: tuple[str, int], requests: Sequence[bytes], due: NDArray[np.float64], timeout_s: float
    ) -> None:
        self.requests = requests
        self.due = due.tolist()  # seconds after the start
        self.timeout_s = timeout_s
        self.replied = np.full(len(requests), math.inf)
        self.latencies = np.full(len(requests), math.inf)
        self.statuses = np.zeros(len(requests), dtype=np.int64)
        self.bodies = [b""] * len(requests)
        self.connections = [_connect(address) for _ in range(min(CONNECTIONS, len(requests)))]
        self.by_wire = {connection.wire: connection for connection in self.connections}
        self.start = time.perf_counter() + 0.01
        self.last_sent = self.start

    def run(self) -> Load:
        """Send all, wait for the answers, close."""
        try:
            for number in range(len(self.requests)):
                self._exchange_until(self._due(number))
                self._send(number)
            deadline = time.perf_counter() + self.timeout_s
            while any(c.waiting and not c.broken for c in self.connections) and time.perf_counter() < deadline:
                self._exchange(deadline - time.perf_counter())
        finally:
            for connection in self.connections:
                connection.wire.close()
        gap = self.due[-1] / max(len(self.due) - 1, 1)
        seconds = max(self.last_sent - self.start + gap, 1e-9)
        return Load(
            self.latencies, self.replied, self.statuses, tuple(self.bodies), len(self.requests) / seconds, seconds
        )

    def _due(self, number: int) -> float:
        return float(self.start + self.due[number])

    def _exchange_until(self, due: float) -> None:
        self._exchange(0)
        while (left := due - time.perf_counter()) > 0:
            self._exchange(left)

    def _send(self, number: int) -> None:
        alive = [connection for connection in self.connections if not connection.broken]
        if not alive:
            return
        connection = min(alive, key=lambda one: len(one.waiting))
        connection.waiting.append(number)
        connection.unsent += self.requests[number]
        self._write(connection)
        self.last_sent = time.perf_counter()

    def _exchange(self, timeout: float) -> None:
        alive = [connection for connection in self.connections if not connection.broken]
        writers = [connection.wire for connection in alive if connection.unsent]
        readable, writable, _ = select.select([one.wire for one in alive], writers, [], max(timeout, 0))
        for wire in writable:
            self._write(self.by_wire[wire])
        for wire in readable:
            self._read(self.by_wire[wire])

    def _write(self, connection: _Connection) -> None:
        try:
            sent = connection.wire.send(connection.unsent)
        except BlockingIOError:
            return
        except OSError:
            connection.broken = True
            return
        del connection.unsent[:sent]

    def _read(self, connection: _Connection) -> None:
        try:
            received = connection.wire.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        now = time.perf_counter()
        if not received:
            connection.broken = True
            return
        connection.unread += received
        while connection.waiting and (answer := take_answer(connection.unread)) is not None:
            number = connection.waiting.popleft()
            self.statuses[number], self.bodies[number] = answer
            self.replied[number] = (now - self._due(number)) * 1000
            if answer[0] == 200:
                self.latencies[number] = self.replied[number]


def drive(
    address: tuple[str, int],
    requests: Sequence[bytes],
    *,
    rate: float,
    timeout_s: float,
    chance: np.random.Generator | None = None,
) -> Load:
    """Send `requests` at `rate` per second over keep-alive connections.

    Args:
        address: host and port of the server.
        requests: whole HTTP/1.1 requests, at least one, sent in order.
        rate: requests per second, > 0.
        timeout_s: how long to wait for answers after the last request.
        chance: gives the gaps between requests, exponential, as of callers who know nothing of each other; None: even.

    Raises:
        UnavailableError: nothing listens there.
    """
    gaps = np.full(len(requests), 1 / rate) if chance is None else chance.exponential(1 / rate, len(requests))
    return _Generator(address, requests, np.cumsum(gaps) - gaps[0], timeout_s).run()


def take_answer(buffer: bytearray) -> tuple[int, bytes] | None:
    r"""Status and body of the first whole HTTP/1.1 answer in `buffer`, which loses it; None while it is not whole.

    An answer without `Content-Length` is taken as having no body.

    >>> buffer = bytearray(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhiHTTP/1.1")
    >>> take_answer(buffer), bytes(buffer)
    ((200, b'hi'), b'HTTP/1.1')
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = bytes(buffer[:end]).lower().split(b"\r\n")
    lengths = [line.partition(b":")[2] for line in head if line.startswith(b"content-length:")]
    length = int(lengths[0]) if lengths else 0
    if len(buffer) < end + 4 + length:
        return None
    body = bytes(buffer[end + 4 : end + 4 + length])
    del buffer[: end + 4 + length]
    return int(head[0].split(b" ")[1]), body


def post(path: str, body: bytes, headers: dict[str, str]) -> bytes:
    """A whole HTTP/1.1 request that posts JSON."""
    fixed = {"Host": "localhost", "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in {**fixed, **headers}.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _connect(address: tuple[str, int]) -> _Connection:
    try:
        wire = socket.create_connection(address, timeout=5)
    except OSError as error:
        raise UnavailableError(f"no server answers at {address[0]}:{address[1]} ({error.strerror})") from None
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    wire.setblocking(False)
    return _Connection(wire)
