"""The outcomes endpoint: what came true, told by id; on disk before it is acknowledged.

Ids are not looked up here, as a server holds no records in memory: who joins them counts those that nobody knows.
Thread and segment are made at the first telling, so that a server that is told nothing pays nothing.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from shipworthy.bundle.format import Policy
from shipworthy.kernel.errors import ConflictError, StorageError
from shipworthy.records.format import Outcome
from shipworthy.records.write import SegmentWriter
from shipworthy.security.vault import Vault
from shipworthy.serving.counters import Counters
from shipworthy.serving.decode import show
from shipworthy.serving.lane import Lane
from shipworthy.serving.problem import FieldProblem, Problem, make_problem
from shipworthy.serving.protocol import Exchange
from shipworthy.serving.values import read_datetime

MAX_OUTCOMES = 10_000  # in one list
MAX_BODY_BYTES = 4 * 2**20  # a full list with ids of some 300 bytes
MAX_WAITING = 20_000  # outcomes between the socket and the disk; two full lists
MAX_ID_CHARACTERS = 256  # as of a request's id
SLICE_ROWS = 128  # judged in one turn of the loop: under a millisecond, so that predictions are not held up
LATEST_UNIX_S = 253_402_300_799.0  # the year 9999; milliseconds taken for seconds lie beyond
CLOSE_S = 1.0  # for what is being written when the server stops
_FIELDS = {"id", "value", "time"}
_CANNOT = "Outcomes cannot be recorded now; tell them again later."

_log = logging.getLogger("shipworthy.serving")
_encode = msgspec.msgpack.Encoder().encode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode

Done = Callable[[Problem | None], None]
CallSoon = Callable[[Callable[[], None]], object]


class OutcomeProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why one outcome of a telling was not taken."""

    index: int  # in the list, from 0
    field: str
    expected: str
    got: str | None = None


class OutcomeAnswer(msgspec.Struct, frozen=True):
    """What became of a telling."""

    accepted: int
    problems: list[OutcomeProblem]


class OutcomeLog:
    """Writes outcomes, many tellings in one group.

    Args:
        directory: `outcomes/ENV`.
        environment: its name.
        worker: names the segments.
        now: wall clock, Unix seconds.
        monotonic: for the pause after a refusal, seconds.
        call_soon: the loop's, safe from other threads.
        counters: counted in the loop alone.
        vault: encrypts what a policy wants encrypted.
    """

    def __init__(
        self,
        directory: Path,
        environment: str,
        worker: str,
        *,
        now: Callable[[], float],
        monotonic: Callable[[], float],
        call_soon: CallSoon,
        counters: Counters,
        vault: Vault | None = None,
    ) -> None:
        self.now = now
        self._place = (directory, environment, worker)
        self._monotonic = monotonic
        self._call_soon = call_soon
        self._counters = counters
        self._vault = vault
        self._seals = False
        self._lane: Lane | None = None
        self._writer: SegmentWriter | None = None  # touched by the lane alone
        self._waiting: list[tuple[list[Outcome], Done]] = []
        self._is_writing = False
        self._open_rows = 0

    def admit(self, rows: int) -> bool:
        """Whether there is room for as many outcomes; they are then appended, or given back."""
        if self._open_rows + rows > MAX_WAITING:
            return False
        self._open_rows += rows
        return True

    def give_back(self, rows: int) -> None:
        """Free places that no outcome takes."""
        self._open_rows -= rows

    def append(self, outcomes: list[Outcome], done: Done, *, seal: bool = False) -> None:
        """Write admitted outcomes with those that wait; `done` is called in the loop: on disk, or what was wrong.

        With `seal` they are encrypted, as is everything from then on.
        """
        self._seals = self._seals or seal
        self._waiting.append((outcomes, done))
        if not self._is_writing:
            self._submit()

    def close(self) -> None:
        """Finish what is under way and let the segment go."""
        if self._lane is not None:
            self._lane.submit(self._close)
            self._lane.stop(CLOSE_S)

    def _submit(self) -> None:
        self._is_writing = True
        group, self._waiting = self._waiting, []
        if self._lane is None:
            self._lane = Lane("outcomes")
        self._lane.submit(lambda: self._commit(group))

    def _finish(self, group: list[tuple[list[Outcome], Done]], problem: Problem | None) -> None:
        self._is_writing = False
        if self._waiting:
            self._submit()  # before the answers: the disk is not kept waiting
        for outcomes, done in group:
            self._open_rows -= len(outcomes)
            if problem is None:
                self._counters.outcomes += len(outcomes)
            done(problem)

    # --- in the lane

    def _commit(self, group: list[tuple[list[Outcome], Done]]) -> None:
        problem: Problem | None = make_problem(503, _CANNOT)
        try:
            if self._writer is None:
                self._writer = SegmentWriter(*self._place, now=self.now, monotonic=self._monotonic, vault=self._vault)
            contents = [_encode(outcome) for outcomes, _ in group for outcome in outcomes]
            self._writer.append(contents, seal=self._seals)
            problem = None
        except (StorageError, ConflictError) as error:
            _log.error("outcomes refused: %s", error)
        finally:
            self._call_soon(lambda: self._finish(group, problem))

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class OutcomeEndpoint:
    """Answers `POST /v1/systems/NAME/outcomes`.

    Args:
        log: where outcomes go.
        policy: of the release that answers; says what can come true.
        call_soon: the loop's.
    """

    def __init__(self, log: OutcomeLog, policy: Policy, call_soon: CallSoon) -> None:
        self._log = log
        self._policy = policy
        self._call_soon = call_soon

    def tell(self, exchange: Exchange, body: bytes) -> None:
        """Take one object, or a list."""
        is_list = body.lstrip()[:1] == b"["
        try:
            items = _decode_items(body) if is_list else [msgspec.Raw(body)]
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            exchange.refuse(make_problem(400, "The body is not a JSON list."))
            return
        if len(items) > MAX_OUTCOMES:
            exchange.refuse(make_problem(413, f"A list has at most {MAX_OUTCOMES} outcomes; this has {len(items)}."))
        elif not self._log.admit(len(items)):
            exchange.refuse(make_problem(503, "Too many outcomes are waiting; try again later."))
        else:
            source = f"api:{exchange.caller.name if exchange.caller else 'unknown'}"
            _Telling(self._log, self._policy, self._call_soon, exchange, items, source, is_list).step()


class _Telling:
    def __init__(
        self,
        log: OutcomeLog,
        policy: Policy,
        call_soon: CallSoon,
        exchange: Exchange,
        items: list[msgspec.Raw],
        source: str,
        is_list: bool,
    ) -> None:
        self._log = log
        self._policy = policy
        self._call_soon = call_soon
        self._exchange = exchange
        self._items = items
        self._source = source
        self._is_list = is_list
        self._received = log.now()
        self._next = 0
        self._good: list[Outcome] = []
        self._problems: list[OutcomeProblem] = []

    def step(self) -> None:
        start, self._next = self._next, min(self._next + SLICE_ROWS, len(self._items))
        for index in range(start, self._next):
            read = read_outcome(self._items[index], self._policy, self._received, self._source)
            if isinstance(read, Outcome):
                self._good.append(read)
            else:
                self._problems += [OutcomeProblem(index, one.field, one.expected, one.got) for one in read]
        if self._next < len(self._items):
            self._call_soon(self.step)
            return
        self._log.give_back(len(self._items) - len(self._good))
        if self._good:
            self._log.append(self._good, self._finish, seal=self._policy.encryption == "at_rest")
        else:
            self._answer()

    def _finish(self, problem: Problem | None) -> None:
        if problem is not None:
            self._exchange.refuse(problem)
        else:
            self._answer()

    def _answer(self) -> None:
        if self._good or not self._items:
            self._exchange.respond(200, msgspec.json.encode(OutcomeAnswer(len(self._good), self._problems)))
            return
        errors = [FieldProblem(self._name(one), one.expected, one.got) for one in self._problems]
        self._exchange.refuse(make_problem(422, "No outcome can be accepted.", errors))

    def _name(self, problem: OutcomeProblem) -> str:
        return f"[{problem.index}].{problem.field}".rstrip(".") if self._is_list else problem.field


def read_outcome(item: msgspec.Raw, policy: Policy, received: float, source: str) -> Outcome | list[FieldProblem]:
    """One outcome as it was told, or everything that is wrong with it.

    Args:
        item: its JSON.
        policy: says what can come true.
        received: Unix seconds; also when the truth was known, if it does not say.
        source: who tells.
    """
    try:
        told: Any = msgspec.json.decode(item)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return [FieldProblem("", "an object with id and value, in JSON")]
    if not isinstance(told, dict):
        return [FieldProblem("", "an object with id and value", show(told))]
    problems = [FieldProblem(name, "no such field; there are id, value and time") for name in told.keys() - _FIELDS]
    id_, value, moment = (told.get(name, msgspec.UNSET) for name in ("id", "value", "time"))
    known = received if moment is None or moment is msgspec.UNSET else _read_time(moment)
    truth = _read_number(value) if policy.task == "regression" else value if value in policy.classes else None
    if not isinstance(id_, str) or not 0 < len(id_) <= MAX_ID_CHARACTERS:
        problems.append(FieldProblem("id", f"a text of 1 to {MAX_ID_CHARACTERS} characters", show(id_)))
    if truth is None:
        problems.append(FieldProblem("value", _expected(policy), show(value)))
    if known is None:
        problems.append(FieldProblem("time", "a time such as 2026-01-31T09:30:00Z, or Unix seconds", show(moment)))
    if problems or truth is None or known is None:
        return sorted(problems, key=lambda problem: problem.field)
    return Outcome(id=id_, value=truth, time=known, received=received, source=source)


def _expected(policy: Policy) -> str:
    if policy.task == "regression":
        return "a number"
    return "one of " + ", ".join(f'"{name}"' for name in policy.classes)


def _read_number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _read_time(moment: Any) -> float | None:
    """Unix seconds of a text in RFC 3339 (without an offset: UTC) or of a number."""
    if isinstance(moment, str):
        found = read_datetime(moment, None)
        return None if found is None else found.timestamp()
    number = _read_number(moment)
    return number if number is not None and 0 <= number <= LATEST_UNIX_S else None
