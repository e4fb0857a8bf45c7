"""Drafts: what of an answered table is done, kept beside its destination until all is; a killed run is carried on.

    .OUT.draft/progress.jsonl   the plan, then a line for each part: rows, place, checksum, counts so far
    .OUT.draft/answers.csv      parts of a text file, one behind the other
    .OUT.draft/00000000.arrow   or a file for each part

A part is believed if its checksum holds, so that nothing here has to be synced: whatever a power cut leaves is either
whole or done again, from the records, which are synced as the policy says.
"""

import fcntl
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from shipworthy.kernel.errors import ConflictError, ShipworthyError, StorageError

PROGRESS = "progress.jsonl"
COPY = "rows"  # of a source that cannot be read twice alike
_LOCK = "lock"
_READ_BYTES = 2**22


class Plan(msgspec.Struct, frozen=True):
    """What a draft is of; another plan is another draft."""

    source: str  # digest
    destination: str
    key: str | None  # the column that names rows
    columns: dict[str, str]  # of the answers, with their types
    run: str  # given when it was begun: names it in the ledger
    mark: str  # what names the rows of a table without ids: table and releases when it was begun

    def is_same(self, other: "Plan") -> bool:
        """Whether a draft of `other` can be carried on."""
        return msgspec.structs.replace(self, run=other.run, mark=other.mark) == other


class Part(msgspec.Struct, frozen=True):
    """Some rows of the table, answered and written."""

    rows: int  # of the table
    malformed: int  # rows that could not be parted in fields
    file: str
    start: int  # of its bytes in the file
    size: int
    checksum: int
    state: dict[str, Any]  # of the scoring, behind this part


class Draft:
    """The draft of one destination, held by one process.

    Args:
        folder: of the draft.
        plan: what is to be done.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self._folder = folder
        self.plan = plan
        self.parts: list[Part] = []
        found = _read_progress(folder)
        if found is not None and plan.is_same(found[0]):
            self.plan, self.parts = found[0], _sound(folder, found[1])
        else:
            for path in folder.iterdir():
                if path.name not in (COPY, _LOCK):
                    _remove(path)
        self._rewrite()

    @property
    def rows(self) -> int:
        """Rows of the table that are done."""
        return sum(part.rows for part in self.parts)

    @property
    def files(self) -> list[Path]:
        """The parts' files, in order."""
        return list(dict.fromkeys(self._folder / part.file for part in self.parts))

    def path(self, name: str) -> Path:
        """A file of the draft."""
        return self._folder / name

    def next_name(self, suffix: str) -> str:
        """The file of a part that has one of its own."""
        return f"{len(self.parts):08d}{suffix}"

    def append(self, content: bytes, name: str, rows: int, malformed: int, state: dict[str, Any]) -> None:
        """Add a part.

        Args:
            content: its bytes.
            name: of the file that they are appended to.
            rows: of the table that it answers.
            malformed: rows that it answers beside them.
            state: of the scoring, to be carried on from.
        """
        with open(self._folder / name, "ab") as file:
            start = file.tell()
            file.write(content)
        part = Part(rows, malformed, name, start, len(content), zlib.crc32(content), state)
        with open(self._folder / PROGRESS, "ab") as file:
            file.write(msgspec.json.encode(part) + b"\n")
        self.parts.append(part)

    def remove(self) -> None:
        """The work is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _rewrite(self) -> None:
        """Keep what holds, and cut what was written behind it."""
        lines = [msgspec.json.encode(self.plan), *map(msgspec.json.encode, self.parts)]
        draft = self._folder / f"{PROGRESS}.draft"
        draft.write_bytes(b"\n".join(lines) + b"\n")
        draft.replace(self._folder / PROGRESS)
        ends = {part.file: part.start + part.size for part in self.parts}
        for path in self._folder.iterdir():
            if path.name in ends:
                os.truncate(path, ends[path.name])
            elif path.name not in (PROGRESS, COPY, _LOCK):
                _remove(path)


@contextmanager
def hold_draft(folder: Path, destination: str) -> Iterator[None]:
    """Keep other processes out of a draft.

    Raises:
        ConflictError: another one is at work there.
        StorageError: it cannot be written.
    """
    try:
        folder.mkdir(exist_ok=True, mode=0o700)
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _refusal(destination, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConflictError(f"{destination}: another process is scoring into it; wait for it") from None
        yield
    except OSError as error:
        if isinstance(error, ShipworthyError):
            raise
        raise _refusal(destination, error) from None
    finally:
        os.close(handle)


def read_plan(folder: Path) -> Plan | None:
    """The plan of the draft that lies there."""
    found = _read_progress(folder)
    return None if found is None else found[0]


def discard_if_empty(folder: Path) -> None:
    """Leave nothing of a draft in which nothing was done."""
    if not (folder / PROGRESS).exists():
        shutil.rmtree(folder, ignore_errors=True)


def _refusal(destination: str, error: OSError) -> StorageError:
    cure = "free space, mend its rights, or name another file"
    reason = error.strerror or str(error).partition("\n")[0]  # polars gives words alone
    return StorageError(f"{destination}: cannot be written ({reason}); {cure}")


def _read_progress(folder: Path) -> tuple[Plan, list[Part]] | None:
    """The plan, and the lines of parts that are whole."""
    try:
        first, *lines = (folder / PROGRESS).read_bytes().split(b"\n")
        plan = msgspec.json.decode(first, type=Plan)
    except (OSError, msgspec.MsgspecError):
        return None
    parts = []
    for line in lines:
        try:
            parts.append(msgspec.json.decode(line, type=Part))
        except msgspec.MsgspecError:
            break
    return plan, parts


def _sound(folder: Path, parts: list[Part]) -> list[Part]:
    """The parts up to the first that is not what was written."""
    for number, part in enumerate(parts):
        if _checksum(folder / part.file, part.start, part.size) != part.checksum:
            return parts[:number]
    return parts


def _checksum(path: Path, start: int, size: int) -> int | None:
    checksum = 0
    try:
        with open(path, "rb") as file:
            file.seek(start)
            while size and (content := file.read(min(size, _READ_BYTES))):
                checksum = zlib.crc32(content, checksum)
                size -= len(content)
    except OSError:
        return None
    return None if size else checksum


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
