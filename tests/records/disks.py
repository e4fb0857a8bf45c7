"""A machine's disks, as a double: refusing by volume, killed at any call, and forgetting what was not synced."""

import errno
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shipworthy.records.disk import LocalDisk


class Killed(BaseException):
    """The process is no more."""


@dataclass
class _Inode:
    current: bytes = b""  # kept up when the last name goes
    synced: bytes = b""


@dataclass
class Machine(LocalDisk):
    """Local disks of which one may refuse, and a life that ends at the k-th call.

    A name is durable once its directory was synced, content once its file was; when power is lost, each name and
    each tail that was not is kept, lost or torn, by chance.
    """

    die_at: int = 0  # the call at which it ends; 0: never
    full: Path | None = None  # nothing below takes a write
    failing: Path | None = None  # below, syncs fail and nothing is cut
    calls: int = 0
    is_dead: bool = False
    _inodes: dict[int, _Inode] = field(default_factory=dict)
    _names: dict[Path, int] = field(default_factory=dict)
    _durable: dict[Path, int] = field(default_factory=dict)

    def _call(self) -> None:
        self.calls += 1
        if self.is_dead or self.calls == self.die_at:
            self.is_dead = True
            raise Killed

    def open(self, path: Path, flags: int) -> int:
        self._call()
        if flags & os.O_CREAT and self.full is not None and path.is_relative_to(self.full):
            raise OSError(errno.ENOSPC, "No space left on device")
        descriptor = super().open(path, flags)
        inode = os.fstat(descriptor).st_ino
        if self._names.get(path) != inode:
            self._inodes[inode] = _Inode()
        self._names[path] = inode
        return descriptor

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        self._call()
        if self.full is not None and _path(descriptor).is_relative_to(self.full):
            super().write(descriptor, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(descriptor, content)

    def sync(self, descriptor: int) -> None:
        self._call()
        if self.failing is not None and _path(descriptor).is_relative_to(self.failing):
            raise OSError(errno.EIO, "Input/output error")
        self._inodes[os.fstat(descriptor).st_ino].synced = _path(descriptor).read_bytes()

    def sync_directory(self, path: Path) -> None:
        self._call()
        for name in {*self._names, *self._durable}:
            if name.parent == path:
                if name in self._names:
                    self._durable[name] = self._names[name]
                else:
                    del self._durable[name]

    def truncate(self, descriptor: int, size: int) -> None:
        self._call()
        if self.failing is not None and _path(descriptor).is_relative_to(self.failing):
            raise OSError(errno.EIO, "Input/output error")
        super().truncate(descriptor, size)

    def replace(self, draft: Path, path: Path) -> None:
        self._call()
        self._forget(path)
        self._names[path] = self._names.pop(draft)
        super().replace(draft, path)

    def remove(self, path: Path) -> None:
        self._call()
        self._forget(path)
        super().remove(path)

    def _forget(self, path: Path) -> None:
        inode = self._names.pop(path, None)
        if inode is not None:
            self._inodes[inode].current = path.read_bytes()

    def lose_power(self, chance: random.Random) -> None:
        """What is found afterwards."""
        for name, inode in self._names.items():
            self._inodes[inode].current = name.read_bytes()
        names = sorted({*self._names, *self._durable})
        after: dict[Path, int | None] = {}
        for name in names:
            after[name] = chance.choice([self._names.get(name), self._durable.get(name)])
        left = {inode: _left(known, chance) for inode, known in self._inodes.items()}
        for name, found in after.items():
            name.unlink(missing_ok=True)
            if found is not None:
                name.write_bytes(left[found])


def _left(inode: _Inode, chance: random.Random) -> bytes:
    if not inode.current.startswith(inode.synced):  # it was cut, and the cut was not synced
        return chance.choice([inode.current, inode.synced])
    tail = bytearray(inode.current[len(inode.synced) :])
    del tail[chance.randint(0, len(tail)) :]
    if tail and inode.synced and chance.random() < 0.5:  # a hole where a page was not written
        start = chance.randrange(len(tail))
        tail[start : start + 64] = bytes(len(tail[start : start + 64]))
    return inode.synced + bytes(tail)


def _path(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


def let_go(directory: Path) -> None:
    """Close what a killed writer held open below, as its end would have."""
    for descriptor, path in list(_open_files()):
        if path.is_relative_to(directory):
            os.close(descriptor)


def _open_files() -> Iterator[tuple[int, Path]]:
    for name in os.listdir("/proc/self/fd"):
        try:
            yield int(name), _path(int(name))
        except OSError:
            continue
