"""The value gate adds up the contract's table and looks at the lower bound."""

import math
import os
from typing import Any

import numpy as np
import pytest

from shipworthy.contract.quantities import Money
from shipworthy.contract.types import Value
from shipworthy.gates.value import decision_values, judge_value
from shipworthy.kernel.errors import EvidenceError
from tests.conftest import Seen

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "1000"))
TABLE = Value.model_validate(
    {"unit": "USD", "approve": {"yes": 900.0, "no": -4000.0}, "refer": {"yes": -60.0, "no": -60.0}}
)


def test_each_decision_is_worth_what_the_table_says(binary: Any) -> None:
    evidence = binary(4, truth=np.array([0, 1, 0, 1]), decisions=np.array([0, 0, 1, 1]))
    assert decision_values(evidence, TABLE).tolist() == [-60, -60, -4000, 900]


@pytest.mark.parametrize(("limit", "outcome"), [(100, "pass"), (150, "insufficient"), (300, "fail")])
def test_the_lower_bound_of_the_mean_decides(binary: Any, limit: float, outcome: str) -> None:
    careful = binary(4000, signal=3)
    decisions = (careful.answers.values[:, 1] > 0.83).astype(np.int64)
    evidence = binary(4000, signal=3, decisions=decisions)
    verdict = judge_value(evidence, TABLE, Money(limit, "USD"), confidence=0.95)
    assert verdict.measured == pytest.approx(150.2, abs=0.1)
    assert verdict.outcome == outcome
    assert verdict.unit == "USD"
    assert verdict.reason.startswith("The mean worth of a decision is ")


def test_a_mean_of_exactly_the_limit_passes_as_often_as_promised(binary: Any, seen: Seen) -> None:
    passed = 0
    for seed in range(REPETITIONS):
        rng = np.random.default_rng(seed)
        evidence = binary(300, truth=(rng.random(300) < 0.8).astype(np.int64), decisions=np.ones(300, dtype=np.int64))
        limit = Money(0.8 * 900 - 0.2 * 4000, "USD")
        passed += judge_value(evidence, TABLE, limit, confidence=0.95).outcome == "pass"
    seen("passed on the boundary", passed / REPETITIONS)
    assert abs(passed / REPETITIONS - 0.05) < 0.015 + 4 * math.sqrt(0.05 * 0.95 / REPETITIONS)


def test_an_action_without_a_sum_is_refused(binary: Any) -> None:
    evidence = binary(200, actions=("refer", "escalate"))
    with pytest.raises(EvidenceError, match=r"no sum for action escalate when the truth is .* \(value.escalate\)"):
        judge_value(evidence, TABLE, Money(1, "USD"), confidence=0.95)


def test_without_a_table_of_the_limits_currency_nothing_is_judged(binary: Any) -> None:
    for table, limit in ((None, Money(1, "USD")), (TABLE, Money(1, "EUR"))):
        assert judge_value(binary(), table, limit, confidence=0.95).outcome == "insufficient"


def test_too_few_rows_are_insufficient(binary: Any) -> None:
    assert judge_value(binary(99), TABLE, Money(-9000, "USD"), confidence=0.95).outcome == "insufficient"
