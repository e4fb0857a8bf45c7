"""An interval against a limit: the rule that all gates share, and its plain words.

`at_most`: pass if the upper bound meets the limit, fail if the lower bound lies above it, otherwise
insufficient. `at_least` is the mirror image. The point estimate decides nothing.
"""

import math
from dataclasses import dataclass
from typing import Literal

from shipworthy.gates.verdict import Outcome, Verdict
from shipworthy.stats.estimates import Estimate
from shipworthy.stats.intervals import rows_needed

Side = Literal["at_most", "at_least"]

MIN_ROWS = 100  # below this a t interval of skewed losses misses clearly more often than promised


@dataclass(frozen=True, slots=True)
class Limit:
    """What is judged, and what it must meet.

    Attributes:
        gate: name of the verdict.
        what: the measured thing in words, as the start of a sentence.
        side: whether the limit is the most or the least that is allowed.
        value: the limit, in `unit`.
        unit: of the value, or None.
        confidence: of each bound, in (0.5, 1).
        counted: what a unit of evidence is called.
    """

    gate: str
    what: str
    side: Side
    value: float
    confidence: float
    unit: str | None = None
    counted: str = "rows"


def judge_limit(limit: Limit, estimate: Estimate, rows: int) -> Verdict:
    """Pass if the interval's bound meets the limit, fail if the whole interval misses it, else insufficient.

    Args:
        limit: what must be met.
        estimate: measured value and bounds, each holding with `limit.confidence`.
        rows: that the estimate stands on.
    """
    outcome = decide(limit, estimate)
    return Verdict(
        gate=limit.gate,
        outcome=outcome,
        measured=estimate.value,
        interval=estimate.interval,
        limit=limit.value,
        unit=limit.unit,
        rows=rows,
        reason=_reason(limit, estimate, rows, outcome),
    )


def decide(limit: Limit, estimate: Estimate) -> Outcome:
    """The outcome alone."""
    near, far = (estimate.high, estimate.low) if limit.side == "at_most" else (estimate.low, estimate.high)
    if _meets(limit, near):
        return "pass"
    return "insufficient" if _meets(limit, far) else "fail"


def insufficient(gate: str, reason: str, *, rows: int, limit: float | str | None, unit: str | None = None) -> Verdict:
    """A verdict on something that could not be measured well enough to be judged."""
    return Verdict(gate, "insufficient", None, None, limit, unit, rows, reason)


def not_applicable(gate: str, reason: str) -> Verdict:
    """A verdict on a gate that has nothing to judge."""
    return Verdict(gate, "not applicable", None, None, None, None, 0, reason)


def quantity(value: float, unit: str | None) -> str:
    """A number with its unit, as a reader wants it.

    >>> quantity(0.08123, None), quantity(41_300_000, "B"), quantity(3.14159, "ms"), quantity(1234.5, "USD")
    ('0.08123', '41.3 MB', '3.14 ms', '1,234.50 USD')
    """
    if unit is None:
        return f"{value:.4g}"
    if not math.isfinite(value):
        return "without bound"
    if unit == "B":
        return f"{value / 1e6:,.1f} MB"
    if unit == "ms":
        return f"{value:,.2f} ms"
    if abs(value) < 1:
        return f"{value:.3g} {unit}"
    return f"{value:,.2f} {unit}"


def percent(confidence: float) -> str:
    """A confidence in words.

    >>> percent(0.95)
    '95 % confidence'
    """
    return f"{100 * confidence:g} % confidence"


def _meets(limit: Limit, value: float) -> bool:
    return value <= limit.value if limit.side == "at_most" else value >= limit.value


def _reason(limit: Limit, estimate: Estimate, rows: int, outcome: Outcome) -> str:
    at_most = limit.side == "at_most"
    near, far = (estimate.high, estimate.low) if at_most else (estimate.low, estimate.high)
    value, bound, beyond, allowed = (
        quantity(number, limit.unit) for number in (estimate.value, near, far, limit.value)
    )
    start = f"{limit.what} is {value} on {rows:,} {limit.counted}"
    most, least = ("at most", "at least") if at_most else ("at least", "at most")
    surely = f"with {percent(limit.confidence)}"
    if outcome == "pass":
        return f"{start}, {surely} {most} {bound}; {most} {allowed} is {'allowed' if at_most else 'asked for'}."
    if outcome == "fail":
        return f"{start}, {surely} {least} {beyond}; {most} {allowed} is {'allowed' if at_most else 'asked for'}."
    needed = rows_needed(rows, estimate.value, near, limit.value)
    cure = (
        f"About {needed:,} {limit.counted} would decide."
        if needed is not None
        else f"It would not meet the limit if more {limit.counted} gave the same value."
    )
    asked = f"{most} {allowed} is {'allowed' if at_most else 'asked for'}"
    return f"{start}, but it may be {'as high' if at_most else 'as low'} as {bound}; {asked}. {cure}"
