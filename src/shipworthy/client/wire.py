r"""HTTP/1.1 as a caller needs it: bytes in, values out. No socket and no clock, so that both clients read the same way.

>>> AnswerReader().feed(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").content
b'{}'
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from shipworthy.kernel.errors import UnavailableError

MAX_HEAD_BYTES = 64 * 1024  # of one answer, or of the lines between its chunks; our server sends under 1 KiB
MAX_CONTENT_BYTES = 64 * 2**20  # 10,000 predictions with reasons and 20 classes have some 15 MiB
MAX_DIGITS = 12  # of a length; more is a mistake or an attack

Steps = Generator[None, None, "Answer"]


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    content: bytes
    keeps_open: bool  # whether the connection can carry another request


class AnswerReader:
    """Puts one answer together from the pieces in which it comes.

    Args:
        max_content_bytes: a longer answer is refused, before it is held.
    """

    def __init__(self, max_content_bytes: int = MAX_CONTENT_BYTES) -> None:
        self._limit = max_content_bytes
        self._buffer = bytearray()
        self._has_ended = False
        self._began = False
        self._steps = self._read()

    def feed(self, data: bytes) -> Answer | None:
        """Take the next piece; the answer once it is whole.

        Args:
            data: what came; empty when the connection ended.

        Raises:
            ConnectionError: the connection ended before the answer was whole.
            UnavailableError: what came is not HTTP, or too much.
        """
        self._buffer += data
        self._began = self._began or bool(data)
        self._has_ended = not data
        try:
            next(self._steps)
        except StopIteration as done:
            answer: Answer = done.value
            return answer
        return None

    def _read(self) -> Steps:
        status, version, headers = yield from self._head()
        while status < 200:  # 100 Continue and its like announce the answer
            status, version, headers = yield from self._head()
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        closes = version != "HTTP/1.1" or "close" in headers.get("connection", "").lower()
        content = bytearray()
        if status in (204, 304):
            pass
        elif coding is not None:
            if coding.lower() != "chunked" or length is not None:
                raise _broken(f"it is sent as {coding!r} with a length of {length}")
            yield from self._chunks(content)
        elif length is not None:
            yield from self._take(_number(length, 10), content)
        else:
            closes = True
            yield from self._rest(content)
        return Answer(status, headers, bytes(content), not closes and not self._buffer)

    def _head(self) -> Generator[None, None, tuple[int, str, dict[str, str]]]:
        version, _, rest = (yield from self._line(MAX_HEAD_BYTES)).partition(" ")
        code = rest[:3]
        if version not in ("HTTP/1.1", "HTTP/1.0") or not code.isdecimal() or rest[3:4].strip() or int(code) < 100:
            raise _broken("it does not begin as one of HTTP/1.1")
        headers: dict[str, str] = {}
        left = MAX_HEAD_BYTES
        while line := (yield from self._line(left)):
            left -= len(line) + 2
            name, colon, value = line.partition(":")
            name, value = name.lower(), value.strip()
            if not colon or not name or name != name.strip():
                raise _broken("a line of its header has no name")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return int(code), version, headers

    def _line(self, limit: int) -> Generator[None, None, str]:
        while (end := self._buffer.find(b"\n")) < 0:
            if len(self._buffer) > limit:
                break
            yield from self._wait()
        if not 0 <= end <= limit:
            raise _broken(f"its header has more than {MAX_HEAD_BYTES} bytes")
        line = self._buffer[:end].decode("latin-1").removesuffix("\r")
        del self._buffer[: end + 1]
        return line

    def _chunks(self, content: bytearray) -> Generator[None, None, None]:
        while size := _number((yield from self._line(MAX_HEAD_BYTES)).partition(";")[0].strip(), 16):
            yield from self._take(size, content)
            if (yield from self._line(MAX_HEAD_BYTES)):
                raise _broken("a chunk is longer than it says")
        left = MAX_HEAD_BYTES
        while line := (yield from self._line(left)):  # trailers
            left -= len(line) + 2

    def _take(self, size_bytes: int, content: bytearray) -> Generator[None, None, None]:
        self._check(len(content) + size_bytes)
        while len(self._buffer) < size_bytes:
            yield from self._wait()
        content += self._buffer[:size_bytes]
        del self._buffer[:size_bytes]

    def _rest(self, content: bytearray) -> Generator[None, None, None]:
        while not self._has_ended:
            self._check(len(self._buffer))
            yield
        content += self._buffer
        self._buffer.clear()

    def _wait(self) -> Generator[None, None, None]:
        if self._has_ended:
            where = "in the middle of the answer" if self._began else "before an answer"
            raise ConnectionResetError(f"the connection ended {where}")
        yield

    def _check(self, size_bytes: int) -> None:
        if size_bytes > self._limit:
            raise _broken(f"it has more than {self._limit} bytes")


def write_request(method: str, path: str, headers: Mapping[str, str], content: bytes) -> bytes:
    r"""One request as it goes over the wire.

    >>> write_request("GET", "/v2", {"host": "a"}, b"")
    b'GET /v2 HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n'
    """
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"content-length: {len(content)}", "", ""]).encode("ascii") + content


def _number(text: str, base: int) -> int:
    digits = "0123456789abcdef"[:base]
    if not 0 < len(text) <= MAX_DIGITS or text.lower().strip(digits):
        raise _broken(f"its length is {text[:60]!r}")
    return int(text, base)


def _broken(what: str) -> UnavailableError:
    return UnavailableError(f"the answer cannot be read: {what}", may_have_answered=True)
