"""`shipworthy review`: the answers that wait for a person, and what people decide of them."""

import os
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face, number
from shipworthy.faces.wiring import open_parts
from shipworthy.workflows import reviews
from shipworthy.workflows.gate import permit
from shipworthy.workflows.principals import acting

SHOWN_INPUTS = 4  # of an answer in the table; `--json` has all

_environment = click.option(
    "--env", "environment", default="local", metavar="ENV", help="Whose answers.", show_default=True
)


@click.group("review")
def review() -> None:
    """Answers that wait for a person."""


@command("list")
@_environment
@click.option("--limit", default=20, metavar="N", type=click.IntRange(min=1), help="At most N.", show_default=True)
def list_waiting(root: Path, face: Face, environment: str, limit: int) -> int:
    """Show the answers that wait for a person, oldest first."""
    with open_parts(root) as parts:
        permit(parts, acting(parts, os.environ), "review list", environment=environment)
        waiting = reviews.queue(parts, environment, reviews.Wanted(limit=limit + 1))
    face.result({"environment": environment, "reviews": waiting[:limit], "more": len(waiting) > limit})
    if face.as_json:
        return 0
    if not waiting:
        face.say(f"Nothing waits for a person in {escape(environment)}.")
        return 0
    headings = ["prediction", "answered", "given meanwhile", "confidence", "inputs", "claimed by"]
    face.table(headings, [_line(item) for item in waiting[:limit]])
    if len(waiting) > limit:
        face.say("More wait; see --limit.")
    face.say("Next: shipworthy review decide ID DECISION --reason TEXT")
    return 0


@command("claim")
@click.argument("prediction", metavar="ID")
@_environment
def claim(root: Path, face: Face, prediction: str, environment: str) -> int:
    """Take the answer ID, so that nobody else decides it."""
    with open_parts(root) as parts:
        body = reviews.claim(parts, acting(parts, os.environ), environment, prediction)
    face.result(body)
    if not face.as_json:
        face.say(f"{escape(prediction)} is claimed by {escape(body['by'])}.")
    return 0


@command("decide")
@click.argument("prediction", metavar="ID")
@click.argument("decision")
@click.option("--reason", required=True, metavar="TEXT", help="Why, in one line; kept in the audit log.")
@_environment
def decide(root: Path, face: Face, prediction: str, decision: str, reason: str, environment: str) -> int:
    """Decide the answer ID: DECISION is an action of the contract."""
    with open_parts(root) as parts:
        body = reviews.decide(parts, acting(parts, os.environ), environment, prediction, decision, reason)
    face.result(body)
    if not face.as_json:
        face.say(f"{escape(prediction)}: [bold]{escape(decision)}[/], by {escape(body['by'])}.")
    return 0


def _line(item: dict[str, Any]) -> list[str]:
    inputs = list((item["inputs"] or {}).items())
    shown = ", ".join(f"{name} {value}" for name, value in inputs[:SHOWN_INPUTS])
    return [
        item["prediction_id"],
        item["time"][:16].replace("T", " "),
        str(item["decision"]),
        number(item["confidence"], 3),
        shown + (", …" if len(inputs) > SHOWN_INPUTS else ""),
        item["claimed_by"] or "-",
    ]


review.add_command(list_waiting)
review.add_command(claim)
review.add_command(decide)
