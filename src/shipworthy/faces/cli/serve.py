"""`shipworthy serve`: the data plane on this machine, from local disk."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click
import msgspec
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.kernel.errors import ShipworthyError, UsageError
from shipworthy.serving.server import ServerSettings, check_settings
from shipworthy.workflows.layout import Project
from shipworthy.workflows.serve import Target, find_target

STOP_S = 15.0  # the server drains within 10 s


@command("serve")
@click.option("--env", "environment", default="local", metavar="ENV", help="What to serve.", show_default=True)
@click.option("--port", default=8080, metavar="PORT", help="0 takes a free one.", show_default=True)
@click.option("--open", "is_open", is_flag=True, help="Anyone on this machine may predict, without a token.")
@click.option(
    "--rehearse",
    type=click.Choice(["failure"]),
    default=None,
    help="Let every run of the model fail, to see what callers get; not for production.",
)
def serve(
    root: Path, face: Face, environment: str, port: int, is_open: bool, rehearse: Literal["failure"] | None
) -> int:
    """Answer predictions from the deployed release until stopped (Ctrl-C)."""
    project = Project(root)
    target = find_target(project, environment)
    if rehearse and environment != "local":
        raise UsageError(f"a failure is rehearsed in local, not in {environment}, where callers would meet it")
    settings = ServerSettings(
        live=str(project.live(environment)),
        records=str(project.records(environment)),
        outcomes=str(project.outcomes(environment)),
        keys=str(project.public_keys),
        port=port,
        open=is_open,
        rehearse=rehearse or "",
    )
    check_settings(settings)
    token = None if is_open or not (face.as_json or sys.stdout.isatty()) else _mint(face, root, environment, target)
    argv = [sys.executable, "-m", "shipworthy.serving.server", "--settings", msgspec.json.encode(settings).decode()]
    with _child(argv) as server:
        line = server.stdout.readline() if server.stdout else b""
        if not line:
            return 1  # the server has said why on stderr
        _announce(face, json.loads(line)["address"], target, token, is_open)
        code = server.wait()
    _keep_digests(face, root, environment)
    return 0 if code in (0, -signal.SIGTERM, -signal.SIGINT) else 1


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


def _mint(face: Face, root: Path, environment: str, target: Target) -> str | None:
    try:
        from shipworthy.faces.wiring import open_parts  # needs the ledger, which a serving machine may lack
        from shipworthy.workflows.tokens import grant_token
    except ModuleNotFoundError:
        face.note("No token was made: this machine has the serving set only (pip install 'shipworthy[standard]').")
        return None
    try:
        with open_parts(root) as parts:
            return grant_token(parts, environment, target.system)
    except ShipworthyError as error:
        face.note(f"No token was made, because the ledger cannot be used: {error}")
        face.note("Serving goes on from local disk; tokens made earlier are good, or use --open.")
        return None


def _keep_digests(face: Face, root: Path, environment: str) -> None:
    try:
        from shipworthy.faces.wiring import open_parts  # as above
        from shipworthy.workflows.segments import record_closed_segments

        with open_parts(root) as parts:
            record_closed_segments(parts, environment)
    except ModuleNotFoundError:  # the serving set alone
        return
    except ShipworthyError as error:
        face.note(f"The records' digests are not in the ledger yet: {error}")


def _announce(face: Face, address: str, target: Target, token: str | None, is_open: bool) -> None:
    document = {
        "address": address,
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
    face.say(f"[bold]{escape(target.release)}[/] answers at {address} (Ctrl-C stops it). Try:\n")
    words = ["curl", "-s", f"{address}{target.path}", "-H", "Content-Type: application/json"]
    if token:
        words += ["-H", f"Authorization: Bearer {token}"]
    words += ["-d", json.dumps(target.example)]
    face.say(escape(shlex.join(words)))
    if token:
        face.say("\nThe token is shown this once and is good for eight hours.")
    elif not is_open:
        face.say(
            "\nCallers need a token that was made earlier (none was made: this is no terminal; see --open, --json)."
        )
    sys.stdout.flush()
