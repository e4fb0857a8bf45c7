"""A project folder: where its contract, state and keys are, and the parts that every story needs."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import ConflictError, SourceError, StorageError, UsageError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.store import Ledger
from shipworthy.security.keys import SigningKey

CONTRACT_FILE = "shipworthy.yaml"
STATE_DIRECTORY = ".shipworthy"


@dataclass(frozen=True, slots=True)
class Project:
    """The paths of one project; nothing is read or made by naming them."""

    root: Path

    @property
    def contract_file(self) -> Path:
        """The contract."""
        return self.root / CONTRACT_FILE

    @property
    def state(self) -> Path:
        """Everything that Shipworthy keeps."""
        return self.root / STATE_DIRECTORY

    @property
    def log(self) -> Path:
        """The audit log's tiles and checkpoint."""
        return self.state / "log"

    @property
    def blobs(self) -> Path:
        """Content-addressed artefacts."""
        return self.state / "blobs"

    @property
    def tables(self) -> Path:
        """Snapshots, in Delta Lake."""
        return self.state / "tables"

    @property
    def quarantine(self) -> Path:
        """Rows that were not accepted, with reasons."""
        return self.state / "quarantine"

    @property
    def work(self) -> Path:
        """Where a stage puts what it has not finished."""
        return self.state / "work"

    @property
    def public_keys(self) -> Path:
        """Public keys that releases and checkpoints are verified with."""
        return self.state / "keys"

    def live(self, environment: str) -> Path:
        """What a server of `environment` reads."""
        return self.state / "live" / environment

    def records(self, environment: str) -> Path:
        """What the servers of `environment` wrote."""
        return self.state / "records" / environment

    def ledger_url(self, environment: dict[str, str]) -> str:
        """`SHIPWORTHY_LEDGER_URL` if set, else SQLite in the state folder."""
        return environment.get("SHIPWORTHY_LEDGER_URL") or f"sqlite:///{self.state / 'ledger.db'}"

    def read_contract(self) -> Contract:
        """The parsed contract.

        Raises:
            UsageError: the folder holds no contract.
            ContractError: it has problems; all are listed.
        """
        return parse_contract(self.contract_text(), CONTRACT_FILE)

    def contract_text(self) -> str:
        """The contract as it is written.

        Raises:
            UsageError: the folder holds no contract.
            SourceError: the file is not UTF-8 or cannot be read.
        """
        try:
            return self.contract_file.read_text(encoding="utf-8-sig")
        except (FileNotFoundError, NotADirectoryError):
            raise UsageError(
                f"{self.root}: there is no {CONTRACT_FILE} in this folder; "
                f"run `shipworthy init DIR --data FILE --target COLUMN`, or name the project with --project DIR"
            ) from None
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{CONTRACT_FILE}: byte {error.start} is not UTF-8; save the file as UTF-8"
            ) from None
        except OSError as error:
            raise SourceError(f"{CONTRACT_FILE}: cannot be read ({error.strerror}); check its permissions") from None


@dataclass(frozen=True, slots=True)
class Parts:
    """What a story works with; put together in `faces.wiring`."""

    project: Project
    ledger: Ledger
    artefacts: ArtefactStore
    key: SigningKey
    actor: str
    now: Callable[[], float]  # Unix seconds
    entropy: Callable[[int], bytes]


@contextmanager
def hold_project(project: Project, act: str) -> Iterator[None]:
    """Keep other changing commands out of `project` while `act` runs.

    Raises:
        ConflictError: somebody else holds it; names process and act.
        StorageError: the state folder cannot be written.
    """
    import fcntl  # not on every platform; the lock is the one place that needs it

    path = project.state / "lock"
    try:
        project.state.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(
            f"{project.state}: cannot be written ({error.strerror}); make the project folder writable for this user"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise ConflictError(f"{project.root}: {holder} is at work here; wait for it, or use --wait") from None
        os.ftruncate(handle, 0)
        os.write(handle, f"`shipworthy {act}` (process {os.getpid()})\n".encode())
        yield
    finally:
        os.close(handle)
