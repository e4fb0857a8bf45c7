"""`shipworthy quality`: accuracy and value as they came true."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face, number
from shipworthy.faces.wiring import open_to_read
from shipworthy.workflows.layout import Project
from shipworthy.workflows.moments import parse_moment
from shipworthy.workflows.quality import EVER, came_true

METRICS = ("accuracy", "log_loss", "roc_auc", "mae", "rmse")


@command("quality")
@click.option("--env", "environment", default="production", metavar="ENV", help="Whose answers.", show_default=True)
@click.option("--since", default=None, metavar="TIME", help="Only from this event time on, such as 2013-07-01.")
@click.option("--until", default=None, metavar="TIME", help="Only before this event time.")
def quality(root: Path, face: Face, environment: str, since: str | None, until: str | None) -> int:
    """Each release's accuracy and value, of the answers whose truth is known."""
    start = EVER[0] if since is None else parse_moment(since, "--since")
    end = EVER[1] if until is None else parse_moment(until, "--until")
    with open_to_read(root, "quality", environment) as ledger, face.err.status("reading records and outcomes"):
        found = came_true(Project(root), ledger, environment, start, end)
    face.result(found)
    if not face.as_json:
        show_quality(face, found)
    return 0


def show_quality(face: Face, found: Mapping[str, Any]) -> None:
    """What the command prints for people."""
    shown = [name for name in METRICS if any(item.get(name) is not None for item in found["quality"])]
    unit = next((item["unit"] for item in found["quality"] if item["unit"]), "value")
    headings = ["release", "answered", "known", *shown, f"{unit} a decision", f"{unit} in all"]
    face.table(headings, [_row(item, shown) for item in found["quality"]])
    face.say(
        f"{found['predictions']:,} answered in {escape(found['environment'])}; "
        f"the truth of {found['known']:,} is known, of {found['unknown']:,} not (yet)."
    )


def _row(item: Mapping[str, Any], shown: Sequence[str]) -> list[str]:
    value, interval, total = item["value_per_decision"], item["value_interval"], item["value_total"]
    bounds = "" if interval is None else f" ({interval[0]:.3f} to {interval[1]:.3f})"
    return [
        item["release"],
        f"{item['rows']:,}",
        f"{item['known']:,}",
        *(number(item.get(name)) for name in shown),
        "-" if value is None else f"{value:.3f}{bounds}",
        "-" if total is None else f"{total:,.0f}",
    ]
