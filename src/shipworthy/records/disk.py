"""The few calls that durability hangs on, behind a port: a disk that refuses or loses power can be rehearsed."""

import os
from pathlib import Path
from typing import Protocol

import msgspec

from shipworthy.records.format import SegmentSeal, seal_of


class Disk(Protocol):
    """A test's double drops, tears and refuses here."""

    def open(self, path: Path, flags: int) -> int:
        """A descriptor of the file."""

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        """Bytes written, which may be fewer than given."""

    def sync(self, descriptor: int) -> None:
        """Return when all written data is on the medium."""

    def sync_directory(self, path: Path) -> None:
        """Return when names in the directory are on the medium."""

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file."""

    def replace(self, draft: Path, path: Path) -> None:
        """Give `draft` the name `path`, at once."""

    def remove(self, path: Path) -> None:
        """Take the name away, if it is there."""


class LocalDisk:
    """The operating system's own calls."""

    def open(self, path: Path, flags: int) -> int:
        """See `Disk`."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        """See `Disk`."""
        return os.write(descriptor, content)

    def sync(self, descriptor: int) -> None:
        """See `Disk`."""
        getattr(os, "fdatasync", os.fsync)(descriptor)

    def sync_directory(self, path: Path) -> None:
        """See `Disk`."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def truncate(self, descriptor: int, size: int) -> None:
        """See `Disk`."""
        os.ftruncate(descriptor, size)

    def replace(self, draft: Path, path: Path) -> None:
        """See `Disk`."""
        os.replace(draft, path)

    def remove(self, path: Path) -> None:
        """See `Disk`."""
        path.unlink(missing_ok=True)


def write_all(disk: Disk, descriptor: int, content: bytes | memoryview) -> None:
    """Write all of `content`."""
    written = disk.write(descriptor, content)
    while written < len(content):
        written += disk.write(descriptor, content[written:])


def write_file(disk: Disk, path: Path, content: bytes) -> None:
    """Make or replace the file, durably: after a kill or a power cut it is there whole, or as it was before."""
    draft = path.with_name(f".{path.name}.draft")
    descriptor = disk.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        write_all(disk, descriptor, content)
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
    disk.replace(draft, path)
    disk.sync_directory(path.parent)


def write_seal(disk: Disk, segment: Path, seal: SegmentSeal) -> None:
    """Put what is known of a closed segment beside it."""
    write_file(disk, seal_of(segment), msgspec.json.encode(seal))
