"""Whether the audit log could be written: where it cannot, nothing may be changed, and serving says so.

The server never writes it. It looks once a second, and only where the log lies on its machine.
"""

import os
from pathlib import Path

ROOM_BYTES = 1 << 20  # below this the next acts are refused
CHECKPOINT = "checkpoint"


class AuditWatch:
    """Looks at the log's folder; says nothing of where it is.

    Args:
        log: the folder; empty: it is not here.
    """

    def __init__(self, log: str) -> None:
        self._log = Path(log) if log else None
        self._began = self._identity()
        self._has_begun = False  # the first entry makes the checkpoint
        self.problem: str | None = None  # as last seen

    @property
    def words(self) -> str:
        """For health."""
        if self._log is None:
            return "not on this machine"
        return "writable" if self.problem is None else f"cannot be written: {self.problem}; nothing can be changed"

    @property
    def is_writable(self) -> bool:
        """Whether nothing is known that keeps acts from being recorded."""
        return self.problem is None

    def look(self) -> None:
        """See how it is now."""
        if self._log is not None:
            self.problem = self._find_problem(self._log)

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._log) if self._log is not None else None
        except OSError:
            return None
        return None if status is None else (status.st_dev, status.st_ino)

    def _find_problem(self, log: Path) -> str | None:
        now = self._identity()
        if now is None:
            return "it is gone"
        if self._began is not None and now != self._began:
            return "another folder is in its place"
        try:
            room = os.statvfs(log)
            if room.f_flag & os.ST_RDONLY or not os.access(log, os.W_OK | os.X_OK):
                return "it may only be read"
            if room.f_bavail * room.f_frsize < ROOM_BYTES:
                return "its disk is full"
            there = (log / CHECKPOINT).is_file()
            if self._has_begun and not there:
                return "its checkpoint is gone"
            self._has_begun = there
        except OSError as error:
            return f"it does not answer ({error.strerror})"
        return None
