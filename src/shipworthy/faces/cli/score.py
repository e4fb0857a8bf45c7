"""`shipworthy score`: a table answered as the server would answer it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shipworthy.faces.cli.main import DONE, REFUSED
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import ShipworthyError
from shipworthy.workflows.principals import acting
from shipworthy.workflows.project import Parts
from shipworthy.workflows.score import Tell
from shipworthy.workflows.score import score as score_table
from shipworthy.workflows.scorer import ScoreReport
from shipworthy.workflows.tell_lineage import tell_lineage


@command("score")
@click.argument("source", metavar="IN")
@click.argument("destination", metavar="OUT")
@click.option("--env", "environment", default="local", metavar="ENV", help="Whose release answers.", show_default=True)
@click.option("--id", "key", metavar="COL", help="The column that names each row; by default the contract's key.")
@click.option("--query", metavar="SQL", help="What is asked, where IN is a database.")
@click.option("--table", metavar="NAME", help="What is made, where OUT is a database.")
@click.option("--replace", is_flag=True, help="Replace OUT if it exists.")
@click.option("--reasons", type=click.Choice(["exact"]), help="Add how far each input moved the score: Shapley values.")
def score(
    root: Path,
    face: Face,
    source: str,
    destination: str,
    environment: str,
    key: str | None,
    query: str | None,
    table: str | None,
    replace: bool,
    reasons: str | None,
) -> int:
    """Answer each row of IN into OUT, with the policy and the records of the server.

    IN and OUT are files (CSV, TSV, JSONL, Parquet; IN also Arrow, Excel or a folder), Delta tables, or databases by
    their URL, such as sqlite:///f.db; secrets stand in it as ${NAME}. Killed, it carries on when it is run again.
    """
    with open_parts(root) as parts, _progress(face) as tell:
        principal = acting(parts, os.environ)
        report = score_table(
            parts,
            principal,
            environment,
            source,
            destination,
            key=key,
            query=query,
            table=table,
            replace=replace,
            environ=os.environ,
            exact=reasons == "exact",
            tell=tell,
        )
        _tell_lineage(face, parts)
    face.result({"file": destination} | report.to_json())
    if not face.as_json:
        _show(face, report, destination, environment)
    return DONE if report.answered or not report.rows else REFUSED


def _tell_lineage(face: Face, parts: Parts) -> None:
    with suppress(ShipworthyError):  # the rows are scored; `check` tells of a contract that is broken
        told = tell_lineage(parts.project, parts.ledger, os.environ, parts.now)
        if told is not None and told.is_news:
            face.note(f"lineage: {told}")


@contextmanager
def _progress(face: Face) -> Iterator[Tell | None]:
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=face.err, transient=True) as progress:
        task = progress.add_task("reading", total=None)

        def tell(done: int, rows: int) -> None:
            progress.update(task, description="scoring" if rows else "reading", completed=done, total=rows or None)

        yield tell


def _show(face: Face, report: ScoreReport, destination: str, environment: str) -> None:
    by = ", ".join(f"{count:,} by {release}" for release, count in report.releases.items())
    face.say(f"{escape(destination)}: {report.rows:,} rows, {report.answered:,} answered ({escape(by) or 'none'})")
    if report.recorded_before:
        face.say(f"  {report.recorded_before:,} were recorded before: the same answers, nothing written twice")
    if report.fallback:
        face.say(f"  {report.fallback:,} by the fallback")
    if report.review:
        face.say(f"  {report.review:,} wait for a person: shipworthy review list --env {escape(environment)}")
    if report.refused:
        face.say(f"  [yellow]{report.refused:,} refused[/]; the column `problem` says why:")
        for reason, count in report.reasons.items():
            face.say(f"    {count:,}  {escape(reason)}")
    if report.dropped:
        face.say(f"  [yellow]{report.dropped:,} answers could not be recorded[/], which the policy allows")
    if report.absent:
        face.say(f"  taken as missing, for the table lacks them: {escape(', '.join(report.absent))}")
    if not report.has_ids:
        face.say("  The rows have no ids and go by their numbers in this table; name a column with --id.")
    face.say(f"[dim]{report.rows / max(report.seconds, 1e-9):,.0f} rows/s[/]")
