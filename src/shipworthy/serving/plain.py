"""The plain endpoint: one JSON object or a list of up to 10,000."""

from collections.abc import Callable
from functools import partial

import msgspec

from shipworthy.serving.decode import InvalidRequestError, Sample
from shipworthy.serving.gate import Refusal
from shipworthy.serving.job import Job, Outcome
from shipworthy.serving.path import PredictionPath
from shipworthy.serving.problem import Problem, make_problem
from shipworthy.serving.protocol import Exchange
from shipworthy.serving.servable import Servable

MAX_ROWS = 10_000
MAX_SINGLE_BYTES = 2**20
MAX_BATCH_BYTES = 16 * 2**20
SLICE_ROWS = 128  # decoded in one turn of the loop: under a millisecond, so that others are not held up

_encode = msgspec.json.Encoder().encode
_decode_items = msgspec.json.Decoder(list[msgspec.Raw]).decode

Choose = Callable[[bytes], tuple[Servable, Sample]]
Charge = Callable[[Exchange, int], Refusal | None]


class PlainEndpoint:
    """Answers `POST /v1/systems/NAME/predict`.

    Args:
        path: where jobs go.
        choose: decodes one request with the schema of the release that will answer it.
        call_soon: the loop's.
        charge: counts rows against the caller's day.
    """

    def __init__(
        self,
        path: PredictionPath,
        choose: Choose,
        call_soon: Callable[[Callable[[], None]], object],
        charge: Charge,
    ) -> None:
        self._path = path
        self._choose = choose
        self._call_soon = call_soon
        self._charge = charge

    def predict(self, exchange: Exchange, body: bytes) -> None:
        """Answer one object, or begin with a list."""
        if body[:1] != b"{" and body.lstrip()[:1] == b"[":
            self._begin_list(exchange, body)
            return
        if len(body) > MAX_SINGLE_BYTES:
            exchange.refuse(make_problem(413, f"A single request has at most {MAX_SINGLE_BYTES} bytes."))
            return
        if not self._path.admit(1):
            exchange.refuse(make_problem(503, "Too many predictions are waiting; try again later."))
            return
        if (refused := self._charge(exchange, 1)) is not None:
            self._path.give_back(1)
            exchange.refuse(make_problem(refused.status, refused.detail), refused.headers)
            return
        try:
            servable, sample = self._choose(body)
        except InvalidRequestError as error:
            self._path.give_back(1)
            exchange.refuse(problem_of(error))
            return
        self._path.submit(Job(servable, sample, exchange.arrived, partial(_deliver, exchange)))

    def _begin_list(self, exchange: Exchange, body: bytes) -> None:
        try:
            items = _decode_items(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            exchange.refuse(make_problem(400, "The body is not a JSON list."))
            return
        if len(items) > MAX_ROWS:
            exchange.refuse(make_problem(413, f"A list has at most {MAX_ROWS} requests; this one has {len(items)}."))
        elif not self._path.admit(len(items), is_list=True):
            exchange.refuse(make_problem(503, "Too many predictions are waiting; try again later."))
        elif not items:
            exchange.respond(200, b"[]")
        elif (refused := self._charge(exchange, len(items))) is not None:
            self._path.give_back(len(items), is_list=True)
            exchange.refuse(make_problem(refused.status, refused.detail), refused.headers)
        else:
            _ListRequest(self._path, self._choose, self._call_soon, exchange, items).step()


class _ListRequest:
    def __init__(
        self,
        path: PredictionPath,
        choose: Choose,
        call_soon: Callable[[Callable[[], None]], object],
        exchange: Exchange,
        items: list[msgspec.Raw],
    ) -> None:
        self._path = path
        self._choose = choose
        self._call_soon = call_soon
        self._exchange = exchange
        self._items = items
        self._next = 0
        self._left = len(items)
        self._outcomes: list[Outcome | None] = [None] * len(items)

    def step(self) -> None:
        start, self._next = self._next, min(self._next + SLICE_ROWS, len(self._items))
        for place in range(start, self._next):
            try:
                servable, sample = self._choose(bytes(self._items[place]))
            except InvalidRequestError as error:
                self._path.give_back(1, is_list=True)
                self._take(place, problem_of(error))
                continue
            self._path.submit(Job(servable, sample, self._exchange.arrived, partial(self._take, place), is_list=True))
        if self._next < len(self._items):
            self._call_soon(self.step)

    def _take(self, place: int, outcome: Outcome) -> None:
        self._outcomes[place] = outcome
        self._left -= 1
        if self._left == 0:
            self._exchange.respond(200, _encode(self._outcomes))


def problem_of(error: InvalidRequestError) -> Problem:
    """The problem document of a request that is not valid."""
    return make_problem(error.status, error.detail, error.errors)


def _deliver(exchange: Exchange, outcome: Outcome) -> None:
    if isinstance(outcome, Problem):
        exchange.refuse(outcome)
    else:
        if exchange.span is not None:
            exchange.span.note(outcome)
        exchange.respond(200, _encode(outcome))
