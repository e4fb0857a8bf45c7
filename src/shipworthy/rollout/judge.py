"""Whether a canary is worse than the champion on the same stretch of traffic, asked as often as one likes.

Three answers: `worse` beyond doubt, `no worse` beyond doubt, or `undecided`. A release that is no worse than its
margins allow is called worse on any metric, at any look, in any step with at most the contract's `false_rollback`.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from shipworthy.contract.types import Rollout
from shipworthy.kernel.digest import Json
from shipworthy.kernel.errors import EvidenceError
from shipworthy.rollout.measure import Bools, Codes, Floats, compare_tails, earlier_tail, highest_evidence
from shipworthy.stats.estimates import Estimate
from shipworthy.stats.intervals import rows_needed
from shipworthy.stats.sequential import MIN_UNITS, Arm, arm_of, estimate_of, mean_difference, share_difference

Metric = Literal["errors", "p99", "value"]
Outcome = Literal["worse", "no worse", "undecided"]

BILLION = 1e9  # evidence beyond it is not told apart in a sentence
WAYS = 2  # in which errors and p99 can be found worse; each gets its part of alpha
MAX_ALPHA = 0.49  # bounds at 0.5 and more would cross


class Difference(Protocol):
    """A comparison of two arms."""

    def __call__(self, first: Arm, second: Arm, *, alpha: float) -> tuple[Floats, Floats, Floats]:
        """Value, lower and upper bound."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """Rows answered since the step began, in event order; each array of shape (n,).

    Attributes:
        look: int64, 0 or more, in which look the row fell; such as minutes since the step began.
        is_canary: bool, whether the canary answered, else the champion.
        unit: int64, code of the subject, key or request that the traffic is split by.
        is_error: bool, answered by the fallback or not at all.
        latency_ms: float64, 0 or more; NaN where it was not measured.
        worth: float64, of the decision once its truth is known; NaN until then.

    Raises:
        EvidenceError: shapes differ, or a value makes no sense.
    """

    look: Codes
    is_canary: Bools
    unit: Codes
    is_error: Bools
    latency_ms: Floats
    worth: Floats

    def __post_init__(self) -> None:
        """Refuse what cannot be judged."""
        shapes = {getattr(self, name).shape for name in self.__slots__}
        if len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise EvidenceError(f"samples of shapes {sorted(shapes)} are not of the same rows")
        if (self.look < 0).any():
            raise EvidenceError(f"look {int(self.look.min())} lies before the step began; the first is 0")
        if (self.latency_ms < 0).any():
            raise EvidenceError(f"a latency of {float(np.nanmin(self.latency_ms)):g} ms is below 0")
        if np.isinf(self.worth).any():
            raise EvidenceError("a worth is infinite; it must be a sum, or NaN while the truth is unknown")

    def only(self, rows: Bools) -> "Samples":
        """The rows where `rows`, of shape (n,), is true."""
        return Samples(*(getattr(self, name)[rows] for name in self.__slots__))


@dataclass(frozen=True, slots=True)
class Limits:
    """By how much the canary may be worse, and how rarely that may be said of a good one.

    Attributes:
        errors_by: of the share of requests that fail, 0 to 1; None: not judged.
        p99_by: of the 99th percentile of the latency, as a share of the champion's; None: not judged.
        value_by: of the mean worth of a decision, in `unit`; None: not judged.
        unit: currency of `value_by`.
        alpha: chance of a wrong `worse`, and of a wrong `no worse`, of one metric in one step.
    """

    errors_by: float | None
    p99_by: float | None
    value_by: float | None
    unit: str | None
    alpha: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was decided on one metric of one step, with the numbers needed to argue about it later.

    Attributes:
        metric: what was judged.
        outcome: `undecided` means that the rows could not decide; it is neither of the others.
        measured: canary minus champion: of the share of errors; of the p99, as a share of the champion's; of the mean
            worth, in `unit`. None when nothing could be measured.
        interval: lower and upper bound of it, each holding at all looks together with the confidence in `reason`.
        limit: what `measured` may at most be, for value at least (so minus the margin).
        unit: currency of a value, else None.
        e_value: highest evidence of any look that the canary is worse; None for value.
        rows: of the canary and of the champion.
        units: of the canary and of the champion.
        reason: one sentence in plain words.
    """

    metric: Metric
    outcome: Outcome
    measured: float | None
    interval: tuple[float, float] | None
    limit: float
    unit: str | None
    e_value: float | None
    rows: tuple[int, int]
    units: tuple[int, int]
    reason: str

    def to_json(self) -> dict[str, Json]:
        """A JSON document of this judgement; a number that is not finite becomes null."""
        return {
            "metric": self.metric,
            "outcome": self.outcome,
            "measured": _finite(self.measured),
            "interval": None if self.interval is None else [_finite(bound) for bound in self.interval],
            "limit": self.limit,
            "unit": self.unit,
            "e_value": _finite(self.e_value),
            "rows": {"canary": self.rows[0], "champion": self.rows[1]},
            "units": {"canary": self.units[0], "champion": self.units[1]},
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is judged, in words and with its limit."""

    metric: Metric
    what: str
    counted: str
    limit: float
    alpha: float
    unit: str | None


def limits_of(rollout: Rollout) -> Limits:
    """The limits that a contract's rollout declares.

    `false_rollback` is of the whole rollout, so it is shared out equally among the metrics and the steps that are
    judged; 100 % is not, as no champion is left to compare with.

    Args:
        rollout: section `environments.ENV.rollout`, naming at least one metric in `no_worse`.
    """
    asked = rollout.no_worse
    metrics = sum(margin is not None for margin in (asked.errors, asked.p99, asked.value))
    judged = sum(share < 1 for share in rollout.steps)
    return Limits(
        errors_by=None if asked.errors is None else asked.errors.by,
        p99_by=None if asked.p99 is None else asked.p99.by,
        value_by=None if asked.value is None else asked.value.by.amount,
        unit=None if asked.value is None else asked.value.by.currency,
        alpha=min(rollout.false_rollback.at_most / (max(metrics, 1) * max(judged, 1)), MAX_ALPHA),
    )


def judge(samples: Samples, limits: Limits) -> tuple[Judgement, ...]:
    """One judgement for each declared metric, in the order errors, p99, value. Pure: no clock, no chance.

    May be called at every look with all rows since the step began; what it promises holds over all calls together.

    Args:
        samples: of one step, both arms.
        limits: which metrics are judged, and by which margins.
    """
    judgements = []
    if limits.errors_by is not None:
        judgements.append(_judge_errors(samples, limits.errors_by, limits.alpha))
    if limits.p99_by is not None:
        judgements.append(_judge_p99(samples, limits.p99_by, limits.alpha))
    if limits.value_by is not None:
        judgements.append(_judge_value(samples, limits.value_by, limits.unit, limits.alpha))
    return tuple(judgements)


def _judge_errors(samples: Samples, by: float, alpha: float) -> Judgement:
    subject = _Subject("errors", "The share of errors", "requests", by, alpha / WAYS, None)
    estimate = _compare(samples, samples.is_error.astype(np.float64), share_difference, subject.alpha)
    evidence = highest_evidence(samples.look, samples.is_canary, samples.unit, samples.is_error, margin=by)
    return _judge_evidence(subject, samples, estimate, evidence)


def _judge_p99(samples: Samples, by: float, alpha: float) -> Judgement:
    """A champion's row is slow above its p99, a canary's above that and the margin: no more of its rows may be slow."""
    subject = _Subject("p99", "The 99th percentile of the latency", "timed requests", by, alpha / WAYS, None)
    timed = samples.only(~np.isnan(samples.latency_ms))
    estimate = compare_tails(timed.is_canary, timed.unit, timed.latency_ms, alpha=subject.alpha)
    allowed = np.where(timed.is_canary, 1 + by, 1.0) * earlier_tail(timed.look, timed.is_canary, timed.latency_ms)
    evidence = highest_evidence(timed.look, timed.is_canary, timed.unit, timed.latency_ms > allowed, margin=0.0)
    return _judge_evidence(subject, timed, estimate, evidence)


def _judge_evidence(subject: _Subject, samples: Samples, estimate: Estimate, evidence: float) -> Judgement:
    """Worse by the evidence of first bad rows, which is quick, or by the interval of all rows, which sees lasting ones.

    The evidence counts only while what was measured lies beyond the limit, so that no wider limit is harder to meet.
    """
    is_evident = evidence >= 1 / subject.alpha and estimate.value > subject.limit
    if is_evident or estimate.low > subject.limit:
        return _judgement(subject, "worse", samples, estimate, evidence)
    outcome: Outcome = "no worse" if estimate.high < subject.limit else "undecided"
    return _judgement(subject, outcome, samples, estimate, evidence)


def _judge_value(samples: Samples, by: float, unit: str | None, alpha: float) -> Judgement:
    """Worth needs no evidence but its interval: worse if all of it lies below minus `by`."""
    subject = _Subject("value", "The mean worth of a decision", "decisions of known worth", -by, alpha, unit)
    known = samples.only(~np.isnan(samples.worth))
    estimate = _compare(known, known.worth, mean_difference, alpha)
    outcome: Outcome = "worse" if estimate.high < -by else "no worse" if estimate.low > -by else "undecided"
    return _judgement(subject, outcome, known, estimate, None)


def _compare(samples: Samples, values: Floats, difference: Difference, alpha: float) -> Estimate:
    arms = [arm_of(values[rows], samples.unit[rows]) for rows in (samples.is_canary, ~samples.is_canary)]
    return estimate_of(difference(*arms, alpha=alpha))


def _judgement(
    subject: _Subject, outcome: Outcome, samples: Samples, estimate: Estimate, evidence: float | None
) -> Judgement:
    arms = (samples.is_canary, ~samples.is_canary)
    rows = (int(arms[0].sum()), int(arms[1].sum()))
    is_measured = not math.isnan(estimate.value)
    return Judgement(
        metric=subject.metric,
        outcome=outcome,
        measured=estimate.value if is_measured else None,
        interval=estimate.interval if is_measured else None,
        limit=subject.limit,
        unit=subject.unit,
        e_value=evidence,
        rows=rows,
        units=(len(np.unique(samples.unit[arms[0]])), len(np.unique(samples.unit[arms[1]]))),
        reason=_reason(subject, outcome, rows, estimate, evidence),
    )


def _reason(
    subject: _Subject, outcome: Outcome, rows: tuple[int, int], estimate: Estimate, evidence: float | None
) -> str:
    if math.isnan(estimate.value):
        seen = f"{rows[0]:,} {subject.counted} of the canary and {rows[1]:,} of the champion"
        return f"{subject.what} cannot be compared yet: there are {seen}."
    value, low, high, limit = (
        _signed(subject, number) for number in (estimate.value, estimate.low, estimate.high, subject.limit)
    )
    start = f"{subject.what} is {value} against the champion's on {rows[0]:,} {subject.counted} of the canary"
    if outcome == "worse" and evidence is not None and evidence >= 1 / subject.alpha:
        odds = f"{min(evidence, BILLION):,.0f} to 1, where {1 / subject.alpha:,.0f} to 1 is enough"
        return f"{start}; {limit} is allowed, and the evidence that it is exceeded is {odds}."
    if math.isinf(estimate.low) and math.isinf(estimate.high):
        return f"{start}; that is too few, too little varied or from fewer than {MIN_UNITS} units in an arm to be sure."
    between = f"{start}, between {low} and {high} with {100 * (1 - subject.alpha):.4g} % confidence"
    if outcome != "undecided":
        return f"{between}; {limit} is allowed."
    needed = _rows_needed(subject, rows[0], estimate)
    more = "which more rows like these will not decide" if needed is None else f"which about {needed:,} would decide"
    return f"{between}; {limit} is allowed, {more}."


def _rows_needed(subject: _Subject, rows: int, estimate: Estimate) -> int | None:
    """How many rows of the canary would bring the bound on the limit's other side to it."""
    bound = estimate.high if estimate.value < subject.limit else estimate.low
    return rows_needed(rows, estimate.value, bound, subject.limit)


def _signed(subject: _Subject, number: float) -> str:
    if math.isinf(number):
        return "anything"
    if subject.metric == "value":
        return f"{number:+,.2f} {subject.unit or ''}".rstrip()
    return f"{100 * number:+.3g} {'points' if subject.metric == 'errors' else '%'}"


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
