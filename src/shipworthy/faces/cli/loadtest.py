"""`shipworthy loadtest`: does the deployed release hold the declared peak, and what does that take."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_to_read
from shipworthy.workflows.layout import Project
from shipworthy.workflows.loadtest import LoadReport, Tell, hold_peak

MEGABYTE = 1e6


@command("loadtest")
@click.option("--env", "environment", default="local", metavar="ENV", help="Whose release.", show_default=True)
@click.option("--rps", "rate", type=float, default=None, metavar="N", help="Requests/s. Default: gates.budget.at_rps.")
@click.option("--seconds", type=float, default=30.0, metavar="S", help="How long.", show_default=True)
@click.option("--workers", type=click.IntRange(1, 256), default=None, metavar="N", help="Default: the contract's.")
def loadtest(root: Path, face: Face, environment: str, rate: float | None, seconds: float, workers: int | None) -> int:
    """Send the deployed release its declared peak, in a server of its own, and propose workers, memory and cost."""
    with open_to_read(root, "loadtest", environment):
        pass  # the gate; the ledger is not needed while the load runs
    with _progress(face) as tell:
        report = hold_peak(Project(root), environment, rate=rate, seconds=seconds, workers=workers, tell=tell)
    face.result(report.to_json())
    if not face.as_json:
        _show(face, report)
    return 0 if report.is_steady else 1


@contextmanager
def _progress(face: Face) -> Iterator[Tell]:
    if not sys.stderr.isatty():
        yield lambda done, whole: None  # noqa: ARG005
        return
    with Progress(TextColumn("load"), BarColumn(), TimeRemainingColumn(), console=face.err, transient=True) as progress:
        task = progress.add_task("load", total=None)
        yield lambda done, whole: progress.update(task, completed=done, total=whole)


def _show(face: Face, report: LoadReport) -> None:
    rows = [
        [f"{window.seconds:.0f}", f"{window.rps:,.0f}", str(window.errors), _ms(window.p50_ms), _ms(window.p99_ms)]
        for window in report.windows
    ]
    face.table(["seconds", "requests/s", "errors", "p50 ms", "p99 ms"], rows)
    words = "held" if report.is_steady else "[yellow]did not hold[/]"
    size = report.sizing
    face.say(f"{escape(report.release)} {words} {report.at_rps:,.0f} requests/s with {report.workers} worker(s).")
    face.say(
        f"It took {report.cpu_us_per_request:.0f} us of a processor a request and "
        f"{report.memory_bytes / MEGABYTE:.0f} MB."
    )
    face.say(
        f"Proposed: workers {size.workers}, memory {size.memory_bytes / MEGABYTE:.0f} MB, "
        f"{size.usd_per_month:,.2f} USD a month ({size.usd_per_1k:.6f} USD for 1,000 answers); "
        f"{size.cores:.2f} cores are busy at the peak."
    )


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < float("inf") else "none"
