"""A verdict carries its numbers into JSON and stands for several."""

import json
import math

from shipworthy.gates.verdict import Outcome, Verdict, strictest


def test_a_verdict_is_json_without_numbers_that_json_lacks() -> None:
    verdict = Verdict("budget.p99", "insufficient", 3.5, (2.5, math.inf), 5.0, "ms", 100, "Why.")
    document = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert document == {
        "gate": "budget.p99",
        "outcome": "insufficient",
        "measured": 3.5,
        "interval": [2.5, None],
        "limit": 5.0,
        "unit": "ms",
        "rows": 100,
        "reason": "Why.",
    }


def test_the_strictest_verdict_keeps_every_reason() -> None:
    good = Verdict("performance.f1", "pass", 0.9, (0.8, 1.0), 0.5, None, 200, "Good.")
    unsure = Verdict("performance.f1", "insufficient", 0.9, (0.8, 1.0), 0.85, None, 200, "Unsure.")
    bad = Verdict("performance.f1", "fail", 0.9, (0.8, 1.0), 0.99, None, 200, "Bad.")
    assert strictest((good, unsure)).outcome == "insufficient"
    assert strictest((bad, unsure, good)) == Verdict(
        "performance.f1", "fail", 0.9, (0.8, 1.0), 0.99, None, 200, "Bad. Unsure. Good."
    )


def test_only_pass_and_not_applicable_let_through() -> None:
    outcomes: tuple[Outcome, ...] = ("pass", "fail", "insufficient", "not applicable")
    let = [Verdict("g", outcome, None, None, None, None, 0, "").lets_through for outcome in outcomes]
    assert let == [True, False, False, True]
