"""The writer lock of a log: one holder at a time among threads and processes of this machine."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shipworthy.kernel.errors import ConflictError, StorageError

LOCK_TIMEOUT_S = 30.0  # an append takes ms: whoever waits longer waits for a stuck process
POLL_S = 0.0005  # an append takes about 1 ms


class WriterLock:
    """A lock on the file `lock` of a log. It dies with its process."""

    def __init__(self, log: Path, timeout_s: float) -> None:
        self._path = log / "lock"
        self._timeout_s = timeout_s
        self._thread = threading.Lock()

    def create(self) -> None:
        """Make the lock's file where it is missing."""
        try:
            os.close(os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        except OSError as error:
            raise StorageError(f"{self._path} cannot be made: {error}.") from error

    def exists(self) -> bool:
        """Whether the lock's file is there: a mere copy of a log may have none."""
        return self._path.exists()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            ConflictError: somebody else kept it for the whole timeout.
            StorageError: its file is gone: the log was removed.
        """
        deadline = time.monotonic() + self._timeout_s
        if not self._thread.acquire(timeout=self._timeout_s):
            raise self._taken()
        try:
            descriptor = self._lock_file(deadline)
            try:
                yield
            finally:
                os.close(descriptor)
        finally:
            self._thread.release()

    def _lock_file(self, deadline: float) -> int:
        while True:
            try:
                descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise StorageError(f"{self._path} was removed while running: {error}. Nothing is recorded.") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_ino == os.stat(self._path).st_ino:  # not a file that was unlinked
                    return descriptor
            except BlockingIOError:
                pass
            except OSError as error:
                os.close(descriptor)
                raise StorageError(f"{self._path} was removed while running: {error}.") from error
            os.close(descriptor)
            if time.monotonic() > deadline:
                raise self._taken()
            time.sleep(POLL_S)

    def _taken(self) -> ConflictError:
        return ConflictError(f"{self._path} is held by another process for over {self._timeout_s:.0f} s.")
