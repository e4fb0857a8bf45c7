"""Connections kept open between calls."""

import select
import socket
import threading
from collections import deque
from typing import Generic, Protocol, TypeVar

MAX_IDLE_S = 30.0  # below what servers (ours: 75 s) and what lies between keep an idle connection


class Kept(Protocol):
    """What a pool needs of a connection."""

    def is_open(self) -> bool:
        """Whether the other side has neither closed it nor sent what nobody asked for."""

    def close(self) -> None:
        """Close it."""


ConnectionT = TypeVar("ConnectionT", bound=Kept)


class Pool(Generic[ConnectionT]):
    """Connections that are open and idle. May be used from several threads.

    How many there are is bounded by whoever takes them: none is made while one is idle.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: deque[tuple[ConnectionT, float]] = deque()
        self._era = 0

    @property
    def era(self) -> int:
        """Changes when the pool is emptied: what was taken before is not kept after."""
        return self._era

    def take(self, clock: float) -> ConnectionT | None:
        """The one used last that is still open; None if there is none.

        Args:
            clock: monotonic seconds.
        """
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, since = self._idle.pop()
            if clock - since < MAX_IDLE_S and connection.is_open():
                return connection
            connection.close()

    def keep(self, connection: ConnectionT, clock: float, era: int) -> None:
        """Keep a connection that another request may use.

        Args:
            connection: idle, and in order.
            clock: monotonic seconds.
            era: the pool's when it was taken or made.
        """
        with self._lock:
            if era == self._era:
                self._idle.append((connection, clock))
                return
        connection.close()

    def empty(self) -> list[ConnectionT]:
        """Close all; those that are in use are closed when they come back."""
        with self._lock:
            self._era += 1
            idle = [connection for connection, _ in self._idle]
            self._idle.clear()
        for connection in idle:
            connection.close()
        return idle


def is_quiet(wire: socket.socket) -> bool:
    """Whether nothing can be read of an idle socket: what can is its end, or an answer that nobody asked for."""
    poll = select.poll()
    poll.register(wire, select.POLLIN)
    return not poll.poll(0)
