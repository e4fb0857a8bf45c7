"""The parts that every story on a project works with, and who may change it at a time."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import ConflictError, StorageError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.store import Ledger
from shipworthy.security.keys import Signer
from shipworthy.security.model_key import ModelKey
from shipworthy.workflows.layout import CONTRACT_FILE, Project


@dataclass(frozen=True, slots=True)
class Parts:
    """What a story works with; put together in `faces.wiring`."""

    project: Project
    ledger: Ledger
    artefacts: ArtefactStore
    key: Signer
    actor: str
    now: Callable[[], float]  # Unix seconds
    entropy: Callable[[int], bytes]
    model_key: Callable[[], ModelKey] | None = None  # signs payloads for others' tools
    rule: str = ""  # that allowed what is under way


def read_contract(project: Project) -> Contract:
    """The parsed contract of `project`.

    Raises:
        UsageError: the folder holds no contract.
        ContractError: it has problems; all are listed.
    """
    return parse_contract(project.contract_text(), CONTRACT_FILE)


@contextmanager
def hold_project(project: Project, act: str) -> Iterator[None]:
    """Keep other changing commands out of `project` while `act` runs.

    Raises:
        ConflictError: somebody else holds it; names process and act.
        StorageError: the state folder cannot be written.
    """
    refusal = f"{project.root}: {{holder}} is at work here; wait for it, or use --wait"
    with hold_file(project, "lock", f"`shipworthy {act}` (process {os.getpid()})", refusal):
        yield


@contextmanager
def hold_file(project: Project, name: str, mark: str, refusal: str) -> Iterator[None]:
    """Hold the file `name` of the project's state, which one process at a time can.

    Args:
        project: whose state.
        name: of the file, made if missing.
        mark: who holds it, for the others.
        refusal: what they are told, with `{holder}` in it.

    Raises:
        ConflictError: somebody else holds it.
        StorageError: the state folder cannot be written.
    """
    import fcntl  # not on every platform; the locks are the one place that needs it

    try:
        project.state.mkdir(parents=True, exist_ok=True)
        handle = os.open(project.state / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(
            f"{project.state}: cannot be written ({error.strerror}); make the project folder writable for this user"
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 200).decode(errors="replace").strip() or "another process"
            raise ConflictError(refusal.replace("{holder}", holder)) from None
        os.ftruncate(handle, 0)
        os.write(handle, f"{mark}\n".encode())
        yield
    finally:
        os.close(handle)
