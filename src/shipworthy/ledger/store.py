"""The ledger: events go in, state comes out.

An append is one transaction: the event's row and all that follows from it; and the event stands in the log,
synced, before the caller is told.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from sqlalchemy import Connection, Select, Table, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import IntegrityError as KeyTakenError

from shipworthy.kernel.errors import ConflictError, IntegrityError, NotFoundError, StorageError
from shipworthy.ledger import projections, tables
from shipworthy.ledger.checkpoint import Checkpoint
from shipworthy.ledger.database import Database
from shipworthy.ledger.events import Entry, Event, record
from shipworthy.ledger.files import Disk, LocalDisk, make_durable_directory
from shipworthy.ledger.lineage import Direction, Edge, walk
from shipworthy.ledger.lock import LOCK_TIMEOUT_S, WriterLock
from shipworthy.ledger.log import Log
from shipworthy.security.keys import PublicKey, Signer

CHUNK = 500  # rows asked for at once: below every database's limit of parameters

Body = dict[str, Any]


def open_ledger(
    url: str,
    log: Path,
    signer: Signer | None,
    now: Callable[[], float],
    *,
    keys: Mapping[str, PublicKey] | None = None,
    disk: Disk | None = None,
    timeout_s: float = LOCK_TIMEOUT_S,
) -> "Ledger":
    """Open, or make, the ledger in database `url` and directory `log`; the two are compared first.

    Args:
        url: `sqlite:////PATH` or `postgresql+psycopg://…`.
        log: directory of the Merkle log, on this machine's disk.
        signer: signs checkpoints; None for a log without signatures, or to read one only.
        now: Unix time in s.
        keys: earlier signers' public keys, by keyid.
        disk: the file operations; this machine's by default.
        timeout_s: longest wait for another writer, in s.

    Raises:
        IntegrityError: database and log contradict each other; names the first bad entry.
        UsageError: the database is from a newer version, or the URL is of another kind.
        StorageError: the place cannot be written.
        ConflictError: another process holds the ledger.
    """
    disk = disk or LocalDisk()
    try:
        make_durable_directory(disk, log)
    except OSError as error:
        raise StorageError(f"{log} cannot be made: {error}.") from error
    lock = WriterLock(log, timeout_s)
    lock.create()
    ledger = Ledger(Database(url), Log(log, disk, signer, keys), lock, now)
    try:
        ledger.reconcile()
    except BaseException:
        ledger.close()
        raise
    return ledger


class Ledger:
    """The durable state about decisions. Safe for threads, and for several processes on one machine."""

    def __init__(self, database: Database, log: Log, lock: WriterLock, now: Callable[[], float]) -> None:
        self._database = database
        self._log = log
        self._lock = lock
        self._now = now

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. What was appended is safe already."""
        self._database.close()

    def append(self, event: Event) -> Entry:
        """Record `event`; when this returns, it and what follows from it are durable.

        Raises:
            ConflictError: the state contradicts it (a generation, a version), or another writer keeps the lock.
            UsageError: the event's body lacks what its verb promises.
            AccessError: the log is signed and this process has no key.
            IntegrityError: database and log contradict each other.
            StorageError: database or log refuse: nothing was recorded, or the ledger is fenced and says so.
        """
        return self.append_all([event])[0]

    def append_all(self, events: Sequence[Event]) -> list[Entry]:
        """Record `events` together: all or none. Raises as `append`."""
        if not events:
            return []
        with self._lock.held():
            self._log.refresh()
            self._log.check_writable()
            with self._database.write() as connection:
                self._compare(connection)
                try:
                    entries = self._insert(connection, events)
                    self._log.stage([content for _, content in entries])
                except BaseException:
                    connection.rollback()
                    self._log.discard()
                    raise
                self._commit(connection)
            self._log.publish()
        return [entry for entry, _ in entries]

    def reconcile(self) -> None:
        """Compare database and log; carry on what a stopped process left half done. Done on open.

        Raises:
            IntegrityError: they contradict each other; names the first bad entry.
        """
        with self._lock.held():
            self._database.migrate()
            self._log.refresh()
            self._log.trim()
            with self._database.read() as connection:
                self._compare(connection)
                self._compare_tail(connection)

    def export_anchor(self, destination: Path, actor: str) -> Path:
        """Write the signed checkpoint to `destination`, to be kept where the log's writer cannot reach it.

        Args:
            destination: a directory (the file is named by the log's size), or a file that does not exist.
            actor: who exports.

        Raises:
            NotFoundError: the ledger is empty.
            ConflictError: the file exists with another content.
            StorageError: it cannot be written.
        """
        with self._lock.held():
            self._log.refresh()
        if (note := self._log.note) is None:
            raise NotFoundError("The ledger is empty; there is nothing to anchor.")
        path = destination / f"{note.checkpoint.size:012d}.checkpoint" if destination.is_dir() else destination
        disk = LocalDisk()
        try:
            if disk.read(path) not in (None, b"", note.to_bytes()):
                raise ConflictError(f"{path} exists and holds something else; an anchor is never replaced.")
            disk.write_at(path, 0, note.to_bytes())
            disk.sync(path)
            disk.sync_directory(path.parent)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error}.") from error
        body = {"size": note.checkpoint.size, "root": note.checkpoint.root.hex(), "file": path.name}
        self.append(Event("anchor.exported", f"anchor:{note.checkpoint.size}", actor, body))
        return path

    @property
    def checkpoint(self) -> Checkpoint | None:
        """The log as this process last saw it; None if it is empty."""
        return self._log.note.checkpoint if self._log.note else None

    def events(
        self, *, verb: str | None = None, object: str | None = None, after: int = 0, limit: int | None = None
    ) -> Iterator[Entry]:
        """Entries in order, only those of `verb` and of `object` where given, behind seq `after`."""
        columns = tables.events.c
        query = select(columns.entry).where(columns.seq > after).order_by(columns.seq)
        if verb is not None:
            query = query.where(columns.verb == verb)
        if object is not None:
            query = query.where(columns.object == object)
        if limit is not None:
            query = query.limit(limit)
        with self._database.read() as connection:
            for text in connection.execution_options(yield_per=CHUNK).scalars(query):
                yield Entry.from_bytes(text)

    def find_stage(self, key: str) -> Body | None:
        """The body of the stage that finished under `key`, the latest; None if none did."""
        return self._one(select(tables.stages.c.body).where(tables.stages.c.key == key))

    def find_artefact(self, digest: str) -> Body | None:
        """Digest, kind and size in bytes of an artefact that an event named; None if none did."""
        columns = tables.artefacts.c
        with self._database.read() as connection:
            row = connection.execute(select(columns.kind, columns.size_bytes).where(columns.digest == digest)).first()
        return None if row is None else {"digest": digest, "kind": row[0], "size_bytes": row[1]}

    def find_snapshot(self, digest: str) -> Body | None:
        """The body of `snapshot.taken` for `digest`; None if there is none."""
        return self._one(select(tables.snapshots.c.body).where(tables.snapshots.c.digest == digest))

    def snapshots(self) -> list[Body]:
        """Every snapshot, oldest first."""
        return self._bodies(select(tables.snapshots.c.body).order_by(tables.snapshots.c.seq))

    def find_run(self, run: str) -> Body | None:
        """The body of `run.finished` for the run id; None if there is none."""
        return self._one(select(tables.runs.c.body).where(tables.runs.c.run == run))

    def runs(self) -> list[Body]:
        """Every finished run, oldest first."""
        return self._bodies(select(tables.runs.c.body).order_by(tables.runs.c.seq))

    def releases(self, system: str | None = None) -> list[Body]:
        """Every release, oldest first; only those of `system` where given."""
        query = select(tables.releases.c.body).order_by(tables.releases.c.seq)
        return self._bodies(query if system is None else query.where(tables.releases.c.system == system))

    def find_release(self, name: str) -> Body:
        """The release called `SYSTEM:VERSION`, or with the digest `name`, or the latest of system `name`.

        Raises:
            NotFoundError: there is none.
        """
        columns = tables.releases.c
        system, colon, version = name.rpartition(":")
        query = select(columns.body).order_by(columns.version.desc()).limit(1)
        if not colon:
            found = self._one(query.where(columns.system == name))
        elif system != "sha256" and version.isascii() and version.isdigit() and len(version) < 10:
            found = self._one(query.where(columns.system == system, columns.version == int(version)))
        else:
            found = self._one(query.where(columns.digest == name))
        if found is None:
            raise NotFoundError(f"There is no release {name!r} in the ledger; `shipworthy status` shows all.")
        return found

    def next_version(self, system: str) -> int:
        """The version that the next release of `system` must have."""
        with self._database.read() as connection:
            return projections.next_version(connection, system)

    def current_deployment(self, environment: str) -> Body | None:
        """The body of the latest `deployment.set` of `environment`; None if nothing was deployed there."""
        columns = tables.deployments.c
        query = select(columns.body).where(columns.environment == environment)
        return self._one(query.order_by(columns.generation.desc()).limit(1))

    def next_generation(self, environment: str) -> int:
        """The generation that the next deployment of `environment` must have."""
        with self._database.read() as connection:
            return projections.next_generation(connection, environment)

    def tokens(self) -> list[Body]:
        """Every token that was minted, oldest first: hashes, never tokens."""
        return self._bodies(select(tables.tokens.c.body).order_by(tables.tokens.c.seq))

    def find_token(self, hash: str) -> Body | None:
        """The body of `token.minted` for the token with that hash; None if there is none."""
        return self._one(select(tables.tokens.c.body).where(tables.tokens.c.hash == hash))

    def anchors(self) -> list[Body]:
        """Every checkpoint that was exported, oldest first."""
        return self._bodies(select(tables.anchors.c.body).order_by(tables.anchors.c.seq))

    def latest(self, kind: str) -> list[Body]:
        """The latest word on every thing of a kind, such as `alert`, in the order in which they last changed."""
        columns = tables.latest.c
        return self._bodies(select(columns.body).where(columns.kind == kind).order_by(columns.seq))

    def find_latest(self, kind: str, name: str) -> Body | None:
        """The latest word on one thing, with its `revision`; None if nothing was said of it."""
        columns = tables.latest.c
        return self._one(select(columns.body).where(columns.kind == kind, columns.name == name))

    def lineage(self, node: str, direction: Direction) -> list[Edge]:
        """Every edge from `node` up to what it came from, or down to what came from it, nearest first."""
        columns = tables.links.c
        start = columns.child if direction == "up" else columns.parent
        with self._database.read() as connection:

            def links(nodes: list[str]) -> Iterator[Sequence[str]]:
                for at in range(0, len(nodes), CHUNK):
                    query = select(columns.parent, columns.relation, columns.child)
                    yield from connection.execute(query.where(start.in_(nodes[at : at + CHUNK])))

            return list(walk(node, direction, links))

    def _insert(self, connection: Connection, events: Iterable[Event]) -> list[tuple[Entry, bytes]]:
        recorded, rows = [], []
        first, now = self._log.size + 1, self._now()
        for seq, event in enumerate(events, start=first):
            content = record(event, seq, now).to_bytes()
            entry = Entry.from_bytes(content)  # as a replay will see it
            recorded.append((entry, content))
            rows.append(event_row(entry, content, batch=first))
            self._project(connection, entry)
        self._database.insert(connection, tables.events, rows)
        return recorded

    def _project(self, connection: Connection, entry: Entry) -> None:
        rows = projections.project(entry)
        projections.guard(connection, entry)
        try:
            insert_rows(self._database, connection, rows)
        except KeyTakenError as error:
            raise ConflictError(f"{entry.verb} of {entry.object!r} was recorded already; it happens once.") from error

    def _commit(self, connection: Connection) -> None:
        try:
            connection.commit()
        except DBAPIError as error:
            self._log.fenced = (
                f"{self._database.place}: the commit failed, and whether it counts is unknown ({error.orig});"
                " start again: the ledger is compared and carried on."
            )
            raise StorageError(self._log.fenced) from error

    def _compare(self, connection: Connection) -> None:
        """Ends of database and log; what a stopped process committed but did not publish is published."""
        columns = tables.events.c
        last = connection.execute(select(columns.seq, columns.entry).order_by(columns.seq.desc()).limit(1)).first()
        size = 0 if last is None else last[0]
        if size > self._log.size:
            self._catch_up(connection, size)
        elif size < self._log.size or (last and self._log.tail and last[1].encode() != self._log.tail[-1]):
            raise self._contradiction(connection)

    def _catch_up(self, connection: Connection, size: int) -> None:
        columns = tables.events.c
        rows = connection.execute(
            select(columns.entry, columns.batch).where(columns.seq > self._log.size).order_by(columns.seq)
        ).all()
        first = self._log.size + 1
        if any(batch != first for _, batch in rows) or len(rows) != size - self._log.size:
            raise IntegrityError(
                f"{self._log.root} ends at entry {self._log.size}, the database at {size}: entry {first} is the first"
                " that the log lost. Put the log back from a copy; it is the truth that the database is made from."
            )
        if self._log.is_writable:  # whoever only reads leaves it to the next writer
            self._log.stage([text.encode() for text, _ in rows])
            self._log.publish()

    def _compare_tail(self, connection: Connection) -> None:
        columns = tables.events.c
        first = self._log.size - len(self._log.tail) + 1
        query = select(columns.entry).where(columns.seq.between(first, self._log.size)).order_by(columns.seq)
        rows = connection.scalars(query).all()
        if [text.encode() for text in rows] != list(self._log.tail):
            raise self._contradiction(connection)

    def _contradiction(self, connection: Connection) -> IntegrityError:
        first = first_difference(connection, self._log)
        return IntegrityError(
            f"{self._database.place} contradicts the log from entry {first} on; the log is the truth:"
            " check it with `shipworthy verify audit`, then `shipworthy audit rebuild` makes the database anew."
        )

    def _one(self, query: Select[str]) -> Body | None:
        with self._database.read() as connection:
            text = connection.scalar(query)
        return None if text is None else json.loads(text)

    def _bodies(self, query: Select[str]) -> list[Body]:
        with self._database.read() as connection:
            return [json.loads(text) for text in connection.scalars(query)]


def event_row(entry: Entry, content: bytes, *, batch: int) -> dict[str, object]:
    """The row of `entry` in the events table."""
    return {
        "seq": entry.seq,
        "batch": batch,
        "verb": entry.verb,
        "object": entry.object,
        "entry": content.decode(),
    }


def insert_rows(database: Database, connection: Connection, rows: Iterable[projections.Row]) -> None:
    """Insert what an entry projects."""
    groups: dict[tuple[Table, projections.Again], list[Body]] = {}
    for row in rows:
        groups.setdefault((row.table, row.again), []).append(dict(row.values))
    for (table, again), values in groups.items():
        database.insert(connection, table, values, again)


def first_difference(connection: Connection, log: Log) -> int:
    """The first seq at which events table and log differ."""
    columns = tables.events.c
    query = select(columns.seq, columns.entry).order_by(columns.seq)
    rows = connection.execution_options(yield_per=CHUNK).execute(query)
    seq = 0
    for seq, content in enumerate(log.read(0, log.size), start=1):
        row = rows.fetchone()
        if row is None or row[0] != seq or row[1].encode() != content:
            return seq
    return seq + 1
