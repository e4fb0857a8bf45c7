"""Fairness gates on hand-made counts, worked out as fairlearn defines them."""

import math
import os
from typing import Any

import numpy as np
import pytest

from shipworthy.contract.gates_section import FairnessLimits
from shipworthy.gates.fairness import Comparison, judge_fairness, judge_groups
from tests.conftest import Seen

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "1000"))


def people(*cells: tuple[str | None, bool, bool, int]) -> Comparison:
    """Rows from counts: (group, truth is positive, answer is favourable, how many)."""
    groups = np.array([group for group, _, _, count in cells for _ in range(count)], dtype=object)
    positive = np.array([truth for _, truth, _, count in cells for _ in range(count)])
    favourable = np.array([answer for _, _, answer, count in cells for _ in range(count)])
    names = tuple(sorted({group for group in groups if group is not None}))
    return Comparison("sex", groups, names, "male", favourable, positive)


# male: TPR 160/200 = 0.8, FPR 40/200 = 0.2, selected 200/400 = 0.5
# female: TPR 120/200 = 0.6, FPR 20/200 = 0.1, selected 140/400 = 0.35
TWO = people(
    ("male", True, True, 160),
    ("male", True, False, 40),
    ("male", False, True, 40),
    ("male", False, False, 160),
    ("female", True, True, 120),
    ("female", True, False, 80),
    ("female", False, True, 20),
    ("female", False, False, 180),
)


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        ("equal_opportunity_difference", 0.2),
        ("demographic_parity_difference", 0.15),
        ("equalised_odds_difference", 0.2),
        ("demographic_parity_ratio", 0.7),
    ],
)
def test_the_numbers_are_those_of_the_definitions(name: str, measured: float) -> None:
    verdict = judge_groups(name, TWO, limit=0.1, confidence=0.95)
    assert verdict.gate == f"fairness.{name}.sex"
    assert verdict.measured == pytest.approx(measured)
    assert verdict.rows == 800
    assert verdict.interval is not None
    assert verdict.interval[0] < measured < verdict.interval[1]


@pytest.mark.parametrize(
    ("name", "limit", "outcome"),
    [
        ("equal_opportunity_difference", 0.1, "fail"),
        ("equal_opportunity_difference", 0.2, "insufficient"),
        ("equal_opportunity_difference", 0.3, "pass"),
        ("demographic_parity_ratio", 0.9, "fail"),
        ("demographic_parity_ratio", 0.7, "insufficient"),
        ("demographic_parity_ratio", 0.5, "pass"),
    ],
)
def test_the_bound_decides(name: str, limit: float, outcome: str) -> None:
    assert judge_groups(name, TWO, limit=limit, confidence=0.95).outcome == outcome


@pytest.mark.parametrize("name", ["equal_opportunity_difference", "demographic_parity_ratio"])
def test_a_group_treated_better_counts_as_well(name: str) -> None:
    swapped = Comparison("sex", TWO.groups, TWO.names, "female", TWO.favourable, TWO.positive)
    one, two = (judge_groups(name, rows, limit=0.3, confidence=0.95) for rows in (TWO, swapped))
    assert one.measured == pytest.approx(two.measured)
    assert one.interval == pytest.approx(two.interval)


def test_the_worst_of_several_groups_is_shown() -> None:
    rows = people(
        ("male", True, True, 500),
        ("male", True, False, 500),
        ("female", True, True, 490),
        ("female", True, False, 510),
        ("other", True, True, 100),
        ("other", True, False, 900),
    )
    verdict = judge_groups("demographic_parity_difference", rows, limit=0.1, confidence=0.95)
    assert verdict.outcome == "fail"
    assert verdict.measured == pytest.approx(0.4)
    assert "between sex other and male is 0.4" in verdict.reason


def test_a_small_group_is_insufficient_and_named() -> None:
    rows = people(("male", True, True, 500), ("female", True, True, 29))
    verdict = judge_groups("equal_opportunity_difference", rows, limit=0.5, confidence=0.95)
    assert verdict.outcome == "insufficient"
    assert verdict.reason == "sex female has 29 rows to compare; at least 30 are needed."


def test_only_rows_that_count_make_a_group_large_enough() -> None:
    rows = people(("male", True, True, 500), ("female", True, True, 20), ("female", False, True, 400))
    assert judge_groups("equal_opportunity_difference", rows, limit=0.5, confidence=0.95).outcome == "insufficient"
    assert judge_groups("demographic_parity_difference", rows, limit=0.5, confidence=0.95).outcome == "pass"


def test_rows_without_a_group_are_left_out_and_counted() -> None:
    rows = people(("male", True, True, 100), ("female", True, True, 100), (None, True, False, 7))
    verdict = judge_groups("demographic_parity_difference", rows, limit=0.1, confidence=0.95)
    assert verdict.rows == 200
    assert verdict.reason.endswith("7 rows without sex are left out.")


def test_a_single_group_is_insufficient() -> None:
    rows = people(("male", True, True, 100))
    assert judge_groups("demographic_parity_difference", rows, limit=0.1, confidence=0.95).outcome == "insufficient"


@pytest.mark.parametrize("name", ["demographic_parity_difference", "demographic_parity_ratio"])
def test_a_gap_of_exactly_the_limit_passes_as_often_as_promised(name: str, seen: Seen) -> None:
    rng = np.random.default_rng(6)
    limit = 0.1 if name.endswith("difference") else 0.8
    passed = 0
    for _ in range(REPETITIONS):
        first, second = int(rng.binomial(600, 0.4)), int(rng.binomial(800, 0.5))
        rows = people(
            ("female", True, True, first),
            ("female", True, False, 600 - first),
            ("male", True, True, second),
            ("male", True, False, 800 - second),
        )
        passed += judge_groups(name, rows, limit=limit, confidence=0.95).outcome == "pass"
    seen("passed on the boundary", passed / REPETITIONS)
    assert abs(passed / REPETITIONS - 0.05) < 0.01 + 4 * math.sqrt(0.05 * 0.95 / REPETITIONS)


def test_the_contract_says_what_is_favourable_and_who_is_compared(binary: Any, contract: Any) -> None:
    sex = np.where(np.arange(2000) % 2 == 0, "female", "male").astype(object)
    limits = FairnessLimits.model_validate({"equal_opportunity_difference": {"at_most": 0.2}})
    verdict = judge_fairness(binary(protected={"sex": sex}), contract(), limits, confidence=0.95)[0]
    assert verdict.gate == "fairness.equal_opportunity_difference.sex"
    assert verdict.outcome == "pass"


def test_a_declared_group_without_rows_is_insufficient(binary: Any, contract: Any) -> None:
    sex = np.full(2000, "male", dtype=object)
    limits = FairnessLimits.model_validate({"demographic_parity_difference": {"at_most": 0.2}})
    verdict = judge_fairness(binary(protected={"sex": sex}), contract(), limits, confidence=0.95)[0]
    assert verdict.outcome == "insufficient"
    assert "sex female has 0 rows" in verdict.reason


def test_without_a_protected_column_fairness_is_not_applicable(binary: Any, contract: Any) -> None:
    limits = FairnessLimits.model_validate({"demographic_parity_difference": {"at_most": 0.2}})
    assert judge_fairness(binary(), contract(context={}), limits, confidence=0.95)[0].outcome == "not applicable"


def test_rows_that_lack_the_protected_column_are_insufficient(binary: Any, contract: Any) -> None:
    limits = FairnessLimits.model_validate({"demographic_parity_difference": {"at_most": 0.2}})
    assert judge_fairness(binary(), contract(), limits, confidence=0.95)[0].outcome == "insufficient"
