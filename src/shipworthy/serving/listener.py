"""Where connections come in: a port, and a certificate that may be replaced while it listens."""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

from shipworthy.kernel.errors import ConflictError, ShipworthyError
from shipworthy.security.tls import Tls, check_tls, expiry, files_state, server_context

BACKLOG = 1024

_log = logging.getLogger("shipworthy.serving")


class Listener:
    """A listening port.

    Args:
        loop: the running event loop.
        make_protocol: answers one connection.
        tls: the certificate's files; None: connections are plain.
        now: wall clock, Unix seconds.
        handshake_s: for a caller to agree on TLS.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        make_protocol: Callable[[], asyncio.Protocol],
        tls: Tls | None,
        now: Callable[[], float],
        handshake_s: float,
    ) -> None:
        self._loop = loop
        self._make_protocol = make_protocol
        self._tls = tls
        self._now = now
        self._handshake_s = handshake_s
        self._servers: list[asyncio.Server] = []
        self._state = None if tls is None else files_state(tls)
        self._complaint = ""
        self.expires: float | None = None  # of the certificate, Unix seconds

    async def open(self, host: str, port: int) -> int:
        """Listen; the port, which is a free one for 0.

        Raises:
            UsageError, AccessError, NotFoundError: the certificate or its key is not right.
            ConflictError: the port cannot be had.
        """
        options = self._read()
        try:
            server = await self._loop.create_server(self._make_protocol, host, port, backlog=BACKLOG, **options)
        except OSError as error:
            raise ConflictError(
                f"Port {port} of {host} cannot be listened on ({error.strerror}); choose another port or address."
            ) from None
        self._servers = [server]
        return int(server.sockets[0].getsockname()[1])

    async def renew(self) -> None:
        """Take up a certificate whose files were replaced; one that is not right is said once, and the old one stays.

        The sockets are kept, so that no caller finds the port closed; connections go on under the old certificate.
        """
        if self._tls is None or self._state == (state := files_state(self._tls)):
            return
        try:
            options = self._read()
            fresh = [await self._twin(one, options) for server in self._servers for one in server.sockets]
        except (ShipworthyError, OSError) as error:  # also while only one of the files was replaced: looked at again
            self._complain(f"the new certificate is not taken, the old one stands: {error}")
            return
        for server in self._servers:
            server.close()
        self._servers, self._state, self._complaint = fresh, state, ""
        _log.info("a new certificate answers")

    def close(self) -> None:
        """Take no more connections."""
        for server in self._servers:
            server.close()

    async def _twin(self, listening: socket.socket, options: dict[str, Any]) -> asyncio.Server:
        """Another listener on the same socket: both take from one queue, so that none waits in vain."""
        twin = socket.socket(fileno=os.dup(listening.fileno()))
        return await self._loop.create_server(self._make_protocol, sock=twin, backlog=BACKLOG, **options)

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
