"""Writing records: many in one write, one sync for all, and nothing acknowledged that the disk refused.

After a failed write or sync the segment is fenced and never touched again (a failed fsync is not retried:
the kernel may have dropped the pages); the next append opens a new one.
"""

import errno
import fcntl
import hashlib
import os
import re
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError, StorageError
from shipworthy.records.format import (
    MAGIC,
    SEALED_MAGIC,
    SegmentHeader,
    SegmentSeal,
    frame,
    has_magic,
    has_whole_frame_after,
    join_frames,
    whole_frames,
)
from shipworthy.records.sealed import count_groups, seal_groups, segment_cipher
from shipworthy.security.vault import Vault

SEGMENT_BYTES = 64 * 2**20  # small enough to digest, ship and compact in a second
RETRY_AFTER_S = 0.5  # between attempts to open a segment on a disk that refused


class Disk(Protocol):
    """The few calls that durability hangs on; a test's double drops, tears and refuses here."""

    def open(self, path: Path, flags: int) -> int:
        """A descriptor of the file."""

    def write(self, descriptor: int, content: bytes) -> int:
        """Bytes written, which may be fewer than given."""

    def sync(self, descriptor: int) -> None:
        """Return when all written data is on the medium."""

    def sync_directory(self, path: Path) -> None:
        """Return when names in the directory are on the medium."""

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file."""


class LocalDisk:
    """The operating system's own calls."""

    def open(self, path: Path, flags: int) -> int:
        """See `Disk`."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def write(self, descriptor: int, content: bytes) -> int:
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


@dataclass(slots=True)
class _Segment:
    path: Path
    descriptor: int
    number: int
    size_bytes: int
    records: int
    digest: "hashlib._Hash"
    cipher: AESGCM | None = None  # of a sealed segment
    frames: int = 0  # with the header's: the next one's nonce

    def commit(self, content: bytes, records: int) -> None:
        self.digest.update(content)
        self.size_bytes += len(content)
        self.records += records


class SegmentWriter:
    """The only writer of the segments `DIRECTORY/WORKER-N`; safe to share between threads.

    Args:
        directory: `records/ENV`; made if missing.
        environment: name of the environment.
        worker: name of the worker; a lock keeps a second writer of that name out.
        now: wall clock, Unix seconds.
        monotonic: for the pause after a refusal, seconds.
        disk: where to write.
        segment_bytes: a segment is closed once it is this long.
        vault: encrypts what is to be sealed; None where nothing is.

    Raises:
        ConflictError: another process writes under this name.
        StorageError: the disk refused.
    """

    def __init__(
        self,
        directory: Path,
        environment: str,
        worker: str,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        disk: Disk | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        vault: Vault | None = None,
    ) -> None:
        self._directory = directory
        self._environment = environment
        self._worker = worker
        self._now = now
        self._monotonic = monotonic
        self._disk: Disk = disk or LocalDisk()
        self._segment_bytes = segment_bytes
        self._vault = vault
        self._seals = False
        self._lock = threading.Lock()
        self._segment: _Segment | None = None
        self._refused_at: float | None = None
        self._unsynced = False
        self._guard = -1
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._guard = _lock_name(directory / f".{worker}.lock", worker)
            self._number = _last_number(directory, worker)
            self._recover()
        except OSError as error:
            self.close()
            raise StorageError(f"{directory} cannot be written: {error.strerror}; mend the disk.") from None

    @property
    def is_fenced(self) -> bool:
        """Whether the disk refused and no segment is open."""
        return self._refused_at is not None

    def append(self, contents: Sequence[bytes], *, sync: bool = True, seal: bool = False) -> None:
        """Write `contents` as one group; with `sync`, durable when this returns, else after the next `sync()`.

        Args:
            contents: encoded records.
            sync: whether to wait for the medium.
            seal: whether to encrypt them; from then on this writer encrypts everything.

        Raises:
            StorageError: the disk refused, or there is no key; none of the group may be acknowledged.
        """
        if not contents:
            return
        with self._lock:
            self._seals = self._seals or seal
            if self._seals and self._segment is not None and self._segment.cipher is None:
                self._rotate(self._segment)
            segment = self._open_segment()
            frames = contents if segment.cipher is None else seal_groups(segment.cipher, segment.frames, contents)
            content = join_frames(frames)
            try:
                self._write(segment.descriptor, content)
                if sync:
                    self._disk.sync(segment.descriptor)
                if os.fstat(segment.descriptor).st_nlink == 0:
                    raise OSError(errno.ENOENT, "the segment was removed under its writer")
            except OSError as error:
                self._fence(error)
            self._unsynced = not sync
            segment.commit(content, len(contents))
            segment.frames += len(frames)
            if segment.size_bytes >= self._segment_bytes:
                self._rotate(segment)

    def sync(self) -> None:
        """Make durable what `async` appends wrote.

        Raises:
            StorageError: the disk refused.
        """
        with self._lock:
            if self._segment is not None and self._unsynced:
                self._unsynced = False
                try:
                    self._disk.sync(self._segment.descriptor)
                except OSError as error:
                    self._fence(error)

    def close(self) -> None:
        """Sync and let go; the open segment is carried on by the next writer of this name, a sealed one is closed."""
        with self._lock:
            if self._segment is not None and self._segment.cipher is not None:
                self._rotate(self._segment)
            if self._segment is not None:
                with suppress(OSError):  # nothing more is acknowledged; the reader takes what is whole
                    self._disk.sync(self._segment.descriptor)
                os.close(self._segment.descriptor)
                self._segment = None
            if self._guard >= 0:
                os.close(self._guard)
                self._guard = -1

    def _write(self, descriptor: int, content: bytes) -> None:
        written = self._disk.write(descriptor, content)
        while written < len(content):
            written += self._disk.write(descriptor, content[written:])

    def _fence(self, error: OSError) -> NoReturn:
        segment, self._segment = self._segment, None
        self._refused_at = self._monotonic()
        if segment is not None:
            with suppress(OSError):  # what was not acknowledged need not be seen; if it is, the reader merges by id
                self._disk.truncate(segment.descriptor, segment.size_bytes)
            os.close(segment.descriptor)
        raise StorageError(f"{self._directory} refused a record: {error.strerror}; free space or mend the disk.")

    def _open_segment(self) -> _Segment:
        if self._segment is not None:
            return self._segment
        if self._refused_at is not None and self._monotonic() - self._refused_at < RETRY_AFTER_S:
            raise StorageError(f"{self._directory} refused a record a moment ago; free space or mend the disk.")
        try:
            self._segment = self._create()
        except (AccessError, IntegrityError) as error:  # of the key, not of the disk: asked again next time
            raise StorageError(f"{self._directory}: records cannot be encrypted. {error}") from None
        except OSError as error:
            self._fence(error)
        self._refused_at = None
        return self._segment

    def _create(self) -> _Segment:
        number = self._number + 1
        path = self._directory / f"{self._worker}-{number:08d}"
        opening, cipher = self._opening(path, number)
        descriptor = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        segment = _Segment(path, descriptor, number, 0, 0, hashlib.sha256(), cipher, frames=1)
        try:
            self._write(descriptor, opening)
            segment.commit(opening, 0)
            self._disk.sync(descriptor)
            self._disk.sync_directory(self._directory)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        self._number = number
        return segment

    def _opening(self, path: Path, number: int) -> tuple[bytes, AESGCM | None]:
        """Magic and header of a segment, and what encrypts its groups."""
        header = SegmentHeader(environment=self._environment, worker=self._worker, number=number, created=self._now())
        if not self._seals:
            return MAGIC + frame(msgspec.msgpack.encode(header)), None
        if self._vault is None:
            raise AccessError("This process was given no key.")
        key, salt = self._vault.new_salt()
        encoded = msgspec.msgpack.encode(msgspec.structs.replace(header, key=key, salt=salt))
        return SEALED_MAGIC + frame(encoded), segment_cipher(self._vault, path, encoded)

    def _rotate(self, segment: _Segment) -> None:
        self._segment = None
        try:
            self._disk.sync(segment.descriptor)
            _seal(self._disk, segment)
        except OSError:
            pass  # the records are there; only the seal is missing
        os.close(segment.descriptor)

    def _recover(self) -> None:
        """Cut the torn tail of this worker's last segment and carry it on, if it is not closed; an encrypted one is
        closed, for the nonce of its torn frame was used."""
        path = self._directory / f"{self._worker}-{self._number:08d}"
        if self._number == 0 or path.with_name(path.name + ".seal").exists():
            return
        content = memoryview(path.read_bytes())  # its parts are not copied
        spans = whole_frames(content) if has_magic(content) else []
        end = spans[-1][1] if spans else 0
        if end < len(content) and has_whole_frame_after(content, end):
            return  # damage in the middle: leave it for the reader to report, start a new segment
        if not spans:  # died while making it: nothing was acknowledged from it
            path.unlink()
            self._number -= 1
            return
        descriptor = self._disk.open(path, os.O_WRONLY | os.O_APPEND)
        if end < len(content):
            self._disk.truncate(descriptor, end)
            self._disk.sync(descriptor)
        self._segment = _Segment(
            path, descriptor, self._number, end, len(spans) - 1, hashlib.sha256(content[:end]), frames=len(spans)
        )
        if content[: len(SEALED_MAGIC)] == SEALED_MAGIC:
            self._segment.records = count_groups([content[start:stop] for start, stop in spans[1:]])
            self._rotate(self._segment)


def _seal(disk: Disk, segment: _Segment) -> None:
    seal = SegmentSeal(
        digest=f"sha256:{segment.digest.hexdigest()}", size_bytes=segment.size_bytes, records=segment.records
    )
    path = segment.path.with_name(segment.path.name + ".seal")
    draft = path.with_name("." + path.name)
    descriptor = disk.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        disk.write(descriptor, msgspec.json.encode(seal))
        disk.sync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(draft, path)
    disk.sync_directory(path.parent)


def _lock_name(path: Path, worker: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConflictError(f"{path.parent}: another process writes records as {worker}; stop it first.") from None
    return descriptor


def _last_number(directory: Path, worker: str) -> int:
    pattern = re.compile(re.escape(worker) + r"-(\d{8})")
    return max((int(found[1]) for path in directory.iterdir() if (found := pattern.fullmatch(path.name))), default=0)
