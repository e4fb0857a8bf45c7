"""Heads of requests that were read before. The same bytes are the same head, so they are parsed once.

A client sends one head over and over; parsing it costs a sixth of a prediction. Only whole, plain heads are kept: of a
message with a length that came in one piece and left its connection open. Who may ask is asked anew each time.
"""

import msgspec

MAX_HEADS = 512
MAX_HEAD_BYTES = 2048  # with MAX_HEADS a megabyte at most
END = b"\r\n\r\n"
_END_BYTES = len(END)
_ONCE = (b"expect", b"traceparent", b"tracestate")  # of a head that asks for more than its body, or never comes again


class Head(msgspec.Struct, frozen=True, gc=False):
    """What the parser made of the bytes."""

    method: bytes
    path: bytes
    headers: dict[bytes, bytes]
    size_bytes: int
    body_bytes: int


class Heads:
    """The heads that a worker knows. Bounded: when it is full it begins anew."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, data: bytes) -> Head | None:
        """The head of `data`, where that is one whole request with a head that is known."""
        head = self._known.get(data[: data.find(END) + _END_BYTES])
        return None if head is None or len(data) != head.size_bytes + head.body_bytes else head

    def forget(self) -> None:
        """Know none: heads hold tokens, and some of those may have been revoked."""
        self._known.clear()

    def learn(self, data: bytes, method: bytes, path: bytes, headers: dict[bytes, bytes]) -> None:
        """Keep the head of a request.

        Args:
            data: that was found to be one whole request, with a body of the length that it says.
            method: of it.
            path: without a query.
            headers: that are looked at.
        """
        body_bytes = int(headers.get(b"content-length", b"0"))
        end = len(data) - body_bytes
        if end > MAX_HEAD_BYTES or data.find(END) + _END_BYTES != end or any(name in headers for name in _ONCE):
            return
        if len(self._known) >= MAX_HEADS:
            self._known.clear()
        self._known[data[:end]] = Head(method, path, headers, end, body_bytes)
