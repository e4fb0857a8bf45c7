"""The same project on PostgreSQL, by a setting alone."""

import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from tests.stories.loans import write_project


@pytest.fixture
def database(postgresql: str) -> str:
    """URL of an empty database on a real PostgreSQL."""
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute("drop database if exists story with (force)")
        connection.execute("create database story")
    return postgresql.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", "/story?")


def test_ship_verify_and_rebuild_on_postgresql(tmp_path: Path, home: dict[str, str], database: str):
    folder = write_project(tmp_path / "loans")
    environment = {**home, "SHIPWORTHY_LEDGER_URL": database}

    def shipworthy(*words: str) -> "subprocess.CompletedProcess[str]":
        argv = [sys.executable, "-m", "shipworthy", *words, "--project", str(folder)]
        return subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)

    shipped = shipworthy("ship")
    assert shipped.returncode == 0, shipped.stderr
    assert not (folder / ".shipworthy" / "ledger.db").exists()
    assert "Nothing new" in shipworthy("ship").stdout
    assert shipworthy("verify").returncode == 0

    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("update events set entry = replace(entry, 'user:', 'usex:') where seq = 2")
    broken = shipworthy("verify", "audit")
    assert broken.returncode == 1
    assert "first bad entry 2" in broken.stdout
