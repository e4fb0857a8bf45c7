"""`shipworthy status`: what is released, what serves, what to do next."""

from pathlib import Path

from rich.markup import escape

from shipworthy.faces.cli.lineage import short
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_to_read
from shipworthy.workflows.inspect import status as look
from shipworthy.workflows.layout import Project


@command("status")
def status(root: Path, face: Face) -> int:
    """Show releases, deployments and the next step."""
    project = Project(root)
    with open_to_read(root) as ledger:
        found = look(project, ledger)
    face.result(found)
    if face.as_json:
        return 0
    face.say(f"[bold]{escape(found['system'])}[/]")
    if found["releases"]:
        rows = [[item["release"], short(item["digest"]), item["created"]] for item in found["releases"][-10:]]
        face.table(["release", "digest", "signed"], rows)
    else:
        face.say("No release yet.")
    for environment, deployment in found["deployments"].items():
        serving = ", ".join(
            f"{item['release']} ({item['share']:.0%})" for item in (deployment or {"releases": []})["releases"]
        )
        face.say(f"{environment}: {escape(serving) or 'nothing deployed'}")
    face.say(f"Next: {escape(found['next'])}")
    return 0
