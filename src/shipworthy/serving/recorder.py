"""Records of answers: written as the policy says before anything is answered, or refused or dropped and counted."""

import logging
from collections.abc import Callable, Sequence

import msgspec

from shipworthy.kernel.errors import StorageError
from shipworthy.records.write import SegmentWriter
from shipworthy.serving.answer import Answer, record_answer
from shipworthy.serving.job import Job, Outcome
from shipworthy.serving.servable import Servable

COMPLAIN_EVERY_S = 5.0  # a full disk is one line of log, not one for each request

_log = logging.getLogger("shipworthy.serving")


class Recorded(msgspec.Struct, frozen=True):
    """What became of the records of some answers."""

    written: int = 0
    spooled: int = 0  # of those, in the spool
    dropped: int = 0  # answered all the same
    refused: int = 0  # must not be answered


class Recorder:
    """Writes the records of answers; for the threads of a path.

    Args:
        writer: where records go; None where the policy keeps none.
        environment, worker: names in each record.
        now: wall clock, Unix seconds.
        monotonic: clock of latencies, seconds.
    """

    def __init__(
        self,
        writer: SegmentWriter | None,
        environment: str,
        worker: str,
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._writer = writer
        self._environment = environment
        self._worker = worker
        self._now = now
        self._monotonic = monotonic
        self._encode = msgspec.msgpack.Encoder().encode
        self._complained_at = -COMPLAIN_EVERY_S
        self._is_spooling = False

    def record(self, servable: Servable, answers: Sequence[tuple[Job, Outcome]]) -> Recorded:
        """Write the records; durable when this returns where the policy says `sync`."""
        policy = servable.policy
        if policy.durability == "off" or self._writer is None or not answers:
            return Recorded()
        now, clock = self._now(), self._monotonic()
        names = (servable.system, self._environment, self._worker)
        contents = [
            self._encode(record_answer(answer, job.sample, *names, now, (clock - job.arrived) * 1000))
            for job, answer in answers
            if isinstance(answer, Answer)
        ]
        try:
            is_spooled = self._writer.append(
                contents,
                sync=policy.durability == "sync",
                seal=policy.encryption == "at_rest",
                spool=policy.spool_bytes if policy.when_full == "spool" else 0,
            )
        except StorageError as error:
            if clock - self._complained_at > COMPLAIN_EVERY_S:
                self._complained_at = clock
                _log.error("records refused: %s", error)
            return Recorded(dropped=len(answers)) if policy.when_full == "drop" else Recorded(refused=len(answers))
        if is_spooled != self._is_spooling:
            self._is_spooling = is_spooled
            if is_spooled:
                _log.error("records wait in the spool: %s", self._writer.refusal)
            else:
                _log.info("the records' disk takes records again")
        return Recorded(written=len(contents), spooled=len(contents) if is_spooled else 0)

    def sync(self) -> None:
        """Make durable what was written without waiting."""
        if self._writer is None:
            return
        try:
            self._writer.sync()
        except StorageError as error:
            _log.error("records not synced: %s", error)
