"""The few file operations that durability rests on, behind a port, so that power loss can be rehearsed."""

import fcntl
import os
from pathlib import Path
from typing import Protocol

_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone stops at the drive's cache


class Disk(Protocol):
    """Files by path. What was written counts after `sync`; a new or replaced name after `sync_directory`."""

    def read(self, path: Path) -> bytes | None:
        """All of the file; None if there is none."""

    def size(self, path: Path) -> int | None:
        """Size of the file in bytes; None if there is none."""

    def write_at(self, path: Path, offset: int, content: bytes) -> None:
        """Make the file end with `content` at `offset`; what is missing before it becomes zeros."""

    def truncate(self, path: Path, size: int) -> None:
        """Cut the file to `size`; nothing happens if there is none."""

    def sync(self, path: Path) -> None:
        """Return when the file's content would survive a loss of power."""

    def replace(self, source: Path, target: Path) -> None:
        """Let `target` name what `source` named, at one moment."""

    def make_directory(self, path: Path) -> list[Path]:
        """Make the directory and its parents where missing; answers whose names are to be synced for that."""

    def sync_directory(self, path: Path) -> None:
        """Return when the directory's names would survive a loss of power."""


def make_durable_directory(disk: Disk, path: Path) -> None:
    """Make the directory and its parents where missing, and return when they would survive a loss of power."""
    for changed in disk.make_directory(path):
        disk.sync_directory(changed)


class LocalDisk:
    """The real disk."""

    def read(self, path: Path) -> bytes | None:
        """All of the file; None if there is none."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def size(self, path: Path) -> int | None:
        """Size of the file in bytes; None if there is none."""
        try:
            return os.stat(path).st_size
        except FileNotFoundError:
            return None

    def write_at(self, path: Path, offset: int, content: bytes) -> None:
        """Make the file end with `content` at `offset`."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            end = offset + len(content)
            rest = memoryview(content)
            while rest:
                rest = rest[os.pwrite(descriptor, rest, end - len(rest)) :]
            if os.fstat(descriptor).st_size > end:
                os.ftruncate(descriptor, end)
        finally:
            os.close(descriptor)

    def truncate(self, path: Path, size: int) -> None:
        """Cut the file to `size`; nothing happens if there is none."""
        if (self.size(path) or 0) > size:
            os.truncate(path, size)

    def sync(self, path: Path) -> None:
        """Return when the file's content would survive a loss of power."""
        _sync(path, os.O_RDONLY)

    def replace(self, source: Path, target: Path) -> None:
        """Let `target` name what `source` named, at one moment."""
        os.replace(source, target)

    def make_directory(self, path: Path) -> list[Path]:
        """Make the directory and its parents where missing; answers whose names are to be synced for that."""
        if path.is_dir():
            return []
        changed = self.make_directory(path.parent)
        path.mkdir(exist_ok=True)
        return [*changed, path.parent]

    def sync_directory(self, path: Path) -> None:
        """Return when the directory's names would survive a loss of power."""
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        if _FULL_SYNC is None:
            os.fsync(descriptor)
        else:
            fcntl.fcntl(descriptor, _FULL_SYNC)
    finally:
        os.close(descriptor)
