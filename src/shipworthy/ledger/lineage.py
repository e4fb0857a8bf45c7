"""Lineage: from anything to all it came from, or to all that came from it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Direction = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Edge:
    """`child` came out of `parent`."""

    parent: str
    relation: str
    child: str
    depth: int  # steps from the node asked for, from 1


Links = Callable[[list[str]], Iterable[Sequence[str]]]
"""Nodes -> the links (parent, relation, child) that leave them in the direction walked."""


def walk(node: str, direction: Direction, links: Links) -> tuple[Edge, ...]:
    """Every edge reachable from `node`, breadth first; a cycle is walked once.

    Args:
        node: where to start.
        direction: "up" to what it came from, "down" to what came from it.
        links: asked once for each step, with all nodes of that step.
    """
    seen, frontier, depth = {node}, [node], 0
    edges: list[Edge] = []
    while frontier:
        depth += 1
        found = sorted({(link[0], link[1], link[2]) for link in links(frontier)})
        edges += [Edge(parent, relation, child, depth) for parent, relation, child in found]
        reached = {parent if direction == "up" else child for parent, _, child in found}
        frontier = sorted(reached - seen)
        seen |= reached
    return tuple(edges)
