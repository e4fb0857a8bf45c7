"""Gate: small noise in the inputs flips few decisions."""

from shipworthy.gates.evidence import Flips
from shipworthy.gates.limit import MIN_ROWS, Limit, insufficient, judge_limit
from shipworthy.gates.verdict import Verdict
from shipworthy.stats.estimates import Estimate
from shipworthy.stats.intervals import wilson_interval

GATE = "robustness.flips"


def judge_robustness(flips: Flips | None, *, at_most: float, confidence: float) -> Verdict:
    """Pass if Wilson's upper bound of the share of flipped decisions meets the limit.

    Args:
        flips: counted by `evaluation.perturb`, or None.
        at_most: largest share of decisions that may flip, 0 to 1.
        confidence: of each bound, in (0.5, 1).
    """
    rows = 0 if flips is None else flips.rows
    if flips is None or rows < MIN_ROWS:
        reason = f"Decisions under noise were compared on {rows:,} rows; a verdict needs at least {MIN_ROWS}."
        return insufficient(GATE, reason, rows=rows, limit=at_most)
    estimate = Estimate(flips.flipped / rows, *wilson_interval(flips.flipped, rows, confidence))
    limit = Limit(GATE, "The share of decisions that noise flips", "at_most", at_most, confidence)
    return judge_limit(limit, estimate, rows)
