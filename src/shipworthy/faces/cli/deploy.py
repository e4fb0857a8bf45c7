"""`shipworthy deploy` and `rollback`: traffic for a release, and back."""

import os
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts
from shipworthy.workflows.deploy import deploy as give_traffic
from shipworthy.workflows.deploy import roll_back
from shipworthy.workflows.principals import acting

ENVIRONMENT = click.option(
    "--env", "environment", default="production", metavar="ENV", help="Whose traffic.", show_default=True
)


@command("deploy")
@click.argument("release", metavar="RELEASE")
@ENVIRONMENT
def deploy(root: Path, face: Face, release: str, environment: str) -> int:
    """Give RELEASE the environment's traffic: by the steps of its contract, else at once."""
    with open_parts(root) as parts:
        done = give_traffic(parts, acting(parts, os.environ), release, environment)
    face.result(done)
    if not face.as_json:
        name = f"[bold green]{escape(done['release'])}[/]"
        if done["state"] == "canary":
            face.say(
                f"{name} gets {done['share']:.0%} of {escape(environment)}; `shipworthy control` judges each step."
            )
        else:
            face.say(f"{name} has all traffic of {escape(environment)} (generation {done['generation']}).")
    return 0


@command("rollback")
@ENVIRONMENT
@click.option("--to", default=None, metavar="RELEASE", help="One that had all traffic before; default: the last one.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; kept with the deployment.")
def rollback(root: Path, face: Face, environment: str, to: str | None, reason: str) -> int:
    """Return all traffic to the champion of a running canary, or to the release before."""
    with open_parts(root) as parts:
        done = roll_back(parts, acting(parts, os.environ), environment, reason, to)
    face.result(done)
    if not face.as_json:
        face.say(
            f"Rolled back: [bold]{escape(done['release'])}[/] has all traffic of {escape(environment)}"
            f" (generation {done['generation']}). Servers notice within 100 ms."
        )
    return 0
