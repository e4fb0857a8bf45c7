"""Origins: what became of one line of a source, and which line a row of a snapshot came from."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shipworthy.data.origins import Origin, find_line, find_row, read_origins
from shipworthy.data.snapshot import Snapshot, read
from shipworthy.kernel.errors import AccessError, NotFoundError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.events import Entry
from shipworthy.ledger.store import Ledger
from shipworthy.security.vault import SEALED_SUFFIX
from shipworthy.workflows.inspect import inside, release_name
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import read_contract
from shipworthy.workflows.quarantine import quarantine_context

KEY = "key"  # `key=VALUE` asks by the contract's key, whatever its name
_LINE = re.compile(r"(.+):([1-9][0-9]{0,17})")
_KEYED = re.compile(r"([A-Za-z_]\w*)=(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A row as one ingest saw it."""

    snapshot: str
    taken: str  # when, RFC 3339
    row: int | None  # of the snapshot, from 1; None: it is not among its rows
    origins: tuple[Origin, ...]
    reasons: str | None  # why it is in quarantine; None where it is not, or nobody can say
    runs: tuple[str, ...]  # that were trained on the snapshot
    releases: tuple[str, ...]


def row_lineage(project: Project, ledger: Ledger, name: str) -> list[Sighting] | None:
    """Every sighting of the row that `name` names, oldest first; None where `name` names no row.

    Args:
        project: whose contract names the key.
        ledger: of the project.
        name: `FILE:LINE` or `SOURCE:LINE`, `KEY=VALUE`, or `SNAPSHOT:ROW`.

    Raises:
        NotFoundError: it names a row, and no ingest saw it.
        AccessError: what would tell is encrypted, and its key is not here.
        StorageError, IntegrityError: what would tell does not hold.
    """
    if any(name == release_name(release) for release in ledger.releases()):
        return None
    keyed, placed = _KEYED.fullmatch(name), _LINE.fullmatch(name)
    seen = _Seen(project, ledger)
    if keyed and (key := seen.key_named(keyed[1])) is not None:
        found = list(seen.by_key(key, keyed[2]))
    elif placed:
        place, number = inside(project, placed[1]), int(placed[2])
        snapshots = seen.snapshots_named(place)
        if not snapshots and not seen.has_place(place):
            return None
        found = list(seen.by_row(snapshots, number) if snapshots else seen.by_line(place, number))
    else:
        return None
    if not found:
        raise NotFoundError(f"{name}: no ingest is known to have read that row{seen.why_not()}")
    return found


class _Seen:
    """What the project's ingests saw."""

    def __init__(self, project: Project, ledger: Ledger) -> None:
        self._project = project
        self._ledger = ledger
        self._artefacts = ArtefactStore(project.blobs, project.vault)
        self._entries = _distinct(ledger.events(verb="snapshot.taken"))

    def key_named(self, name: str) -> str | None:
        """The contract's key column that a person calls `name`."""
        keys = read_contract(self._project).context_by_role("key")
        return next((key for key in keys if name in (key, KEY)), None)

    def has_place(self, name: str) -> bool:
        """Whether some ingest read a source or file of that name."""
        return any(
            name in entry.body["sources"]
            or any(str(link["parent"]).startswith(f"file:{name}@") for link in entry.body["links"])
            for entry in self._entries
        )

    def snapshots_named(self, name: str) -> list[Entry]:
        """Those whose digest begins so."""
        short = name.removeprefix("snapshot:").removeprefix("sha256:")
        if len(short) < 8:
            return []
        return [entry for entry in self._entries if entry.body["digest"].removeprefix("sha256:").startswith(short)]

    def by_line(self, place: str, line: int) -> Iterator[Sighting]:
        """The line in each ingest that read the place."""
        for entry in self._entries:
            for origin in find_line(self._runs(entry), place, line):
                yield self._sighting(entry, origin.row, (origin,))

    def by_row(self, entries: list[Entry], row: int) -> Iterator[Sighting]:
        """Row `row` of each of the snapshots."""
        for entry in entries:
            if row <= entry.body["rows"]:
                yield self._sighting(entry, row, tuple(find_row(self._runs(entry), row)))

    def by_key(self, key: str, value: str) -> Iterator[Sighting]:
        """The row with that key in each snapshot that still has its rows."""
        held: dict[str, list[int]] = {}
        for entry in self._entries:
            digest = entry.body["digest"]
            if digest not in held:
                held[digest] = self._rows_of(entry, key, value)
            yield from (found for row in held[digest] for found in self.by_row([entry], row))

    def why_not(self) -> str:
        """What may have kept a row from being found."""
        untraced = sum(self._runs(entry).is_empty() for entry in self._entries)
        if not untraced:
            return ""
        return (
            f"; {untraced} of {len(self._entries)} snapshots cannot be traced to lines: `data.prepare` made rows anew "
            "(a `role: key` column that a source has as well would tell), or an older Shipworthy took them"
        )

    def _rows_of(self, entry: Entry, key: str, value: str) -> list[int]:
        body = entry.body
        table = self._project.tables / str(body["system"])
        try:
            frame = read(Snapshot(body["digest"], body["version"], body["rows"], table), self._project.vault)
        except NotFoundError:
            return []
        if key not in frame.columns:
            return []
        return [int(at) + 1 for at in (frame[key].cast(pl.String) == value).arg_true()]

    def _runs(self, entry: Entry) -> pl.DataFrame:
        digest = _origins_of(entry)
        return read_origins(b"" if digest is None else self._artefacts.get_bytes(digest))

    def _sighting(self, entry: Entry, row: int | None, origins: tuple[Origin, ...]) -> Sighting:
        digest = entry.body["digest"]
        made = [edge.child for edge in self._ledger.lineage(f"snapshot:{digest}", "down")]
        return Sighting(
            snapshot=digest,
            taken=entry.time,
            row=row,
            origins=origins,
            reasons=_reasons(self._project, entry, origins[0]) if row is None else None,
            runs=_named(made, "run:"),
            releases=_named(made, "release:"),
        )


def _distinct(entries: Iterator[Entry]) -> list[Entry]:
    """Those that say something new: the same rows of the same lines may be taken again."""
    return list({(entry.body["digest"], _origins_of(entry)): entry for entry in entries}.values())


def _origins_of(entry: Entry) -> str | None:
    return next((str(item["digest"]) for item in entry.body["artefacts"] if item["kind"] == "origins"), None)


def _named(nodes: list[str], prefix: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(node.removeprefix(prefix) for node in nodes if node.startswith(prefix)))


def _reasons(project: Project, entry: Entry, origin: Origin) -> str | None:
    """Why a row is in quarantine, as the file there says."""
    if not entry.body["quarantine"]:
        return None
    path = project.root / str(entry.body["quarantine"])
    try:
        content = _content(project, path)
    except (OSError, AccessError):  # thrown away since, or the key is elsewhere
        return None
    held = pl.read_csv(io.BytesIO(content), infer_schema=False)
    row, _, _, reasons, malformed = held.columns[:5]  # between them file and line
    if origin.prepared is None:
        wanted = pl.col(malformed).str.starts_with(f"line {origin.line}:")
    else:
        wanted = pl.col(row) == str(origin.prepared)
    found: list[str] = held.filter(wanted.fill_null(False))[reasons].to_list()
    return found[0] if found else None


def _content(project: Project, path: Path) -> bytes:
    content = path.read_bytes()
    if not path.name.endswith(SEALED_SUFFIX):
        return content
    name = path.name.removesuffix(SEALED_SUFFIX).removesuffix(".csv")
    return project.vault.open(content, quarantine_context(name), path)
