"""`shipworthy data quarantine` and `data replay`: rows that were not accepted, and those that a person fixed."""

import os
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts
from shipworthy.workflows.principals import acting
from shipworthy.workflows.project import hold_project
from shipworthy.workflows.quarantine import Quarantined, quarantined_files
from shipworthy.workflows.replay import replay as replay_rows

SHOWN_REASONS = 3  # of a file in the list
SHOWN_COLUMNS = 6  # of a row: number, reasons and the first of its own; the file has all


@command("quarantine")
@click.argument("name", metavar="[NAME]", required=False)
@click.option("--limit", default=20, metavar="N", type=click.IntRange(min=1), help="At most N rows.", show_default=True)
def quarantine(root: Path, face: Face, name: str | None, limit: int) -> int:
    """List what is in quarantine; with NAME its reasons and rows."""
    with open_parts(root) as parts:
        files = quarantined_files(parts, acting(parts, os.environ), name)
    if name is None:
        face.result({"files": [found.to_json() for found in files]})
        if not face.as_json:
            _show_list(face, files)
        return 0
    found = files[0]
    face.result({**found.to_json(), "shown": found.rows.head(limit).to_dicts()})
    if not face.as_json:
        _show(face, found, limit)
    return 0


def _show_list(face: Face, files: list[Quarantined]) -> None:
    if not files:
        face.say("Nothing is in quarantine.")
        return
    rows = []
    for found in files:
        top = [f"{reason}: {count:,}" for reason, count in list(found.reasons.items())[:SHOWN_REASONS]]
        more = len(found.reasons) - len(top)
        rows.append([found.name, f"{found.rows.height:,}", "; ".join(top) + (f" and {more} more" if more > 0 else "")])
    face.table(["name", "rows", "reasons"], rows)
    face.say("Next: shipworthy data quarantine NAME")


def _show(face: Face, found: Quarantined, limit: int) -> None:
    face.table(["reason", "rows"], [[reason, f"{count:,}"] for reason, count in found.reasons.items()])
    face.say()
    filled = [name for name in found.rows.columns if found.rows[name].null_count() < found.rows.height]
    columns = filled[:SHOWN_COLUMNS]
    shown = found.rows.head(limit).select(columns)
    face.table(columns, [["" if value is None else value for value in row] for row in shown.iter_rows()])
    if found.rows.height > limit or len(filled) > len(columns):
        face.say(f"{found.rows.height:,} rows with {len(filled)} columns in all, in {escape(str(found.path))}")
    face.say("Correct rows in a copy of the file, then: shipworthy data replay FILE")


@command("replay")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
def replay(root: Path, face: Face, file: Path) -> int:
    """Validate rows that a person fixed again, and take the good ones for every later snapshot, each once."""
    with open_parts(root) as parts:
        principal = acting(parts, os.environ)
        with hold_project(parts.project, "data replay"):
            done = replay_rows(parts, principal, file)
    face.result(done.to_json())
    if not face.as_json:
        face.say(f"{_rows(done.taken, 'is', 'are')} taken for the next snapshot.")
        if done.known:
            face.say(f"{_rows(done.known, 'was', 'were')} replayed before: nothing was added for them.")
        if done.refused:
            where = f"with their reasons in {escape(str(done.quarantine))}"
            face.say(f"{_rows(done.refused, 'is', 'are')} still not accepted, {where}:")
            for reason, count in done.reasons.items():
                face.say(f"  {escape(reason)}: {count:,}")
        if done.taken:
            face.say("Next: shipworthy ship")
    return 0 if done.taken or done.known else 1


def _rows(count: int, one: str, more: str) -> str:
    return f"1 row {one}" if count == 1 else f"{count:,} rows {more}"
