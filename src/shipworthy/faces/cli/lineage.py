"""`shipworthy lineage`: where something came from, and what came of it."""

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.markup import escape
from rich.tree import Tree

from shipworthy.faces.cli.main import DONE, REFUSED
from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_to_read
from shipworthy.kernel.errors import UsageError
from shipworthy.ledger.lineage import Direction
from shipworthy.ledger.store import Ledger
from shipworthy.workflows.inspect import Trail
from shipworthy.workflows.inspect import lineage as trace
from shipworthy.workflows.layout import Project
from shipworthy.workflows.origins import Sighting, row_lineage
from shipworthy.workflows.tell_lineage import Telling, require_receiver, tell_lineage, write_events


@command("lineage")
@click.argument("node", required=False)
@click.option("--up", is_flag=True, help="Only what it was made from.")
@click.option("--down", is_flag=True, help="Only what was made of it.")
@click.option(
    "--openlineage",
    "events",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the OpenLineage events of every run, one a line.",
)
@click.option("--send", is_flag=True, help="Tell the contract's receiver now of every run that it does not know.")
def lineage(root: Path, face: Face, node: str | None, up: bool, down: bool, events: Path | None, send: bool) -> int:
    """Walk from NODE both ways: a prediction's id, release, snapshot, run or file; or one row, as FILE:LINE."""
    if [node is not None, events is not None, send].count(True) != 1:
        raise UsageError("name one thing: a NODE to walk from, --openlineage FILE, or --send")
    directions: tuple[Direction, ...] = ("up", "down") if up == down else ("up",) if up else ("down",)
    project = Project(root)
    with open_to_read(root, "lineage") as ledger:
        if events is not None:
            return _export(face, project, ledger, events)
        if send:
            return _send(face, project, ledger)
        name = str(node)
        sightings = row_lineage(project, ledger, name)
        trails = [] if sightings is not None else trace(project, ledger, name, directions)
    if sightings is not None:
        face.result({"rows": [dataclasses.asdict(sighting) for sighting in sightings]})
        if not face.as_json:
            _show_rows(face, name, sightings)
        return DONE
    face.result(
        {
            trail.direction: {
                "edges": [{"parent": e.parent, "relation": e.relation, "child": e.child} for e in trail.edges],
                "predictions": dict(trail.predictions),
                "kinds": dict(trail.kinds),
            }
            for trail in trails
        }
    )
    if not face.as_json:
        for trail in trails:
            if trail.edges:
                _show(face, trail)
    return DONE


def _export(face: Face, project: Project, ledger: Ledger, path: Path) -> int:
    count = write_events(project, ledger, path)
    face.result({"file": str(path), "events": count})
    if not face.as_json:
        face.say(f"{escape(str(path))}: {count:,} OpenLineage events")
    return DONE


def _send(face: Face, project: Project, ledger: Ledger) -> int:
    place = require_receiver(project)
    told = tell_lineage(project, ledger, os.environ, time.time, patience_s=None) or Telling(0, 0)
    face.result({"receiver": place, "events": told.events, "waiting": told.waiting, "error": told.error})
    if told.error is not None:
        face.note(f"lineage: {told}")
        return REFUSED
    if not face.as_json:
        words = f"{told.events:,} events told to" if told.events else "nothing is new to"
        face.say(f"{words} {escape(place)}")
    return DONE


def _show(face: Face, trail: Trail) -> None:
    up = trail.direction == "up"
    words = "was made from" if up else "led to"
    children: dict[str, list[tuple[str, str]]] = {}
    targets = set()
    for edge in trail.edges:
        near, far = (edge.child, edge.parent) if up else (edge.parent, edge.child)
        children.setdefault(near, []).append((edge.relation, far))
        targets.add(far)
    tree = Tree(f"[bold]{escape(trail.node)}[/] {words}")
    seen: set[str] = set()

    def grow(branch: Tree, node: str) -> None:
        for relation, far in children.get(node, ()):
            again = far in seen
            kind = f"{trail.kinds[far]} " if far in trail.kinds else ""
            leaf = branch.add(f"{escape(kind + short(far))} [dim]({relation}{'; as above' if again else ''})[/]")
            if not again:
                seen.add(far)
                grow(leaf, far)

    for start in [node for node in children if node not in targets]:
        grow(tree, start)
    face.out.print(tree)
    for release, count in trail.predictions.items():
        face.say(f"  {escape(release)} answered {count:,} predictions")


def _show_rows(face: Face, node: str, sightings: Sequence[Sighting]) -> None:
    face.say(f"[bold]{escape(node)}[/]")
    for seen in sightings:
        places = " and ".join(f"{origin.unit} {origin.line:,} of {origin.place}" for origin in seen.origins)
        face.say(f"  {escape(places or 'of no known line')}, read {seen.taken}:")
        if seen.row is None:
            face.say(f"    [yellow]in quarantine[/]: {escape(seen.reasons or 'its reasons are not here')}")
            continue
        met = ", ".join((*seen.releases, *seen.runs))
        face.say(f"    row {seen.row:,} of snapshot {short(seen.snapshot)}, seen by {escape(met) or 'nobody yet'}")


def short(node: str) -> str:
    """A node with its digest shortened to what people compare."""
    before, mark, digest = node.partition("sha256:")
    return f"{before}{mark}{digest[:12]}" if mark else node
