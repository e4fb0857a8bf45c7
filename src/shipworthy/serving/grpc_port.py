"""The gRPC port of a worker: its limits, its certificate, and its end. Needs `grpcio`.

All workers of a server listen on it together; the kernel gives each a share of the connections.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from shipworthy.kernel.errors import ShipworthyError, UsageError
from shipworthy.security.binding import Tls
from shipworthy.security.tls import check_tls, files_state
from shipworthy.serving.inference_grpc import InferenceService
from shipworthy.serving.plain import MAX_BATCH_BYTES
from shipworthy.serving.protocol import MAX_HEADER_BYTES, MAX_OPEN_EXCHANGES
from shipworthy.serving.settings import ServerSettings
from shipworthy.serving.worker import IDLE_TIMEOUT_S, MAX_CONNECTIONS, Worker

MAX_CALLS = 2048  # open at once, whosever they are; those beyond are answered RESOURCE_EXHAUSTED
IDENTITY_ALONE = 1  # of the compressions, as bits: a message of bytes cannot become gigabytes

_log = logging.getLogger("shipworthy.serving")


def make_server(worker: Worker, settings: ServerSettings) -> aio.Server:
    """A server that listens once it is started.

    Args:
        worker: answers.
        settings: with a port for gRPC.

    Raises:
        UsageError, AccessError, NotFoundError: the certificate is not right, or the port cannot be had.
    """
    server = aio.server(options=_options(settings), maximum_concurrent_rpcs=MAX_CALLS)
    server.add_generic_rpc_handlers((InferenceService(worker, settings.receive_timeout_s).handler(),))
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address, tls = f"{host}:{settings.grpc_port}", settings.binding.tls
    try:
        if tls is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, Certificate(tls, time.time).credentials())
    except RuntimeError:
        raise UsageError(f"gRPC cannot listen on {address}; choose another --grpc-port.") from None
    return server


def _options(settings: ServerSettings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),  # the supervisor has made sure that no other server has the port
        ("grpc.max_receive_message_length", MAX_BATCH_BYTES),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", MAX_OPEN_EXCHANGES),
        ("grpc.max_metadata_size", MAX_HEADER_BYTES),
        ("grpc.absolute_max_metadata_size", MAX_HEADER_BYTES),
        ("grpc.compression_enabled_algorithms_bitset", IDENTITY_ALONE),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
        ("grpc.max_connection_idle_ms", int(IDLE_TIMEOUT_S * 1000)),
        ("grpc.server_handshake_timeout_ms", int(settings.receive_timeout_s * 1000)),
    ]


class Certificate:
    """A certificate whose files may be replaced: looked at with every handshake.

    Args:
        tls: its files.
        now: wall clock, Unix seconds.
    """

    def __init__(self, tls: Tls, now: Callable[[], float]) -> None:
        self._tls = tls
        self._now = now
        self._state = files_state(tls)
        self._complaint = ""

    def credentials(self) -> Any:
        """What a port is opened with.

        Raises:
            UsageError, AccessError, NotFoundError: the files are not right.
        """
        return grpc.dynamic_ssl_server_credentials(
            self._read(), self.renewed, require_client_authentication=bool(self._tls.client_ca)
        )

    def renewed(self) -> Any:
        """The certificate if its files were replaced by right ones, else None; called in threads of gRPC."""
        state = files_state(self._tls)
        if state == self._state:
            return None
        try:
            found = self._read()
        except (ShipworthyError, OSError) as error:  # also while only one of the files was replaced: looked at again
            if str(error) != self._complaint:
                self._complaint = str(error)
                _log.error("gRPC: the new certificate is not taken, the old one stands: %s", error)
            return None
        self._state, self._complaint = state, ""
        return found

    def _read(self) -> Any:
        check_tls(self._tls, self._now())
        authority = Path(self._tls.client_ca).read_bytes() if self._tls.client_ca else None
        pair = (Path(self._tls.key).read_bytes(), Path(self._tls.cert).read_bytes())
        return grpc.ssl_server_certificate_configuration([pair], root_certificates=authority)
