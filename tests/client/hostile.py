"""A server on raw sockets that does to each request what a test wants."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Step = Callable[[socket.socket], bool]
"""What is done to one request, once it has come whole; whether the connection stays."""


@dataclass(frozen=True)
class Seen:
    """One request that came."""

    connection: int  # from 1, in the order of their coming
    line: str
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


class Hostile:
    """Takes connections one beside the other; steps are used up in the order of the requests."""

    def __init__(self, port: int = 0) -> None:
        self._listener = socket.create_server(("127.0.0.1", port), backlog=500)
        self.port = self._listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.steps: list[Step] = []
        self.otherwise: Step | None = None
        self.seen: list[Seen] = []
        self.connections = 0
        self.most_open = 0
        self.released = threading.Event()  # lets silent steps end
        self.impatient: Step | None = None  # done as soon as a header has come
        self.idle = threading.Semaphore(0)  # one for each step that is done
        self.gone = threading.Semaphore(0)  # one for each connection that has ended
        self._asked: dict[socket.socket, Seen] = {}
        self._wires: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        self.released.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for wire in self._wires:
                with contextlib.suppress(OSError):
                    wire.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                wire, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, wire, self.connections)

    def _serve(self, wire: socket.socket, number: int) -> None:
        with self._lock:
            self._wires.add(wire)
            self.most_open = max(self.most_open, len(self._wires))
        with wire, contextlib.suppress(OSError):
            if self.impatient is not None:
                self.impatient(wire)
                return
            stays = True
            while stays and (request := _receive(wire, number)) is not None:
                with self._lock:
                    self.seen.append(request)
                    self._asked[wire] = request
                    step = self.steps.pop(0) if self.steps else self.otherwise
                assert step is not None, "no step is left for this request"
                stays = step(wire)
                if not stays:
                    wire.close()
                self.idle.release()
        with self._lock:
            self._wires.discard(wire)
        self.gone.release()

    def asked(self, wire: socket.socket) -> Seen:
        """What was asked last on this connection."""
        return self._asked[wire]

    # --- steps

    def silent(self, wire: socket.socket) -> bool:
        """Never answer."""
        self.released.wait(20)
        return False

    def drip(self, wire: socket.socket) -> bool:
        """An answer, byte by byte: each is in time, the whole is not."""
        for byte in whole(200, {"prediction": "1"}):
            wire.sendall(bytes([byte]))
            if self.released.wait(0.02):
                return False
        return True


def late(first: bytes, second: bytes) -> Step:
    """An answer, and more when it has been read."""

    def step(wire: socket.socket) -> bool:
        wire.sendall(first)
        time.sleep(0.1)
        wire.sendall(second)
        return True

    return step


def whole(status: int, document: Any, **headers: Any) -> bytes:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + content


def say(status: int, document: Any, **headers: Any) -> Step:
    """Answer, and go on."""
    return raw(whole(status, document, **headers), stays=True)


def raw(data: bytes, *, stays: bool = False) -> Step:
    """Send these bytes; then close, unless it stays."""

    def step(wire: socket.socket) -> bool:
        wire.sendall(data)
        return stays

    return step


def drop(wire: socket.socket) -> bool:
    """Close without an answer."""
    return False


def giant(wire: socket.socket) -> bool:
    """An answer without an end."""
    wire.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        wire.sendall(b"100000\r\n" + b" " * 2**20 + b"\r\n")


def _receive(wire: socket.socket, number: int) -> Seen | None:
    held = b""
    while b"\r\n\r\n" not in held:
        if not (data := wire.recv(65536)):
            return None
        held += data
    head, _, content = held.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = dict(one.split(": ", 1) for one in lines)
    while len(content) < int(headers["content-length"]):
        if not (data := wire.recv(2**20)):
            return None
        content += data
    return Seen(number, line, headers, content)
