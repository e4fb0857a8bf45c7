"""`shipworthy check`: is everything there and consistent, in seconds."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_to_read
from shipworthy.kernel.errors import ContractError, ShipworthyError
from shipworthy.workflows.check import BROKEN, QUESTIONS
from shipworthy.workflows.check import check as run_check
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import read_contract

if TYPE_CHECKING:
    from shipworthy.data.schema_change import SchemaChange


@command("check")
def check(root: Path, face: Face) -> int:
    """Check the contract, the code and that the data can be reached. Changes nothing."""
    project = Project(root)
    try:
        report = run_check(project)
    except ContractError:  # often because a source's columns changed: then that is said first
        for change in _changes(project):
            face.say(f"[yellow]??[/]  schema: {escape(change.told())}")
        raise
    changes = _changes(project)
    face.result(report.to_json() | {"changes": [change.to_json() for change in changes]})
    if not face.as_json:
        for name, words in [*report.lines, *(("schema", change.told()) for change in changes)]:
            mark = "[yellow]??[/]" if name in (*QUESTIONS, "schema") or name.startswith(BROKEN) else "[green]ok[/]"
            face.say(f"{mark}  {escape(name)}: {escape(words)}")
    return 0


def _changes(project: Project) -> "list[SchemaChange]":
    """What became of the sources' columns since the last snapshot; none where that is out of reach."""
    if not project.log.is_dir():
        return []
    from shipworthy.workflows.observing import changes_since  # engines that a project without a past needs not load

    try:
        with open_to_read(project.root, "check") as ledger:
            return changes_since(project, ledger, read_contract(project))
    except ShipworthyError:  # whoever checks may be without the ledger's database: a machine of CI
        return []
