"""Messages to replies, whichever broker they come from: each id is answered once, however often it is asked.

A message is one plain request. Its id is the request's, else the name that its sender gave the message. What was
answered under an id is published again when the id comes again, and not recorded again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated

import msgspec

from shipworthy.kernel.errors import StorageError
from shipworthy.serving.answer import Answer
from shipworthy.serving.channel import STUCK_S
from shipworthy.serving.counters import Counters
from shipworthy.serving.decode import MAX_ID, InvalidRequestError, RequestDecoder, Sample
from shipworthy.serving.earlier import EarlierAnswers, Given, digest_inputs, give, warn_of_other_inputs
from shipworthy.serving.job import Job, Outcome
from shipworthy.serving.live import LiveState
from shipworthy.serving.messages.counters import MessageCounters
from shipworthy.serving.messages.suspects import Suspects
from shipworthy.serving.path import PredictionPath
from shipworthy.serving.plain import MAX_SINGLE_BYTES, problem_of
from shipworthy.serving.problem import FieldProblem, Problem, make_problem
from shipworthy.serving.router import route
from shipworthy.serving.servable import Servable

GIVEN_UP = "the model ended its process"
AGAIN_S, MAX_AGAIN_S = 0.5, 8.0  # pauses before what could not be recorded is tried again; doubled each time

_encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct, frozen=True, eq=False):
    """What came from a broker."""

    body: bytes
    name: str | None = None  # that its sender gave it
    redelivered: bool = False  # the broker gave it out before


class Reply(msgspec.Struct, frozen=True, eq=False):
    """What is published for a message."""

    body: bytes
    problem: Problem | None = None  # what the body says, if it is no answer
    id: str | None = None  # of the request
    prediction_id: str | None = None


class _Open(msgspec.Struct, frozen=True, eq=False):
    """A request under way."""

    inputs: bytes
    outcome: "asyncio.Future[Outcome]"


class _Wait(msgspec.Struct, frozen=True, eq=False):
    """A message that waits for the request under way that has its id."""

    name: str
    inputs: bytes
    open: _Open
    is_first: bool  # the request under way is this one


class Consumer:
    """Answers messages from what is live. For the event loop alone.

    Args:
        state: what answers first.
        path: where predictions go; a patient one.
        earlier: answers given before.
        suspects: requests that may have ended a process.
        sync: makes durable what `async` records wrote; raises StorageError.
        counters, counts: counted in the loop.
    """

    def __init__(
        self,
        state: LiveState,
        path: PredictionPath,
        earlier: EarlierAnswers,
        suspects: Suspects,
        sync: Callable[[], Awaitable[None]],
        counters: Counters,
        counts: MessageCounters,
    ) -> None:
        self.state = state
        self.refused: str | None = None  # why a newer deployment does not answer
        self.counters = counters
        self.counts = counts
        self._path = path
        path.let_stand_in(state.stand_ins)
        self._earlier = earlier
        self._suspects = suspects
        self._sync = sync
        self._open: dict[str, _Open] = {}
        self._nameless = 0

    def switch(self, state: LiveState) -> None:
        """Answer from `state` on from the next message."""
        self.state = state
        self._path.let_stand_in(state.stand_ins)
        self.refused = None

    @property
    def limit(self) -> int:
        """How many messages make a run that ends well within its deadline."""
        return min(servable.pace.limit for servable in self.state.servables)

    @property
    def remembered(self) -> int:
        """How many ids are known to be answered."""
        return len(self._earlier)

    @property
    def is_stuck(self) -> bool:
        """Whether the model hangs, so that only another process can ask it again."""
        return self._path.late_s > STUCK_S

    async def answer(self, messages: Sequence[Message]) -> list[Reply]:
        """A reply for each message, in order; what is to be recorded is on record when this returns.

        Records that the disk refuses are tried again until it takes them. May be cancelled: what is under way is
        recorded all the same, and found when its message comes again.

        Args:
            messages: at most `limit`, so that none waits for another's run.
        """
        self.counts.received += len(messages)
        self.counts.redelivered += sum(message.redelivered for message in messages)
        replies: dict[int, Reply] = {}
        for places in self._parted(messages):
            made = await self._answer_together([messages[place] for place in places])
            replies |= dict(zip(places, made, strict=True))
        return [replies[place] for place in range(len(messages))]

    def _parted(self, messages: Sequence[Message]) -> list[list[int]]:
        """The places of those that are run together; who may have ended a process runs alone, and last."""
        together = list(range(len(messages)))
        if not self._suspects:
            return [together]
        alone = [place for place in together if self._suspects.is_alone(_name_of(messages[place]) or "")]
        return [[place for place in together if place not in alone], *([place] for place in alone)]

    async def _answer_together(self, messages: Sequence[Message]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        pause = 0.0
        while left := [place for place in range(len(messages)) if place not in replies]:
            if pause:
                self.counts.held += len(left)
                await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_AGAIN_S) or AGAIN_S
            made = await self._finish(self._begin([messages[place] for place in left]))
            replies |= {place: reply for place, reply in zip(left, made, strict=True) if reply is not None}
        return [replies[place] for place in range(len(messages))]

    def _begin(self, messages: Sequence[Message]) -> list[Reply | _Wait]:
        """What is known at once, and what is waited for."""
        jobs: list[Job] = []
        begun = [self._begin_one(message, jobs) for message in messages]
        self._path.admission.lists += len(jobs)  # the broker's prefetch bounds them: nobody is turned away
        if jobs:
            self._suspects.begin([job.sample.id or "" for job in jobs])
        for job in jobs:
            if self._suspects.is_given_up(job.sample.id or ""):
                self._path.answer_without_model(job, GIVEN_UP)
            else:
                self._path.submit(job)
        return begun

    def _begin_one(self, message: Message, jobs: list[Job]) -> Reply | _Wait:
        try:
            servable, sample = self._decode(message)
        except InvalidRequestError as error:
            return self._refuse(problem_of(error), _name_of(message))
        name = sample.id
        if name is None:
            wanted = FieldProblem("id", "a text, or a message_id of the message: what is answered once needs a name")
            return self._refuse(make_problem(422, "id: the request has none.", [wanted]), None)
        inputs = digest_inputs(sample.inputs)
        given = self._earlier.find(name)
        if given is not None:
            self.counts.repeated += 1
            return _repeat(name, inputs, given)
        found = self._open.get(name)
        if found is not None:
            self.counts.repeated += 1
            return _Wait(name, inputs, found, is_first=False)
        found = self._open[name] = _Open(inputs, asyncio.get_running_loop().create_future())
        deliver = partial(self._settle, name, sample, found.outcome)
        jobs.append(Job(servable, sample, time.monotonic(), deliver, is_list=True))
        return _Wait(name, inputs, found, is_first=True)

    def _decode(self, message: Message) -> tuple[Servable, Sample]:
        if len(message.body) > MAX_SINGLE_BYTES:
            raise InvalidRequestError(413, f"A single request has at most {MAX_SINGLE_BYTES} bytes.")

        def decode(decoder: RequestDecoder) -> Sample:
            sample = decoder.decode(message.body)
            sample.id = sample.id or message.name or None
            return sample

        return route(self.state, decode, self._next_name)

    def _next_name(self) -> str:
        self._nameless += 1  # it is refused, by whichever release
        return str(self._nameless)

    def _settle(self, name: str, sample: Sample, future: "asyncio.Future[Outcome]", outcome: Outcome) -> None:
        del self._open[name]
        if isinstance(outcome, Answer):
            self._earlier.keep(name, give(outcome, sample.inputs))
        future.set_result(outcome)

    async def _finish(self, begun: Sequence[Reply | _Wait]) -> list[Reply | None]:
        """The replies; None for what is to be tried again."""
        waited = {wait.open.outcome for wait in begun if isinstance(wait, _Wait)}
        if waited:
            await asyncio.wait(waited)  # which leaves them alone when this is cancelled
            self._suspects.end(one.name for one in begun if isinstance(one, _Wait))
        replies = [self._reply(one) if isinstance(one, _Wait) else one for one in begun]
        if not await self._make_durable():
            return [self._take_back(reply) for reply in replies]
        return replies

    async def _make_durable(self) -> bool:
        """Whether what `async` records wrote is durable now."""
        if all(servable.policy.durability != "async" for servable in self.state.servables):
            return True
        try:
            await self._sync()
        except StorageError:
            return False
        return True

    def _reply(self, wait: _Wait) -> Reply | None:
        outcome = wait.open.outcome.result()
        if isinstance(outcome, Answer):
            self.counts.answered += wait.is_first
            given = self._earlier.find(wait.name) or Given(outcome.prediction_id, wait.open.inputs, _encode(outcome))
            return _repeat(wait.name, wait.inputs, given)
        return None if outcome.status == 503 else self._refuse(outcome, wait.name)

    def _take_back(self, reply: Reply | None) -> Reply | None:
        """An answer whose record may be lost is none; a problem stays."""
        if reply is None or reply.problem is not None:
            return reply
        self._earlier.forget(reply.id or "")
        return None

    def _refuse(self, problem: Problem, name: str | None) -> Reply:
        self.counts.refused += 1
        return Reply(_encode(problem), problem, name)


class _Named(msgspec.Struct):
    id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID)] | None = None


_decode_named = msgspec.json.Decoder(_Named).decode


def _name_of(message: Message) -> str | None:
    """The id of a request, whether or not it is valid otherwise."""
    if len(message.body) <= MAX_SINGLE_BYTES:
        with suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return _decode_named(message.body).id or message.name
    return message.name


def _repeat(name: str, inputs: bytes, given: Given) -> Reply:
    body = given.body if given.inputs == inputs else warn_of_other_inputs(given)
    return Reply(body, None, name, given.prediction_id)
