"""The few file operations that a durable bundle hangs on, behind a port, so that power loss can be rehearsed.

As `ledger/files.py` and `records/write.py` have theirs: what is written counts after `sync`, a name after
`sync_directory`.
"""

import fcntl
import os
import shutil
from pathlib import Path
from typing import Protocol

_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone stops at the drive's cache


class Disk(Protocol):
    """New files, renames and what makes them last."""

    def make_directory(self, path: Path) -> list[Path]:
        """Make the directory and its parents where missing; answers whose names are to be synced for that."""

    def write_new(self, path: Path, content: bytes) -> None:
        """Write a file that is not there yet."""

    def sync(self, path: Path) -> None:
        """Return when the file's content would survive a loss of power."""

    def rename(self, source: Path, target: Path) -> None:
        """Let `target` name what `source` named, at one moment; a file there is replaced."""

    def sync_directory(self, path: Path) -> None:
        """Return when the directory's names would survive a loss of power."""

    def remove(self, path: Path) -> None:
        """Remove a draft, a file or a tree, if it is there."""


class LocalDisk:
    """This machine's disk."""

    def make_directory(self, path: Path) -> list[Path]:
        """Make the directory and its parents where missing; answers whose names are to be synced for that."""
        if path.is_dir():
            return []
        changed = self.make_directory(path.parent)
        path.mkdir(exist_ok=True)
        return [*changed, path.parent]

    def write_new(self, path: Path, content: bytes) -> None:
        """Write a file that is not there yet."""
        with open(path, "xb") as file:
            file.write(content)

    def sync(self, path: Path) -> None:
        """Return when the file's content would survive a loss of power."""
        _sync(path, os.O_RDONLY)

    def rename(self, source: Path, target: Path) -> None:
        """Let `target` name what `source` named, at one moment; a file there is replaced."""
        os.rename(source, target)

    def sync_directory(self, path: Path) -> None:
        """Return when the directory's names would survive a loss of power."""
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def remove(self, path: Path) -> None:
        """Remove a draft, a file or a tree, if it is there."""
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


LOCAL_DISK = LocalDisk()


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if _FULL_SYNC is None:
            os.fsync(descriptor)
        else:
            fcntl.fcntl(descriptor, _FULL_SYNC)
    finally:
        os.close(descriptor)
