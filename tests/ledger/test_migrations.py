"""Migrations: what they make is what the code expects; a newer database is refused."""

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from shipworthy.kernel.errors import UsageError
from shipworthy.ledger import database as database_module
from shipworthy.ledger.database import Database
from shipworthy.ledger.store import open_ledger
from shipworthy.ledger.tables import REVISIONS, metadata
from shipworthy.security.keys import SigningKey


def test_the_migrations_make_the_tables_of_the_code(url: str) -> None:
    database = Database(url)
    database.migrate()
    database.migrate()
    with database.read() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    database.close()


def test_every_migration_is_known_to_the_code_in_order() -> None:
    scripts = ScriptDirectory(str(Path(database_module.__file__).parent / "migrations"))
    assert tuple(script.revision for script in reversed(list(scripts.walk_revisions()))) == REVISIONS


def test_a_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path, signer: SigningKey) -> None:
    url, log = f"sqlite:///{tmp_path}/ledger.db", tmp_path / "log"
    open_ledger(url, log, signer, lambda: 1e9).close()
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UsageError, match=r"revision '9999'.*newer shipworthy"):
        open_ledger(url, log, signer, lambda: 1e9)


@pytest.mark.parametrize("url", ["mysql://host/x", "postgresql+asyncpg://host/x", "no url", ""])
def test_another_database_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="postgresql"):
        open_ledger(url, tmp_path / "log", None, lambda: 1e9)
