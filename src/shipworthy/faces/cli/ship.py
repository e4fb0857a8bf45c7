"""`shipworthy ship`: from the sources to a signed release."""

import os
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.markup import escape
from rich.text import Text

from shipworthy.faces.cli.main import DONE, REFUSED
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face, lookup_words, number, outcome_text
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import ConflictError
from shipworthy.security.keyring import COMMAND_SETTING as SIGNING_SETTING
from shipworthy.security.master import SETTINGS as MASTER_SETTINGS
from shipworthy.workflows.gate import permit
from shipworthy.workflows.principals import TOKEN_VARIABLE, acting
from shipworthy.workflows.ship import ShipReport
from shipworthy.workflows.ship import ship as run_ship
from shipworthy.workflows.sources import describe_stand_in

SECRETS = (TOKEN_VARIABLE, SIGNING_SETTING, *MASTER_SETTINGS)  # of the process, not for the user's training code
WAIT_S = 0.5  # between two looks at who holds the project
STAGE_WORDS = {
    "ingest": "reading and checking the data",
    "train": "training, and proving the ONNX model",
    "payload": "calibrating and packing",
    "gates": "measuring on the test rows and in the real server",
    "release": "signing",
    "deploy": "deploying",
}


@command("ship")
@click.option("--deploy", "environment", default=None, metavar="ENV", help="Then deploy it there, or say what is owed.")
@click.option("--wait", is_flag=True, help="Wait while another command holds the project.")
def ship(root: Path, face: Face, environment: str | None, wait: bool) -> int:
    """Take the data to a signed release, deployed to `local`. Only what changed is done."""
    started = time.perf_counter()
    with face.err.status("starting", spinner="dots") as status:

        def tell(stage: str, doing: str) -> None:
            words = doing or STAGE_WORDS.get(stage, stage)
            if stage == "lineage":  # what is still to be read when all is done
                face.note(f"lineage: {words}")
                return
            if sys.stderr.isatty():
                status.update(f"{stage}: {words}")
            elif not doing:
                face.note(f"{stage}: {words}")

        report = _ship(root, tell, wait)
    deployment = _deploy(root, report, environment)
    face.result(report.to_json() | ({} if deployment is None else {"deployment": deployment}))
    if not face.as_json:
        _show(face, root, report, time.perf_counter() - started, deployment)
    return DONE if report.release else REFUSED


def _deploy(root: Path, report: ShipReport, environment: str | None) -> dict[str, Any] | None:
    """What became of the release in `environment`; None where none was asked for or nothing was released."""
    if environment is None or report.release is None:
        return None
    from shipworthy.workflows.deploy import deploy_or_wait  # rollouts, which shipping alone does not need

    with open_parts(root) as parts:
        return deploy_or_wait(parts, acting(parts, os.environ), report.release, environment)


def _ship(root: Path, tell: Any, wait: bool) -> ShipReport:
    while True:
        try:
            with open_parts(root) as parts:
                author = acting(parts, os.environ)  # who ships cannot approve, so it must be who it is
                rule = permit(parts, author, "ship")
                seen = {name: value for name, value in os.environ.items() if name not in SECRETS}  # by train.py
                return run_ship(replace(parts, actor=author.actor, rule=rule), seen, tell)
        except ConflictError:
            if not wait:
                raise
            tell("ship", "waiting for another command")
            time.sleep(WAIT_S)


def _show(face: Face, root: Path, report: ShipReport, seconds: float, deployment: dict[str, Any] | None = None) -> None:
    for name, broken in report.broken.items():
        instead = describe_stand_in(broken)
        face.say(f"[bold yellow]Source {escape(name)} is broken[/], {instead}: {escape(broken['reason'])}")
    if all(stage.reused for stage in report.stages):
        face.say(f"Nothing new: {report.release or 'no release'} stands. ({seconds:.1f} s)")
        if report.release:
            _say_deployment(face, root, deployment)
            return
    rows: list[list[str | Text]] = [
        [stage.name, "as before" if stage.reused else f"{stage.seconds:.1f} s", stage.detail] for stage in report.stages
    ]
    face.table(["stage", "took", ""], rows)
    _say_data(face, root, report)
    face.say()
    face.table(
        ["gate", "verdict", "measured", "interval", "limit", "rows"],
        [_verdict_row(verdict) for verdict in report.verdicts],
    )
    for finding in report.findings:
        face.say(f"[yellow]??[/] {escape(finding['words'])}")
    for verdict in report.verdicts:
        if verdict["outcome"] in ("fail", "insufficient"):
            face.say(f"[bold]{escape(verdict['gate'])}[/]: {escape(verdict['reason'])}")
    face.say()
    if report.release is None:
        failed = ", ".join(verdict["gate"] for verdict in report.verdicts if verdict["outcome"] == "fail")
        face.say(f"[bold red]Refused[/] by {escape(failed)}. Nothing was released; what served before still serves.")
        return
    unsure = [verdict["gate"] for verdict in report.verdicts if verdict["outcome"] == "insufficient"]
    face.say(f"[bold green]{escape(report.release)}[/] is signed and deployed to local. ({seconds:.1f} s)")
    if unsure:
        face.say(f"[yellow]Only local serves it[/]: evidence is insufficient for {escape(', '.join(unsure))}.")
    if deployment is None:
        face.say(f"Next: shipworthy serve --project {escape(shlex.quote(str(root)))}")
    _say_deployment(face, root, deployment)


def _say_data(face: Face, root: Path, report: ShipReport) -> None:
    """What became of the rows on their way, what was looked up, and what of the data is not as it was."""
    is_new = any(stage.name == "ingest" and not stage.reused for stage in report.stages)
    for step in report.steps if is_new else ():
        face.say(f"[dim]step {step['step']}[/]: {escape(step['words'])}")
    if report.future is not None and is_new:
        _say_future(face, report.future)
    for name, counts in report.lookups.items() if is_new else ():
        face.say(f"lookup {escape(name)}: {lookup_words(counts)}")
    for change in report.changes:
        is_breaking = change["impact"] == "breaking"
        breaks = f"; it breaks {', '.join(change['breaks'])}" if is_breaking else ""
        colour = "yellow" if is_breaking else "dim"
        face.say(
            f"[{colour}]{escape(change['source'])}: {escape(change['words'])} ({change['impact']}{escape(breaks)})[/]"
        )
    for anomaly in report.anomalies:
        face.say(f"[yellow]data[/]: {escape(anomaly['cause'])}")
    if report.anomalies:
        face.say(f"[dim]More: shipworthy data health --project {escape(shlex.quote(str(root)))}[/]")


def _say_future(face: Face, future: Mapping[str, Any]) -> None:
    """Whether features see what became known later."""
    is_proven = not future["ahead"] and any(cut["rows"] for cut in future["cuts"])
    words = escape(future["words"])
    face.say(f"[dim]future[/]: {words}" if is_proven else f"[yellow]??[/] future: {words}")


def _say_deployment(face: Face, root: Path, deployment: dict[str, Any] | None) -> None:
    """What the release still owes, or has, in the environment that was asked for."""
    if deployment is None:
        return
    environment, project = escape(deployment["environment"]), escape(shlex.quote(str(root)))
    if deployment["state"] != "awaiting":
        face.say(f"In {environment} it has {deployment['share']:.0%} of the traffic ({deployment['state']}).")
        return
    for item in deployment["stopped"]:
        face.say(
            f"[yellow]{environment} is closed[/] to it: {escape(item['gate'])} is {item['outcome']} and not waived."
        )
    if deployment["owed"]:
        owed = ", ".join(f"{item['count']} x {item['role']}" for item in deployment["owed"])
        role = escape(deployment["owed"][0]["role"])
        face.say(f"Awaiting for {environment}: {escape(owed)}.")
        words = f"approve {escape(deployment['release'])} --env {environment} --role {role}"
        face.say(f"Next: shipworthy {words} --project {project}")


def _verdict_row(verdict: dict[str, Any]) -> list[str | Text]:
    interval = verdict["interval"]
    unit = f" {verdict['unit']}" if verdict.get("unit") else ""
    limit = verdict["limit"]
    return [
        verdict["gate"],
        outcome_text(verdict["outcome"]),
        number(verdict["measured"]) + (unit if verdict["measured"] is not None else ""),
        f"{number(interval[0])} to {number(interval[1])}" if interval else "-",
        (number(limit) + unit) if isinstance(limit, int | float) else str(limit or "-"),
        f"{verdict['rows']:,}",
    ]
