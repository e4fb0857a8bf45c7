"""Where a server finds what it serves, where it listens, and how many workers it has."""

from importlib.util import find_spec
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from shipworthy.kernel.errors import MissingExtraError, UsageError
from shipworthy.security.binding import Binding, check_binding, make_tls

MAX_WORKERS = 256
MAX_PORT = 65535
_TRACERS = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
MIN_MEMORY_BYTES = 128_000_000  # a worker needs nearly that much to start


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a server is told when it starts."""

    live: str  # directory live/ENV
    records: str  # directory records/ENV
    keys: str  # directory of public keys
    host: str = "127.0.0.1"
    port: int = 8080  # 0: any free one
    grpc_port: int | None = None  # None: no gRPC; 0: any free one
    open: bool = False  # anyone on loopback may predict
    tls_cert: str = ""  # PEM files; empty: plain HTTP
    tls_key: str = ""
    tls_client_ca: str = ""  # callers must show a certificate of these authorities
    tls_terminated_upstream: bool = False
    allowed_hosts: tuple[str, ...] = ()  # names by which it may be asked; none: any, when tokens are asked for
    workers: int = 1  # processes that answer
    worker_memory_bytes: int = 0  # resident, beyond which a worker is replaced; 0: no limit
    receive_timeout_s: float = 10.0  # for one request to come in whole
    rehearse: Literal["", "failure"] = ""  # failure: every run of the model raises, to see what callers get
    outcomes: str = ""  # directory outcomes/ENV; empty: none are taken
    spool: str = ""  # directory on another volume where records wait whose disk refuses; empty: there is none
    traces: str = ""  # where a collector takes traces, OTLP over HTTP; empty: none are made
    log: str = ""  # the audit log's folder, where it is on this machine; only looked at

    @property
    def binding(self) -> Binding:
        """Where it listens, and what protects it there.

        Raises:
            UsageError: a certificate without its key, or the like.
        """
        tls = make_tls(self.tls_cert, self.tls_key, self.tls_client_ca)
        return Binding(self.host, tls, self.tls_terminated_upstream, self.allowed_hosts)


def check_settings(settings: ServerSettings) -> None:
    """Refuse what must not be served. The certificate is looked at by whoever loads it.

    Raises:
        UsageError: open to others than this machine, without TLS, or a number that cannot be.
        MissingExtraError: gRPC or traces were asked for and what they need is not installed.
    """
    check_binding(settings.binding, is_open=settings.open)
    if not 1 <= settings.workers <= MAX_WORKERS:
        raise UsageError(f"{settings.workers} workers were asked for; there can be 1 to {MAX_WORKERS}.")
    if settings.grpc_port is not None:
        _check_grpc(settings.port, settings.grpc_port)
    if settings.traces:
        traces_url(settings.traces)
        if not all(map(_is_installed, _TRACERS)):
            cure = "run: pip install 'shipworthy[traces]'"
            raise MissingExtraError(f"--traces needs opentelemetry-sdk and its exporter, not installed; {cure}")
    if settings.worker_memory_bytes and settings.worker_memory_bytes < MIN_MEMORY_BYTES:
        least = f"it needs {MIN_MEMORY_BYTES} or more, or 0 for no limit"
        raise UsageError(f"a worker was given {settings.worker_memory_bytes} bytes; {least}.")


def traces_url(url: str) -> str:
    """The address that traces are sent to.

    >>> traces_url("http://127.0.0.1:4318")
    'http://127.0.0.1:4318/v1/traces'

    Raises:
        UsageError: it is no address of HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise UsageError(
            f"--traces {url!r} is no collector's address; use one like http://127.0.0.1:4318, with secrets in the "
            "variable OTEL_EXPORTER_OTLP_HEADERS."
        )
    return url if parts.path.strip("/") else f"{parts.scheme}://{parts.netloc}/v1/traces"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False


def _check_grpc(port: int, grpc_port: int) -> None:
    if not 0 <= grpc_port <= MAX_PORT:
        raise UsageError(f"--grpc-port {grpc_port} is no port; give one of 1 to {MAX_PORT}, or 0 for any free one.")
    if grpc_port and grpc_port == port:
        raise UsageError(f"--port and --grpc-port are both {port}; HTTP and gRPC need a port each.")
    if not _is_installed("grpc"):
        raise MissingExtraError("--grpc-port needs grpcio, which is not installed; run: pip install 'shipworthy[grpc]'")
