"""`shipworthy up`: data plane and control plane on this machine; each in a process of its own, replaced if it ends."""

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.markup import escape

from shipworthy.faces.cli.options import DataPlane, Listening, command, data_plane, listening
from shipworthy.faces.cli.serve import as_declared, check_certificate, check_spool
from shipworthy.faces.cli.show import Face
from shipworthy.faces.control_settings import ControlSettings
from shipworthy.faces.oidc_settings import read_oidc_settings
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import NotFoundError, UnavailableError
from shipworthy.security.binding import Binding, check_binding, make_tls
from shipworthy.serving.settings import ServerSettings, check_settings
from shipworthy.workflows.gate import permit
from shipworthy.workflows.layout import Project
from shipworthy.workflows.planes import Start, record_start
from shipworthy.workflows.principals import acting
from shipworthy.workflows.project import hold_file
from shipworthy.workflows.segments import record_closed_segments
from shipworthy.workflows.serve import find_target
from shipworthy.workflows.tokens import grant_token

CONTROL = "shipworthy.faces.control_process"
START_S = 30.0  # for a process to say that it is ready
STOP_S = 15.0  # the server drains within 10 s
LOOK_S = 0.2  # between two looks at the processes
MANY_STARTS = 5  # in a row that failed: the process will not live, and trying again for ever hides it


@dataclass(slots=True)
class Plane:
    """One process under watch; it ends with this one, for it watches its standard input."""

    name: str
    module: str
    settings: dict[str, Any]
    port: int  # 0 until it was given one; kept from then on, so that callers find it again
    process: "subprocess.Popen[bytes] | None" = None
    address: str = ""
    grpc: str | None = None  # of the data plane, if it has a port for that
    failed_starts: int = 0  # in a row


@command("up")
@click.option(
    "--env", "environment", default=None, metavar="ENV", help="What to serve; default: production, else local."
)
@click.option(
    "--control-port", default=8090, metavar="PORT", help="Of API and console; 0 takes a free one.", show_default=True
)
@click.option(
    "--clock",
    type=click.Choice(["wall", "manual"]),
    default="wall",
    help="manual: time goes on only as POST /api/clock says, for replays.",
    show_default=True,
)
@click.option(
    "--control-host", default="127.0.0.1", metavar="ADDRESS", help="Where API and console listen.", show_default=True
)
@click.option("--oidc", default="", metavar="FILE", help="The OpenID provider whose sign-ins are believed (TOML).")
@data_plane
@listening
def up(
    root: Path,
    face: Face,
    environment: str | None,
    control_port: int,
    clock: str,
    control_host: str,
    oidc: str,
    data: DataPlane,
    listening: Listening,
) -> int:
    """Serve predictions, run the control loop and show the console until stopped (Ctrl-C)."""
    project = Project(root)
    project.require()
    asked = _data_settings(project, environment or "local", data, listening)
    check_settings(asked)  # before anything is recorded
    check_certificate(asked)
    control = _control_plane(root, control_port, clock, replace(listening, host=control_host), oidc)
    refusal = "`shipworthy up` runs here already ({holder}); stop it first"
    with hold_file(project, "up.lock", f"process {os.getpid()}", refusal):
        served = environment or _served(project)  # before the gate, whose record says where
        with open_parts(root) as parts:
            principal = acting(parts, os.environ)
            rule = permit(parts, principal, "up", environment=served)
        target = find_target(project, served)
        settings = as_declared(_data_settings(project, served, data, listening), target, data.workers)
        check_spool(settings, target, face)
        planes = [_data_plane(settings), control]
        with open_parts(root) as parts:
            token = grant_token(replace(parts, rule=rule), served, target.system)
        stopped = _Signals()
        try:
            for plane in planes:
                _start(plane)
            with open_parts(root) as parts:
                for plane in planes:
                    record_start(replace(parts, rule=rule), principal.actor, _describe(plane, served))
            _announce(face, planes, served, target.path, target.release, target.example, token)
            code = _watch(face, planes, stopped)
        finally:
            for plane in planes:
                _end(plane)
        with open_parts(root) as parts:
            record_closed_segments(replace(parts, rule=rule), served)
    face.note("stopped; everything that was acknowledged is on disk, and `shipworthy up` carries on from here")
    return code


def _served(project: Project) -> str:
    names = sorted(path.parent.name for path in (project.state / "live").glob("*/deployment"))
    if not names:
        raise NotFoundError(f"nothing is deployed yet; run: shipworthy ship --project {project.root}")
    beyond_local = [name for name in names if name != "local"]
    return "production" if "production" in names else (beyond_local or names)[0]


def _data_settings(project: Project, environment: str, data: DataPlane, where: Listening) -> ServerSettings:
    return ServerSettings(
        live=str(project.live(environment)),
        records=str(project.records(environment)),
        outcomes=str(project.outcomes(environment)),
        keys=str(project.public_keys),
        log=str(project.log),
        **data.settings(),
        **where.settings(),
    )


def _data_plane(settings: ServerSettings) -> Plane:
    return Plane("data plane", "shipworthy.serving.server", msgspec.to_builtins(settings), settings.port)


def _control_plane(root: Path, port: int, clock: str, where: Listening, oidc: str) -> Plane:
    if oidc:
        read_oidc_settings(oidc, os.environ)
    settings: dict[str, Any] = {
        "project": str(root),
        "clock": clock,
        "oidc": oidc,
        "one_time": secrets.token_urlsafe(24),
    }
    settings |= where.settings()
    check_binding(ControlSettings(**settings).binding)
    return Plane("control plane", CONTROL, settings, port)


def _describe(plane: Plane, environment: str) -> Start:
    """What the ledger keeps of a plane that answers; its settings name where it listens as `ServerSettings` does."""
    settings: Mapping[str, Any] = plane.settings
    files = [settings.get(name, "") for name in ("tls_cert", "tls_key", "tls_client_ca")]
    is_upstream = bool(settings.get("tls_terminated_upstream", False))
    binding = Binding(settings.get("host", "127.0.0.1"), make_tls(*files), is_upstream)
    access = "token or oidc" if settings.get("oidc") else "token"
    return Start(plane.name.partition(" ")[0], plane.address, environment, binding.mode, access, is_upstream)


def _start(plane: Plane) -> None:
    """Start the process and wait until it says where it answers.

    Raises:
        UnavailableError: it ended, or said nothing.
    """
    settings = json.dumps(plane.settings | {"port": plane.port})
    by_line = plane.module == CONTROL  # its settings hold a secret, which a command line would show to everybody
    process = subprocess.Popen(
        [sys.executable, "-m", plane.module, *([] if by_line else ["--with-parent", "--settings", settings])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    plane.process = process
    if by_line and process.stdin is not None:
        process.stdin.write(settings.encode() + b"\n")
        process.stdin.flush()
    stream = process.stdout
    if stream is None:
        raise UnavailableError(f"the {plane.name} has no output")
    ready, _, _ = select.select([stream], [], [], START_S)
    line = stream.readline() if ready else b""
    if not line:
        raise UnavailableError(f"the {plane.name} did not start; its words are above")
    ready = json.loads(line)
    plane.address, plane.grpc = ready["address"], ready.get("grpc")
    plane.port = int(plane.address.rpartition(":")[2])
    if plane.grpc is not None:
        plane.settings["grpc_port"] = int(plane.grpc.rpartition(":")[2])  # kept when it is started again


def _end(plane: Plane) -> None:
    process = plane.process
    if process is None or process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Signals:
    """Whether somebody asked to stop."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = True


def _watch(face: Face, planes: list[Plane], stopped: _Signals) -> int:
    """Replace what ends, until told to stop or until a process will not live."""
    while not stopped.asked:
        time.sleep(LOOK_S)
        for plane in planes:
            process = plane.process
            if process is None or process.poll() is None or stopped.asked:
                continue
            face.note(f"the {plane.name} ended ({process.returncode}); it is started again")
            if "one_time" in plane.settings:  # the old one may have been used, and the new process cannot know
                plane.settings["one_time"] = secrets.token_urlsafe(24)
            try:
                _start(plane)
                plane.failed_starts = 0
                if "one_time" in plane.settings:
                    face.note(f"Console (signs this browser in, once): {_console(plane)}")
            except UnavailableError as error:
                face.note(str(error))
                plane.failed_starts += 1
                if plane.failed_starts == MANY_STARTS:
                    face.error("unavailable", f"the {plane.name} did not start {MANY_STARTS} times in a row; giving up")
                    return 1
    return 0


def _console(plane: Plane) -> str:
    return f"{plane.address}/login?token={plane.settings['one_time']}"


def _announce(
    face: Face,
    planes: list[Plane],
    environment: str,
    path: str,
    release: str,
    example: dict[str, Any],
    token: str,
) -> None:
    data, control = planes
    console = _console(control)
    if face.as_json:
        document = {
            "address": data.address,
            "grpc": data.grpc,
            "path": path,
            "environment": environment,
            "release": release,
            "token": token,
            "example": example,
            "control": control.address,
            "console": console,
            "pid": os.getpid(),
        }
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        too = f", and by gRPC at {data.grpc}" if data.grpc else ""
        face.say(f"[bold]{escape(release)}[/] answers in {escape(environment)} at {data.address}{escape(path)}{too}")
        face.say(f"A token to predict with, good for eight hours: {token}")
        face.say(f"Console (signs this browser in, once): {console}")
        face.say("Ctrl-C stops both.")
    sys.stdout.flush()
