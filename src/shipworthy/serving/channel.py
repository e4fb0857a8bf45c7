"""The line between the supervisor and one worker: connections go down it, signs of life come up."""

import os
import socket
import struct
from contextlib import suppress

import msgspec

STUCK_S = 0.5  # a run of the model that is late for longer is not waited for
NAME_TAKEN = 75  # exit code of a worker whose records another process writes (EX_TEMPFAIL of sysexits.h)

_SIGN = struct.Struct("<IQd")
_ONE = b"c"  # a message of one byte carries one connection


class Sign(msgspec.Struct, frozen=True):
    """What a worker says of itself, several times a second and whenever it takes connections."""

    connections: int  # open now
    taken: int  # since it started: the supervisor need not keep those any longer
    late_s: float  # how long the model's run is late; 0 if it is not


def hand(line: socket.socket, connection: socket.socket) -> bool:
    """Send a connection down; False if the worker does not take any now or is gone."""
    try:
        socket.send_fds(line, [_ONE], [connection.fileno()])
    except OSError:  # full, or the other end is closed: whoever asks tries another worker
        return False
    return True


def take(line: socket.socket) -> socket.socket | None:
    """The next connection; None if the supervisor is gone.

    Raises:
        BlockingIOError: there is none now.
    """
    message, descriptors, _, _ = socket.recv_fds(line, 1, 1)
    if not message or not descriptors:
        return None
    os.set_inheritable(descriptors[0], False)
    return socket.socket(fileno=descriptors[0])


def tell(line: socket.socket, sign: Sign) -> None:
    """Send a sign up; one that finds no room is dropped, as the next says the same."""
    with suppress(OSError):
        line.send(_SIGN.pack(sign.connections, sign.taken, sign.late_s))


class Signs:
    """Signs out of the bytes that come up."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, content: bytes) -> Sign | None:
        """The latest sign in what has come so far; None if none is whole yet."""
        content = self._rest + content
        whole = len(content) // _SIGN.size * _SIGN.size
        self._rest = content[whole:]
        return Sign(*_SIGN.unpack(content[whole - _SIGN.size : whole])) if whole else None
