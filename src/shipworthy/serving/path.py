"""The path of a prediction inside a worker: gather, run, decide, record, answer.

What the event loop reads in one tick goes into one run of the model; while a run is under way the next gathers.
The model has a thread of its own, so the loop keeps the deadline: whoever claims a job first, the model thread or
the loop, answers it. Nothing is answered before its record is where the policy wants it.
"""

import logging
import threading
from asyncio import AbstractEventLoop, TimerHandle
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from shipworthy.records.write import SegmentWriter
from shipworthy.serving.admission import Admission
from shipworthy.serving.answer import (
    Answer,
    IdMint,
    Reasons,
    StoodIn,
    add_reasons,
    answer_fallback,
    answer_model,
    answer_stand_in,
)
from shipworthy.serving.counters import Counters
from shipworthy.serving.job import Job, Outcome
from shipworthy.serving.lane import Lane
from shipworthy.serving.pace import MAX_RUN_ROWS
from shipworthy.serving.policy import Decided
from shipworthy.serving.problem import make_problem
from shipworthy.serving.reasons import explain
from shipworthy.serving.recorder import Recorded, Recorder
from shipworthy.serving.run import FAILURES, LATE, RESTING, UNLIKE, infer
from shipworthy.serving.servable import Servable
from shipworthy.serving.stand_in import Handover, StandIns

COMMIT_GRACE_S = 0.25  # for a record that is on its way when the deadline comes
STAND_IN_S = COMMIT_GRACE_S / 2  # for the last good release when the deadline has come; the rest is for the record
SYNC_EVERY_S = 0.1  # what `async` records may lose in a power cut
REASONS_SHARE = 0.5  # of the deadline within which reasons are still begun: an answer is worth more than its reasons

_log = logging.getLogger("shipworthy.serving")


class _Batch(msgspec.Struct, eq=False):
    servable: Servable
    jobs: list[Job]
    until: float = 0.0  # its deadline, the loop's time
    timer: TimerHandle | None = None


class _Done(msgspec.Struct):
    """What a thread made of some jobs, for the loop to deliver and count."""

    answers: list[tuple[Job, Outcome]]
    causes: list[str] = []  # of fallbacks
    stood_in: list[str] = []  # the releases that answered instead, for those that did
    recorded: Recorded = Recorded()
    good: int = 0  # rows whose output was usable
    bad: int = 0  # rows whose output was not
    unlike: int = 0  # rows out of distribution
    handed: dict[Job, str] = {}  # rows for whoever stands in, and why


@dataclass(frozen=True, slots=True)
class PathSettings:
    """What a path needs from outside."""

    environment: str
    worker: str
    now: Callable[[], float]  # wall clock, Unix seconds
    monotonic: Callable[[], float]  # for latency: finer than the loop's clock
    entropy: Callable[[int], bytes]
    is_patient: bool = False  # whoever asks waits for a slow disk: nothing is given up that may yet be recorded


class PredictionPath:
    """Takes jobs, answers each exactly once.

    Args:
        loop: the event loop; every method is called in it.
        writer: where records go; None where the policy keeps none.
        counters: counted in the loop alone.
        settings: names, clock and entropy.
    """

    def __init__(
        self, loop: AbstractEventLoop, writer: SegmentWriter | None, counters: Counters, settings: PathSettings
    ) -> None:
        self._loop = loop
        self._counters = counters
        self._settings = settings
        self._recorder = Recorder(writer, settings.environment, settings.worker, settings.now, settings.monotonic)
        self._mint = IdMint(settings.now, settings.entropy)
        self._claims = threading.Lock()
        self._model = Lane("model")
        self._disk = Lane("disk")
        self._stand_ins = StandIns(loop, self, STAND_IN_S)
        self._tick: list[Job] = []
        self._is_gathering = False
        self._waiting: deque[_Batch] = deque()
        self._running: list[_Batch] = []
        self._late_since: float | None = None
        self._unsynced = False
        self.admission = Admission()

    @property
    def late_s(self) -> float:
        """How long the run under way is late and nothing but a new worker would end it; 0 if that is not so."""
        if self._late_since is None or all(batch.servable.runtime.is_apart for batch in self._running):
            return 0.0
        return self._loop.time() - self._late_since

    def admit(self, rows: int, *, is_list: bool = False) -> bool:
        """Reserve places for `rows` jobs; each is then submitted or given back. False if they would wait too long."""
        if self.admission.admit(rows, is_list=is_list):
            return True
        self._counters.overloaded += 1
        return False

    def give_back(self, rows: int, *, is_list: bool = False) -> None:
        """Free places that no job takes."""
        self.admission.release(rows, is_list=is_list)

    def submit(self, job: Job) -> None:
        """Take an admitted job into this tick's run."""
        if not self._tick and not self._is_gathering:
            self._loop.call_soon(self._end_tick)
        self._tick.append(job)

    def answer_without_model(self, job: Job, cause: str) -> None:
        """Answer an admitted job by the fallback; `cause` is one of few, for the counts."""
        until = self._loop.time() + job.servable.policy.timeout_s
        self._fall_back(job.servable, self._claim([job]), [cause], until)

    def let_stand_in(self, pairs: Mapping[Servable, Servable]) -> None:
        """Let releases be asked for the rows of others, from the next that fails."""
        self._stand_ins.pairs = pairs

    def stop(self, timeout_s: float) -> None:
        """End the threads; jobs that are still open are lost, so drain first."""
        self._model.stop(timeout_s)
        self._stand_ins.stop(timeout_s)
        self._disk.stop(timeout_s)

    def _end_tick(self) -> None:
        if not self._is_gathering:
            self._flush()

    def _gather(self, seen: int) -> None:
        """After a run: who was answered often asks again, so look at the sockets until a look brings nothing new."""
        if seen < len(self._tick) < MAX_RUN_ROWS:
            self._loop.call_soon(self._gather, len(self._tick))
            return
        self._is_gathering = False
        self._flush()

    def _flush(self) -> None:
        tick, self._tick = self._tick, []
        by_release: dict[Servable, list[Job]] = {}  # while traffic is shared, neighbours have different releases
        for job in tick:
            by_release.setdefault(job.servable, []).append(job)
        for servable, jobs in by_release.items():
            limit = servable.pace.limit
            for start in range(0, len(jobs), limit):
                self._enqueue(_Batch(servable, jobs[start : start + limit]))
        self._dispatch()

    def _enqueue(self, batch: _Batch) -> None:
        batch.until = self._loop.time() + batch.servable.policy.timeout_s
        cause = None
        if self._late_since is not None:  # the model hangs: waiting for it would only cost the deadline
            cause = LATE
        elif not batch.servable.breaker.admits(self._loop.time()):
            cause = RESTING
        if cause is not None:
            live = self._claim(batch.jobs)
            self._fall_back(batch.servable, live, [cause] * len(live), batch.until)
            return
        batch.timer = self._loop.call_at(batch.until, self._expire, batch)
        self._waiting.append(batch)

    def _dispatch(self) -> None:
        if self._running or not self._waiting:
            return
        first = self._waiting.popleft()
        batches, jobs = [first], list(first.jobs)
        while self._waiting and self._waiting[0].servable is first.servable:
            if len(jobs) + len(self._waiting[0].jobs) > first.servable.pace.limit:
                break
            batch = self._waiting.popleft()
            batches.append(batch)
            jobs += batch.jobs
        self._running = batches
        self._model.submit(lambda: self._run(first.servable, jobs))

    # --- in the model thread

    def _run(self, servable: Servable, jobs: list[Job]) -> None:
        live: list[Job] = []
        began = self._settings.monotonic()
        try:
            results = infer(servable, [job.sample for job in jobs])
            seconds = self._settings.monotonic() - began
            reasons = _explain(servable, jobs, results, self._settings.monotonic)
            if servable.policy.reasons_always:
                seconds = self._settings.monotonic() - began
            live = self._claim(jobs)
            if len(live) < len(jobs):
                found = dict(zip(jobs, results, strict=True))
                results = [found[job] for job in live]
            handed = _failed(live, results) if servable in self._stand_ins.pairs else {}
            if handed:
                rest = [(job, result) for job, result in zip(live, results, strict=True) if job not in handed]
                done = self._answer(servable, [job for job, _ in rest], [result for _, result in rest], reasons)
                done.handed = handed
            else:
                done = self._answer(servable, live, results, reasons)
            if results[:1] != [RESTING]:  # such a run was none
                servable.pace.learn(len(jobs), seconds)
        except Exception:  # noqa: BLE001 (a worker loop: logged and answered)
            _log.exception("a run failed")
            problem = make_problem(500, "The request could not be answered; the fault is the server's.")
            done = _Done([(job, problem) for job in (*live, *self._claim(jobs))])
        took = self._settings.monotonic() - began
        self._loop.call_soon_threadsafe(self._finish_run, servable, done, len(jobs), took)

    def _claim(self, jobs: Sequence[Job]) -> list[Job]:
        with self._claims:
            live = [job for job in jobs if not job.claimed]
            for job in live:
                job.claimed = True
        return live

    def _answer(
        self,
        servable: Servable,
        live: list[Job],
        results: Sequence[Decided | StoodIn | str],
        reasons: dict[Job, Reasons | None],
    ) -> _Done:
        """The answers, on record as the policy wants it."""
        answers: list[tuple[Job, Outcome]] = []
        causes, stood_in = [], []
        for job, result, prediction_id in zip(live, results, self._mint.mint(len(live)), strict=True):
            if isinstance(result, str):
                answer = answer_fallback(servable, job.sample, result, prediction_id)
                causes.append(result)
            elif isinstance(result, StoodIn):
                answer = answer_stand_in(servable, job.sample, result, prediction_id)
                causes.append(result.cause)
                stood_in.append(result.servable.release)
            else:
                answer = answer_model(servable, job.sample, result, prediction_id)
            if job.sample.reasons or servable.policy.reasons_always:
                add_reasons(answer, reasons.get(job), servable.policy)
            answers.append((job, answer))
        recorded = self._recorder.record(servable, answers)
        if recorded.refused:
            problem = make_problem(503, "The prediction cannot be recorded, so it is not answered; try again later.")
            answers = [(job, problem) for job in live]
        unlike = sum(job.sample.is_unlike for job in live)
        good = len(live) - len(causes) + causes.count(UNLIKE)
        return _Done(answers, causes, stood_in, recorded, good, _count_bad(causes), unlike)

    # --- in the loop

    def _finish_run(self, servable: Servable, done: _Done, rows: int, took: float) -> None:
        batches, self._running = self._running, []
        self._late_since = None
        self.admission.learn(rows=rows, seconds=took, timeout_s=servable.policy.timeout_s)
        servable.breaker.judge(done.good, done.bad + _count_bad(done.handed.values()), self._loop.time())
        self._counters.runs += 1
        self._counters.run_rows += rows
        self._finish(servable, done)
        self._is_gathering = True
        self._loop.call_soon(self._gather, len(self._tick))
        for batch in batches:
            if done.handed:
                handed = [job for job in batch.jobs if job in done.handed]
                self._fall_back(servable, handed, [done.handed[job] for job in handed], batch.until)
            if batch.timer is not None and all(job.answered or job in done.handed for job in batch.jobs):
                batch.timer.cancel()

    def _finish(self, servable: Servable, done: _Done) -> None:
        counters, recorded = self._counters, done.recorded
        for cause in done.causes:
            counters.fallbacks[cause] += 1
        counters.stood_in.update(done.stood_in)
        counters.unlike += done.unlike
        counters.records += recorded.written
        counters.records_spooled += recorded.spooled
        counters.records_dropped += recorded.dropped
        counters.records_refused += recorded.refused
        if recorded.written and servable.policy.durability == "async" and not self._unsynced:
            self._unsynced = True
            self._loop.call_later(SYNC_EVERY_S, self._sync_soon)
        self._deliver(done.answers)

    def _deliver(self, done: Sequence[tuple[Job, Outcome]]) -> None:
        clock = self._settings.monotonic()
        counters = self._counters
        for job, outcome in done:
            if job.answered:
                continue
            job.answered = True
            self.admission.release(1, is_list=job.is_list)
            if isinstance(outcome, Answer):
                counters.answers[outcome.source, outcome.handling] += 1
                counters.observe(clock - job.arrived)
            job.deliver(outcome)

    def _expire(self, batch: _Batch) -> None:
        by_run = (job.claimed for running in self._running for job in running.jobs)
        is_disk_late = self._late_since is None and any(by_run)  # before this batch's jobs are claimed for being late
        if is_disk_late and self._settings.is_patient:
            batch.timer = self._loop.call_later(batch.servable.policy.timeout_s, self._expire, batch)
            return
        late = self._claim(batch.jobs)
        if any(running is batch for running in self._running):
            if late and self._late_since is None:
                self._late_since = self._loop.time()
                batch.servable.breaker.fail(self._late_since)
        elif batch in self._waiting:
            self._waiting.remove(batch)
            batch.servable.breaker.give_back()
        if is_disk_late:  # the model has done its part, and a fallback would have to be recorded too
            self._give_up(batch.jobs)
            return
        self._fall_back(batch.servable, late, [LATE] * len(late), self._loop.time())
        if any(not job.answered for job in batch.jobs):
            batch.timer = self._loop.call_later(COMMIT_GRACE_S, self._give_up, batch.jobs)

    def _give_up(self, jobs: Sequence[Job]) -> None:
        """The disk is too slow for the deadline: say so, whatever becomes of the record."""
        if self._settings.is_patient:
            return
        problem = make_problem(503, "The prediction was not recorded in time; try again later.")
        self._deliver([(job, problem) for job in jobs])

    def _fall_back(self, servable: Servable, live: list[Job], causes: list[str], until: float) -> None:
        """Have claimed rows answered by the last good release, or else by the rules.

        Args:
            servable: that was asked.
            live: the rows.
            causes: why it did not answer each.
            until: their deadline, the loop's time.
        """
        if live and not self._stand_ins.take(servable, live, causes, until):
            self._answer_by_rules(servable, live, causes, until + COMMIT_GRACE_S)

    def _answer_by_rules(self, servable: Servable, live: list[Job], causes: list[str], give_up: float) -> None:
        timer = self._loop.call_at(give_up, self._give_up, live)

        def answer() -> None:
            done = self._answer(servable, live, causes, {})
            self._loop.call_soon_threadsafe(self._finish_fallback, servable, done, timer)

        self._disk.submit(answer)

    def _finish_fallback(self, servable: Servable, done: _Done, timer: TimerHandle) -> None:
        timer.cancel()
        self._finish(servable, done)

    # --- what becomes of rows that were handed to the last good release

    def record_stand_in(self, handover: Handover, results: Sequence[StoodIn | str]) -> _Done:
        """See `Desk`."""
        return self._answer(handover.servable, handover.jobs, results, {})

    def finish_stand_in(self, handover: Handover, done: _Done) -> None:
        """See `Desk`."""
        self._finish(handover.servable, done)

    def answer_otherwise(self, handover: Handover) -> None:
        """See `Desk`."""
        give_up = self._loop.time() + COMMIT_GRACE_S - STAND_IN_S
        self._answer_by_rules(handover.servable, handover.jobs, handover.causes, give_up)

    def give_up_record(self, handover: Handover) -> None:
        """See `Desk`."""
        self._give_up(handover.jobs)

    def _sync_soon(self) -> None:
        self._unsynced = False
        self._disk.submit(self._recorder.sync)


def _failed(jobs: Sequence[Job], results: Sequence[Decided | str]) -> dict[Job, str]:
    """The rows that the model could not answer, and why."""
    rows = zip(jobs, results, strict=True)
    return {job: result for job, result in rows if isinstance(result, str) and result in FAILURES}


def _count_bad(causes: Iterable[str]) -> int:
    """How many causes tell of a model that was asked and failed."""
    return sum(cause in FAILURES and cause != RESTING for cause in causes)


def _explain(
    servable: Servable, jobs: Sequence[Job], results: Sequence[Decided | str], monotonic: Callable[[], float]
) -> dict[Job, Reasons | None]:
    always = servable.policy.reasons_always
    asked = [
        (job, result)
        for job, result in zip(jobs, results, strict=True)
        if (always or job.sample.reasons) and not isinstance(result, str)
    ]
    if not asked:
        return {}
    until = min(job.arrived for job, _ in asked) + REASONS_SHARE * servable.policy.timeout_s
    samples, decided = [job.sample for job, _ in asked], [result for _, result in asked]
    found = explain(servable, samples, decided, lambda: monotonic() < until)
    return dict(zip((job for job, _ in asked), found, strict=True))
