"""The database made anew from the log: nothing that was acknowledged is lost with a database."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Connection, text

from shipworthy.kernel.errors import IntegrityError
from shipworthy.ledger import tables
from shipworthy.ledger.audit import audit_locked
from shipworthy.ledger.database import Database, sqlite_path, upgrade
from shipworthy.ledger.events import Entry
from shipworthy.ledger.files import LocalDisk
from shipworthy.ledger.lock import LOCK_TIMEOUT_S, WriterLock
from shipworthy.ledger.log import Log
from shipworthy.ledger.projections import project
from shipworthy.ledger.store import event_row, insert_rows
from shipworthy.ledger.tree import TILE_WIDTH
from shipworthy.security.keys import PublicKey


def rebuild_database(url: str, log: Path, keys: Mapping[str, PublicKey]) -> int:
    """Replace all that the database holds by what the log says; answers the number of entries.

    All in one transaction. An SQLite file that cannot be read any more is moved aside.

    Args:
        url: the database's URL.
        log: the log's directory.
        keys: whom to believe, by keyid.

    Raises:
        IntegrityError: the log itself does not verify; nothing was changed.
        StorageError: the database cannot be written; nothing was changed.
        ConflictError: another process holds the ledger.
    """
    lock = WriterLock(log, LOCK_TIMEOUT_S)
    lock.create()
    with lock.held():
        source = Log(log, LocalDisk(), keys=keys)
        source.refresh()
        source.trim()  # what a stopped append left never counted
        report = audit_locked(log, keys)
        if not report.passed or not report.entries:
            reason = report.problems[0] if report.problems else "it is empty"
            raise IntegrityError(f"{log} does not verify, so nothing was rebuilt: {reason}")
        try:
            return _rebuild(url, source)
        except IntegrityError:
            if (path := sqlite_path(url)) is None or not path.exists():
                raise
            _move_aside(path)
            return _rebuild(url, source)


def _rebuild(url: str, log: Log) -> int:
    database = Database(url)
    try:
        with database.write() as connection:
            tables.metadata.drop_all(connection)
            connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
            upgrade(connection)
            count = _replay(database, connection, log)
            connection.commit()
    finally:
        database.close()
    return count


def _replay(database: Database, connection: Connection, log: Log) -> int:
    rows: list[dict[str, object]] = []
    for seq, content in enumerate(log.read(0, log.size), start=1):
        entry = Entry.from_bytes(content)
        if entry.seq != seq:
            raise IntegrityError(f"Entry {seq} of the log calls itself {entry.seq}.")
        rows.append(event_row(entry, content, batch=seq))
        insert_rows(database, connection, project(entry))
        if len(rows) == TILE_WIDTH or seq == log.size:
            database.insert(connection, tables.events, rows)
            rows = []
    return log.size


def _move_aside(path: Path) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(aside)
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
