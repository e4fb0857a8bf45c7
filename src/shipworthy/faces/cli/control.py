"""`shipworthy control`: one step of the control loop, for schedulers and replays; `up` takes a step each second."""

import os
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts
from shipworthy.workflows.control import Control
from shipworthy.workflows.gate import permit
from shipworthy.workflows.moments import parse_moment
from shipworthy.workflows.principals import acting


@command("control")
@click.option("--env", "environment", default=None, metavar="ENV", help="Only this environment; default: all.")
@click.option(
    "--as-of",
    "as_of",
    default=None,
    metavar="TIME",
    help="Judge what was known by this time, such as 2013-05-01; for replays. Default: now.",
)
def control(root: Path, face: Face, environment: str | None, as_of: str | None) -> int:
    """Do what is due: judge windows and canaries, move traffic, deliver alerts. Doing it twice changes nothing."""
    at = None if as_of is None else parse_moment(as_of, "--as-of")
    with open_parts(root) as parts:
        permit(parts, acting(parts, os.environ), "control", environment=environment)
        loop = Control(parts, os.environ)
        done = [act for name in ([environment] if environment else loop.environments()) for act in loop.step(name, at)]
    face.result({"done": [{"environment": act.environment, "act": act.act, "words": act.words} for act in done]})
    if not face.as_json:
        for act in done:
            face.say(f"{escape(act.environment)}  {act.act:8}  {escape(act.words)}")
        if not done:
            face.say("Nothing is due.")
    return 0
