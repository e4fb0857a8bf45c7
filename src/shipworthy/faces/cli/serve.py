"""`shipworthy serve`: the data plane on this machine, from local disk."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import click
import msgspec
from rich.markup import escape

from shipworthy.faces.cli.entry import Entered, enter, keep_digests, on_ledger, refuse_denied
from shipworthy.faces.cli.options import DataPlane, Listening, command, data_plane, listening
from shipworthy.faces.cli.show import Face
from shipworthy.kernel.errors import UsageError
from shipworthy.records.spool import open_spool
from shipworthy.security.binding import Tls
from shipworthy.security.tls import check_tls, server_name
from shipworthy.serving.settings import ServerSettings, check_settings
from shipworthy.serving.watch import Places
from shipworthy.workflows.layout import Project
from shipworthy.workflows.serve import Target, find_target

if TYPE_CHECKING:  # it needs the ledger, which a serving machine may lack
    from shipworthy.workflows.project import Parts

STOP_S = 15.0  # the server drains within 10 s


@command("serve")
@click.option("--env", "environment", default="local", metavar="ENV", help="What to serve.", show_default=True)
@click.option("--open", "is_open", is_flag=True, help="Anyone on this machine may predict, without a token.")
@click.option(
    "--rehearse",
    type=click.Choice(["failure"]),
    default=None,
    help="Let every run of the model fail, to see what callers get; not for production.",
)
@data_plane
@listening
def serve(
    root: Path,
    face: Face,
    environment: str,
    is_open: bool,
    rehearse: Literal["failure"] | None,
    data: DataPlane,
    listening: Listening,
) -> int:
    """Answer predictions from the deployed release until stopped (Ctrl-C)."""
    project = Project(root)
    if rehearse and environment != "local":
        raise UsageError(f"a failure is rehearsed in local, not in {environment}, where callers would meet it")
    settings = ServerSettings(
        live=str(project.live(environment)),
        records=str(project.records(environment)),
        outcomes=str(project.outcomes(environment)),
        keys=str(project.public_keys),
        log=str(project.log),
        **data.settings(),
        **listening.settings(),
        open=is_open,
        rehearse=rehearse or "",
    )
    check_settings(settings)
    check_certificate(settings)
    project.require()
    found = on_ledger(face, root, lambda parts: enter(parts, "serve", environment))
    entered = found if isinstance(found, Entered) else None
    if entered is None:
        refuse_denied(root, "serve", environment)
        if found is not None:
            face.note(f"The ledger cannot be written: {found}")
    target = find_target(project, environment)
    settings = as_declared(settings, target, data.workers)
    check_spool(settings, target, face)
    token = None
    if entered is None:
        face.note("Serving goes on from local disk; tokens made earlier are good, or use --open.")
    elif not is_open and (face.as_json or sys.stdout.isatty()):
        token = on_ledger(face, root, lambda parts: _mint(parts, entered, environment, target))
    argv = [sys.executable, "-m", "shipworthy.serving.server", "--settings", msgspec.json.encode(settings).decode()]
    with _child(argv) as server:
        line = server.stdout.readline() if server.stdout else b""
        if not line:
            return 1  # the server has said why on stderr
        ready = json.loads(line)
        address = str(ready["address"])
        if entered is not None:
            on_ledger(face, root, lambda parts: _record(parts, entered, environment, address, settings))
        _announce(face, address, ready.get("grpc"), settings, target, token)
        code = server.wait()
    if entered is not None:
        on_ledger(face, root, lambda parts: keep_digests(parts, entered, environment))
    return 0 if code in (0, -signal.SIGTERM, -signal.SIGINT) else 1


def check_certificate(settings: ServerSettings) -> None:
    """Refuse a certificate that callers would, before anything is started or recorded.

    Raises:
        UsageError, AccessError, NotFoundError: its files are not right.
    """
    tls = settings.binding.tls
    if tls is not None:
        check_tls(tls, time.time())


def as_declared(settings: ServerSettings, target: Target, workers: int | None) -> ServerSettings:
    """Settings with what the contract of the deployed release declares, where no option says otherwise."""
    return msgspec.structs.replace(
        settings,
        workers=target.workers if workers is None else workers,
        worker_memory_bytes=target.worker_memory_bytes,
    )


def check_spool(settings: Places, target: Target, face: Face) -> None:
    """Refuse to start without the spool that the release counts on; say if it would be full together with the records.

    Raises:
        UsageError: there is none, or it is another project's.
        StorageError: it cannot be written.
    """
    if not settings.spool:
        if target.needs_spool:
            cure = "name a folder on another volume with --spool DIR"
            raise UsageError(f"{target.release} keeps records in a spool when their disk refuses; {cure}")
        return
    records = Path(settings.records)
    folder = open_spool(Path(settings.spool), records)
    records.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_dev == records.stat().st_dev:
        face.note(f"{settings.spool} is on the same volume as the records, and is full when that is; name another.")


@contextmanager
def _child(argv: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    """The server, in a process that loads nothing else; told to stop when this one is."""
    server = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)

    def stop(number: int, frame: Any) -> None:  # noqa: ARG001 - a signal handler's form
        server.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield server
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if server.poll() is None:
            server.terminate()
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()


def _mint(parts: "Parts", entered: Entered, environment: str, target: Target) -> str:
    from shipworthy.workflows.tokens import grant_token

    return grant_token(replace(parts, rule=entered.rule), environment, target.system)


def _record(parts: "Parts", entered: Entered, environment: str, address: str, settings: ServerSettings) -> None:
    from shipworthy.workflows.planes import Start, record_start

    access = "open on loopback" if settings.open else "token"
    binding = settings.binding
    start = Start("data", address, environment, binding.mode, access, binding.is_upstream)
    record_start(replace(parts, rule=entered.rule), entered.actor, start)


def _announce(
    face: Face, address: str, grpc: str | None, settings: ServerSettings, target: Target, token: str | None
) -> None:
    document = {
        "address": address,
        "grpc": grpc,
        "path": target.path,
        "release": target.release,
        "token": token,
        "example": target.example,
        "pid": os.getpid(),
    }
    if face.as_json:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()
        return
    too = f" and by gRPC at {grpc}" if grpc else ""
    face.say(f"[bold]{escape(target.release)}[/] answers at {address}{too} (Ctrl-C stops it). Try:\n")
    url, options = _over_tls(address, settings.binding.tls)
    words = ["curl", "-s", *options, f"{url}{target.path}", "-H", "Content-Type: application/json"]
    if token:
        words += ["-H", f"Authorization: Bearer {token}"]
    words += ["-d", json.dumps(target.example)]
    face.say(escape(shlex.join(words)))
    if token:
        face.say("\nThe token is shown this once and is good for eight hours.")
    elif not settings.open:
        face.say(
            "\nCallers need a token that was made earlier (none was made: this is no terminal; see --open, --json)."
        )
    sys.stdout.flush()


def _over_tls(address: str, tls: Tls | None) -> tuple[str, list[str]]:
    """The address by a name that the certificate vouches for, and what curl needs to find and believe it."""
    if tls is None:
        return address, []
    parts = urlsplit(address)
    name = server_name(tls)
    options = ["--cacert", tls.cert, "--connect-to", f"{name}:{parts.port}:{parts.netloc}"]
    if tls.client_ca:
        options += ["--cert", "YOUR-CERTIFICATE.pem", "--key", "YOUR-KEY.pem"]
    return f"https://{name}:{parts.port}", options
