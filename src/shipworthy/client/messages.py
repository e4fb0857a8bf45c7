"""What a caller sends and what comes back: requests to JSON, answers to values, refusals to typed errors. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any

from shipworthy.client.retries import Failure, read_wait
from shipworthy.client.wire import Answer
from shipworthy.kernel.errors import (
    AccessError,
    FieldProblem,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    ShipworthyError,
    UnavailableError,
)

MAX_ROWS = 10_000  # the server takes no longer list
MAX_LIST_BYTES = 15 * 2**20  # the server takes 16 MiB
MAX_SHOWN = 60  # characters of a bad value that an error repeats
MAX_DETAIL = 2_000  # characters of the server's words that an error repeats
BUSY_STATUS = (429, 503)  # the server did not answer; with Retry-After it says when it will
LOST_STATUS = (502, 504)  # a proxy got no answer: the server behind it may have answered


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer."""

    prediction: str | float | None
    decision: str | float
    prediction_id: str
    source: str  # model or fallback
    handling: str  # automatic or review
    release: str
    probability: dict[str, float] | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    warnings: tuple[str, ...] = ()
    reasons: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class OutcomeProblem:
    """One outcome that the server did not take."""

    index: int  # in what was told, from 0
    field: str
    expected: str
    got: str | None = None


@dataclass(frozen=True, slots=True)
class OutcomeReport:
    """What became of the outcomes that were told."""

    accepted: int  # on the server's disk
    problems: tuple[OutcomeProblem, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """As much of a long list as one call carries."""

    places: tuple[int, ...]  # in the whole list, from 0
    content: bytes
    has_ids: bool  # all have one


_NAMES = frozenset(field.name for field in fields(Prediction))
_NEEDED = frozenset(field.name for field in fields(Prediction) if field.default is MISSING)


# --- what is sent


def write_prediction_request(
    inputs: Mapping[str, Any], context: Mapping[str, Any] | None, id: str | None, reasons: bool
) -> bytes:
    """One request as JSON.

    Raises:
        InvalidRequestError: a value that JSON does not have; names each.
    """
    request: dict[str, Any] = {"inputs": inputs}
    if context is not None:
        request["context"] = context
    if id is not None:
        request["id"] = id
    if reasons:
        request["reasons"] = True
    return _write(request)


def plan_parts(
    requests: Sequence[Mapping[str, Any]], max_rows: int = MAX_ROWS
) -> tuple[list[Part], dict[int, InvalidRequestError]]:
    """Cut a list into parts that the server takes; and what cannot be sent at all, by its place in the list."""
    parts: list[Part] = []
    refused: dict[int, InvalidRequestError] = {}
    places: list[int] = []
    contents: list[bytes] = []
    size_bytes = 0
    for place, request in enumerate(requests):
        try:
            content = _write(request)
        except InvalidRequestError as error:
            refused[place] = error
            continue
        if places and (len(places) == max_rows or size_bytes + len(content) > MAX_LIST_BYTES):
            parts.append(_part(requests, places, contents))
            places, contents, size_bytes = [], [], 0
        places.append(place)
        contents.append(content)
        size_bytes += len(content) + 1
    if places:
        parts.append(_part(requests, places, contents))
    return parts, refused


def write_outcomes(outcomes: Sequence[Mapping[str, Any]]) -> bytes:
    """Outcomes as JSON.

    Raises:
        InvalidRequestError: a value that JSON does not have; names each.
    """
    return _write(list(outcomes))


def _part(requests: Sequence[Mapping[str, Any]], places: list[int], contents: list[bytes]) -> Part:
    has_ids = all(isinstance(requests[place], Mapping) and requests[place].get("id") is not None for place in places)
    return Part(tuple(places), b"[" + b",".join(contents) + b"]", has_ids)


def _write(document: Any) -> bytes:
    try:
        return json.dumps(document, default=_plain, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        problems = tuple(_unwritable(document, "")) or (FieldProblem("", "what JSON can hold"),)
    lines = ["The request cannot be written as JSON.", *map(str, problems)]
    raise InvalidRequestError("\n".join(lines), problems)


def _plain(value: Any) -> Any:
    """Mappings that are no dict, for `json`."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def _unwritable(value: Any, where: str, depth: int = 0) -> Iterator[FieldProblem]:
    if depth > 4:  # deeper than any request
        yield FieldProblem(where, "fewer levels")
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _unwritable(inner, f"{where}.{name}".lstrip("."), depth + 1)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _unwritable(inner, f"{where}[{place}]", depth + 1)
    else:
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError):
            shown = f"{type(value).__name__} {value}"[:MAX_SHOWN]
            yield FieldProblem(where, "a text, a finite number, true, false or null", shown)


# --- what comes back


def judge_attempt(result: Answer | Failure, now: float) -> Answer | Failure:
    """An answer that is one, or else why there is none and whether to try again.

    Args:
        result: of an attempt; an answer of any status.
        now: Unix seconds.
    """
    if isinstance(result, Failure) or result.status == 200:
        return result
    status = result.status
    wait_s = read_wait(result.headers, now) if status in BUSY_STATUS else None
    error = make_refusal(status, _read_problem(result), wait_s)
    if wait_s is not None:
        return Failure(error, "always", wait_s)
    return Failure(error, "with id" if status in BUSY_STATUS + LOST_STATUS else "never")


def make_refusal(status: int, problem: Mapping[str, Any], wait_s: float | None = None) -> ShipworthyError:
    """The error that says what the server's problem document says.

    Args:
        status: of HTTP.
        problem: the document, as far as it is one.
        wait_s: what the server asks to wait.
    """
    detail = str(problem.get("detail", "the server does not say why"))[:MAX_DETAIL]
    if status in (401, 403):
        return AccessError(f"{detail} (status {status})")
    if status == 404:
        return NotFoundError(f"{detail} (status 404)")
    if status == 429:
        when = "" if wait_s is None else f"; it may be tried again in {wait_s:g} s"
        return RateLimitedError(f"{detail} (status 429{when})", wait_s=wait_s)
    if 400 <= status < 500 and status != 408:
        return _invalid(detail, problem.get("errors"))
    if 300 <= status < 400:
        words = (
            f"The server sends callers elsewhere (status {status}); that is not followed, so that a token goes nowhere"
        )
        return UnavailableError(f"{words} else. Give the address where it answers.")
    maybe = status in LOST_STATUS
    return UnavailableError(
        f"The server cannot answer: {detail} (status {status})", wait_s=wait_s, may_have_answered=maybe
    )


def read_prediction(answer: Answer) -> Prediction:
    """One prediction.

    Raises:
        UnavailableError: the answer is none.
    """
    return _prediction(_read(answer))


def read_predictions(answer: Answer, rows: int) -> list[Prediction | ShipworthyError]:
    """A prediction or what was wrong for each of `rows` requests.

    Raises:
        UnavailableError: the answer is no such list.
    """
    items = _read(answer)
    if not isinstance(items, list) or len(items) != rows:
        raise _strange(f"a list of {rows} predictions")
    return [
        make_refusal(item["status"], item)
        if isinstance(item, dict) and isinstance(item.get("status"), int)
        else _prediction(item)
        for item in items
    ]


def read_report(answer: Answer) -> OutcomeReport:
    """What became of outcomes.

    Raises:
        UnavailableError: the answer does not say.
    """
    document = _read(answer)
    try:
        problems = tuple(
            OutcomeProblem(int(one["index"]), str(one["field"]), str(one["expected"]), one.get("got"))
            for one in document["problems"]
        )
        return OutcomeReport(int(document["accepted"]), problems)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise _strange("a report on outcomes") from None


def read_health(answer: Answer) -> dict[str, Any]:
    """What the server says of its health, also when it is not well.

    Raises:
        ShipworthyError: it says nothing of it.
    """
    if answer.status not in (200, 503):
        raise make_refusal(answer.status, _read_problem(answer))
    document = _read(answer)
    if not isinstance(document, dict) or "ready" not in document:
        raise _strange("a report on its health")
    return document


def _read(answer: Answer) -> Any:
    try:
        return json.loads(answer.content)
    except (ValueError, RecursionError):
        raise _strange("JSON") from None


def _read_problem(answer: Answer) -> Mapping[str, Any]:
    try:
        document = json.loads(answer.content)
    except (ValueError, RecursionError):
        document = None
    return document if isinstance(document, dict) else {"detail": "its answer is not JSON"}


def _prediction(document: Any) -> Prediction:
    if not isinstance(document, dict) or not document.keys() >= _NEEDED:
        raise _strange("a prediction")
    known = {name: document[name] for name in _NAMES & document.keys()}
    try:
        known["warnings"] = tuple(known.get("warnings") or ())
        if known.get("interval") is not None:
            low, high = known["interval"]
            known["interval"] = (low, high)
    except (TypeError, ValueError):
        raise _strange("a prediction") from None
    return Prediction(**known)


def _invalid(detail: str, errors: Any) -> InvalidRequestError:
    problems = tuple(
        FieldProblem(str(error.get("field", "")), str(error.get("expected", "")), error.get("got"))
        for error in (errors if isinstance(errors, list) else ())
        if isinstance(error, dict)
    )
    return InvalidRequestError("\n".join([detail, *map(str, problems)]), problems)


def _strange(expected: str) -> UnavailableError:
    words = f"The answer is not {expected}; is this the address of a Shipworthy server?"
    return UnavailableError(words, may_have_answered=True)
