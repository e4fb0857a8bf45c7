"""`shipworthy status`: what is released, what serves, what to do next."""

from pathlib import Path
from typing import Any

from rich.markup import escape

from shipworthy.faces.cli.lineage import short
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_to_read
from shipworthy.ledger.events import format_time
from shipworthy.workflows.inspect import status as look
from shipworthy.workflows.layout import Project

ROLLOUT_STYLES = {"promoted": "green", "rolled back": "bold red", "withdrawn": "yellow", "held": "yellow"}


@command("status")
def status(root: Path, face: Face) -> int:
    """Show releases, deployments and the next step."""
    project = Project(root)
    with open_to_read(root, "status") as ledger:
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
    for rollout in found["rollouts"]:
        _say_rollout(face, rollout)
    for source in found["sources"]:
        _say_source(face, source)
    if found["open_alerts"]:
        count = found["open_alerts"]
        face.say(f"[bold red]{count} open alert{'s' if count > 1 else ''}[/]: shipworthy alerts")
    face.say(f"Next: {escape(found['next'])}")
    return 0


def _say_source(face: Face, source: dict[str, Any]) -> None:
    name, read = escape(source["source"]), source["read"]
    rows = "" if source["rows"] is None else f"{source['rows']:,} rows, "
    if source["state"] == "read":
        face.say(f"source {name}: {rows}new content last read {read}")
        return
    instead = {
        "refuse": "nothing is ingested",
        "without": "done without",
        "last_good": f"rows of {read} are used",
    }[source["policy"]]
    face.say(f"source {name}: [bold yellow]broken[/], {instead}. {escape(source['reason'])}")


def _say_rollout(face: Face, rollout: dict[str, Any]) -> None:
    style = ROLLOUT_STYLES.get(rollout["state"], "bold")
    judged = format_time(rollout["judged"])[:10]
    since = format_time(rollout["started"])[:10]
    face.say(
        f"rollout of {escape(rollout['release'])} in {escape(rollout['environment'])} ({since} to {judged}): "
        f"[{style}]{rollout['state']}[/]. {escape(rollout['reason'])}"
    )
