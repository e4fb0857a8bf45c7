"""`shipworthy records`: the log of predictions."""

import os
from pathlib import Path

import click

from shipworthy.contract.quantities import parse_duration
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import UsageError
from shipworthy.workflows.compact import compact_records
from shipworthy.workflows.principals import acting
from shipworthy.workflows.project import hold_project


@click.group("records")
def records() -> None:
    """The log of predictions."""


@command("compact")
@click.option("--env", "environment", default="local", metavar="ENV", help="Whose records.", show_default=True)
@click.option(
    "--older-than", default="7d", metavar="DURATION", help="Age of a segment's last record.", show_default=True
)
def compact(root: Path, face: Face, environment: str, older_than: str) -> int:
    """Turn closed segments into Parquet, which others read, and which the digests in the ledger go on proving."""
    try:
        older_than_s = parse_duration(older_than)
    except ValueError as error:
        raise UsageError(f"--older-than: {error}, not {older_than!r}") from None
    with open_parts(root) as parts, face.err.status("compacting"):
        principal = acting(parts, os.environ)
        with hold_project(parts.project, "records compact"):
            done = compact_records(parts, principal, environment, older_than_s)
    face.result(done.to_json())
    if not face.as_json:
        if done.segments:
            face.say(
                f"{_segments(done.segments)} with {done.records:,} records: {done.bytes_before / 1e6:,.1f} MB, now "
                f"{done.bytes_after / 1e6:,.1f} MB of Parquet in {parts.project.records(environment)}."
            )
        else:
            face.say("Nothing to compact.")
        if done.open_or_young:
            face.say(f"{_segments(done.open_or_young)} left for later: open, or younger than {older_than}.")
        if done.encrypted:
            face.say(f"{_segments(done.encrypted)} left encrypted as they are: Parquet would show what they hide.")
    return 0


def _segments(count: int) -> str:
    return f"{count:,} segment" if count == 1 else f"{count:,} segments"


records.add_command(compact)
