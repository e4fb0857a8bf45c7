"""Lineage: both ways, over branches, joins and cycles."""

from collections.abc import Callable

import pytest

from shipworthy.kernel.digest import digest_bytes
from shipworthy.ledger.events import Event
from shipworthy.ledger.lineage import Edge, walk
from shipworthy.ledger.store import Ledger

FILE, SOURCE, SNAPSHOT = (
    f"file:a.csv@{digest_bytes(b'a')}",
    f"source:a@{digest_bytes(b'a')}",
    f"snapshot:{digest_bytes(b's')}",
)
LINKS = [
    (FILE, "read as", SOURCE),
    (SOURCE, "became", SNAPSHOT),
    (SNAPSHOT, "trained", "run:1"),
    (SNAPSHOT, "trained", "run:2"),
    ("run:1", "made", "release:loans:1"),
    ("run:2", "made", "release:loans:2"),
]


@pytest.fixture
def ledger(opened: Callable[[], Ledger]) -> Ledger:
    ledger = opened()
    links = [{"parent": parent, "relation": relation, "child": child} for parent, relation, child in LINKS]
    artefact = {"digest": digest_bytes(b"a"), "kind": "source", "size_bytes": 1}
    ledger.append(
        Event(
            "snapshot.taken",
            SNAPSHOT,
            "ada",
            {"digest": digest_bytes(b"s"), "links": links[:2], "artefacts": [artefact]},
        )
    )
    ledger.append(Event("noted", "run:1", "bob", {"links": links[2:]}))
    ledger.append(Event("noted", "run:1", "bob", {"links": links[2:]}))  # said twice, kept once
    return ledger


def test_upwards_leads_to_the_file(ledger: Ledger) -> None:
    assert ledger.lineage("release:loans:1", "up") == [
        Edge("run:1", "made", "release:loans:1", 1),
        Edge(SNAPSHOT, "trained", "run:1", 2),
        Edge(SOURCE, "became", SNAPSHOT, 3),
        Edge(FILE, "read as", SOURCE, 4),
    ]


def test_downwards_leads_to_every_release(ledger: Ledger) -> None:
    reached = [edge.child for edge in ledger.lineage(FILE, "down")]
    assert reached == [SOURCE, SNAPSHOT, "run:1", "run:2", "release:loans:1", "release:loans:2"]
    assert ledger.lineage("release:loans:1", "down") == []


def test_a_cycle_is_walked_once() -> None:
    links = {"a": [("a", "to", "b")], "b": [("b", "to", "c")], "c": [("c", "to", "a")]}
    edges = walk("a", "down", lambda nodes: [link for node in nodes for link in links[node]])
    assert [edge.parent for edge in edges] == ["a", "b", "c"]


def test_a_wide_lineage_is_asked_for_in_steps(opened: Callable[[], Ledger]) -> None:
    ledger = opened()
    links = [{"parent": "root", "relation": "to", "child": f"leaf:{number}"} for number in range(1200)]
    links += [{"parent": f"leaf:{number}", "relation": "to", "child": "end"} for number in range(1200)]
    ledger.append(Event("noted", "root", "ada", {"links": links}))
    assert len(ledger.lineage("root", "down")) == len(ledger.lineage("end", "up")) == 2400
