"""`shipworthy lineage`: where something came from, and what came of it."""

from pathlib import Path

import click
from rich.markup import escape
from rich.tree import Tree

from shipworthy.faces.cli.options import command
from shipworthy.faces.cli.show import Face
from shipworthy.faces.wiring import open_to_read
from shipworthy.ledger.lineage import Direction
from shipworthy.workflows.inspect import Trail
from shipworthy.workflows.inspect import lineage as trace
from shipworthy.workflows.layout import Project


@command("lineage")
@click.argument("node")
@click.option("--up", is_flag=True, help="Only what it was made from.")
@click.option("--down", is_flag=True, help="Only what was made of it.")
def lineage(root: Path, face: Face, node: str, up: bool, down: bool) -> int:
    """Walk from NODE (a prediction's id, release, snapshot, run or file) both ways."""
    directions: tuple[Direction, ...] = ("up", "down") if up == down else ("up",) if up else ("down",)
    project = Project(root)
    with open_to_read(root, "lineage") as ledger:
        trails = trace(project, ledger, node, directions)
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
    return 0


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


def short(node: str) -> str:
    """A node with its digest shortened to what people compare."""
    before, mark, digest = node.partition("sha256:")
    return f"{before}{mark}{digest[:12]}" if mark else node
