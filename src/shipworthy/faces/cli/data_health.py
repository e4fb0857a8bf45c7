"""`shipworthy data health`: is the data as it was."""

import time
from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.text import Text

from shipworthy.data.health import span
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face, number
from shipworthy.faces.wiring import open_to_read
from shipworthy.stats.history import MIN_HISTORY
from shipworthy.workflows.data_health import HealthReport
from shipworthy.workflows.data_health import health as look
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import read_contract

DONE, UNHEALTHY = 0, 1
BARS = "▁▂▃▄▅▆▇█"
SHOWN = 15  # snapshots of a sparkline
FLAT = 0.02  # of a value: less than that is no movement, and drawn as none


@command("health")
def health(root: Path, face: Face) -> int:
    """Freshness, volume, missing values and distribution beside the snapshots before; ends with 1 if not well."""
    project = Project(root)
    with open_to_read(root, "data health") as ledger:
        report = look(project, ledger, read_contract(project), time.time())
    face.result(report.to_json())
    if not face.as_json:
        _show(face, report)
    return UNHEALTHY if report.problems() else DONE


def sparkline(values: Sequence[float | None]) -> str:
    """The newest values as bars, a gap where there is none.

    >>> sparkline([0, 1, 2, None, 4]), sparkline([5, 5.01])
    ('▁▃▅ █', '▄▄')
    """
    shown = list(values[-SHOWN:])
    known = [value for value in shown if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    if high - low <= FLAT * max(abs(low), abs(high)):
        return "".join(" " if value is None else BARS[3] for value in shown)
    scale = (len(BARS) - 1) / (high - low)
    return "".join(" " if value is None else BARS[round((value - low) * scale)] for value in shown)


def _show(face: Face, report: HealthReport) -> None:
    last, now = report.snapshots[-1], report.as_of
    newest = "" if last.newest is None else f"; newest row {span(max(now - last.newest, 0.0))} old"
    face.say(
        f"[bold]{escape(report.system)}[/]: {last.rows:,} rows, {last.quarantined:,} quarantined, version "
        f"{report.newest['version']}, taken {span(max(now - last.at, 0.0))} ago{newest}"
    )
    face.say()
    rows = [[source.name, *_series([*source.rows], f"{source.rows[-1] or 0:,}"), _since(source.changed, now)]
            for source in report.sources]  # fmt: skip
    rows.append(["accepted", *_series([seen.rows for seen in report.snapshots], f"{last.rows:,}"), ""])
    face.table(["rows of", "now", "before", "something new"], rows)
    face.say()
    face.table(
        ["column", "missing", "before", "", "now", "before"],
        [
            [
                column.name,
                *_series(column.missing, _percent(column.missing[-1])),
                column.centre_of and (column.centre_of if column.centre_of == "mean" else f"= {column.centre_of[:20]}"),
                *_series(column.centre, _centre(column.centre[-1], column.centre_of)),
            ]
            for column in report.columns
        ],
    )
    face.say()
    _say_judgement(face, report)


def _say_judgement(face: Face, report: HealthReport) -> None:
    for change in report.changes:
        if change.impact == "compatible":
            face.say(f"[dim]{escape(change.source)}: {escape(change.words)} (compatible)[/]")
    problems = report.problems()
    for problem in problems:
        face.say(f"[bold red]![/]  {escape(problem)}")
    for name, title in (("releases", "In use"), ("consumers", "Asked by")):
        if report.affected[name]:
            face.say(f"   {title}: {escape(', '.join(report.affected[name]))}")
    if report.judgement is None or report.judgement["state"] != "judged":
        seen = len(report.snapshots) - 1
        needed = MIN_HISTORY if report.judgement is None else report.judgement["needed"]
        before = "no snapshot" if not seen else "1 snapshot" if seen == 1 else f"{seen} snapshots"
        face.say(
            f"[yellow]Insufficient history[/]: {before} before this one, {needed} are needed to tell what is usual."
        )
    elif not problems:
        judged = report.judgement
        face.say(f"[green]Well[/]: as the {judged['snapshots']} snapshots before, by {judged['tests']:,} tests.")


def _series(values: Sequence[float | None], now: str) -> list[str | Text]:
    return [now, Text(sparkline(values), style="cyan")]


def _since(changed: float | None, now: float) -> str:
    return "-" if changed is None else f"{span(max(now - changed, 0.0))} ago"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _centre(value: float | None, of: str) -> str:
    if not of:
        return "-"
    return number(value) if of == "mean" else _percent(value)
