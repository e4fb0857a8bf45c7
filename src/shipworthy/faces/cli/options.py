"""The options that every command takes."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import click

from shipworthy.faces.cli.show import Face


@dataclass(frozen=True, slots=True)
class Listening:
    """Where planes listen and what protects them there, as the options say."""

    host: str
    tls_cert: str
    tls_key: str
    tls_client_ca: str
    is_upstream: bool
    allowed_hosts: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """The fields of a plane's settings, without its port."""
        return {
            "host": self.host,
            "tls_cert": self.tls_cert,
            "tls_key": self.tls_key,
            "tls_client_ca": self.tls_client_ca,
            "tls_terminated_upstream": self.is_upstream,
            "allowed_hosts": self.allowed_hosts,
        }


_LISTENING = (
    click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Where it listens.", show_default=True),
    click.option(
        "--tls-cert", default="", metavar="FILE", help="Certificate and chain, PEM; read again when replaced."
    ),
    click.option("--tls-key", default="", metavar="FILE", help="Its private key, PEM, readable to you alone."),
    click.option("--tls-client-ca", default="", metavar="FILE", help="Callers must show a certificate of these, PEM."),
    click.option("--tls-terminated-upstream", "is_upstream", is_flag=True, help="Something in front of it ends TLS."),
    click.option(
        "--allowed-host",
        "allowed_hosts",
        multiple=True,
        metavar="NAME",
        help="A name by which it may be asked, besides localhost; may be given again. Default: any.",
    ),
)


def listening(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Options of where planes listen; the function gets them as `listening: Listening`."""

    @wraps(function)
    def run(
        *args: Any,
        host: str,
        tls_cert: str,
        tls_key: str,
        tls_client_ca: str,
        is_upstream: bool,
        allowed_hosts: tuple[str, ...],
        **options: Any,
    ) -> int | None:
        where = Listening(host, tls_cert, tls_key, tls_client_ca, is_upstream, allowed_hosts)
        return function(*args, listening=where, **options)

    decorated: Callable[..., int | None] = run
    for option in reversed(_LISTENING):
        decorated = option(decorated)
    return decorated


@dataclass(frozen=True, slots=True)
class DataPlane:
    """How predictions are answered, as the options say."""

    port: int
    grpc_port: int | None
    workers: int | None
    spool: Path | None
    traces: str

    def settings(self) -> dict[str, Any]:
        """The fields of `ServerSettings`."""
        return {
            "port": self.port,
            "grpc_port": self.grpc_port,
            "workers": 1 if self.workers is None else self.workers,
            "spool": "" if self.spool is None else str(self.spool.absolute()),
            "traces": self.traces,
        }


spool_option = click.option(
    "--spool",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    metavar="DIR",
    help="On another volume: where records wait whose disk refuses.",
)
_DATA_PLANE = (
    click.option("--port", default=8080, metavar="PORT", help="Of predictions; 0 takes a free one.", show_default=True),
    click.option(
        "--grpc-port",
        type=int,
        default=None,
        metavar="PORT",
        help="Answer gRPC there too (usually 8081; 0 takes a free one).",
    ),
    click.option(
        "--workers", type=int, default=None, metavar="N", help="Processes that answer. Default: the contract's."
    ),
    spool_option,
    click.option(
        "--traces",
        default="",
        metavar="URL",
        help="Collector that callers' traces are continued for, OTLP over HTTP.",
    ),
)


def data_plane(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Options of how predictions are answered; the function gets them as `data: DataPlane`."""

    @wraps(function)
    def run(
        *args: Any,
        port: int,
        grpc_port: int | None,
        workers: int | None,
        spool: Path | None,
        traces: str,
        **options: Any,
    ) -> int | None:
        return function(*args, data=DataPlane(port, grpc_port, workers, spool, traces), **options)

    decorated: Callable[..., int | None] = run
    for option in reversed(_DATA_PLANE):
        decorated = option(decorated)
    return decorated


def command(name: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """A command with `--project` and `--json`; the function gets `root: Path` and `face: Face` first."""

    def decorate(function: Callable[..., int | None]) -> click.Command:
        @wraps(function)
        def run(*args: Any, project: str, as_json: bool, **options: Any) -> int | None:
            return function(Path(project), Face(as_json), *args, **options)

        decorated = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(run)
        decorated = click.option(
            "--project", default=".", metavar="DIR", help="The project's folder.", show_default=True
        )(decorated)
        return click.command(name)(decorated)

    return decorate
