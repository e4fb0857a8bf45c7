"""Quality: exact numbers by hand, fallbacks where they belong, and promises held with the promised confidence."""

import json
import math
from typing import Any

import numpy as np
import polars as pl
import pytest

from shipworthy.contract.types import Contract
from shipworthy.monitoring.quality import judge_quality, measure_quality
from shipworthy.stats.intervals import mean_interval, wilson_interval
from tests.monitoring.conftest import build

WORTH = {("approve", "1"): 100.0, ("approve", "0"): -400.0, ("refer", "1"): -10.0, ("refer", "0"): -10.0}
VALUE = {"gate": "value.per_decision", "outcome": "pass", "measured": 31.0, "limit": 20.0, "unit": "EUR"}
ACCURACY = {"gate": "performance.accuracy", "outcome": "pass", "measured": 0.82, "limit": 0.75}


def answered(rows: list[tuple[float | None, str | None]], release: str = "loans:1") -> pl.DataFrame:
    """A window of (score, truth); a score of None was answered by the fallback, which refers."""
    decisions = ["approve" if score is not None and score >= 0.5 else "refer" for score, _ in rows]
    return pl.DataFrame(
        {
            "release": [release] * len(rows),
            "source": ["fallback" if score is None else "model" for score, _ in rows],
            "prediction": [None if score is None else str(int(score >= 0.5)) for score, _ in rows],
            "score": [score for score, _ in rows],
            "outcome": [truth for _, truth in rows],
            "worth": [WORTH.get((made, str(truth))) for made, (_, truth) in zip(decisions, rows, strict=True)],
        },
        schema_overrides={"score": pl.Float64, "outcome": pl.String, "prediction": pl.String, "worth": pl.Float64},
    )


def drawn(rows: int, seed: int, accuracy: float = 0.8) -> pl.DataFrame:
    """Approved loans of which a share is repaid: a decision is worth 500 * accuracy - 400."""
    repaid = np.random.default_rng(seed).random(rows) < accuracy
    return answered([(0.8, str(int(came))) for came in repaid])


def test_quality_by_hand(contract: Contract):
    """Three right of four; value counts the fallback too; what is unknown or no class counts nowhere."""
    rows = [(0.9, "1"), (0.6, "0"), (0.2, "0"), (0.3, "0"), (None, "1"), (0.7, None), (0.7, "maybe"), (None, None)]
    (found,) = measure_quality(contract, answered(rows))
    losses = -np.log([0.9, 0.4, 0.8, 0.7])
    worth = np.array([100.0, -400, -10, -10, -10])
    assert (found.release, found.rows, found.known) == ("loans:1", 8, 5)
    assert found.metrics["accuracy"] == 0.75
    assert found.metrics["log_loss"] == pytest.approx(losses.mean())
    assert found.metrics["roc_auc"] == 1.0
    assert found.accuracy_interval == wilson_interval(3, 4, 0.95)
    assert (found.value_per_decision, found.value_total, found.unit) == (-66.0, -330.0, "EUR")
    assert found.value_interval is None  # five rows have no interval
    (more,) = measure_quality(contract, answered([*rows, (0.9, "1")]))
    assert more.value_interval == mean_interval(np.append(worth, 100), 0.95)
    document = json.loads(json.dumps(more.to_json()))
    assert document["known"] == 6
    assert document["value_interval"] == list(mean_interval(np.append(worth, 100), 0.95))


def test_each_release_is_measured_on_its_own_answers(contract: Contract):
    frame = pl.concat([answered([(0.9, "1")] * 3, "loans:2"), answered([(0.9, "0"), (0.2, "0")])])
    first, second = measure_quality(contract, frame)
    assert (first.release, first.metrics["accuracy"], second.release, second.metrics["accuracy"]) == (
        "loans:1", 0.5, "loans:2", 1.0,
    )  # fmt: skip
    assert second.metrics["roc_auc"] is None  # one class alone


def test_without_a_truth_nothing_is_said(contract: Contract):
    (found,) = measure_quality(contract, answered([(0.9, None), (None, None)]))
    assert (found.rows, found.known, found.value_per_decision, found.accuracy_interval) == (2, 0, None, None)
    assert set(found.metrics.values()) == {None}
    assert measure_quality(contract, answered([])) == ()


def test_numbers_have_errors_in_their_unit():
    contract = build(
        target={"column": "amount", "type": "regression", "unit": "EUR"},
        decision={"fallback": {"otherwise": 0}},
        gates={"performance": {"mae": {"at_most": 5}}},
        value=None,
    )
    rng = np.random.default_rng(0)
    truth = rng.normal(100, 20, 400)
    frame = pl.DataFrame(
        {
            "release": "loans:1",
            "source": "model",
            "prediction": truth + rng.choice([-3.0, 9.0], 400),
            "score": truth,
            "outcome": truth,
            "worth": pl.Series([None] * 400, dtype=pl.Float64),
        }
    )
    fallback = frame.head(1).with_columns(
        pl.lit("fallback").alias("source"), pl.lit(None, pl.Float64).alias("prediction")
    )
    frame = pl.concat([frame, fallback])
    (found,) = measure_quality(contract, frame)
    assert (found.rows, found.known) == (401, 401)
    assert found.metrics["mae"] == pytest.approx(6, abs=0.3)
    assert found.metrics["rmse"] == pytest.approx(math.sqrt(45), abs=0.3)
    assert (found.value_total, found.unit) == (None, None)
    verdicts = [{"gate": "performance.mae", "measured": 4.0, "limit": 5.0}]
    (finding,) = judge_quality(contract, frame, {"loans:1": verdicts}, 0.001)
    assert (
        finding.measured
        == f"mean absolute error {found.metrics['mae']:.2f} EUR, promised 5.00 EUR, 4.00 EUR when released"
    )


def test_several_classes_are_judged_by_the_probability_of_the_true_one():
    contract = build(
        target={"column": "kind", "type": "multiclass", "values": ["a", "b", "c"]},
        decision={"fallback": {"otherwise": "a"}},
        value=None,
    )
    frame = pl.DataFrame(
        {
            "release": "loans:1", "source": "model", "prediction": ["a", "b"], "score": [None, None],
            "probability.a": [0.5, 0.1], "probability.b": [0.3, 0.6], "probability.c": [0.2, 0.3],
            "outcome": ["a", "c"], "worth": pl.Series([None, None], dtype=pl.Float64),
        }
    )  # fmt: skip
    (found,) = measure_quality(contract, frame)
    assert found.metrics == {"accuracy": 0.5, "log_loss": pytest.approx(-np.log([0.5, 0.3]).mean())}


def test_a_value_surely_below_the_promise_is_critical_and_says_so(contract: Contract):
    frame = drawn(4000, 1, accuracy=0.75)  # worth -25 a decision, where 20 were promised
    value, accuracy = judge_quality(contract, frame, {"loans:1": [VALUE, {**ACCURACY, "limit": 0.8}]}, 0.01)
    assert (value.kind, value.about, value.aspect, value.severity) == (
        "quality", "loans:1", "value.per_decision", "critical",
    )  # fmt: skip
    assert value.cause.startswith("The mean worth of a decision of loans:1 is -")
    assert "at least 20.00 EUR is asked for" in value.cause
    assert value.measured.endswith("promised 20.00 EUR, 31.00 EUR when released")
    assert (accuracy.aspect, accuracy.severity) == ("accuracy", "warning")


@pytest.mark.parametrize("metric", [VALUE, ACCURACY], ids=["value", "accuracy"])
def test_a_release_that_just_keeps_its_promise_alarms_as_often_as_promised(metric: dict[str, Any], contract: Contract):
    """At 5 %, with the truth exactly on the limit."""
    share = 0.84 if metric is VALUE else 0.75  # 500 * 0.84 - 400 = 20
    alarms = sum(
        bool(judge_quality(contract, drawn(400, seed, share), {"loans:1": [metric]}, 0.05)) for seed in range(400)
    )
    assert 8 <= alarms <= 34  # 20 expected, standard deviation 4.4


def test_a_window_shares_its_chance_of_a_false_alarm_among_all_promises(contract: Contract):
    """A loss that one promise alone finds at 5 % is not found beside 19 others."""
    frame = answered([(0.8, "1")] * 320 + [(0.8, "0")] * 80)  # worth 0, two standard errors below 20
    alone = judge_quality(contract, frame, {"loans:1": [VALUE]}, 0.05)
    kept = {**ACCURACY, "limit": 0.5}
    assert [finding.aspect for finding in alone] == ["value.per_decision"]
    assert judge_quality(contract, frame, {"loans:1": [VALUE, *[kept] * 19]}, 0.05) == ()


def test_too_few_truths_or_no_promise_are_no_finding(contract: Contract):
    bad = drawn(99, 1, accuracy=0.1)
    assert judge_quality(contract, bad, {"loans:1": [VALUE, ACCURACY]}, 0.05) == ()
    many = drawn(1000, 1, accuracy=0.1)
    assert judge_quality(contract, many, {"loans:1": [VALUE]}, 0.05)
    assert judge_quality(contract, many, {"loans:2": [VALUE], "loans:1": []}, 0.05) == ()
    wordy = {"gate": "budget.memory", "measured": 5, "limit": 1}, {**VALUE, "limit": None}, {"gate": "performance.f1"}
    assert judge_quality(contract, many, {"loans:1": wordy}, 0.05) == ()


@pytest.mark.parametrize(("repaid", "expected"), [(0.5, False), (0.95, True)])
def test_better_than_the_baseline_is_held_to_the_best_constant_on_the_same_rows(repaid: float, expected: bool):
    """The test rows' figure says nothing of a month with another share of repaid loans."""
    contract = build(gates={"performance": {"log_loss": {"better_than": "baseline"}}})
    promise = {"gate": "performance.log_loss", "outcome": "pass", "measured": 0.4, "limit": 0.45}
    rng = np.random.default_rng(8)
    came = rng.random(3_000) < repaid
    scores = np.where(came, 0.7, 0.3)  # right, and unsure: log loss 0.357 whatever comes
    found = judge_quality(
        contract,
        answered([(float(score), str(int(truth))) for score, truth in zip(scores, came, strict=True)]),
        {"loans:1": [promise]},
        0.01,
    )
    constant = -sum(share * math.log(share) for share in (came.mean(), 1 - came.mean()))
    assert bool(constant < 0.357) is expected  # of 95 % repaid loans a constant answer is better
    assert [finding.aspect for finding in found] == (["log_loss"] if expected else [])
