"""What passes between us and a model in a process of its own: heads of fixed size, bodies of a size known before.

Nothing is pickled and nothing is parsed but numbers: rows go as raw float32, answers come as raw float64.
"""

import socket
import struct
import time

FILE = "model.py"  # the source among the files
PLAN = struct.Struct("<QQ")  # bytes of the plan (JSON), bytes of the files that follow it
ASK = struct.Struct("<QII")  # number of the run, rows, columns; the rows follow
TOLD = struct.Struct("<QBIII")  # number of the run, kind, rows, width, bytes that follow
READY, ANSWERED, RAISED, UNUSABLE = range(4)  # kinds; what follows is a text, but for answers
MAX_TEXT_BYTES = 4000


def receive(channel: socket.socket, size: int, deadline: float | None = None) -> bytearray:
    """Exactly `size` bytes.

    Args:
        channel: a stream.
        size: how many.
        deadline: monotonic seconds; None: however long it takes.

    Raises:
        TimeoutError: they did not come by then.
        ConnectionError: the other end is closed.
    """
    content = bytearray(size)
    view, filled = memoryview(content), 0
    while filled < size:
        if deadline is not None:
            channel.settimeout(_left(deadline))
        got = channel.recv_into(view[filled:])
        if not got:
            raise ConnectionResetError("the other end is closed")
        filled += got
    return content


def send(channel: socket.socket, parts: list[bytes | memoryview], deadline: float | None = None) -> None:
    """All of `parts`, one after the other.

    Raises:
        TimeoutError: the other end did not take them by the deadline.
        ConnectionError: the other end is closed.
    """
    for part in parts:
        if deadline is not None:
            channel.settimeout(_left(deadline))
        channel.sendall(part)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left
