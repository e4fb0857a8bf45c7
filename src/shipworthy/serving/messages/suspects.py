"""Requests that may have taken their process with them, known to the next process.

Which ids are in a run is written down before it, and not synced: the file outlives the process, if not the machine.
Whoever finds ids there at a start knows that the process before it ended in that run. An id that was there twice is
run alone, and one that was there too often is not shown to the model again.
"""

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

ALONE_AFTER = 2  # ends of a process that may be somebody else's doing: who runs with others is not found out
GIVEN_UP_AFTER = 4
MAX_SUSPECTS = 4096  # the newest are kept


class _Page(msgspec.Struct):
    running: list[str] = []
    ends: dict[str, int] = {}  # of a process while this id was in a run


class Suspects:
    """Which ids were in a run when a process ended.

    Args:
        path: the file; made if missing. One that cannot be read tells nothing.
    """

    def __init__(self, path: Path) -> None:
        page = _Page()
        with suppress(FileNotFoundError, msgspec.MsgspecError):
            page = msgspec.msgpack.decode(path.read_bytes(), type=_Page)
        self._ends = page.ends
        for name in page.running:
            self._ends[name] = self._ends.pop(name, 0) + 1  # the newest last
        for name in list(self._ends)[:-MAX_SUSPECTS]:
            del self._ends[name]
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._write([])

    def __len__(self) -> int:
        return len(self._ends)

    @property
    def names(self) -> list[str]:
        """All ids of which anything is suspected."""
        return list(self._ends)

    def is_alone(self, name: str) -> bool:
        """Whether this id is to be run by itself."""
        return self._ends.get(name, 0) >= ALONE_AFTER

    def is_given_up(self, name: str) -> bool:
        """Whether this id is not to be run at all."""
        return self._ends.get(name, 0) >= GIVEN_UP_AFTER

    def begin(self, names: list[str]) -> None:
        """These ids are about to be run."""
        self._write(names)

    def end(self, names: Iterable[str]) -> None:
        """These ids were run, and the process is still here: nothing is suspected of them any more."""
        for name in names:
            self._ends.pop(name, None)
        self._write([])

    def close(self) -> None:
        """The process ends in no run."""
        self._write([])
        os.close(self._descriptor)

    def _write(self, running: list[str]) -> None:
        content = msgspec.msgpack.encode(_Page(running, self._ends))
        with suppress(OSError):  # a full disk costs this knowledge and nothing else
            os.pwrite(self._descriptor, content, 0)
            os.ftruncate(self._descriptor, len(content))
