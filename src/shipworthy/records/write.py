"""Writing records: many in one write, one sync for all, and nothing acknowledged that the disk refused.

After a failed write or sync the segment is fenced and never touched again (a failed fsync is not retried:
the kernel may have dropped the pages); the next append opens a new one, or, where the caller allows it, one in the
spool, on another volume, until the disk takes writes again.
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
from typing import NoReturn

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError, StorageError
from shipworthy.records.disk import Disk, LocalDisk, write_all, write_seal
from shipworthy.records.format import (
    MAGIC,
    SEALED_MAGIC,
    Contents,
    SegmentHeader,
    SegmentSeal,
    count_records,
    frame,
    name_of,
    seal_of,
    write_out,
)
from shipworthy.records.scan import scan
from shipworthy.records.sealed import seal_groups, segment_cipher
from shipworthy.records.spool import move_segment, spooled_segments
from shipworthy.security.vault import Vault

SEGMENT_BYTES = 64 * 2**20  # small enough to digest, ship and compact in a second
RETRY_AFTER_S = 0.5  # between attempts to open a segment on a disk that refused
MAX_RETRY_S = 8.0  # while there is a spool: the pause doubles, so that a disk that is nearly full is left in peace


@dataclass(slots=True, eq=False)
class _Segment:
    path: Path
    descriptor: int
    number: int
    digest: "hashlib._Hash"
    size_bytes: int = 0
    records: int = 0
    frames: int = 1  # with the header's: the next one's nonce
    cipher: AESGCM | None = None  # of a sealed segment
    is_unsynced: bool = False
    is_spooled: bool = False

    def commit(self, content: bytes | memoryview, records: int) -> None:
        self.digest.update(content)
        self.size_bytes += len(content)
        self.records += records

    def seal(self, *, is_fenced: bool = False) -> SegmentSeal:
        digest = f"sha256:{self.digest.hexdigest()}"
        return SegmentSeal(digest=digest, size_bytes=self.size_bytes, records=self.records, is_fenced=is_fenced)


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
        spool: a folder that `open_spool` gave; what waits there is moved into the records first. None: there is none.
        sharers: how many writers share the room in the spool.

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
        spool: Path | None = None,
        sharers: int = 1,
    ) -> None:
        self._directory = directory
        self._environment = environment
        self._worker = worker
        self._now = now
        self._monotonic = monotonic
        self._disk: Disk = disk or LocalDisk()
        self._segment_bytes = segment_bytes
        self._vault = vault
        self._spool = spool
        self._sharers = sharers
        self._seals = False
        self._lock = threading.Lock()
        self._syncing = threading.Lock()  # one thread at a time syncs and closes what `async` wrote
        self._segment: _Segment | None = None
        self._spooled: _Segment | None = None  # written while the disk refuses
        self._fenced: list[_Segment] = []  # to be sealed when the disk takes writes again
        self._last_fenced: _Segment | None = None  # since the disk refuses
        self._refused_at: float | None = None
        self._spool_refused_at: float | None = None
        self._pause_s = RETRY_AFTER_S
        self._spool_bytes = 0
        self.times_fenced = 0
        self.refusal = ""  # what the disk said last
        self._guard = -1
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._guard = _lock_name(directory / f".{worker}.lock", worker)
            self._take_up()
        except OSError as error:
            self.close()
            raise StorageError(f"{directory} cannot be written: {error.strerror}; mend the disk.") from None

    @property
    def is_fenced(self) -> bool:
        """Whether the disk refused and no segment is open on it."""
        return self._refused_at is not None

    @property
    def spool_bytes(self) -> int:
        """What waits in the spool."""
        return self._spool_bytes

    def append(self, contents: Contents, *, sync: bool = True, seal: bool = False, spool: int = 0) -> bool:
        """Write `contents` as one group; with `sync`, durable when this returns, else after the next `sync()`.

        Args:
            contents: encoded records, or frames of them, each of which fits a group.
            sync: whether to wait for the medium.
            seal: whether to encrypt them; from then on this writer encrypts everything.
            spool: bytes that may wait in the spool while the disk refuses, of all its sharers; 0: nothing is put there.

        Returns:
            Whether they are in the spool.

        Raises:
            StorageError: the disk refused and the spool did not take them, or there is no key; none of the group may
                be acknowledged.
        """
        if not contents:
            return False
        with self._lock:
            self._seals = self._seals or seal
            if self._seals:
                self._end_open_text()
            try:
                self._write_group(self._open_segment(), contents, sync=sync)
                self._pause_s = RETRY_AFTER_S
            except StorageError as error:
                if self._spool is None or not spool:
                    raise
                room = spool // self._sharers
                self._write_group(self._open_spooled(self._spool, error, room), contents, sync=sync)
                return True
        return False

    def sync(self) -> None:
        """Make durable what `async` appends wrote. Appends need not wait for it.

        Raises:
            StorageError: the disk refused.
        """
        with self._syncing:
            for segment in (self._segment, self._spooled):
                if segment is not None and segment.is_unsynced:
                    self._sync_beside(segment)
            full = self._segment
            if full is not None and full.size_bytes >= self._segment_bytes:
                self._rotate_beside(full)

    def drain(self) -> None:
        """Try the disk again if it refused, and move what waits in the spool into the records, in order.

        For one thread at a time; appends need not wait for it.

        Raises:
            StorageError: a disk refuses; what was not moved waits on.
            IntegrityError: the records have another segment of a name that waits.
        """
        if self._spool is not None and self._spool_bytes:
            self._drain(self._spool)
        elif self._refused_at is not None:
            with self._lock:
                self._open_segment()

    def close(self) -> None:
        """Sync and let go; the open segment is carried on by the next writer of this name, a sealed one is closed."""
        with self._syncing, self._lock:
            if self._segment is not None and self._segment.cipher is not None:
                self._rotate(self._segment)
            if self._segment is not None:
                self._leave(self._segment)
                self._segment = None
            self._close_spooled()
            if self._guard >= 0:
                os.close(self._guard)
                self._guard = -1

    # --- with the lock held

    def _write_group(self, segment: _Segment, contents: Contents, *, sync: bool) -> None:
        frames: Contents = contents if segment.cipher is None else seal_groups(segment.cipher, segment.frames, contents)
        pieces = write_out(frames)
        try:
            for piece in pieces:
                write_all(self._disk, segment.descriptor, piece)
            if sync:
                self._disk.sync(segment.descriptor)
            if os.fstat(segment.descriptor).st_nlink == 0:
                raise OSError(errno.ENOENT, "the segment was removed under its writer")
        except OSError as error:
            self._fence(segment, error)
        segment.is_unsynced = not sync
        for piece in pieces:
            segment.commit(piece, 0)
        segment.records += count_records(contents)
        segment.frames += count_records(frames)
        if segment.is_spooled:
            self._spool_bytes += sum(map(len, pieces))
            if segment.size_bytes >= self._segment_bytes:
                self._close_spooled()
        elif segment.size_bytes >= self._segment_bytes * (1 if sync else 2):  # `sync()` comes to `async` ones first
            self._rotate(segment)

    def _fence(self, segment: _Segment | None, error: OSError) -> NoReturn:
        """The disk refused: touch the segment no more, but for cutting away what was not acknowledged."""
        is_spooled = segment is not None and segment.is_spooled
        if is_spooled:
            self._spooled, self._spool_refused_at = None, self._monotonic()
        else:
            self._segment, self._last_fenced, self._refused_at = None, segment or self._last_fenced, self._monotonic()
            if self._spool is not None and segment is not None and not segment.records:  # it took a header, no more
                self._pause_s = min(self._pause_s * 2, MAX_RETRY_S)
        if segment is not None:
            self.times_fenced += 1
            with suppress(OSError):  # what was not acknowledged need not be seen; if it is, the reader merges by id
                self._disk.truncate(segment.descriptor, segment.size_bytes)
            os.close(segment.descriptor)
            if not is_spooled and not segment.is_unsynced:
                self._fenced.append(segment)
        where = self._spool if is_spooled else self._directory
        self.refusal = f"{where} refused a record: {error.strerror}; free space or mend the disk."
        raise StorageError(self.refusal)

    def _open_segment(self) -> _Segment:
        if self._segment is not None:
            return self._segment
        if self._refused_at is not None and self._monotonic() - self._refused_at < self._pause_s:
            raise StorageError(f"{self._directory} refused a record a moment ago; free space or mend the disk.")
        try:
            self._segment = self._create(self._directory, self._next_number())
        except (AccessError, IntegrityError) as error:  # of the key, not of the disk: asked again next time
            raise StorageError(f"{self._directory}: records cannot be encrypted. {error}") from None
        except OSError as error:
            self._fence(None, error)
        self._refused_at = self._last_fenced = None
        self._close_spooled()
        while self._fenced:
            self._seal(self._fenced.pop(), is_fenced=True)
        return self._segment

    def _open_spooled(self, spool: Path, refusal: StorageError, limit_bytes: int) -> _Segment:
        """The segment in the spool, while there is room.

        Raises:
            StorageError: the spool is full, or its disk refuses as well.
        """
        if self._spool_bytes >= limit_bytes:
            raise StorageError(f"{refusal} The spool {spool} is full too: {self._spool_bytes} bytes wait.")
        if self._spooled is not None:
            return self._spooled
        if self._spool_refused_at is not None and self._monotonic() - self._spool_refused_at < RETRY_AFTER_S:
            raise StorageError(f"{refusal} The spool {spool} refused a record a moment ago.")
        try:
            self._spooled = self._create(spool, self._next_number())
        except (AccessError, IntegrityError) as error:
            raise StorageError(f"{spool}: records cannot be encrypted. {error}") from None
        except OSError as error:
            self._spool_refused_at = self._monotonic()
            raise StorageError(f"{refusal} The spool {spool} refuses too: {error.strerror}.") from None
        self._spool_refused_at = None
        self._spool_bytes += self._spooled.size_bytes
        return self._spooled

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _create(self, directory: Path, number: int) -> _Segment:
        path = directory / name_of(self._worker, number)
        is_spooled = directory == self._spool
        opening, cipher = self._opening(path, number, self._last_fenced if is_spooled else None)
        descriptor = self._disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        segment = _Segment(path, descriptor, number, hashlib.sha256(), cipher=cipher, is_spooled=is_spooled)
        try:
            write_all(self._disk, descriptor, opening)
            segment.commit(opening, 0)
            self._disk.sync(descriptor)
            self._disk.sync_directory(directory)
        except OSError:
            os.close(descriptor)
            with suppress(OSError):
                self._disk.remove(path)
            raise
        return segment

    def _opening(self, path: Path, number: int, last: _Segment | None) -> tuple[bytes, AESGCM | None]:
        """Magic and header of a segment, and what encrypts its groups."""
        header = SegmentHeader(
            environment=self._environment,
            worker=self._worker,
            number=number,
            created=self._now(),
            after=0 if last is None else last.number,
            after_bytes=0 if last is None else last.size_bytes,
        )
        if not self._seals:
            return MAGIC + frame(msgspec.msgpack.encode(header)), None
        if self._vault is None:
            raise AccessError("This process was given no key.")
        key, salt = self._vault.new_salt()
        encoded = msgspec.msgpack.encode(msgspec.structs.replace(header, key=key, salt=salt))
        return SEALED_MAGIC + frame(encoded), segment_cipher(self._vault, path, encoded)

    def _end_open_text(self) -> None:
        """Close what is not encrypted, now that everything is to be."""
        if self._segment is not None and self._segment.cipher is None:
            self._rotate(self._segment)
        if self._spooled is not None and self._spooled.cipher is None:
            self._close_spooled()

    def _close_spooled(self) -> None:
        segment, self._spooled = self._spooled, None
        if segment is not None:
            self._leave(segment)

    def _leave(self, segment: _Segment) -> None:
        with suppress(OSError):  # nothing more is acknowledged; the reader takes what is whole
            self._disk.sync(segment.descriptor)
        os.close(segment.descriptor)

    def _rotate(self, segment: _Segment) -> None:
        self._segment = None
        with suppress(OSError):  # the records are there; only the seal is missing
            self._disk.sync(segment.descriptor)
            self._seal(segment)
        os.close(segment.descriptor)

    def _seal(self, segment: _Segment, *, is_fenced: bool = False) -> None:
        with suppress(OSError):
            write_seal(self._disk, segment.path, segment.seal(is_fenced=is_fenced))

    # --- without the lock: a slow disk holds nobody up

    def _drain(self, spool: Path) -> None:
        with self._lock:
            if self._refused_at is not None or self._spooled is not None:
                self._open_segment()
            paths = spooled_segments(spool, self._worker).get(self._worker, [])
        for path in paths:
            try:
                move_segment(self._disk, path, self._directory)
            except OSError as error:
                raise StorageError(f"{path} cannot be moved into the records: {error.strerror}.") from None
            with self._lock:
                self._spool_bytes = _size_of(spool, self._worker)

    def _sync_beside(self, segment: _Segment) -> None:
        with self._lock:
            if segment not in (self._segment, self._spooled):
                return
            segment.is_unsynced = False
            descriptor = os.dup(segment.descriptor)
        try:
            self._disk.sync(descriptor)
        except OSError as error:
            with self._lock:
                segment.is_unsynced = True  # it may lack what was written: not to be sealed
                if segment in (self._segment, self._spooled):
                    self._fence(segment, error)
            raise StorageError(f"{segment.path} was not synced: {error.strerror}; mend the disk.") from None
        finally:
            os.close(descriptor)

    def _rotate_beside(self, full: _Segment) -> None:
        """Go on in a new segment, then close the full one."""
        with self._lock:
            number = self._next_number()
        try:
            fresh = self._create(self._directory, number)
        except (OSError, AccessError, IntegrityError):
            return  # it is tried again, or the next append says what is wrong
        with self._lock:
            is_next = self._segment is full
            if is_next:
                self._segment = fresh
        if not is_next:  # the full one was fenced meanwhile
            os.close(fresh.descriptor)
            with suppress(OSError):
                self._disk.remove(fresh.path)
            return
        with suppress(OSError):
            self._disk.sync(full.descriptor)
            self._seal(full)
        os.close(full.descriptor)

    # --- at the start

    def _take_up(self) -> None:
        """Move what waits in the spool, and carry on the last segment; where the disk refuses, the spool goes on."""
        last = _last_number(self._directory, self._worker)
        if self._spool is None:
            self._number = last
            self._recover()
            return
        self._number = max(last, _last_number(self._spool, self._worker))
        self._spool_bytes = _size_of(self._spool, self._worker)
        try:
            self._drain_all(self._spool)
            last = _last_number(self._directory, self._worker)
            if last == self._number or not self._spool_bytes:
                self._number = last
                self._recover()
        except (OSError, StorageError):
            self._refused_at = self._monotonic()
        except IntegrityError:
            pass  # `drain` says so whenever it is asked

    def _drain_all(self, spool: Path) -> None:
        """Move what this worker left in the spool, and those whom nobody may succeed."""
        self._drain(spool)
        for worker, paths in spooled_segments(spool).items():
            if worker != self._worker:
                self._move_for(worker, paths)

    def _move_for(self, worker: str, paths: Sequence[Path]) -> None:
        with suppress(ConflictError):  # it lives, and moves its own
            guard = _lock_name(self._directory / f".{worker}.lock", worker)
            try:
                for path in paths:
                    if path.exists():
                        move_segment(self._disk, path, self._directory)
            finally:
                os.close(guard)

    def _recover(self) -> None:
        """Cut the torn tail of this worker's last segment and carry it on, if it is not closed; an encrypted one is
        closed, for the nonce of its torn frame was used."""
        path = self._directory / name_of(self._worker, self._number)
        if self._number == 0 or seal_of(path).exists():
            return
        found = scan(path)
        if found.is_damaged:
            return  # damage in the middle: leave it for the reader to report, start a new segment
        if not found.frames:  # died while making it: nothing was acknowledged from it
            path.unlink()
            self._number -= 1
            return
        descriptor = self._disk.open(path, os.O_WRONLY | os.O_APPEND)
        if found.is_torn:
            self._disk.truncate(descriptor, found.end)
            self._disk.sync(descriptor)
        segment = _Segment(path, descriptor, self._number, found.digest, found.end, found.records, frames=found.frames)
        self._segment = segment
        if found.is_sealed:
            self._rotate(segment)


def _lock_name(path: Path, worker: str) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConflictError(f"{path.parent}: another process writes records as {worker}; stop it first.") from None
    return descriptor


def _size_of(spool: Path, worker: str) -> int:
    return sum(path.stat().st_size for path in spooled_segments(spool, worker).get(worker, []))


def _last_number(directory: Path, worker: str) -> int:
    pattern = re.compile(re.escape(worker) + r"-(\d{8})(\.parquet|\.seal)?")
    return max((int(found[1]) for path in directory.iterdir() if (found := pattern.fullmatch(path.name))), default=0)
