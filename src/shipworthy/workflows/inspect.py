"""Looking without changing: releases, deployments, lineage."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipworthy.bundle.deployment import bundle_path
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import NotFoundError
from shipworthy.ledger.events import format_time
from shipworthy.ledger.lineage import Direction, Edge
from shipworthy.ledger.store import Ledger
from shipworthy.records.format import Record
from shipworthy.records.read import find_record, read_records
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import read_contract


@dataclass(frozen=True, slots=True)
class Trail:
    """What a node came from, or what came from it."""

    node: str
    direction: Direction
    edges: tuple[Edge, ...]
    predictions: Mapping[str, int]  # release -> how many answers it gave, where it is part of the trail
    kinds: Mapping[str, str]  # digest -> what artefact it is, in a word


def find_release(ledger: Ledger, name: str | None) -> dict[str, Any]:
    """The release called `name`, or the newest.

    Raises:
        NotFoundError: there is none.
    """
    releases = ledger.releases()
    if name is None:
        if not releases:
            raise NotFoundError("there is no release yet; run `shipworthy ship`")
        return releases[-1]
    return ledger.find_release(name)


def release_name(release: Mapping[str, Any]) -> str:
    """As people write it: `flights:3`."""
    return f"{release['system']}:{release['version']}"


def release_directory(project: Project, release: Mapping[str, Any]) -> Path:
    """Where the release's bundle is kept.

    Raises:
        NotFoundError: it is gone.
    """
    path = bundle_path(project.releases, str(release["digest"]))
    if not path.is_dir():
        raise NotFoundError(f"{release_name(release)}: its bundle is not in {project.releases}")
    return path


def status(project: Project, ledger: Ledger) -> dict[str, Any]:
    """Releases, deployments by environment, and the next step."""
    releases = ledger.releases()
    contract = read_contract(project)
    deployments = {name: ledger.current_deployment(name) for name in contract.environments}
    serving = deployments.get("local")
    newest = release_name(releases[-1]) if releases else None
    beyond_local = any(found is not None for name, found in deployments.items() if name != "local")
    step = "shipworthy up" if beyond_local else "shipworthy serve" if serving else "shipworthy ship"
    return {
        "system": contract.system,
        "newest": newest,
        "releases": [
            {"release": release_name(release), "digest": release["digest"], "created": release["created"]}
            for release in releases
        ],
        "deployments": deployments,
        "rollouts": ledger.latest("rollout"),
        "sources": _sources(contract, ledger),
        "open_alerts": sum(1 for alert in ledger.latest("alert") if alert["state"] == "open"),
        "next": f"{step} --project {project.root}",
    }


def _sources(contract: Contract, ledger: Ledger) -> list[dict[str, Any]]:
    """The latest word on each source of the contract that the ledger follows."""
    known = {body["source"]: body for body in ledger.latest("source")}
    return [
        {
            "source": name,
            "state": known[name]["state"],
            "read": None if known[name]["read_at"] is None else format_time(known[name]["read_at"]),
            "rows": known[name]["rows"],
            "digest": known[name]["digest"],
            "policy": known[name].get("policy"),
            "reason": known[name].get("reason"),
        }
        for name in contract.data.sources
        if name in known
    ]


def lineage(project: Project, ledger: Ledger, name: str, directions: tuple[Direction, ...]) -> list[Trail]:
    """The trails of `name`: a prediction's id, a release, a snapshot's digest, a run, a deployment, or a file.

    Raises:
        NotFoundError: nothing of that name is known.
    """
    node, record = _resolve(project, ledger, name)
    trails = []
    for direction in directions:
        edges = tuple(ledger.lineage(node, direction))
        if record is not None and direction == "up":
            edges = (Edge(node, "answered", f"prediction:{name}", 0), *edges)
        if record is not None and direction == "down":
            edges = ()
        predictions = _predictions(project, node, edges) if record is None else {}
        trails.append(Trail(name, direction, edges, predictions, _kinds(ledger, edges)))
    if record is None and not any(trail.edges for trail in trails):
        raise NotFoundError(f"nothing is known of {name!r}; give a prediction's id, a release, a snapshot or a file")
    return trails


def _kinds(ledger: Ledger, edges: tuple[Edge, ...]) -> dict[str, str]:
    """What the artefacts on a trail are: a payload is known by its manifest."""
    found = {}
    for digest in {node for edge in edges for node in (edge.parent, edge.child) if node.startswith("sha256:")}:
        artefact = ledger.find_artefact(digest)
        if artefact is not None:
            found[digest] = str(artefact["kind"]).partition("/")[0]
    return found


def _resolve(project: Project, ledger: Ledger, name: str) -> tuple[str, Record | None]:
    """The ledger's node for what a person wrote, and the record if it is a prediction."""
    record = _find_prediction(project, name)
    if record is not None:
        return f"release:{record.release}", record
    for release in ledger.releases():
        if name in (release_name(release), release["digest"], release["payload"]):
            return f"release:{release_name(release)}", None
    for snapshot in ledger.snapshots():
        if name in (snapshot["digest"], f"snapshot:{snapshot['digest']}") or _is_short(name, snapshot["digest"]):
            return f"snapshot:{snapshot['digest']}", None
    for run in ledger.runs():
        if name in (run["run"], f"run:{run['run']}"):
            return f"run:{run['run']}", None
    return _file_node(project, ledger, name) or name, None


def _is_short(name: str, digest: str) -> bool:
    return len(name) >= 8 and digest.removeprefix("sha256:").startswith(name.removeprefix("sha256:"))


def inside(project: Project, name: str) -> str:
    """A file as the project names it, however it is named here."""
    path, root = Path(name), project.root.resolve()
    if path.exists() and path.resolve().is_relative_to(root):
        return path.resolve().relative_to(root).as_posix()
    return name


def _file_node(project: Project, ledger: Ledger, name: str) -> str | None:
    """The newest version of a file that some stage read."""
    named = inside(project, name)
    prefixes = tuple(f"{kind}:{named}@" for kind in ("file", "url", "source"))
    newest = None
    for entry in ledger.events():
        for link in entry.body.get("links", ()):
            if str(link["parent"]).startswith(prefixes):
                newest = str(link["parent"])
    return newest


def _find_prediction(project: Project, name: str) -> Record | None:
    for environment in _recorded(project):
        try:
            return find_record(environment, name, project.vault)
        except NotFoundError:
            continue
    return None


def _recorded(project: Project) -> list[Path]:
    """The record folders of all environments."""
    folder = project.state / "records"
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _predictions(project: Project, node: str, edges: tuple[Edge, ...]) -> dict[str, int]:
    """How many answers each release on the trail gave."""
    nodes = {node, *(edge.child for edge in edges)}
    releases = {name.removeprefix("release:") for name in nodes if name.startswith("release:")}
    if not releases:
        return {}
    counts = Counter(record.release for folder in _recorded(project) for record in read_records(folder, project.vault))
    return {name: counts[name] for name in sorted(releases) if counts[name]}
