"""Metrics and health of a process that answers no requests by HTTP: on loopback, for whoever scrapes this machine."""

import asyncio
import time
from collections.abc import Callable
from functools import partial

import msgspec

from shipworthy.kernel.errors import ConflictError
from shipworthy.serving.counters import MEDIA
from shipworthy.serving.gate import Gate
from shipworthy.serving.heads import Heads
from shipworthy.serving.protocol import Connection, Exchange, Handler
from shipworthy.serving.routes import Route, find_route

HOST = "127.0.0.1"
MAX_CONNECTIONS = 64
MAX_HELD_BYTES = 2**20
RECEIVE_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 75.0  # of a kept connection

Health = Callable[[], tuple[bool, object]]


class MetricsPort:
    """Answers `/metrics`, `/v2/health/live` and `/v2/health/ready`.

    Args:
        render: the metrics.
        health: whether it is ready, and the document that says how it stands.
    """

    def __init__(self, render: Callable[[], bytes], health: Health) -> None:
        self._gate = Gate(time.time, time.monotonic, is_open=True)
        self._connections: set[Connection] = set()
        self._held = 0
        self.heads = Heads()
        self._table = {
            b"/metrics": {b"GET": Route(partial(_metrics, render), "public")},
            b"/v2/health/live": {b"GET": Route(_live, "public")},
            b"/v2/health/ready": {b"GET": Route(partial(_ready, health), "public")},
        }

    async def listen(self, port: int) -> str:
        """Begin to answer; the address.

        Raises:
            ConflictError: the port is taken.
        """
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(partial(Connection, self, time.monotonic), HOST, port)
        except OSError as error:
            cause = error.strerror or "in use"
            raise ConflictError(f"Port {port} of {HOST} cannot be listened on ({cause}); choose another.") from None
        return f"http://{HOST}:{server.sockets[0].getsockname()[1]}"

    def sweep(self) -> None:
        """Close connections that send too slowly or not at all."""
        clock = time.monotonic()
        for connection in tuple(self._connections):
            if connection.is_receiving and clock - connection.since > RECEIVE_TIMEOUT_S:
                connection.time_out()
            elif connection.is_idle and clock - connection.since > IDLE_TIMEOUT_S:
                connection.close_when_idle()

    def admit(self, exchange: Exchange) -> tuple[Handler, int]:
        """See `Service`."""
        return find_route(self._table, exchange, self._gate)

    def opened(self, connection: Connection) -> bool:
        """See `Service`."""
        self._connections.add(connection)
        return len(self._connections) <= MAX_CONNECTIONS

    def closed(self, connection: Connection) -> None:
        """See `Service`."""
        self._connections.discard(connection)

    def responded(self, status: int) -> None:
        """See `Service`."""

    def hold(self, size_bytes: int) -> bool:
        """See `Service`."""
        if size_bytes > 0 and self._held + size_bytes > MAX_HELD_BYTES:
            return False
        self._held += size_bytes
        return True


def _metrics(render: Callable[[], bytes], exchange: Exchange, body: bytes) -> None:  # noqa: ARG001
    exchange.respond(200, render(), MEDIA)


def _live(exchange: Exchange, body: bytes) -> None:  # noqa: ARG001
    exchange.respond(200, b'{"live":true}')


def _ready(health: Health, exchange: Exchange, body: bytes) -> None:  # noqa: ARG001
    is_ready, document = health()
    exchange.respond(200 if is_ready else 503, msgspec.json.encode(document))
