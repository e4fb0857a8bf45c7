"""The judge looks at every declared limit, and only what passed reaches an environment."""

import os
from typing import Any

import numpy as np
import pytest

from shipworthy.gates.evidence import Flips
from shipworthy.gates.judge import judge, lets_through
from shipworthy.gates.verdict import Outcome, Verdict
from shipworthy.stats.estimates import Answers
from tests.conftest import Seen

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "400"))
ALL = {
    "performance": {"log_loss": {"better_than": "baseline"}, "roc_auc": {"at_least": 0.72}},
    "champion": {"log_loss": {"no_worse_by": 0.01}},
    "value": {"per_decision": {"at_least": "-2000 USD"}},
    "fairness": {"equal_opportunity_difference": {"at_most": 0.2}},
    "slices": {"by": ("region",), "roc_auc": {"at_least": 0.65}},
    "robustness": {"noise_sd": "1%", "flips": {"at_most": "5%"}},
    "budget": {"at_rps": 200, "size": {"at_most": "20MB"}},
}


def verdict(outcome: Outcome) -> Verdict:
    return Verdict("g", outcome, None, None, None, None, 0, "")


def test_every_declared_limit_gets_a_verdict_in_order(binary: Any, contract: Any) -> None:
    rows = np.arange(2000)
    evidence = binary(
        2000,
        protected={"sex": np.where(rows % 2 == 0, "female", "male").astype(object)},
        slices={"region": np.where(rows % 3 == 0, "north", "south").astype(object)},
        flips=Flips(10, 2000),
    )
    found = {verdict.gate: verdict.outcome for verdict in judge(contract(gates=ALL), evidence)}
    assert found == {
        "performance.log_loss": "pass",
        "performance.roc_auc": "pass",
        "champion.log_loss": "not applicable",
        "value.per_decision": "pass",
        "fairness.equal_opportunity_difference.sex": "pass",
        "slices.roc_auc.region=north": "pass",
        "slices.roc_auc.region=south": "pass",
        "robustness.flips": "pass",
        "budget.size": "insufficient",
    }


def test_the_same_evidence_gets_the_same_verdicts(binary: Any, contract: Any) -> None:
    gates = {"performance": {"f1": {"better_than": "baseline"}, "balanced_accuracy": {"at_least": 0.6}}}
    assert judge(contract(gates=gates), binary()) == judge(contract(gates=gates), binary())


@pytest.mark.parametrize("environment", ["local", "production"])
def test_a_system_that_learnt_noise_reaches_no_environment(
    environment: str, binary: Any, contract: Any, seen: Seen
) -> None:
    through = 0
    for seed in range(REPETITIONS):
        rng = np.random.default_rng(seed)
        positive = 1 / (1 + np.exp(-0.2 * rng.normal(size=300)))
        answers = Answers(np.stack([1 - positive, positive], axis=1), (positive > 0.5).astype(np.int64))
        evidence = binary(300, seed=seed, truth=rng.integers(0, 2, 300), answers=answers)
        through += lets_through(judge(contract(), evidence), environment)
    seen("passed on noise", through / REPETITIONS)
    assert through / REPETITIONS <= 0.05


def test_more_confidence_never_lets_more_through(binary: Any, contract: Any) -> None:
    order: list[Outcome] = ["pass", "insufficient", "fail"]
    for signal in (0.0, 0.2, 0.4, 0.8):
        ranks = []
        for confidence in ("80%", "95%", "99.9%"):
            gates = {"confidence": confidence, "performance": {"roc_auc": {"at_least": 0.6}}}
            outcome = judge(contract(gates=gates), binary(300, signal=signal))[0].outcome
            ranks.append(order.index(outcome) == 0)
        assert ranks == sorted(ranks, reverse=True)


@pytest.mark.parametrize(
    ("outcomes", "local", "production"),
    [
        (("pass", "not applicable"), True, True),
        (("pass", "insufficient"), True, False),
        (("pass", "fail"), False, False),
        (("fail", "insufficient"), False, False),
        ((), False, False),
    ],
)
def test_only_local_serves_what_is_insufficient_and_nothing_serves_what_failed(
    outcomes: tuple[Outcome, ...], local: bool, production: bool
) -> None:
    verdicts = [verdict(outcome) for outcome in outcomes]
    assert lets_through(verdicts, "local") is local
    assert lets_through(verdicts, "production") is production
