"""HTTP/1.1 on one socket: keep-alive, pipelined requests answered in order, and hostile clients bounded.

One `asyncio.Protocol` with httptools' parser: no task and no dictionary of scope for a request. What a client may
make us hold is limited before it is held: header bytes, body bytes, open requests, seconds.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

import httptools
import msgspec

from shipworthy.serving.caller import Caller
from shipworthy.serving.heads import Head, Heads
from shipworthy.serving.problem import MEDIA, REASONS, Problem, make_problem

MAX_HEADER_BYTES = 32 * 1024
MAX_OPEN_EXCHANGES = 128  # pipelined on one connection before reading pauses
JSON = b"application/json"
_KEPT_HEADERS = frozenset(
    (
        b"authorization",
        b"content-encoding",
        b"content-length",
        b"content-type",
        b"expect",
        b"host",
        b"inference-header-content-length",
        b"origin",
        b"traceparent",
        b"tracestate",
    )
)
_JOINED = (b"traceparent", b"tracestate")  # sent in parts, they are one list; of a traceparent that is none

_SPELLINGS = {spelling: name for name in _KEPT_HEADERS for spelling in (name, name.title())}  # others are lowered
_VERSIONS = ("1.1", "1.0")
_EXTRA = {401: b'www-authenticate: Bearer realm="shipworthy"\r\n', 503: b"retry-after: 1\r\n"}

_LINES = (
    b"content-length: %d\r\n"
    b"x-content-type-options: nosniff\r\ncache-control: no-store\r\n"  # answers are data, for their caller alone
)
_RESPONSE = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n" + _LINES + b"%b%b\r\n%b"
_USUAL = b"HTTP/1.1 200 OK\r\ncontent-type: " + JSON + b"\r\n" + _LINES + b"\r\n%b"

_encode = msgspec.json.Encoder().encode


class Span(Protocol):
    """What becomes of a request, told to whoever collects traces."""

    def note(self, answer: object) -> None:
        """What a single row was answered."""

    def end(self, attribute: str, code: int, *, is_error: bool) -> None:
        """It was answered with this code, which belongs under `attribute`."""


class Exchange(msgspec.Struct, eq=False):
    """One request and its answer's place in the order of the connection."""

    connection: "Connection"
    arrived: float  # by the connection's clock
    method: bytes = b""
    path: bytes = b""
    headers: dict[bytes, bytes] = {}  # msgspec copies it; of a head that is known, those of all its requests
    keep_alive: bool = True
    caller: Caller | None = None  # once the gate has let it through
    payload: bytes | None = None
    span: Span | None = None  # of a caller's trace that is recorded

    @property
    def address(self) -> str:
        """Whence it came."""
        return self.connection.address

    def respond(self, status: int, body: bytes, media: bytes = JSON, extra: bytes = b"") -> None:
        """Answer, once; it is written when all before it are.

        Args:
            status: HTTP status.
            body: the content.
            media: its media type.
            extra: further header lines, each with its line end.
        """
        if self.payload is not None:
            return
        if self.span is not None:
            self.span.end("http.response.status_code", status, is_error=status >= 500)
        if status == 200 and self.keep_alive and media is JSON and not extra:
            self.payload = _USUAL % (len(body), body)
            self.connection.write_answered(status)
            return
        end = b"" if self.keep_alive else b"connection: close\r\n"
        self.payload = _RESPONSE % (
            status,
            REASONS[status].encode(),
            media,
            len(body),
            extra,
            end,
            body,
        )
        self.connection.write_answered(status)

    def refuse(self, problem: Problem, extra: bytes = b"") -> None:
        """Answer with a problem."""
        extra += _EXTRA.get(problem.status, b"")
        self.respond(problem.status, _encode(problem), MEDIA, extra)


class Handler(Protocol):
    """What answers a whole request."""

    def __call__(self, exchange: Exchange, body: bytes) -> None:
        """Answer now or later, once."""


class Service(Protocol):
    """What a connection needs of the server."""

    @property
    def heads(self) -> Heads:
        """Heads that were read before, on any connection."""

    def admit(self, exchange: Exchange) -> tuple[Handler, int]:
        """What answers or refuses a request whose header has come, and the most bytes that its body may have."""

    def opened(self, connection: "Connection") -> bool:
        """Note a connection; False closes it at once."""

    def closed(self, connection: "Connection") -> None:
        """Forget a connection."""

    def responded(self, status: int) -> None:
        """Count a response."""

    def hold(self, size_bytes: int) -> bool:
        """Account for body bytes held (negative: let go); False if there is no room."""


class Connection(asyncio.Protocol):
    """One client's socket.

    Args:
        service: the server behind it.
        clock: the loop's.
    """

    def __init__(self, service: Service, clock: Callable[[], float]) -> None:
        self._service = service
        self._heads = service.heads
        self._clock = clock
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._open: deque[Exchange] = deque()
        self._exchange: Exchange | None = None
        self._handler: Handler | None = None
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._limit = 0
        self._header_bytes = 0
        self._in_header = False
        self._began = 0  # messages
        self._deaf = False  # nothing more is read
        self._is_last = False  # the request that has begun is the last one
        self._blocked = False  # the client does not read
        self._whole: Exchange | None = None  # the request that the parser has just seen end
        self._is_tls = False
        self._crowded = False  # too many requests are open
        self.since = clock()  # last time that a message began or ended

    @property
    def is_idle(self) -> bool:
        """Whether no request is open, begun or half read."""
        return not self._open and self._exchange is None

    @property
    def address(self) -> str:
        """Whence it came, as far as the socket knows: of a proxy in front, the proxy's."""
        peer = None if self._transport is None else self._transport.get_extra_info("peername")
        return str(peer[0]) if peer else ""

    @property
    def is_receiving(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._exchange is not None

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self._transport = transport  # type: ignore[assignment]
        self._is_tls = transport.get_extra_info("sslcontext") is not None
        if not self._service.opened(self):
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """A client went."""
        self._drop_body()
        self._transport = None
        self._open.clear()
        self._service.closed(self)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._deaf:
            return
        is_between = self._exchange is None
        if is_between and (head := self._heads.find(data)) is not None:
            self._take_known(head, data[head.size_bytes :])
            return
        began = self._began
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            return  # refused when its header was whole
        except httptools.HttpParserError:
            self._refuse(make_problem(400, "The request is not HTTP/1.1."))
            return
        if self._in_header and began == self._began:  # the parser shows a header only when it is whole
            self._count_header(len(data))
        whole, self._whole = self._whole, None
        if is_between and whole is not None and began + 1 == self._began:
            self._heads.learn(data, whole.method, whole.path, whole.headers)
        self._look_for_room()

    def eof_received(self) -> bool:
        """The client sends no more; answers under way are still written."""
        self._deaf = True
        return bool(self._open) and not self._is_tls  # TLS has no half-closed connections

    def pause_writing(self) -> None:
        """The client does not read: neither do we."""
        self._blocked = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._blocked = False
        if self._transport is not None and not self._crowded and not self._transport.is_closing():
            self._transport.resume_reading()

    # --- httptools

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._deaf:
            return
        self._in_header = True
        self._began += 1
        self._header_bytes = 0
        self.since = self._clock()
        self._exchange = Exchange(self, self.since)

    def on_url(self, url: bytes) -> None:
        """Part of the target."""
        if self._exchange is not None:
            self._exchange.path += url
            self._header_bytes += len(url)

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """One header."""
        exchange = self._exchange
        if exchange is None:
            return
        value = value or b""
        self._header_bytes += len(name) + len(value)
        kept = _SPELLINGS.get(name) or name.lower()
        if kept not in _KEPT_HEADERS:
            return
        if kept in _JOINED and kept in exchange.headers:
            exchange.headers[kept] += b"," + value
        elif exchange.headers.setdefault(kept, value) != value:
            self._refuse(make_problem(400, f"The header {kept.decode()} is sent twice."))

    def on_headers_complete(self) -> None:
        """The header is whole: decide before the body comes."""
        exchange = self._exchange
        self._in_header = False
        self._count_header(0)
        if exchange is None or self._deaf:
            return
        if self._parser.should_upgrade() or self._parser.get_http_version() not in _VERSIONS:
            self._refuse(make_problem(400, "Only plain HTTP/1.1 is spoken here, without upgrades."))
            return
        exchange.method = self._parser.get_method()
        exchange.keep_alive = self._parser.should_keep_alive() and not self._is_last
        exchange.path = exchange.path.partition(b"?")[0]
        self._handler, self._limit = self._service.admit(exchange)
        length = exchange.headers.get(b"content-length", b"0")
        if len(length) > 12 or int(length) > self._limit:
            self._refuse(make_problem(413, f"The body has more than {self._limit} bytes."))
            return
        if b"expect" in exchange.headers:
            self._meet_expectation(exchange)

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        if self._exchange is None or self._deaf:
            return
        self._body_bytes += len(body)
        if self._body_bytes > self._limit:
            self._body_bytes -= len(body)
            self._refuse(make_problem(413, f"The body has more than {self._limit} bytes."))
            return
        if not self._service.hold(len(body)):
            self._body_bytes -= len(body)
            self._refuse(make_problem(503, "Too much is being received; try again later."))
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        exchange, handler = self._exchange, self._handler
        self._exchange = None
        if exchange is None or handler is None or self._deaf:
            return
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._drop_body()
        self.since = exchange.arrived = self._clock()
        if exchange.keep_alive:
            self._whole = exchange
        self._begin(exchange, handler, body)

    # --- ours

    def _take_known(self, head: Head, body: bytes) -> None:
        """A whole request whose head needs no parsing: what the parser's calls would have done."""
        self._began += 1
        self.since = clock = self._clock()
        exchange = Exchange(self, clock, head.method, head.path, head.headers, not self._is_last)
        self._exchange = exchange
        handler, limit = self._service.admit(exchange)
        if head.body_bytes > limit:
            self._refuse(make_problem(413, f"The body has more than {limit} bytes."))
            return
        self._exchange = None
        self._begin(exchange, handler, body)
        self._look_for_room()

    def _begin(self, exchange: Exchange, handler: Handler, body: bytes) -> None:
        self._open.append(exchange)
        if not exchange.keep_alive:
            self._deaf = True
        handler(exchange, body)

    def _look_for_room(self) -> None:
        if len(self._open) > MAX_OPEN_EXCHANGES and self._transport is not None:
            self._crowded = True
            self._transport.pause_reading()

    def write_answered(self, status: int) -> None:
        """Write the answers that are due, in order."""
        self._service.responded(status)
        waiting = self._open
        if not waiting or waiting[0].payload is None or self._transport is None:
            return
        first = waiting.popleft()
        payload, keep = first.payload or b"", first.keep_alive
        if waiting and waiting[0].payload is not None:
            parts = [payload]
            while waiting and waiting[0].payload is not None:
                exchange = waiting.popleft()
                parts.append(exchange.payload or b"")
                keep = exchange.keep_alive
            payload = b"".join(parts)
        self._transport.write(payload)
        self.since = self._clock()
        if not keep or (self._deaf and not waiting):
            self._transport.close()
        elif self._crowded and len(waiting) <= MAX_OPEN_EXCHANGES // 2:
            self._crowded = False
            if not self._blocked:
                self._transport.resume_reading()

    def time_out(self) -> None:
        """A message has taken too long to come."""
        self._refuse(make_problem(408, "The request did not come in time."))

    def answer_last(self) -> None:
        """Close after the next answer, and say so in it."""
        self._is_last = True
        if self._exchange is not None:
            self._exchange.keep_alive = False
        elif self._open:
            self._deaf = True
            self._open[-1].keep_alive = False

    def close_when_idle(self) -> None:
        """Close after what is open or half read is answered."""
        self.answer_last()
        if self.is_idle and self._transport is not None:
            self._deaf = True
            self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._deaf = True
        if self._transport is not None:
            self._transport.abort()

    def _refuse(self, problem: Problem) -> None:
        """Answer with a problem after those before it, and close: what follows cannot be trusted."""
        if self._deaf:
            return  # refused already
        exchange = self._exchange or Exchange(self, self._clock())
        self._exchange = None
        self._deaf = True
        self._drop_body()
        exchange.keep_alive = False
        self._open.append(exchange)
        exchange.refuse(problem)

    def _count_header(self, size_bytes: int) -> None:
        self._header_bytes += size_bytes
        if self._header_bytes > MAX_HEADER_BYTES and not self._deaf:
            self._refuse(make_problem(431, f"The header has more than {MAX_HEADER_BYTES} bytes."))

    def _meet_expectation(self, exchange: Exchange) -> None:
        if exchange.headers[b"expect"].lower() != b"100-continue":
            self._refuse(make_problem(417, "The only expectation that is met is 100-continue."))
        elif not self._open and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _drop_body(self) -> None:
        if self._body:
            self._service.hold(-self._body_bytes)
            self._body = []
        self._body_bytes = 0
