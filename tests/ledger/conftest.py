"""Both databases that the ledger promises to work on: SQLite, and a real PostgreSQL of this test run."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shipworthy.ledger.store import Ledger, open_ledger
from shipworthy.security.keys import PublicKey, SigningKey

START = 1_763_800_000.0
SIGNER = SigningKey.from_seed("signer", bytes(range(32)))


class Clock:
    """A clock that moves one second each time it is read."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        self.now += 1
        return self.now


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ledger.db"
        return
    import psycopg

    uri = request.getfixturevalue("postgresql")
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS ledger WITH (FORCE)")
        connection.execute("CREATE DATABASE ledger")
    yield uri.replace("postgresql://", "postgresql+psycopg://").replace("/postgres?", "/ledger?")


@pytest.fixture(scope="session")
def signer() -> SigningKey:
    """The key that signs the ledgers of these tests."""
    return SIGNER


@pytest.fixture(scope="session")
def keys() -> dict[str, PublicKey]:
    """The public keys that these tests believe."""
    return {SIGNER.public.keyid: SIGNER.public}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Directory of the log, not yet made."""
    return tmp_path / "log"


@pytest.fixture
def opened(url: str, log: Path) -> Iterator[Callable[[], Ledger]]:
    """Opens the ledger, again and again; closed at the end."""
    ledgers: list[Ledger] = []

    def open_again() -> Ledger:
        ledgers.append(open_ledger(url, log, SIGNER, Clock()))
        return ledgers[-1]

    yield open_again
    for ledger in ledgers:
        ledger.close()
