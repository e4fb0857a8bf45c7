"""`shipworthy review`: the answers that wait for a person, and what people decide of them."""

import os
from pathlib import Path
from typing import Any, get_args

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
@click.option(
    "--state", type=click.Choice(get_args(reviews.State)), default="waiting", help="Which ones.", show_default=True
)
@click.option("--by", metavar="NAME", help="Those that NAME has claimed or decided.")
@click.option("--release", metavar="RELEASE", help="Those that RELEASE answered.")
@click.option("--after", metavar="ID", help="Go on behind the prediction ID.")
@click.option("--limit", default=20, metavar="N", type=click.IntRange(min=1), help="At most N.", show_default=True)
def list_waiting(
    root: Path,
    face: Face,
    environment: str,
    state: reviews.State,
    by: str | None,
    release: str | None,
    after: str | None,
    limit: int,
) -> int:
    """Show the answers that wait for a person, oldest first."""
    wanted = reviews.Wanted(state=state, by=by, release=release, after=after, limit=limit + 1)
    with open_parts(root) as parts:
        permit(parts, acting(parts, os.environ), "review list", environment=environment)
        found = reviews.queue(parts, environment, wanted)
    shown, more = found[:limit], len(found) > limit
    face.result({"environment": environment, "reviews": shown, "more": more})
    if face.as_json:
        return 0
    if not found:
        face.say(f"Nothing {_of_those(wanted)}is {state} in {escape(environment)}.")
        return 0
    headings = ["prediction", "answered", "given meanwhile", "confidence", "inputs", "claimed by"]
    face.table(headings, [_line(item) for item in shown])
    if more:
        face.say(f"There are more: add --after {escape(shown[-1]['prediction_id'])}, or a larger --limit.")
    if state != "decided":
        face.say("Next: shipworthy review show ID, or shipworthy review decide ID DECISION --reason TEXT")
    return 0


@command("show")
@click.argument("prediction", metavar="ID")
@_environment
def show(root: Path, face: Face, prediction: str, environment: str) -> int:
    """Show the answer ID: what was asked, what was answered and why, and what may be decided."""
    with open_parts(root) as parts:
        case = reviews.show(parts, acting(parts, os.environ), environment, prediction)
    face.result(case)
    if face.as_json:
        return 0
    confidence = "" if case["confidence"] is None else f", confidence {number(case['confidence'], 3)}"
    face.say(
        f"[bold]{escape(case['prediction_id'])}[/] answered by {escape(case['release'])} ({case['source']}) at "
        f"{case['time'][:19].replace('T', ' ')} UTC{confidence}"
    )
    face.say()
    face.table(["input", "value"], [[name, str(value)] for name, value in (case["inputs"] or {}).items()])
    if case["context"]:
        face.say()
        face.table(["context", "value"], [[name, str(value)] for name, value in case["context"].items()])
    if case["reasons"]:
        changes = case["reasons"]["changes"]
        face.say()
        headings = ["reason", f"change of the {case['reasons']['score']} if it were as usual"]
        face.table(headings, [[change["feature"], f"{change['change']:+.3f}"] for change in changes])
    face.say()
    for warning in case["warnings"]:
        face.say(f"[yellow]{escape(warning)}[/]")
    face.say(f"Given meanwhile: {escape(str(case['decision']))}. {_standing(case)}")
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


def _of_those(wanted: reviews.Wanted) -> str:
    """The filters, in words."""
    by = f"of {escape(wanted.by)} " if wanted.by else ""
    return by + (f"answered by {escape(wanted.release)} " if wanted.release else "")


def _standing(case: dict[str, Any]) -> str:
    """What may be done with it."""
    if case["decided"]:
        return f"Decided: {escape(str(case['decided']['decision']))}, by {escape(case['decided']['by'])}."
    claimed = f"Claimed by {escape(case['claimed_by'])}. " if case["claimed_by"] else ""
    actions = " | ".join(case["actions"])
    return f"{claimed}Next: shipworthy review decide {escape(case['prediction_id'])} {escape(actions)} --reason TEXT"


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
review.add_command(show)
review.add_command(claim)
review.add_command(decide)
