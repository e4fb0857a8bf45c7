"""Gate: one decision is worth enough, on average, to the business."""

import numpy as np
from numpy.typing import NDArray

from shipworthy.contract.quantities import Money
from shipworthy.contract.types import Value
from shipworthy.gates.evidence import Evidence
from shipworthy.gates.limit import MIN_ROWS, Limit, insufficient, judge_limit
from shipworthy.gates.verdict import Verdict
from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.estimates import Estimate
from shipworthy.stats.intervals import mean_interval

GATE = "value.per_decision"


def judge_value(evidence: Evidence, value: Value | None, limit: Money, *, confidence: float) -> Verdict:
    """Pass if the lower bound of the mean value of a decision reaches the limit.

    Each row is worth what the contract's table says of the action taken and the class that came true.

    Args:
        evidence: what was measured.
        value: the contract's table, or None.
        limit: least mean worth of a decision, in the table's currency.
        confidence: of each bound, in (0.5, 1).

    Raises:
        EvidenceError: the table lacks an action that was taken.
    """
    asked = f"at least {limit}"
    if value is None or not evidence.classes or value.unit != limit.currency:
        reason = (
            "The contract has no value table of this currency for the target's classes, so nothing can be added up."
        )
        return insufficient(GATE, reason, rows=evidence.rows, limit=asked)
    if evidence.rows < MIN_ROWS:
        reason = f"There are {evidence.rows:,} rows; a verdict needs at least {MIN_ROWS}."
        return insufficient(GATE, reason, rows=evidence.rows, limit=asked, unit=value.unit)
    worth = decision_values(evidence, value)
    estimate = Estimate(float(worth.mean()), *mean_interval(worth, confidence))
    words = "The mean worth of a decision"
    return judge_limit(
        Limit(GATE, words, "at_least", limit.amount, confidence, value.unit, "decisions"), estimate, evidence.rows
    )


def decision_values(evidence: Evidence, value: Value) -> NDArray[np.float64]:
    """Shape (n,), worth of each row's decision given its true class.

    Raises:
        EvidenceError: the table lacks an action that was taken.
    """
    table = np.full((len(evidence.actions), len(evidence.classes)), np.nan)
    for index, action in enumerate(evidence.actions):
        for code, label in enumerate(evidence.classes):
            table[index, code] = value.outcomes.get(action, {}).get(label, np.nan)
    worth = table[evidence.decisions, evidence.truth.astype(np.int64)]
    if np.isnan(worth).any():
        row = int(np.flatnonzero(np.isnan(worth))[0])
        action, label = evidence.actions[evidence.decisions[row]], evidence.classes[int(evidence.truth[row])]
        raise EvidenceError(
            f"the value table has no sum for action {action} when the truth is {label} (value.{action})"
        )
    return np.asarray(worth, dtype=np.float64)
