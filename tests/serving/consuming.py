"""A consumer in its own process, the broker's queues, and what came back."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pika

from shipworthy.serving.messages.settings import ConsumerSettings
from tests.brokers import Broker
from tests.serving.conftest import Place

TOP = Path(__file__).parents[2]
MODULE = "shipworthy.serving.messages.process"

Sent = tuple[Any, dict[str, Any]]  # a body, and properties of its message


class Consumed:
    """A consumer process under way, or ended."""

    def __init__(self, process: "subprocess.Popen[str]", stderr: Path) -> None:
        self.process = process
        self.stderr = stderr
        self.ready: dict[str, Any] = {}

    def wait_ready(self) -> "Consumed":
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.stderr.read_text()
        self.ready = json.loads(line)
        return self

    def stop(self, number: int = signal.SIGTERM) -> int:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        code = self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


def consumer_settings(place: Place, broker: Broker, **changes: Any) -> ConsumerSettings:
    fields: dict[str, Any] = {
        "live": str(place.live),
        "records": str(place.records),
        "keys": str(place.keys),
        "url": "${BROKER_URL}",
        "queue": "requests",
        "answers": "answers",
        "create": True,
    }
    return ConsumerSettings(**{**fields, **changes})


def start_consumer(
    settings: ConsumerSettings, url: str, stderr: Path, module: str = MODULE, **environ: str
) -> Consumed:
    command = [sys.executable, "-m", module, "--settings", msgspec.json.encode(settings).decode()]
    with open(stderr, "ab") as log:
        process = subprocess.Popen(
            command,
            cwd=TOP,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"BROKER_URL": url} | environ,
        )
    return Consumed(process, stderr)


def message(document: Any, **properties: Any) -> Sent:
    """A request as a sender sends it."""
    return document, {"delivery_mode": 2, **properties}


@contextlib.contextmanager
def channel_of(url: str) -> Iterator[Any]:
    """A channel of a client that is not the product's."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        yield connection.channel()
    finally:
        if connection.is_open:
            connection.close()


def send(url: str, messages: Iterable[Sent], queue: str = "requests") -> None:
    """Publish in one transaction: they are on the broker's disk when this returns."""
    with channel_of(url) as channel:
        channel.tx_select()
        for body, properties in messages:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            channel.basic_publish("", queue, content, pika.BasicProperties(**properties))
        channel.tx_commit()


class Got(msgspec.Struct):
    """A message that was taken from a queue."""

    body: bytes
    properties: Any

    @property
    def document(self) -> Any:
        return json.loads(self.body)


def receive(url: str, count: int, queue: str = "answers", timeout_s: float = 30) -> list[Got]:
    """Take messages until there are `count`, or the time is over."""
    found: list[Got] = []
    end = time.monotonic() + timeout_s
    with channel_of(url) as channel:
        channel.basic_qos(prefetch_count=100)
        while len(found) < count and time.monotonic() < end:
            for method, properties, body in channel.consume(queue, inactivity_timeout=min(0.2, timeout_s)):
                if method is None:
                    break
                found.append(Got(body, properties))
                channel.basic_ack(method.delivery_tag)
                if len(found) == count:
                    break
            channel.cancel()
    return found


def depth(url: str, queue: str) -> int:
    """Messages of a queue that are ready to be given out."""
    with channel_of(url) as channel:
        return int(channel.queue_declare(queue, passive=True).method.message_count)


def declare(url: str, *queues: str) -> None:
    """Make durable queues of the classic kind."""
    with channel_of(url) as channel:
        for queue in queues:
            channel.queue_declare(queue, durable=True)


def delete(url: str, *queues: str) -> None:
    with channel_of(url) as channel:
        for queue in queues:
            channel.queue_delete(queue)


def by_id(answers: Sequence[Got]) -> dict[str, list[Any]]:
    """What was answered to each id, as often as it was published."""
    found = defaultdict(list)
    for got in answers:
        found[got.properties.headers["id"]].append(got.document)
    return found


class Cable:
    """A way to the broker that can be cut: everything that goes through it ends at once.

    Args:
        port: of the broker.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self.made = 0  # connections so far
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, broker: Broker) -> str:
        return broker.url.replace(f":{self._target}", f":{self._server.getsockname()[1]}")

    def cut(self) -> None:
        ends, self._ends = self._ends, []
        for end in ends:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def close(self) -> None:
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                here, _ = self._server.accept()
                there = socket.create_connection(("127.0.0.1", self._target))
                self.made += 1
                self._ends += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=_carry, args=pair, daemon=True).start()


def _carry(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
    for end in (source, target):  # whichever ended: no end is left to itself
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
