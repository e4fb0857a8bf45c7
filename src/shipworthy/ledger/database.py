"""The database behind the ledger: SQLite or PostgreSQL by URL, one writer, migrated on open."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, Table, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError

from shipworthy.kernel.errors import ConflictError, IntegrityError, ShipworthyError, StorageError, UsageError
from shipworthy.ledger.lock import LOCK_TIMEOUT_S
from shipworthy.ledger.projections import Again
from shipworthy.ledger.tables import REVISIONS

DIALECTS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}

_WRITER = 0x73686970  # "ship": the number of PostgreSQL's advisory lock
_PRAGMAS = (
    f"PRAGMA busy_timeout = {int(LOCK_TIMEOUT_S * 1000)}",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",  # macOS; nothing elsewhere
    "PRAGMA foreign_keys = ON",
)


class Database:
    """Connections to one database. Writing transactions exclude each other, across processes."""

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self.dialect = self._engine.dialect.name
        self.place = self._engine.url.render_as_string(hide_password=True)
        self._insert = import_module(f"sqlalchemy.dialects.{self.dialect}").insert
        self._statements: dict[tuple[str, Again], Any] = {}

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection in a reading transaction.

        Raises:
            StorageError: the database cannot be reached or read.
        """
        with self.translated(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A connection that holds the writer lock; the caller commits, anything else rolls back."""
        with self.translated(), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            connection.begin()
            if self.dialect == "postgresql":
                connection.execute(text(f"SET LOCAL lock_timeout = {int(LOCK_TIMEOUT_S * 1000)}"))
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITER})
            yield connection

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Errors of the driver as ours."""
        try:
            yield
        except DBAPIError as error:
            raise _explain(error, self.place) from error

    def insert(self, connection: Connection, table: Table, rows: list[dict[str, Any]], again: Again = "refuse") -> None:
        """Insert `rows`; `again` says what happens where the primary key exists."""
        statement = self._statements.get((table.name, again))
        if statement is None:
            statement = self._statements.setdefault((table.name, again), self._make_insert(table, again))
        connection.execute(statement, rows)

    def migrate(self) -> None:
        """Bring the tables to this version, in one transaction.

        Raises:
            UsageError: the database was made by a newer version.
        """
        with self.read() as connection:
            if self._is_current(connection):
                return
        with self.write() as connection:
            if not self._is_current(connection):  # another process may have been faster
                upgrade(connection)
                connection.commit()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _make_insert(self, table: Table, again: Again) -> Any:
        statement = self._insert(table)
        if again == "refuse":
            return statement
        keys = [column.name for column in table.primary_key]
        if again == "keep":
            return statement.on_conflict_do_nothing(index_elements=keys)
        others = {column.name: statement.excluded[column.name] for column in table.c if column.name not in keys}
        return statement.on_conflict_do_update(index_elements=keys, set_=others)

    def _is_current(self, connection: Connection) -> bool:
        if not inspect(connection).has_table("alembic_version"):
            return False
        revision = connection.scalar(text("SELECT version_num FROM alembic_version"))
        if revision is not None and revision not in REVISIONS:
            raise UsageError(
                f"{self.place} is at revision {revision!r}, which this version does not know (it knows up to"
                f" {REVISIONS[-1]}): a newer shipworthy made it; use that version or newer."
            )
        return bool(revision == REVISIONS[-1])


def upgrade(connection: Connection) -> None:
    """Run every missing migration in the connection's transaction."""
    from alembic.command import upgrade as run  # 0.2 s that only a migration pays
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    run(config, "head")


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite URL; None for another database."""
    parsed = make_url(url)
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:")
    return Path(str(parsed.database)) if is_file else None


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise UsageError(
            "The ledger's database URL is not a URL; write sqlite:////PATH or postgresql+psycopg://…"
        ) from None
    if DIALECTS.get(parsed.get_backend_name()) != parsed.drivername:
        raise UsageError(f"The ledger works on {' and '.join(DIALECTS.values())}, not on {parsed.drivername}.")
    if (path := sqlite_path(url)) is not None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path.parent} cannot be made: {error}.") from error
    engine = create_engine(parsed, pool_pre_ping=parsed.get_backend_name() == "postgresql")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _begin_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _explain(error: DBAPIError, place: str) -> ShipworthyError:
    reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    if "locked" in reason or "lock timeout" in reason:
        return ConflictError(f"{place} is held by another process for over {LOCK_TIMEOUT_S:.0f} s ({reason}).")
    if any(sign in reason for sign in ("malformed", "not a database", "no such table", "does not exist")):
        return IntegrityError(f"{place} is damaged ({reason}); `shipworthy audit rebuild` restores it from the log.")
    kind = "cannot be used" if isinstance(error, OperationalError) else "refused"
    return StorageError(f"{place} {kind}: {reason}.")
