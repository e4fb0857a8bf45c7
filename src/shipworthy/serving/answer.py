"""Answers: what a caller receives, and the record of it."""

from collections.abc import Callable
from typing import Any

import msgspec

from shipworthy.bundle.format import Policy
from shipworthy.kernel.ids import make_id
from shipworthy.records.format import Record
from shipworthy.serving.decode import Sample
from shipworthy.serving.policy import Decided
from shipworthy.serving.servable import Servable

REASONS_METHOD = "ablation-to-reference"
NO_REASONS = "without reasons: the model failed on them, or there was no time left"
_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = tuple(a + b for a in _DIGITS for b in _DIGITS)
_SERIES = 1 << 20  # ids that share one prefix


class Change(msgspec.Struct, frozen=True):
    """How the score changes when one feature is set to its reference."""

    feature: str
    change: float


class Reasons(msgspec.Struct, frozen=True):
    """The features that moved the score most."""

    method: str
    score: str  # what changes: `probability of approve`, or `prediction`
    changes: tuple[Change, ...]  # largest first


class Answer(msgspec.Struct, kw_only=True, gc=False):
    """What the plain endpoint answers for one request."""

    prediction: str | float | None
    probability: dict[str, float] | None
    interval: tuple[float, float] | None
    confidence: float | None
    decision: str | float
    prediction_id: str
    source: str
    handling: str
    release: str
    warnings: list[str]
    reasons: Reasons | msgspec.UnsetType | None = msgspec.UNSET


class StoodIn(msgspec.Struct, gc=False):
    """What the last good release says of a row whose model could not answer."""

    servable: Servable  # the last good release
    sample: Sample  # the row in its schema
    decided: Decided
    cause: str  # why it was asked


def answer_model(servable: Servable, sample: Sample, decided: Decided, prediction_id: str) -> Answer:
    """The answer of the model for one row."""
    policy = servable.policy
    decision = decided.decision
    if sample.review is not None and policy.review_answer is not None:
        decision = policy.review_answer
    probability, interval = decided.probability, decided.interval
    return Answer(
        prediction=decided.prediction,
        probability=None if probability is None else dict(zip(policy.classes, probability, strict=True)),
        interval=None if interval is None else (interval[0], interval[1]),
        confidence=decided.confidence,
        decision=decision,
        prediction_id=prediction_id,
        source="model",
        handling="review" if decided.review or sample.review is not None else "automatic",
        release=servable.release,
        warnings=sample.warnings or [],
    )


def answer_fallback(servable: Servable, sample: Sample, cause: str, prediction_id: str) -> Answer:
    """The answer without the model: the first fallback rule that holds, else the declared one."""
    action = servable.decoder.fallback_action(sample)
    return Answer(
        prediction=None,
        probability=None,
        interval=None,
        confidence=None,
        decision=servable.policy.fallback_otherwise if action is None else action,
        prediction_id=prediction_id,
        source="fallback",
        handling="automatic" if sample.review is None else "review",
        release=servable.release,
        warnings=[*(sample.warnings or ()), f"answered by fallback: {cause}"],
    )


def answer_stand_in(servable: Servable, sample: Sample, stood: StoodIn, prediction_id: str) -> Answer:
    """The answer of the last good release: what it decides and how that is handled.

    Its prediction, probability and confidence are left out, as of any fallback: what is kept under a release's name
    is what its own model predicted.
    """
    theirs = answer_model(stood.servable, stood.sample, stood.decided, prediction_id)
    said = dict.fromkeys([*(sample.warnings or ()), *theirs.warnings])
    return Answer(
        prediction=None,
        probability=None,
        interval=None,
        confidence=None,
        decision=theirs.decision,
        prediction_id=prediction_id,
        source="fallback",
        handling=theirs.handling if sample.review is None else "review",
        release=servable.release,
        warnings=[*said, f"answered by fallback: {stood.cause}; {stood.servable.release} answered"],
    )


def add_reasons(answer: Answer, reasons: Reasons | None, policy: Policy) -> None:
    """Let an answer that is to carry reasons carry them; where a model's has none it says so."""
    answer.reasons = reasons
    if reasons is None and answer.source == "model" and policy.reasons:
        answer.warnings = [*answer.warnings, NO_REASONS]


def record_answer(
    answer: Answer, sample: Sample, system: str, environment: str, worker: str, now: float, latency_ms: float
) -> Record:
    """The record of an answer."""
    reasons: Any = answer.reasons
    return Record(
        prediction_id=answer.prediction_id,
        time=now,
        system=system,
        release=answer.release,
        environment=environment,
        worker=worker,
        id=sample.id,
        inputs=sample.inputs,
        context=sample.context,
        prediction=answer.prediction,
        probability=answer.probability,
        interval=answer.interval,
        confidence=answer.confidence,
        decision=answer.decision,
        source=answer.source,
        handling=answer.handling,
        warnings=tuple(answer.warnings),
        reasons=None if reasons is msgspec.UNSET else reasons,
        latency_ms=latency_ms,
    )


class IdMint:
    """Prediction ids that sort by time; one 110-bit prefix for each call, 20 bits counted.

    Args:
        now: wall clock, Unix seconds.
        entropy: a source of random bytes.
    """

    def __init__(self, now: Callable[[], float], entropy: Callable[[int], bytes]) -> None:
        self._now = now
        self._entropy = entropy

    def mint(self, count: int) -> list[str]:
        """`count` new ids, ascending."""
        ids: list[str] = []
        while len(ids) < count:
            prefix = make_id("p", int(self._now() * 1000), self._entropy(10))[:-4]
            series = range(min(count - len(ids), _SERIES))
            ids.extend([prefix + _PAIRS[i >> 10] + _PAIRS[i & 1023] for i in series])
        return ids
