"""`shipworthy serve`: the data plane on this machine, from local disk."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

import click
import msgspec
from rich.markup import escape

from shipworthy.faces.cli.options import DataPlane, Listening, command, data_plane, listening
from shipworthy.faces.cli.show import Face
from shipworthy.kernel.errors import AccessError, ShipworthyError, UsageError
from shipworthy.records.spool import open_spool
from shipworthy.security.binding import Tls
from shipworthy.security.tls import check_tls, server_name
from shipworthy.serving.settings import ServerSettings, check_settings
from shipworthy.workflows.layout import Project
from shipworthy.workflows.serve import Target, find_target

if TYPE_CHECKING:  # it needs the ledger, which a serving machine may lack
    from shipworthy.workflows.project import Parts

STOP_S = 15.0  # the server drains within 10 s

_Given = TypeVar("_Given")


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
    found = _on_ledger(face, root, lambda parts: _enter(parts, environment))
    entered = found if isinstance(found, _Entered) else None
    if entered is None:
        _refuse_denied(root, environment)
        if found is not None:
            face.note(f"The ledger cannot be written: {found}")
    target = find_target(project, environment)
    settings = as_declared(settings, target, data.workers)
    check_spool(settings, target, face)
    token = None
    if entered is None:
        face.note("Serving goes on from local disk; tokens made earlier are good, or use --open.")
    elif not is_open and (face.as_json or sys.stdout.isatty()):
        token = _on_ledger(face, root, lambda parts: _mint(parts, entered, environment, target))
    argv = [sys.executable, "-m", "shipworthy.serving.server", "--settings", msgspec.json.encode(settings).decode()]
    with _child(argv) as server:
        line = server.stdout.readline() if server.stdout else b""
        if not line:
            return 1  # the server has said why on stderr
        ready = json.loads(line)
        address = str(ready["address"])
        if entered is not None:
            _on_ledger(face, root, lambda parts: _record(parts, entered, environment, address, settings))
        _announce(face, address, ready.get("grpc"), settings, target, token)
        code = server.wait()
    if entered is not None:
        _on_ledger(face, root, lambda parts: _keep_digests(parts, entered, environment))
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


def check_spool(settings: ServerSettings, target: Target, face: Face) -> None:
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


@dataclass(frozen=True, slots=True)
class _Entered:
    """How the gate was passed."""

    actor: str
    rule: str


def _on_ledger(face: Face, root: Path, act: Callable[["Parts"], _Given]) -> _Given | None:
    """What `act` gives; or a note where the ledger cannot be used, as serving goes on without."""
    try:
        from shipworthy.faces.wiring import open_parts
    except ModuleNotFoundError:
        face.note("Nothing is recorded: this machine has the serving set only (pip install 'shipworthy[standard]').")
        return None
    with ExitStack() as stack:
        try:
            parts = stack.enter_context(open_parts(root))
        except ShipworthyError as error:
            face.note(f"The ledger cannot be used, so nothing is recorded and no token made: {error}")
            return None
        try:
            return act(parts)
        except ShipworthyError as error:
            face.note(f"The ledger cannot be written: {error}")
            return None


def _enter(parts: "Parts", environment: str) -> _Entered | AccessError:
    """How the gate was passed; or a denial, which may also be the key's that was to sign the decision."""
    from shipworthy.workflows.gate import permit
    from shipworthy.workflows.principals import acting

    try:
        principal = acting(parts, os.environ)
        return _Entered(principal.actor, permit(parts, principal, "serve", environment=environment))
    except AccessError as error:
        return error


def _refuse_denied(root: Path, environment: str) -> None:
    """A denial holds also where it cannot be recorded; where the ledger cannot even be read, nobody is known.

    Raises:
        AccessError: who acts may not serve.
    """
    try:
        from shipworthy.faces.wiring import open_to_read

        with open_to_read(root, "serve", environment):
            pass
    except AccessError:
        raise
    except (ModuleNotFoundError, ShipworthyError):
        return


def _mint(parts: "Parts", entered: _Entered, environment: str, target: Target) -> str:
    from shipworthy.workflows.tokens import grant_token

    return grant_token(replace(parts, rule=entered.rule), environment, target.system)


def _record(parts: "Parts", entered: _Entered, environment: str, address: str, settings: ServerSettings) -> None:
    from shipworthy.workflows.planes import Start, record_start

    access = "open on loopback" if settings.open else "token"
    binding = settings.binding
    start = Start("data", address, environment, binding.mode, access, binding.is_upstream)
    record_start(replace(parts, rule=entered.rule), entered.actor, start)


def _keep_digests(parts: "Parts", entered: _Entered, environment: str) -> None:
    from shipworthy.workflows.segments import record_closed_segments

    record_closed_segments(replace(parts, rule=entered.rule), environment)


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
