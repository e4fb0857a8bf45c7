"""The last good release, asked for rows whose model could not answer: on a lane of its own, and never for long.

It may fail or hang as well. So each time it is asked ends at a moment that is known before, and nobody waits for it
while it is late.
"""

import threading
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec

from shipworthy.serving.answer import StoodIn
from shipworthy.serving.decode import InvalidRequestError, Sample
from shipworthy.serving.job import Job
from shipworthy.serving.lane import Lane
from shipworthy.serving.run import FAILURES, RESTING, UNLIKE, infer
from shipworthy.serving.servable import Servable

UNFIT = "the row does not fit the last good release"

Results = list[StoodIn | str]


class Handover(msgspec.Struct, eq=False):
    """Rows whose model could not answer."""

    servable: Servable  # that was asked
    jobs: list[Job]  # claimed
    causes: list[str]  # why it did not answer each
    stand_in: Servable
    began: float = 0.0  # the loop's time
    timer: TimerHandle | None = None
    is_taken: bool = False  # by the lane or by the deadline, under the lock


class Desk(Protocol):
    """What becomes of a handover."""

    def record_stand_in(self, handover: Handover, results: Sequence[StoodIn | str]) -> Any:
        """Put answers on record, in the lane; gives what `finish_stand_in` is called with."""

    def finish_stand_in(self, handover: Handover, done: Any) -> None:
        """Deliver what is on record."""

    def answer_otherwise(self, handover: Handover) -> None:
        """Answer rows for which nobody could stand in after all."""

    def give_up_record(self, handover: Handover) -> None:
        """The record of the answers did not come in time."""


class StandIns:
    """Who stands in for whom, asked for one handover at a time. Each is settled once, by the lane or its deadline.

    Args:
        loop: the event loop; every method is called in it.
        desk: told what becomes of each handover.
        grace_s: seconds that whoever stands in has where the deadline has passed already, and that a record has.
    """

    def __init__(self, loop: AbstractEventLoop, desk: Desk, grace_s: float) -> None:
        self._loop = loop
        self._desk = desk
        self._grace_s = grace_s
        self._lane: Lane | None = None  # its thread begins with the first row
        self._lock = threading.Lock()
        self._waiting: deque[Handover] = deque()
        self._asking: Handover | None = None
        self._is_late = False
        self.pairs: Mapping[Servable, Servable] = {}

    def take(self, servable: Servable, jobs: Sequence[Job], causes: Sequence[str], until: float) -> bool:
        """Take claimed rows; False if nobody can stand in now.

        Args:
            servable: that was asked.
            jobs: the rows.
            causes: why it did not answer each.
            until: the loop's time when whoever stands in is late; at least the grace from now.
        """
        stand_in, now = self.pairs.get(servable), self._loop.time()
        if stand_in is None or self._is_late or not FAILURES.issuperset(causes) or not stand_in.breaker.admits(now):
            return False
        handover = Handover(servable, list(jobs), list(causes), stand_in)
        handover.timer = self._loop.call_at(max(until, now + self._grace_s), self._end, handover)
        self._waiting.append(handover)
        self._next()
        return True

    def stop(self, timeout_s: float) -> None:
        """End the thread."""
        if self._lane is not None:
            self._lane.stop(timeout_s)

    def _next(self) -> None:
        if self._asking is not None or not self._waiting:
            return
        handover = self._asking = self._waiting.popleft()
        handover.began = self._loop.time()
        self._lane = self._lane or Lane("last good")
        self._lane.submit(lambda: self._ask(handover))

    def _take_over(self, handover: Handover) -> bool:
        with self._lock:
            is_first, handover.is_taken = not handover.is_taken, True
        return is_first

    def _ask(self, handover: Handover) -> None:
        """In the lane."""
        found: Results = []
        done = None
        try:
            found = ask_stand_in(handover)
            if self._take_over(handover):
                known = zip(found, handover.causes, strict=True)
                results = [one if isinstance(one, StoodIn) else cause for one, cause in known]
                done = self._desk.record_stand_in(handover, results)
        finally:
            self._loop.call_soon_threadsafe(self._finish, handover, found, done)

    def _finish(self, handover: Handover, found: Results, done: Any) -> None:
        self._asking, self._is_late = None, False
        _judge(handover, found, self._loop.time())
        if done is not None:
            _cancel(handover)
            self._desk.finish_stand_in(handover, done)
        elif self._take_over(handover):  # our own fault, logged by the lane
            _cancel(handover)
            self._desk.answer_otherwise(handover)
        self._next()

    def _end(self, handover: Handover) -> None:
        if not self._take_over(handover):  # it has answered, and the record is on its way
            handover.timer = self._loop.call_later(self._grace_s, self._desk.give_up_record, handover)
            return
        if handover is self._asking:
            self._is_late = True
        else:
            self._waiting.remove(handover)
            handover.stand_in.breaker.give_back()
        self._desk.answer_otherwise(handover)


def ask_stand_in(handover: Handover) -> Results:
    """What whoever stands in says of each row, or why nothing. Ends early once nobody waits for it."""
    stand_in, causes = handover.stand_in, handover.causes
    samples = [restate(job.sample, handover.servable, stand_in) for job in handover.jobs]
    fitting = [(place, sample) for place, sample in enumerate(samples) if sample is not None]
    found: Results = [UNFIT] * len(samples)
    for start in range(0, len(fitting), stand_in.pace.limit):
        if handover.is_taken:
            break
        cut = fitting[start : start + stand_in.pace.limit]
        for (place, sample), result in zip(cut, infer(stand_in, [sample for _, sample in cut]), strict=True):
            found[place] = result if isinstance(result, str) else StoodIn(stand_in, sample, result, causes[place])
    return found


def restate(sample: Sample, asked: Servable, other: Servable) -> Sample | None:
    """A row of one release in another's schema, from what the caller sent; None where it is not valid there.

    Fields that the other does not know are left out.
    """
    if asked.schema == other.schema and not other.schema.looked_up:  # each looks up in its own tables
        return msgspec.structs.replace(sample)
    item = {
        "inputs": _known(sample.inputs, [field.name for field in other.schema.asked]),
        "context": _known(sample.context, [field.name for field in other.schema.context]),
    }
    try:
        return other.decoder.decode_object(item)
    except InvalidRequestError:
        return None


def _known(given: Any, names: Sequence[str]) -> dict[str, Any] | None:
    if given is None:
        return None
    return {name: value for name, value in msgspec.to_builtins(given).items() if name in names}


def _judge(handover: Handover, found: Results, clock: float) -> None:
    """Tell the breaker of who stands in: it is late by its own deadline, not by what was left of the other's."""
    stand_in = handover.stand_in
    is_late = clock - handover.began > stand_in.policy.timeout_s
    good = 0 if is_late else sum(isinstance(one, StoodIn) or one == UNLIKE for one in found)
    bad = sum(one in FAILURES and one != RESTING for one in found if isinstance(one, str))
    stand_in.breaker.judge(good, bad + is_late, clock)


def _cancel(handover: Handover) -> None:
    if handover.timer is not None:
        handover.timer.cancel()
