"""`shipworthy outcomes`: what came true of earlier predictions."""

import os
import sys
from pathlib import Path

import click
from rich.markup import escape

from shipworthy.faces.cli.main import DONE, REFUSED
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts
from shipworthy.workflows.outcomes import Columns, Told, tell_outcomes
from shipworthy.workflows.principals import acting


@command("outcomes")
@click.argument("file", metavar="FILE")
@click.option("--env", "environment", default="local", metavar="ENV", help="Where it was predicted.", show_default=True)
@click.option("--id", "id_column", metavar="COL", help="Ids of callers or predictions (default: id, or the key).")
@click.option("--value", "value_column", metavar="COL", help="What came true (default: the target, outcome or value).")
@click.option("--time", "time_column", metavar="COL", help="When it was known (default: time, else now).")
def outcomes(
    root: Path,
    face: Face,
    file: str,
    environment: str,
    id_column: str | None,
    value_column: str | None,
    time_column: str | None,
) -> int:
    """Tell what came true: FILE (CSV, JSON lines, Parquet, Arrow, Excel) has an id and a value in each row.

    Late, in any order, and again: the same file twice has no effect. Of contradicting outcomes the latest counts.
    """
    columns = Columns(id_column, value_column, time_column)
    with open_parts(root) as parts, face.err.status("starting", spinner="dots") as status:

        def tell(words: str) -> None:
            if sys.stderr.isatty():
                status.update(words)

        told = tell_outcomes(parts, acting(parts, os.environ), environment, Path(file), columns, tell)
    face.result(told.to_json())
    if not face.as_json:
        _show(face, told)
    return DONE if told.report.used or not told.report.rows or told.report.pending else REFUSED


def _show(face: Face, told: Told) -> None:
    report, columns = told.report, told.columns
    known = f"known since {columns.time}" if columns.time else "known since now"
    face.say(f"{escape(told.file)}: {report.rows:,} rows; id {columns.id}, value {columns.value}, {known}")
    rows = [
        ("joined", report.accepted, "a prediction's outcome is known now"),
        ("repeated", report.repeated, "told before; no effect"),
        ("contradicting", report.contradicting, "told otherwise before: both are kept, this one counts"),
        ("not known yet", report.pending, "no value in the row"),
        ("unknown id", report.unknown, f"nothing was predicted under it in {told.environment}"),
        *(("refused", count, reason) for reason, count in report.invalid.items()),
    ]
    face.table(["outcomes", "rows", ""], [[name, f"{count:,}", why] for name, count, why in rows if count])
    if told.quarantine is not None:
        face.say(f"Rows that joined nothing, with their reasons: {escape(str(told.quarantine))}")
