"""Budget gates judge the server's figures, and none passes on a load that was not the declared one."""

import math
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shipworthy.contract.gates_section import Budget
from shipworthy.gates.budget import judge_budget, judge_p99
from shipworthy.gates.evidence import BudgetMeasurement
from tests.conftest import Seen

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "1000"))
BUDGET = Budget.model_validate(
    {
        "at_rps": 200,
        "p99": {"at_most": "5ms"},
        "memory": {"at_most": "200MB"},
        "size": {"at_most": "20MB"},
        "cost_per_1k": {"at_most": "0.01 USD"},
    }
)
GOOD = BudgetMeasurement(
    latencies_ms=np.random.default_rng(0).exponential(0.5, size=600) + 0.2,
    at_rps=200,
    rps=199.5,
    errors=0,
    seconds=3.0,
    cpu_seconds=0.9,
    memory_bytes=90_000_000,
    size_bytes=400_000,
)


def outcomes(measured: BudgetMeasurement | None, budget: Budget = BUDGET) -> dict[str, str]:
    verdicts = judge_budget(measured, budget, usd_per_core_hour=0.05, confidence=0.95)
    return {verdict.gate: verdict.outcome for verdict in verdicts}


def test_a_good_server_meets_each_limit() -> None:
    assert outcomes(GOOD) == dict.fromkeys(("budget.p99", "budget.memory", "budget.size", "budget.cost_per_1k"), "pass")


def test_only_declared_limits_are_judged() -> None:
    assert outcomes(GOOD, Budget.model_validate({"at_rps": 200, "size": {"at_most": "20MB"}})) == {
        "budget.size": "pass"
    }


@pytest.mark.parametrize(
    ("changes", "gate"),
    [
        ({"latencies_ms": GOOD.latencies_ms * 4}, "budget.p99"),
        ({"memory_bytes": 200_000_001}, "budget.memory"),
        ({"size_bytes": 20_000_001}, "budget.size"),
        ({"cpu_seconds": 500.0}, "budget.cost_per_1k"),
    ],
)
def test_one_figure_over_its_limit_fails_that_gate_alone(changes: dict[str, Any], gate: str) -> None:
    assert {name for name, outcome in outcomes(replace(GOOD, **changes)).items() if outcome != "pass"} == {gate}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rps": 150.0}, "Only 150 of the declared 200 requests/s could be sent"),
        ({"wrong": 3}, "3 answers of the server differ"),
        ({"latencies_ms": GOOD.latencies_ms[:200]}, "200 requests were sent; a verdict needs at least 299"),
        ({"latencies_ms": np.full(600, math.inf), "errors": 600}, "No request was answered"),
    ],
)
def test_a_load_that_says_nothing_is_insufficient(changes: dict[str, Any], why: str) -> None:
    verdicts = judge_budget(replace(GOOD, **changes), BUDGET, usd_per_core_hour=0.05, confidence=0.95)
    judged = {verdict.gate: verdict for verdict in verdicts}
    assert judged["budget.size"].outcome == "pass"
    for gate in ("budget.p99", "budget.memory", "budget.cost_per_1k"):
        assert judged[gate].outcome == "insufficient"
        assert why in judged[gate].reason


def test_what_was_not_measured_is_insufficient() -> None:
    assert set(outcomes(None).values()) == {"insufficient"}


def test_a_price_in_another_currency_is_insufficient() -> None:
    budget = Budget.model_validate({"at_rps": 200, "cost_per_1k": {"at_most": "0.01 EUR"}})
    assert outcomes(GOOD, budget) == {"budget.cost_per_1k": "insufficient"}


def test_unanswered_requests_count_as_endless() -> None:
    latencies = GOOD.latencies_ms.copy()
    latencies[:30] = math.inf
    verdict = judge_p99(replace(GOOD, latencies_ms=latencies, errors=30), at_most_ms=5, confidence=0.95)
    assert verdict.outcome == "fail"
    assert "without bound" in verdict.reason


def test_a_percentile_of_exactly_the_limit_passes_at_most_as_often_as_promised(seen: Seen) -> None:
    rng = np.random.default_rng(1)
    limit = -math.log(0.01)
    passed = 0
    for _ in range(REPETITIONS):
        measured = replace(GOOD, latencies_ms=rng.exponential(size=1000))
        passed += judge_p99(measured, at_most_ms=limit, confidence=0.95).outcome == "pass"
    seen("passed on the boundary", passed / REPETITIONS)
    assert passed / REPETITIONS < 0.05 + 4 * math.sqrt(0.05 * 0.95 / REPETITIONS)
