"""All the contract's gates on one payload's evidence."""

from collections.abc import Sequence

from shipworthy.contract.types import Contract
from shipworthy.gates.budget import judge_budget
from shipworthy.gates.evidence import Evidence
from shipworthy.gates.fairness import judge_fairness
from shipworthy.gates.performance import judge_champion, judge_performance, judge_slices
from shipworthy.gates.robustness import judge_robustness
from shipworthy.gates.value import judge_value
from shipworthy.gates.verdict import Verdict

LENIENT_ENVIRONMENT = "local"  # also serves what is insufficient, and shows it


def judge(contract: Contract, evidence: Evidence) -> tuple[Verdict, ...]:
    """One verdict for each limit that the contract declares, in its order. Pure: same arguments, same verdicts.

    Args:
        contract: with `gates`.
        evidence: measured on rows that training never saw.

    Raises:
        EvidenceError: the evidence does not fit the contract.
    """
    gates, confidence, unit = contract.gates, contract.gates.confidence, contract.target.unit
    verdicts = [*judge_performance(evidence, gates.performance, confidence=confidence, unit=unit)]
    verdicts += judge_champion(evidence, gates.champion, confidence=confidence, unit=unit)
    if gates.value is not None:
        verdicts.append(judge_value(evidence, contract.value, gates.value.per_decision.at_least, confidence=confidence))
    if gates.fairness is not None:
        verdicts += judge_fairness(evidence, contract, gates.fairness, confidence=confidence)
    if gates.slices is not None:
        verdicts += judge_slices(evidence, gates.slices.by, gates.slices.limits, confidence=confidence, unit=unit)
    if gates.robustness is not None:
        at_most = gates.robustness.flips.at_most
        verdicts.append(judge_robustness(evidence.flips, at_most=at_most, confidence=confidence))
    if gates.budget is not None:
        verdicts += judge_budget(
            evidence.budget, gates.budget, usd_per_core_hour=contract.cost.usd_per_core_hour, confidence=confidence
        )
    return tuple(verdicts)


def lets_through(verdicts: Sequence[Verdict], environment: str) -> bool:
    """Whether a payload with these verdicts may serve in `environment`.

    Only pass and not applicable let through; `local` also serves what is insufficient. No verdict at all lets
    nothing through.
    """
    tolerated = {"pass", "not applicable"} | ({"insufficient"} if environment == LENIENT_ENVIRONMENT else set())
    return bool(verdicts) and all(verdict.outcome in tolerated for verdict in verdicts)
