"""Snapshots looked at: what is in a version of the data, how it differs from another, and its rows in a file."""

import io
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from shipworthy.contract.types import Contract
from shipworthy.data.diff import Difference, diff
from shipworthy.data.profile import profile_frame, profile_json
from shipworthy.kernel.errors import ConflictError, StorageError, UsageError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import Ledger
from shipworthy.security.access import Principal
from shipworthy.security.files import create_durably
from shipworthy.workflows.gate import permit
from shipworthy.workflows.history import Listed, find_version, list_history, read_listed
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts, read_contract

FORMATS = (".parquet", ".csv")
MASK = "•••"  # in place of a personal value


def compare(project: Project, contract: Contract, old: Listed, new: Listed) -> Difference:
    """How one version differs from another, rows told apart by the contract's key. Raises as `read_listed`."""
    with ThreadPoolExecutor(max_workers=2) as pool:  # hashing and decoding let go of the interpreter
        frames = list(pool.map(lambda version: read_listed(project, contract.system, version), (old, new)))
    hidden = frozenset().union(*(hidden_columns(contract, frame.columns) for frame in frames))
    return diff(frames[0], frames[1], contract.context_by_role("key"), hidden)


def describe(project: Project, ledger: Ledger, contract: Contract, version: Listed, rows: int) -> dict[str, Any]:
    """What there is to know of a version: its columns, its quality, its lineage, and its first rows, masked.

    Args:
        project: where it lies.
        ledger: what is known of it.
        contract: says which columns are personal; one that it does not name is masked too.
        version: which one.
        rows: how many of the first rows.

    Raises:
        As `read_listed`.
    """
    frame = read_listed(project, contract.system, version)
    hidden = hidden_columns(contract, frame.columns)
    body: Mapping[str, Any] = ledger.find_snapshot(version.digest) or {}
    profile = _profile(project, body) or profile_json(profile_frame(frame.drop(hidden)))
    roles = {name: str(column.role) for name, column in contract.context.items()}
    roles |= dict.fromkeys(contract.features, "feature") | dict.fromkeys(contract.derived, "derived")
    node = f"snapshot:{version.digest}"
    return {
        **version.to_json(),
        "columns": [
            {
                "column": name,
                "type": str(kind),
                "role": "target" if name == contract.target.column else roles.get(name),
                "personal": name in hidden,
                "missing": frame[name].null_count(),
                "profile": None if name in hidden else profile.get(name),
            }
            for name, kind in frame.schema.items()
        ],
        "quality": {name: body.get(name) for name in ("rows", "quarantined", "reasons", "noted", "quarantine")},
        "steps": body.get("steps", []),
        "future": body.get("future"),
        **({"lookups": body["lookups"]} if body.get("lookups") else {}),
        "lineage": {
            "up": [_edge(edge.parent, edge.relation) for edge in ledger.lineage(node, "up")],
            "down": [_edge(edge.child, edge.relation) for edge in ledger.lineage(node, "down")],
        },
        "first_rows": [
            {name: MASK if name in hidden else _shown(value) for name, value in row.items()}
            for row in frame.head(rows).to_dicts()
        ],
    }


def hidden_columns(contract: Contract, columns: Sequence[str]) -> frozenset[str]:
    """Those of `columns` whose values are not shown: personal ones, and those that the contract does not name now."""
    named = {**contract.context, **contract.features}
    plain = {name for name, column in named.items() if not column.personal}
    return frozenset(columns) - plain - {*contract.derived, contract.target.column}


def export_version(
    parts: Parts, principal: Principal, version: str, destination: Path, at: float | None = None
) -> dict[str, Any]:
    """Write all rows of a version, as they are, to `destination`, readable to its owner alone; recorded.

    Raises:
        AccessError: the principal may not see single rows, or the key of an encrypted version is not here.
        UsageError: the file is neither Parquet nor CSV.
        NotFoundError: there is no such version, or it was removed.
        ConflictError: the file exists.
        StorageError: it cannot be written.
    """
    rule = permit(parts, principal, "data export")
    suffix = destination.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(f"{destination}: versions are written as {' or '.join(FORMATS)}, not {suffix or 'without'}")
    if destination.exists():
        raise ConflictError(f"{destination} exists; nothing is replaced")
    system = read_contract(parts.project).system
    found = find_version(list_history(parts.project, parts.ledger, system), version, at)
    frame = read_listed(parts.project, system, found)
    buffer = io.BytesIO()
    if suffix == ".csv":
        frame.write_csv(buffer)
    else:
        frame.write_parquet(buffer)
    body = {"system": system, "version": found.version, "digest": found.digest, "rows": frame.height}
    parts.ledger.append(
        Event(
            "snapshot.exported", f"snapshot:{found.digest}", principal.actor, {**body, "file": destination.name}, rule
        )
    )
    try:
        if not create_durably(destination, buffer.getvalue(), mode=0o600):
            raise ConflictError(f"{destination} exists; nothing is replaced")
    except OSError as error:
        raise StorageError(f"{destination}: cannot be written ({error.strerror})") from None
    return {**body, "file": str(destination), "size_bytes": len(buffer.getvalue())}


def _profile(project: Project, body: Mapping[str, Any]) -> dict[str, Any] | None:
    """The profile that was made when the snapshot was taken."""
    store = ArtefactStore(project.blobs, project.vault)
    digests = [item["digest"] for item in body.get("artefacts", ()) if item["kind"] == "profile"]
    found = json.loads(store.get_bytes(digests[0])) if digests and store.has(digests[0]) else None
    return found if isinstance(found, dict) else None


def _edge(node: str, relation: str) -> dict[str, str]:
    return {"node": node, "relation": relation}


def _shown(value: object) -> object:
    """A value that JSON can hold."""
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
