"""`shipworthy check`: is everything there and consistent, in seconds."""

from pathlib import Path

from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.workflows.check import BROKEN, QUESTIONS
from shipworthy.workflows.check import check as run_check
from shipworthy.workflows.layout import Project


@command("check")
def check(root: Path, face: Face) -> int:
    """Check the contract, the code and that the data can be reached. Changes nothing."""
    report = run_check(Project(root))
    face.result(report.to_json())
    if not face.as_json:
        for name, words in report.lines:
            mark = "[yellow]??[/]" if name in QUESTIONS or name.startswith(BROKEN) else "[green]ok[/]"
            face.say(f"{mark}  {escape(name)}: {escape(words)}")
    return 0
