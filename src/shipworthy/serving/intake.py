"""Where a worker takes its connections from: the supervisor's line, under a certificate that may be replaced."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from shipworthy.kernel.errors import ShipworthyError
from shipworthy.security.binding import Tls
from shipworthy.security.tls import check_tls, expiry, files_state, server_context
from shipworthy.serving.channel import take

MAX_AT_ONCE = 64  # connections taken in one turn of the loop

_log = logging.getLogger("shipworthy.serving")


class Intake:
    """Connections as they come.

    Args:
        loop: the running event loop.
        line: to the supervisor.
        make_protocol: answers one connection.
        tls: the certificate's files; None: connections are plain.
        now: wall clock, Unix seconds.
        handshake_s: for a caller to agree on TLS.
        taken: called after connections were taken.
        ended: called when the supervisor is gone.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        line: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: Tls | None,
        now: Callable[[], float],
        handshake_s: float,
        taken: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._line = line
        self._make_protocol = make_protocol
        self._tls = tls
        self._now = now
        self._handshake_s = handshake_s
        self._taken = taken
        self._ended = ended
        self._adopting: set[asyncio.Task[None]] = set()
        self._state = None if tls is None else files_state(tls)
        self._complaint = ""
        self._options: dict[str, Any] = {}
        self.expires: float | None = None  # of the certificate, Unix seconds
        self.taken = 0  # connections so far

    def open(self) -> None:
        """Begin to take connections.

        Raises:
            UsageError, AccessError, NotFoundError: the certificate or its key is not right.
        """
        self._options = self._read()
        self._loop.add_reader(self._line, self._take)

    @property
    def adopting(self) -> int:
        """Connections that do not speak yet."""
        return len(self._adopting)

    def renew(self) -> None:
        """Take up a certificate whose files were replaced; one that is not right is said once, and the old one stays.

        Connections that are open go on under the old certificate.
        """
        if self._tls is None or self._state == (state := files_state(self._tls)):
            return
        try:
            self._options = self._read()
        except (ShipworthyError, OSError) as error:  # also while only one of the files was replaced: looked at again
            self._complain(f"the new certificate is not taken, the old one stands: {error}")
            return
        self._state, self._complaint = state, ""
        _log.info("a new certificate answers")

    def close(self) -> None:
        """Take no more connections."""
        self._loop.remove_reader(self._line)

    def _take(self) -> None:
        for _ in range(MAX_AT_ONCE):
            try:
                connection = take(self._line)
            except BlockingIOError:
                break
            except OSError:
                connection = None
            if connection is None:
                self.close()
                self._ended()
                return
            self.taken += 1
            task = self._loop.create_task(self._adopt(connection))
            self._adopting.add(task)
            task.add_done_callback(self._adopting.discard)
        self._taken()

    async def _adopt(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with suppress(OSError):  # it may be gone already
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, connection, **self._options)
        except (TimeoutError, OSError):  # a handshake that failed is the caller's affair
            connection.close()

    def _read(self) -> dict[str, Any]:
        """How the loop is to speak TLS."""
        if self._tls is None:
            return {}
        warning = check_tls(self._tls, self._now())
        if warning:
            _log.warning("%s", warning)
        context = server_context(self._tls)
        self.expires = expiry(self._tls)
        return {"ssl": context, "ssl_handshake_timeout": self._handshake_s, "ssl_shutdown_timeout": self._handshake_s}

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            self._complaint = text
            _log.error("%s", text)
