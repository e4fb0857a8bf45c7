"""`shipworthy init`: a working contract and train.py for a CSV."""

import shlex
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.show import Face
from shipworthy.workflows.init import InitReport
from shipworthy.workflows.init import init as write_project

MOST_ROWS = 25  # of features in the table; more are named in a line for each type


@click.command("init")
@click.argument("directory", metavar="DIR")
@click.option(
    "--data",
    "data",
    multiple=True,
    required=True,
    metavar="FILE",
    help="File, directory or pattern.",
)
@click.option("--target", required=True, metavar="COL", help="The column to predict.")
@click.option("--time", "time", metavar="COL", help="When each row happened.")
@click.option("--key", "key", metavar="COL", help="What names a row.")
@click.option("--protected", default="", metavar="COLS", help="Protected columns, separated by commas.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def init(
    directory: str, data: tuple[str, ...], target: str, time: str | None, key: str | None, protected: str, as_json: bool
) -> int:
    """Write a working contract and a train.py for the data, and list what to review. Never asks."""
    face = Face(as_json)
    columns = tuple(name.strip() for name in protected.split(",") if name.strip())
    report = write_project(Path(directory), [Path(file) for file in data], target, time, key, columns)
    face.result(report.to_json())
    if as_json:
        return 0
    _show(face, report)
    return 0


def _show(face: Face, report: InitReport) -> None:
    found = report.inference
    face.say(f"{report.rows:,} rows, target [bold]{escape(found.target)}[/] ({found.task})")
    features = found.placed("feature")
    brief = len(features) > MOST_ROWS
    rows = [
        [guess.name, guess.place, guess.kind, guess.why]
        for guess in found.columns
        if not (brief and guess.place == "feature")
    ]
    face.table(["column", "taken as", "type", "because"], rows)
    if brief:
        for kind in dict.fromkeys(guess.kind for guess in features):
            names = [guess.name for guess in features if guess.kind == kind]
            face.say(f"{len(names)} features of type {kind}: {escape(', '.join(names))}")
    if report.quarantined:
        reasons = "; ".join(f"{reason}: {count:,}" for reason, count in report.reasons.items())
        face.say(f"{report.quarantined:,} rows would be quarantined ({escape(reasons)}).")
    if report.review:
        face.say("\n[bold]Review[/], for a machine can only guess:")
        for line in report.review:
            face.say(f"  - {escape(line)}")
    place = str(report.directory)
    face.say(f"\nWritten to {escape(place)}: {escape(', '.join(report.written))}")
    face.say(
        f"Next: read {escape(place)}/shipworthy.yaml, then run: shipworthy ship --project {escape(shlex.quote(place))}"
    )
