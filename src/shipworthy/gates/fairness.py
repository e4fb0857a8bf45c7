"""Gates on fairness: each protected group against the reference group, with an interval.

| limit | compares | of the rows |
|---|---|---|
| demographic_parity_difference, demographic_parity_ratio | share answered favourably | all |
| equal_opportunity_difference | share answered favourably | whose truth is positive |
| equalised_odds_difference | the same, and the same among the others; the larger counts | by truth |

Favourable is the action of the positive class. A difference counts in both directions; a ratio is that of the
smaller to the larger share. Every group must meet the limit on its own: the worst bound is shown. Rows without a
group are left out and counted. With two groups the numbers are those of fairlearn.

Source: Hardt, Price and Srebro (2016), arXiv:1610.02413; Feldman et al. (2015), arXiv:1412.3756; intervals of
Newcombe (1998) and of Donner and Zou (2012), see `stats.intervals`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shipworthy.contract.gates_section import FairnessLimits
from shipworthy.contract.types import Contract
from shipworthy.gates.evidence import Evidence
from shipworthy.gates.limit import Limit, Side, insufficient, judge_limit, not_applicable
from shipworthy.gates.verdict import SEVERITY, Verdict
from shipworthy.stats.estimates import Estimate
from shipworthy.stats.intervals import proportion_difference, proportion_ratio

MIN_GROUP = 30  # rows of each compared group; one row is then worth about 3 points
NAMES = {
    "equal_opportunity_difference": "difference in favourable answers among those who deserve one",
    "demographic_parity_difference": "difference in favourable answers",
    "equalised_odds_difference": "difference in favourable answers among those of the same truth",
    "demographic_parity_ratio": "ratio of favourable answers",
}

Rows = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """The rows of one protected column as the gates compare them.

    Attributes:
        column: name of the protected column.
        groups: shape (n,), group names, None where unknown.
        names: the groups that must be compared.
        reference: the group that the others are compared with.
        favourable: shape (n,), whether the row got the favourable answer.
        positive: shape (n,), whether its truth is the positive class.
    """

    column: str
    groups: NDArray[np.object_]
    names: tuple[str, ...]
    reference: str
    favourable: Rows
    positive: Rows


def judge_fairness(
    evidence: Evidence, contract: Contract, limits: FairnessLimits, *, confidence: float
) -> tuple[Verdict, ...]:
    """One verdict for each limit and protected column.

    Args:
        evidence: what was measured.
        contract: names the protected columns, their groups and reference, and the favourable action.
        limits: the declared ones.
        confidence: of each bound, in (0.5, 1).
    """
    declared = {name: limit for name in NAMES if (limit := getattr(limits, name)) is not None}
    columns = contract.context_by_role("protected")
    verdicts = []
    for name, limit in declared.items():
        value = limit.at_least if name == "demographic_parity_ratio" else limit.at_most
        if not columns:
            reason = "The contract names no protected column."
            verdicts.append(not_applicable(f"fairness.{name}", reason))
        verdicts += [_judge_column(evidence, contract, name, value, column, confidence) for column in columns]
    return tuple(verdicts)


def judge_groups(name: str, comparison: Comparison, *, limit: float, confidence: float) -> Verdict:
    """The strictest of one limit's verdicts over the groups of a protected column.

    Args:
        name: of the limit, a key of NAMES.
        comparison: the rows.
        limit: largest difference or smallest ratio, 0 to 1.
        confidence: of each bound, in (0.5, 1).
    """
    gate = f"fairness.{name}.{comparison.column}"
    known = int(np.sum(comparison.groups != None))  # noqa: E711 elementwise
    left_out = len(comparison.groups) - known
    verdicts = [
        _judge_group(gate, name, comparison, group, limit, confidence)
        for group in comparison.names
        if group != comparison.reference
    ]
    if not verdicts:
        reason = f"{comparison.column} has no group beside the reference {comparison.reference}."
        return insufficient(gate, reason, rows=known, limit=limit)
    worst = max(verdicts, key=lambda verdict: _severity(verdict, name))
    note = f" {left_out:,} rows without {comparison.column} are left out." if left_out else ""
    return Verdict(gate, worst.outcome, worst.measured, worst.interval, limit, None, known, f"{worst.reason}{note}")


def _judge_column(
    evidence: Evidence, contract: Contract, name: str, limit: float, column: str, confidence: float
) -> Verdict:
    gate = f"fairness.{name}.{column}"
    action = favourable_action(contract)
    if action is None or evidence.positive is None or column not in evidence.protected:
        reason = "A favourable answer needs a target of two classes and rows that carry the protected column."
        return insufficient(gate, reason, rows=evidence.rows, limit=limit)
    return judge_groups(name, _comparison(evidence, contract, column, action), limit=limit, confidence=confidence)


def favourable_action(contract: Contract) -> str | None:
    """The action of the positive class, or None if the target has none."""
    positive = contract.target.positive
    if contract.target.type != "binary" or positive is None:
        return None
    return (contract.decision.actions or {}).get(positive, positive)


def _comparison(evidence: Evidence, contract: Contract, column: str, action: str) -> Comparison:
    declared = contract.context[column]
    groups = evidence.protected[column]
    seen = [str(group) for group in groups if group is not None]
    names = declared.values or tuple(sorted(set(seen)))
    reference = declared.reference or max(names, key=seen.count, default="")
    favourable = np.array([name == action for name in evidence.actions])[evidence.decisions]
    return Comparison(column, groups, names, reference, favourable, evidence.truth == evidence.positive)


def _judge_group(gate: str, name: str, comparison: Comparison, group: str, limit: float, confidence: float) -> Verdict:
    member, reference = comparison.groups == group, comparison.groups == comparison.reference
    estimates: list[Estimate] = []
    rows = int(member.sum())
    for among in _conditions(name, comparison):
        first = _counts(comparison.favourable, member & among)
        second = _counts(comparison.favourable, reference & among)
        small = min((first[1], group), (second[1], comparison.reference))
        if small[0] < MIN_GROUP:
            reason = (
                f"{comparison.column} {small[1]} has {small[0]:,} rows to compare; at least {MIN_GROUP} are needed."
            )
            return insufficient(gate, reason, rows=rows, limit=limit)
        estimates.append(_ratio(first, second, confidence) if _is_ratio(name) else _gap(first, second, confidence))
    side: Side = "at_least" if _is_ratio(name) else "at_most"
    words = f"The {NAMES[name]} between {comparison.column} {group} and {comparison.reference}"
    return judge_limit(Limit(gate, words, side, limit, confidence), _largest(estimates), rows)


def _conditions(name: str, comparison: Comparison) -> list[Rows]:
    if name == "equal_opportunity_difference":
        return [comparison.positive]
    if name == "equalised_odds_difference":
        return [comparison.positive, ~comparison.positive]
    return [np.ones(len(comparison.positive), dtype=np.bool_)]


def _largest(estimates: list[Estimate]) -> Estimate:
    """Of several differences that must all meet a limit: the largest value, and the largest of each bound."""
    return Estimate(
        max(estimate.value for estimate in estimates),
        max(estimate.low for estimate in estimates),
        max(estimate.high for estimate in estimates),
    )


def _counts(favourable: Rows, rows: Rows) -> tuple[int, int]:
    return int(favourable[rows].sum()), int(rows.sum())


def _gap(first: tuple[int, int], second: tuple[int, int], confidence: float) -> Estimate:
    low, high = proportion_difference(first, second, confidence)
    value = abs(first[0] / first[1] - second[0] / second[1])
    return Estimate(value, max(low, -high, 0.0), max(high, -low))


def _ratio(first: tuple[int, int], second: tuple[int, int], confidence: float) -> Estimate:
    """Smaller share over larger; both directions must reach the limit, so the bounds fold at 1."""
    shares = sorted((first[0] / first[1], second[0] / second[1]))
    value = shares[0] / shares[1] if shares[1] else 1.0
    low, high = proportion_ratio(first, second, confidence)
    back_low, back_high = proportion_ratio(second, first, confidence)
    return Estimate(value, min(low, back_low, 1.0), min(high, back_high, 1.0))


def _severity(verdict: Verdict, name: str) -> tuple[int, float]:
    if verdict.interval is None:
        return SEVERITY[verdict.outcome], 0.0
    low, high = verdict.interval
    return SEVERITY[verdict.outcome], -low if _is_ratio(name) else high


def _is_ratio(name: str) -> bool:
    return name.endswith("_ratio")
