"""From events to state: which rows an entry puts into which tables, and what it must not contradict."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import Connection, Table, func, select

from shipworthy.kernel.digest import canonical_json, is_digest
from shipworthy.kernel.errors import ConflictError, UsageError
from shipworthy.ledger import tables
from shipworthy.ledger.events import Entry, check_name

Again = Literal["keep", "replace", "refuse"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row that an entry writes, and what happens if its key is there already."""

    table: Table
    values: Mapping[str, object]
    again: Again = "refuse"


def project(entry: Entry) -> list[Row]:
    """Every row that `entry` writes beside its own.

    Raises:
        UsageError: the body lacks what its verb promises.
    """
    rows = [*_artefacts(entry), *_links(entry)]
    if (by_verb := PROJECTIONS.get(entry.verb)) is not None:
        rows.extend(by_verb(entry))
    return rows


def guard(connection: Connection, entry: Entry) -> None:
    """Refuse an entry that the state contradicts.

    Raises:
        ConflictError: somebody was faster, or the number is not the next one.
    """
    if (check := GUARDS.get(entry.verb)) is not None:
        check(connection, entry)


def _artefacts(entry: Entry) -> Iterator[Row]:
    for item in _items(entry, "artefacts", ("digest", "kind", "size_bytes")):
        if not is_digest(str(item["digest"])) or type(item["size_bytes"]) is not int or not item["kind"]:
            raise UsageError(f"{entry.verb} of {entry.object!r}: {item} is not digest, kind and size of an artefact.")
        yield Row(tables.artefacts, {**item, "seq": entry.seq}, "keep")


def _links(entry: Entry) -> Iterator[Row]:
    for item in _items(entry, "links", ("parent", "relation", "child")):
        for name, node in item.items():
            check_name(node, f"{entry.verb}: a link's {name}")
        yield Row(tables.links, {**item, "seq": entry.seq}, "keep")


def _stage(entry: Entry) -> Iterator[Row]:
    known = _known(entry, key=str, name=str, outputs=dict)
    yield Row(tables.stages, {"key": known["key"], "name": known["name"]} | _body(entry), "replace")


def _snapshot(entry: Entry) -> Iterator[Row]:
    yield Row(tables.snapshots, _known(entry, digest=str) | _body(entry), "keep")


def _run(entry: Entry) -> Iterator[Row]:
    yield Row(tables.runs, _known(entry, run=str) | _body(entry))


def _release(entry: Entry) -> Iterator[Row]:
    yield Row(tables.releases, _known(entry, system=str, version=int, digest=str, payload=str) | _body(entry))


def _deployment(entry: Entry) -> Iterator[Row]:
    yield Row(tables.deployments, _known(entry, environment=str, generation=int) | _body(entry))


def _token(entry: Entry) -> Iterator[Row]:
    yield Row(tables.tokens, _known(entry, hash=str, name=str) | _body(entry))


def _anchor(entry: Entry) -> Iterator[Row]:
    yield Row(tables.anchors, _known(entry, size=int) | _body(entry))


def _latest(entry: Entry) -> Iterator[Row]:
    """The whole body is the thing as it now is; its revision makes every change a compare-and-swap."""
    kind = LATEST[entry.verb]
    prefix, _, name = entry.object.partition(":")
    if prefix != kind or not name:
        raise UsageError(f"{entry.verb} of {entry.object!r}: the object must be {kind}:NAME.")
    yield Row(tables.latest, {"kind": kind, "name": name} | _known(entry, revision=int) | _body(entry), "replace")


LATEST: dict[str, str] = {  # verb -> the kind of thing that it is the latest word on
    "principal.added": "principal",
    "principal.changed": "principal",
    "token.revoked": "token",
    "key.created": "key",
    "key.rotated": "key",
    "key.revoked": "key",
    "release.attested": "attestation",
    "rollout.started": "rollout",
    "rollout.judged": "rollout",
    "rollout.ended": "rollout",
    "window.judged": "window",
    "alert.opened": "alert",
    "alert.seen": "alert",
    "alert.delivered": "alert",
    "alert.acknowledged": "alert",
    "alert.closed": "alert",
    "review.claimed": "review",
    "review.decided": "review",
    "source.read": "source",
    "source.broken": "source",
    "clock.set": "clock",
    "snapshot.tagged": "tag",
    "snapshot.untagged": "tag",
}

PROJECTIONS: dict[str, Callable[[Entry], Iterator[Row]]] = {
    "stage.finished": _stage,
    "snapshot.taken": _snapshot,
    "run.finished": _run,
    "release.published": _release,
    "deployment.set": _deployment,
    "token.minted": _token,
    "anchor.exported": _anchor,
    **dict.fromkeys(LATEST, _latest),
}


def next_version(connection: Connection, system: str) -> int:
    """The version that the next release of `system` gets; from 1."""
    version = tables.releases.c.version
    highest = connection.scalar(select(func.max(version)).where(tables.releases.c.system == system))
    return (highest or 0) + 1


def next_generation(connection: Connection, environment: str) -> int:
    """The generation that the next deployment of `environment` gets; from 1."""
    generation = tables.deployments.c.generation
    highest = connection.scalar(select(func.max(generation)).where(tables.deployments.c.environment == environment))
    return (highest or 0) + 1


def revision_of(connection: Connection, kind: str, name: str) -> int:
    """The revision of the latest word on a thing; 0 if there is none."""
    columns = tables.latest.c
    return connection.scalar(select(columns.revision).where(columns.kind == kind, columns.name == name)) or 0


def _guard_latest(connection: Connection, entry: Entry) -> None:
    kind, _, name = entry.object.partition(":")
    revision, expected = entry.body["revision"], revision_of(connection, kind, name) + 1
    if revision != expected:
        raise ConflictError(
            f"{entry.object} is at revision {expected - 1}; {entry.verb} with revision {revision} does not follow."
            " Somebody else was faster: look at it, then try again."
        )


def _guard_release(connection: Connection, entry: Entry) -> None:
    system, version = str(entry.body["system"]), entry.body["version"]
    if version != (expected := next_version(connection, system)):
        raise ConflictError(f"{system}:{version} is not the next release, {system}:{expected} is; publish again.")


def _guard_deployment(connection: Connection, entry: Entry) -> None:
    environment, generation = str(entry.body["environment"]), entry.body["generation"]
    if generation != (expected := next_generation(connection, environment)):
        raise ConflictError(
            f"Deployment of {environment} is at generation {expected - 1}; generation {generation} does not follow."
            " Somebody else deployed: look at it, then deploy again."
        )


GUARDS: dict[str, Callable[[Connection, Entry], None]] = {
    "release.published": _guard_release,
    "deployment.set": _guard_deployment,
    **dict.fromkeys(LATEST, _guard_latest),
}


def _body(entry: Entry) -> dict[str, object]:
    return {"body": canonical_json(entry.body).decode(), "seq": entry.seq}


def _known(entry: Entry, **kinds: type) -> dict[str, object]:
    """The named fields of the body, each of its kind."""
    for name, kind in kinds.items():
        value = entry.body.get(name)
        if not isinstance(value, Mapping if kind is dict else kind) or isinstance(value, bool):
            raise UsageError(f"{entry.verb} of {entry.object!r}: body.{name} is {value!r}; it must be {kind.__name__}.")
        if kind is str:
            check_name(value, f"{entry.verb}: body.{name}")
    return {name: entry.body[name] for name in kinds}


def _items(entry: Entry, name: str, fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    items = entry.body.get(name, [])
    if not isinstance(items, list | tuple):
        raise UsageError(f"{entry.verb} of {entry.object!r}: body.{name} must be a list.")
    for item in items:
        if not isinstance(item, Mapping) or set(item) != set(fields):
            raise UsageError(f"{entry.verb} of {entry.object!r}: each of body.{name} needs {', '.join(fields)}.")
        yield dict(item)
