"""History: the versions of a system's data, by what name people call each, and what refers to it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import polars as pl

from shipworthy.data.snapshot import Snapshot, read
from shipworthy.data.versions import Version, columns_of, list_versions
from shipworthy.kernel.errors import NotFoundError, StorageError, UsageError
from shipworthy.ledger.events import Entry, format_time
from shipworthy.ledger.store import Ledger
from shipworthy.workflows.inspect import release_name
from shipworthy.workflows.layout import Project
from shipworthy.workflows.shipping import REMOVED, TAKEN

LATEST = "latest"
PREFIX = 8  # hexadecimal digits of a digest that name it


@dataclass(frozen=True, slots=True)
class Removed:
    """When a version was removed, by whom, and why."""

    time: str
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class Listed:
    """One version of the data, as the table and the ledger know it."""

    version: int
    digest: str
    rows: int | None  # None: encrypted, and not in the ledger
    time: str  # when it was taken; RFC 3339, UTC
    since: int | None  # rows more than the version before
    appended: bool  # the rows of the version before, and new ones after them
    schema: Mapping[str, Any]  # added, removed, retyped columns against the version before; empty if none
    sources: Mapping[str, str]  # name to digest of what was read
    new_sources: tuple[str, ...]  # of them those that had another content when the version before was taken
    quarantined: int | None
    encrypted: bool
    tags: tuple[str, ...]
    releases: tuple[str, ...]
    serving: tuple[str, ...]  # environments where one of those releases has traffic
    removed: Removed | None

    def to_json(self) -> dict[str, Any]:
        """As a mapping."""
        return asdict(self)


def list_history(project: Project, ledger: Ledger, system: str) -> list[Listed]:
    """Every version of the system's data in the order in which they were taken, also those that were removed.

    Raises:
        StorageError: the table cannot be read.
    """
    table = project.tables / system
    found = {(v.number, v.digest): v for v in list_versions(table) if not v.is_copy}
    first, last, removed = _told(ledger, system)
    tags = [(str(body["digest"]), str(body["name"])) for body in tags_of(ledger, system)]
    releases = [(str(body["snapshot"]), release_name(body)) for body in ledger.releases(system) if "snapshot" in body]
    serving = _serving(ledger)
    listed: list[Listed] = []
    before: tuple[int | None, dict[str, str], Mapping[str, str]] | None = None
    for key in sorted({*found, *first}, key=lambda key: (_taken_at(found.get(key), first.get(key)), key)):
        version, told = found.get(key), last.get(key)
        body: Mapping[str, Any] = {} if told is None else told.body
        number, digest = key
        rows = body.get("rows", None if version is None else version.rows)
        sources: Mapping[str, str] = body.get("sources", {})
        earlier = {} if before is None else before[2]
        columns = body.get("schema") or _columns(project, system, version)
        made = tuple(name for snapshot, name in releases if snapshot == digest)
        gone = removed.get(key)
        listed.append(
            Listed(
                version=number,
                digest=digest,
                rows=rows,
                time=format_time(_taken_at(version, first.get(key))),
                since=None if before is None or before[0] is None or rows is None else rows - before[0],
                appended=version is not None and version.appended is not None,
                schema={} if before is None else _changes(before[1], columns),
                sources=sources,
                new_sources=tuple(name for name, content in sources.items() if earlier.get(name) != content),
                quarantined=body.get("quarantined"),
                encrypted=version is not None and version.is_sealed,
                tags=tuple(name for snapshot, name in tags if snapshot == digest),
                releases=made,
                serving=tuple(sorted(place for place, names in serving.items() if names & set(made))),
                removed=None if gone is None else Removed(gone.time, gone.actor, str(gone.body["reason"])),
            )
        )
        before = rows, columns, sources
    return listed


def tags_of(ledger: Ledger, system: str) -> list[dict[str, Any]]:
    """The tags that stand on a version of the system's data."""
    return [body for body in ledger.latest("tag") if body["system"] == system and body["digest"] is not None]


def find_version(listed: Sequence[Listed], name: str, at: float | None = None) -> Listed:
    """The version that `name` means: its number, its digest or how that begins, a tag, a release, or `latest`.

    Args:
        listed: all versions.
        name: what a person wrote.
        at: Unix seconds; then the newest that was there at that time, and `name` is of no account.

    Raises:
        NotFoundError: there is none, or it was removed.
        UsageError: the name fits several.
    """
    fitting = _fitting(listed, name, at)
    if not fitting:
        what = f"version {name!r}" if at is None else f"version as old as {format_time(at)}"
        raise NotFoundError(f"the data has no {what}; `shipworthy data log` shows all")
    there = [version for version in fitting if version.removed is None]
    if len(there) > 1:
        names = ", ".join(version.digest[7:19] for version in there)
        raise UsageError(f"{name!r} fits several versions; name one by its digest: {names}")
    if not there:
        raise _was_removed(fitting[-1])
    return there[0]


def read_listed(project: Project, system: str, version: Listed) -> pl.DataFrame:
    """The rows of a version, compared with its digest. Raises as `data.snapshot.read`."""
    snapshot = Snapshot(version.digest, version.version, version.rows or 0, project.tables / system)
    return read(snapshot, project.vault)


def _fitting(listed: Sequence[Listed], name: str, at: float | None) -> list[Listed]:
    if at is not None:
        return [version for version in listed if _unix(version.time) <= at][-1:]
    if name == LATEST:
        return [version for version in listed if version.removed is None][-1:]
    if name.isascii() and name.isdigit() and len(name) < PREFIX:
        return [version for version in listed if version.version == int(name)]
    named = [version for version in listed if name in version.tags or name in version.releases]
    if named:
        return named
    digits = name.removeprefix("sha256:")
    return [version for version in listed if len(digits) >= PREFIX and version.digest[7:].startswith(digits)]


def _was_removed(version: Listed) -> NotFoundError:
    gone = version.removed
    if gone is None:
        raise ValueError(f"version {version.version} is there")
    return NotFoundError(
        f"version {version.version} ({version.digest[7:19]}) was removed on {gone.time[:10]} by {gone.actor}, as "
        f"{gone.reason} says; `shipworthy data log` shows what is kept"
    )


def _told(
    ledger: Ledger, system: str
) -> tuple[dict[tuple[int, str], Entry], dict[tuple[int, str], Entry], dict[tuple[int, str], Entry]]:
    """What the ledger says of each version: when it was first taken, last taken, and removed after that."""
    first: dict[tuple[int, str], Entry] = {}
    last: dict[tuple[int, str], Entry] = {}
    removed: dict[tuple[int, str], Entry] = {}
    for verb, into in ((TAKEN, last), (REMOVED, removed)):
        for entry in ledger.events(verb=verb):
            if entry.body.get("system", system) == system and "version" in entry.body:
                key = int(entry.body["version"]), str(entry.body["digest"])
                into[key] = entry
                if verb == TAKEN:
                    first.setdefault(key, entry)
    return first, last, {key: entry for key, entry in removed.items() if key not in last or entry.seq > last[key].seq}


def _serving(ledger: Ledger) -> dict[str, set[str]]:
    """The releases that have traffic, by environment."""
    environments = {str(entry.body["environment"]) for entry in ledger.events(verb="deployment.set")}
    current = {name: ledger.current_deployment(name) for name in environments}
    return {
        name: {str(release["release"]) for release in body["releases"]}
        for name, body in current.items()
        if body is not None
    }


def _taken_at(version: Version | None, told: Entry | None) -> float:
    """Unix seconds; the ledger's word, or the table's where a `ship` was stopped before it could say so."""
    if told is not None:
        return _unix(told.time)
    return 0.0 if version is None else version.written


def _unix(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _columns(project: Project, system: str, version: Version | None) -> dict[str, str]:
    """Of a version that the ledger has no columns of; empty if they cannot be known."""
    if version is None or version.is_sealed:
        return {}
    try:
        return columns_of(project.tables / system, version.number)
    except (StorageError, pl.exceptions.PolarsError):
        return {}


def _changes(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
    """What became of the columns; empty if nothing did, or one side is not known."""
    if not before or not after:
        return {}
    changes = {
        "added": {name: kind for name, kind in after.items() if name not in before},
        "removed": {name: kind for name, kind in before.items() if name not in after},
        "retyped": {name: [before[name], kind] for name, kind in after.items() if before.get(name, kind) != kind},
    }
    return {word: columns for word, columns in changes.items() if columns}
