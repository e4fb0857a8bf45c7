"""`shipworthy approve` and `waive`: people vouch for a release, each in a role."""

import os
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from shipworthy.contract.quantities import parse_duration
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import UsageError
from shipworthy.workflows.attest import approve as sign_approval
from shipworthy.workflows.attest import open_release, standing
from shipworthy.workflows.attest import waive as sign_waiver
from shipworthy.workflows.principals import acting

ENVIRONMENT = click.option(
    "--env", "environment", default="production", metavar="ENV", help="Where it may serve.", show_default=True
)
ROLE = click.option("--role", required=True, metavar="ROLE", help="The role in which you sign; you must hold it.")


@command("approve")
@click.argument("release", metavar="RELEASE")
@ENVIRONMENT
@ROLE
@click.option("--reason", default="", metavar="TEXT", help="What you looked at; kept with the approval.")
def approve(root: Path, face: Face, release: str, environment: str, role: str, reason: str) -> int:
    """Sign that RELEASE may serve in an environment, as whom SHIPWORTHY_TOKEN stands for."""
    with open_parts(root) as parts:
        principal = acting(parts, os.environ)
        signed = sign_approval(parts, principal, release, environment, role, reason)
        left = standing(parts, open_release(parts.project, parts.ledger, release), environment)
    face.result({"attestation": signed, "owed": left["owed"]})
    if not face.as_json:
        face.say(f"[green]Approved[/]: {escape(signed['release'])} for {escape(environment)}, {_signature(signed)}.")
        _say_next(face, root, left)
    return 0


@command("waive")
@click.argument("release", metavar="RELEASE")
@ENVIRONMENT
@ROLE
@click.option("--gate", required=True, metavar="GATE", help="Whose verdict is waived, as `ship` names it.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept for ever.")
@click.option("--expires", required=True, metavar="DURATION", help="How long it holds, such as 30d; at most a year.")
def waive(
    root: Path, face: Face, release: str, environment: str, role: str, gate: str, reason: str, expires: str
) -> int:
    """Sign that RELEASE may serve although GATE did not pass. It counts once two roles have signed it."""
    try:
        for_s = parse_duration(expires)
    except ValueError as error:
        raise UsageError(f"--expires: {error}, not {expires!r}") from None
    with open_parts(root) as parts:
        principal = acting(parts, os.environ)
        signed = sign_waiver(parts, principal, release, environment, gate=gate, role=role, reason=reason, for_s=for_s)
        left = standing(parts, open_release(parts.project, parts.ledger, release), environment)
    face.result({"attestation": signed, "stopped": left["stopped"], "owed": left["owed"]})
    if not face.as_json:
        until = str(signed["expires"])[:10]
        face.say(
            f"[yellow]Waived[/]: {escape(gate)} of {escape(signed['release'])} until {until}, {_signature(signed)}."
        )
        _say_next(face, root, left)
    return 0


def _signature(signed: dict[str, Any]) -> str:
    return f"signed by {escape(signed['principal'])} as {escape(signed['role'])}"


def _say_next(face: Face, root: Path, left: dict[str, Any]) -> None:
    name, environment = left["release"], left["environment"]
    for item in left["stopped"]:
        face.say(f"Still in the way: {escape(item['gate'])} is {item['outcome']}; the waiver needs another role.")
    if left["owed"]:
        owed = ", ".join(f"{item['count']} x {item['role']}" for item in left["owed"])
        face.say(f"Still owed: {escape(owed)}.")
    elif not left["stopped"]:
        face.say(f"Next: shipworthy deploy {escape(name)} --env {escape(environment)} --project {escape(str(root))}")
