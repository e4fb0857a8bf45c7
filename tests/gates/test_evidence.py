"""Evidence refuses numbers that no gate could judge, and summarises the rest."""

import json
import math
from typing import Any

import numpy as np
import pytest

from shipworthy.gates.evidence import BudgetMeasurement, Champion, Flips, Parity
from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.estimates import Answers

LABELS = np.zeros(4, dtype=np.int64)
FLAT = np.full((4, 2), 0.5)
WITH_NAN = np.array([[0.5, 0.5], [math.nan, 0.5], [0.5, 0.5], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": Answers(np.ones((3, 2)), LABELS)}, r"have shape \(3, 2\); they must have \(4, 2\)"),
        ({"answers": Answers(WITH_NAN, LABELS)}, "not finite at row 1"),
        ({"answers": Answers(FLAT * 2, LABELS)}, "are no probabilities"),
        ({"answers": Answers(np.tile([1.5, -0.5], (4, 1)), LABELS)}, "are no probabilities"),
        ({"answers": Answers(FLAT)}, "lack the decided class"),
        ({"champion": Champion("sha256:0", Answers(FLAT[:3], LABELS))}, "the champion's answers have shape"),
        ({"truth": np.array([0, 1, 2, 0])}, "class index outside 0 to 1"),
        ({"truth": np.zeros(4)}, "must be class indexes"),
        ({"truth": np.zeros((4, 1), dtype=np.int64)}, "one value for each row"),
        ({"baseline": np.array([1.0])}, "must be 2 finite numbers"),
        ({"decisions": LABELS[:2]}, r"decisions has shape \(2,\); it must be \(4,\)"),
        ({"protected": {"sex": np.array(["f"], dtype=object)}}, r"sex has shape \(1,\)"),
    ],
)
def test_numbers_that_cannot_be_judged_are_refused(binary: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EvidenceError, match=message):
        binary(4, **changes)


def test_a_regression_needs_finite_truth(binary: Any) -> None:
    numbers = {"task": "regression", "classes": (), "positive": None, "answers": Answers(np.zeros(4))}
    with pytest.raises(EvidenceError, match="truth holds a number that is not finite"):
        binary(4, **numbers, truth=np.array([1.0, math.inf, 0.0, 0.0]), baseline=np.zeros(2))


def test_the_summary_has_no_rows_and_is_json(binary: Any) -> None:
    budget = BudgetMeasurement(np.arange(1.0, 301.0), 100, 99.9, 0, 3.0, 0.5, 10**8, 10**6)
    evidence = binary(500, flips=Flips(3, 500), budget=budget, parity=Parity(500, 1e-7, 10_000, 1e-6, 1e-5))
    summary = json.loads(json.dumps(evidence.to_json(), allow_nan=False))
    assert summary["rows"] == 500
    assert summary["decisions"]["approve"] + summary["decisions"]["refer"] == 500
    assert summary["budget"]["p99_ms"] == 297
    assert summary["budget"]["p50_ms"] == 150
    assert summary["flips"] == {"flipped": 3, "rows": 500}
    assert summary["parity"]["edge_rows"] == 10_000


def test_cost_counts_only_good_answers() -> None:
    budget = BudgetMeasurement(np.full(1000, 1.0), 100, 100, 500, 10.0, 1.8, 1, 1)
    assert budget.cost_per_1k(0.05) == pytest.approx(1.8 / 500 * 1000 / 3600 * 0.05)
