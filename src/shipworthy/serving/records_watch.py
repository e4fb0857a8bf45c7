"""The records' disk, watched: tried again when it refused, and what waits in the spool moved back."""

import logging

from shipworthy.kernel.errors import IntegrityError, StorageError
from shipworthy.records.write import SegmentWriter
from shipworthy.serving.lane import Lane

_log = logging.getLogger("shipworthy.serving")


class RecordsWatch:
    """Looks after a writer, in a thread of its own, so that nobody waits for what it moves.

    Args:
        writer: of this worker.
    """

    def __init__(self, writer: SegmentWriter) -> None:
        self._writer = writer
        self._lane: Lane | None = None
        self._is_busy = False
        self._said = ""

    @property
    def is_writable(self) -> bool:
        """Whether the disk takes records."""
        return not self._writer.is_fenced

    @property
    def words(self) -> str:
        """How it stands, for health."""
        if not self._writer.is_fenced:
            return "their disk"
        return "the spool: their disk refuses" if self._writer.spool_bytes else "nowhere: their disk refuses"

    @property
    def spool_bytes(self) -> int:
        """What waits in the spool."""
        return self._writer.spool_bytes

    @property
    def times_fenced(self) -> int:
        """How many segments a disk refused to carry on."""
        return self._writer.times_fenced

    def look(self) -> None:
        """Begin to set right what is not, unless that is under way."""
        if self._is_busy or not (self._writer.is_fenced or self._writer.spool_bytes):
            return
        self._is_busy = True
        if self._lane is None:
            self._lane = Lane("spool")
        self._lane.submit(self._drain)

    def stop(self, timeout_s: float) -> None:
        """End the thread; what is not moved waits for the next start."""
        if self._lane is not None:
            self._lane.stop(timeout_s)

    def _drain(self) -> None:
        try:
            waited = self._writer.spool_bytes
            self._writer.drain()
            if waited and not self._writer.spool_bytes:
                _log.info("%d bytes of records were moved from the spool to their place", waited)
            self._said = ""
        except StorageError:
            pass  # whoever wrote records has said so; they wait on
        except IntegrityError as error:
            if str(error) != self._said:
                self._said = str(error)
                _log.error("records wait in the spool: %s", error)
        finally:
            self._is_busy = False
