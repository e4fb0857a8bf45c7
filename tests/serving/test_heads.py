"""Heads that are known: a connection answers as if each were parsed anew, and what is kept is bounded."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.serving.heads import MAX_HEAD_BYTES, MAX_HEADS, Heads
from shipworthy.serving.protocol import Connection, Exchange, Handler

BODY = b'{"inputs": 1}'
LIMIT = 64


class Forgetful(Heads):
    """Knows no head: everything is parsed."""

    def learn(self, *args: Any) -> None:
        pass


class Echo:
    """A service and a transport that note what comes and what is written."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.seen: list[tuple[Any, ...]] = []
        self.written = b""
        self.events: list[str] = []
        self.held = 0

    def admit(self, exchange: Exchange) -> tuple[Handler, int]:
        return self._answer, LIMIT if exchange.path == b"/short" else 4096

    def _answer(self, exchange: Exchange, body: bytes) -> None:
        self.seen.append((exchange.method, exchange.path, dict(exchange.headers), exchange.keep_alive, body))
        exchange.respond(200, b'{"n":%d}' % len(self.seen))

    def opened(self, connection: Connection) -> bool:
        return True

    def closed(self, connection: Connection) -> None:
        pass

    def responded(self, status: int) -> None:
        self.events.append(str(status))

    def hold(self, size_bytes: int) -> bool:
        self.held += size_bytes
        return True

    def get_extra_info(self, name: str) -> None:
        return None

    def write(self, content: bytes) -> None:
        self.written += content

    def close(self) -> None:
        self.events.append("close")

    def abort(self) -> None:
        self.events.append("abort")

    def pause_reading(self) -> None:
        self.events.append("pause")

    def resume_reading(self) -> None:
        self.events.append("resume")

    def is_closing(self) -> bool:
        return "close" in self.events

    def connect(self) -> Connection:
        connection = Connection(self, lambda: 1.0)
        connection.connection_made(self)  # type: ignore[arg-type]
        return connection


def request(method: bytes = b"POST", path: bytes = b"/predict", body: bytes = BODY, *lines: bytes) -> bytes:
    head = b"\r\n".join((method + b" " + path + b" HTTP/1.1", b"Host: here", *lines, b"Content-Length: %d" % len(body)))
    return head + b"\r\n\r\n" + body


MESSAGES = (
    request(),
    request(body=b'{"inputs": 22}'),
    request(body=b""),
    request(path=b"/predict?a=1"),
    request(path=b"/short"),
    request(path=b"/short", body=b"x" * (LIMIT + 1)),
    request(b"POST", b"/predict", BODY, b"Authorization: Bearer one"),
    request(b"POST", b"/predict", BODY, b"Authorization: Bearer two"),
    request(b"POST", b"/predict", BODY, b"Connection: close"),
    request(b"POST", b"/predict", BODY, b"Expect: 100-continue"),
    request(b"POST", b"/predict", BODY, b"traceparent: 00-1-2-01"),
    request(b"POST", b"/predict", BODY, b"X-Long: " + b"y" * MAX_HEAD_BYTES),
    request(b"POST", b"/predict", b"\r\n\r\n{}"),
    b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n",
    b"\r\n" + request(),
    request().replace(b"HTTP/1.1", b"HTTP/1.0"),
    request().replace(b"Content-Length: 13", b"Content-Length: 0013"),
    b"POST /predict HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n" + BODY + b"\r\n0\r\n\r\n",
    b"POST /predict HTTP/1.1\nHost: here\nContent-Length: 13\n\n" + BODY,
    b"nonsense\r\n\r\n",
)


@given(
    st.lists(st.tuples(st.sampled_from(range(len(MESSAGES))), st.floats(0, 1), st.booleans()), max_size=12),
    st.booleans(),
)
def test_a_connection_answers_as_if_every_head_were_parsed(
    steps: list[tuple[int, float, bool]], says_last: bool
) -> None:
    """Requests whole, in two pieces and run together; each once more, so that its head is known by then."""
    fast, slow = Echo(Heads()), Echo(Forgetful())
    one, other = fast.connect(), slow.connect()
    held = b""
    for at, cut, is_joined in [step for step in steps for _ in range(2)]:
        message = held + MESSAGES[at]
        if is_joined and not held:
            held = message
            continue
        held = b""
        place = int(len(message) * cut)
        for piece in (message[:place], message[place:]):
            if piece:
                one.data_received(piece)
                other.data_received(piece)
    if says_last:
        one.answer_last()
        other.answer_last()
        one.data_received(MESSAGES[0])
        other.data_received(MESSAGES[0])
    assert (fast.seen, fast.written, fast.events, fast.held) == (slow.seen, slow.written, slow.events, slow.held)
    assert (one.is_idle, one.is_receiving) == (other.is_idle, other.is_receiving)


@pytest.mark.parametrize("at", [0, 1, 2, 3, 4, 6, 13])
def test_a_head_is_known_the_second_time_on_any_connection(at: int) -> None:
    heads = Heads()
    assert heads.find(MESSAGES[at]) is None
    Echo(heads).connect().data_received(MESSAGES[at])
    found = heads.find(MESSAGES[at])
    assert found is not None
    assert found.size_bytes + found.body_bytes == len(MESSAGES[at])


@pytest.mark.parametrize("at", [8, 9, 10, 11, 15, 17, 19])
def test_a_head_that_asks_for_more_or_will_not_come_again_is_not_kept(at: int) -> None:
    heads = Heads()
    Echo(heads).connect().data_received(MESSAGES[at])
    assert heads.find(MESSAGES[at]) is None


def test_what_is_not_one_whole_request_is_parsed() -> None:
    heads = Heads()
    Echo(heads).connect().data_received(request())
    for data in (request()[:-1], request() + b"x", request() * 2, b"x" + request(), b"", b"\r\n\r\n"):
        assert heads.find(data) is None


def test_a_body_that_looks_like_a_request_is_a_body() -> None:
    """Nobody smuggles a request in another one's body, however the bytes are cut."""
    inner = request()
    outer = request(path=b"/outer", body=inner)
    echo = Echo(Heads())
    connection = echo.connect()
    connection.data_received(inner)
    for piece in (outer[: -len(inner)], inner):
        connection.data_received(piece)
    assert [(path, body) for _, path, _, _, body in echo.seen] == [(b"/predict", BODY), (b"/outer", inner)]


def test_a_limit_that_has_shrunk_holds_for_a_head_that_is_known() -> None:
    class Shrinking(Echo):
        limit = 4096

        def admit(self, exchange: Exchange) -> tuple[Handler, int]:
            return super().admit(exchange)[0], self.limit

    echo = Shrinking(Heads())
    connection = echo.connect()
    connection.data_received(request())
    echo.limit = len(BODY) - 1
    connection.data_received(request())
    assert len(echo.seen) == 1
    assert echo.events == ["200", "413", "close"]
    assert b"The body has more than 12 bytes." in echo.written


def test_the_heads_that_are_kept_are_bounded() -> None:
    heads = Heads()
    connection = Echo(heads).connect()
    for number in range(3 * MAX_HEADS):
        connection.data_received(request(path=b"/%d" % number))
        assert len(heads) <= MAX_HEADS
    assert heads.find(request(path=b"/%d" % (3 * MAX_HEADS - 1))) is not None


def test_what_was_known_is_forgotten_and_learnt_anew() -> None:
    heads = Heads()
    connection = Echo(heads).connect()
    connection.data_received(request())
    heads.forget()
    assert len(heads) == 0
    assert heads.find(request()) is None
    connection.data_received(request())
    assert heads.find(request()) is not None
