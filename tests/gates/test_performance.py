"""Performance gates refuse noise, keep their error rate at the boundary, and never judge too few rows."""

import math
import os
from typing import Any

import numpy as np
import pytest

from shipworthy.contract.gates_section import ChampionLimit, MetricLimit
from shipworthy.contract.sections import METRICS
from shipworthy.gates.evidence import Champion, Evidence
from shipworthy.gates.performance import (
    judge_champion,
    judge_performance,
    judge_slices,
    random_average_precision,
)
from shipworthy.stats.estimates import Answers, Sample
from shipworthy.stats.metrics import average_precision
from tests.conftest import Seen

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "400"))
BETTER = MetricLimit(better_than="baseline")
NOISE = 4 * math.sqrt(0.05 * 0.95 / REPETITIONS)


def noise_of(task: str, rows: int, seed: int) -> Evidence:
    """A model that learnt nothing: answers independent of the truth, near the baseline's and around it."""
    rng = np.random.default_rng(seed)
    if task == "regression":
        numbers = Answers(0.05 * rng.normal(size=rows))
        return evidence_of(task, (), rng.normal(size=rows), numbers, np.zeros(2))
    frequencies = np.array([0.7, 0.3]) if task == "binary" else np.array([0.5, 0.3, 0.2])
    truth = rng.choice(len(frequencies), size=rows, p=frequencies)
    probabilities = frequencies * np.exp(0.1 * rng.normal(size=(rows, len(frequencies))))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    labels = rng.choice(len(frequencies), size=rows, p=frequencies)
    return evidence_of(task, ("a", "b", "c")[: len(frequencies)], truth, Answers(probabilities, labels), frequencies)


def evidence_of(task: Any, classes: Any, truth: Any, answers: Answers, baseline: Any) -> Evidence:
    return Evidence(
        task=task,
        classes=classes,
        positive=1 if task == "binary" else None,
        truth=truth,
        answers=answers,
        baseline=baseline,
        decisions=np.zeros(len(truth), dtype=np.int64),
        actions=("only",),
    )


CASES = [(task, metric) for task, metrics in METRICS.items() for metric in metrics]


@pytest.mark.parametrize(("task", "metric"), CASES)
def test_pure_noise_is_refused_as_often_as_promised(task: str, metric: Any, seen: Seen) -> None:
    passed = 0
    for seed in range(REPETITIONS):
        verdict = judge_performance(noise_of(task, 200, seed), {metric: BETTER}, confidence=0.95)[0]
        assert verdict.outcome in ("pass", "fail")
        passed += verdict.outcome == "pass"
    seen("passed on noise", passed / REPETITIONS)
    assert passed / REPETITIONS <= 0.05 + NOISE


def test_a_real_signal_is_better_than_the_baseline(binary: Any) -> None:
    limits: dict[Any, MetricLimit] = dict.fromkeys(METRICS["binary"], BETTER)
    verdicts = judge_performance(binary(2000), limits, confidence=0.95)
    assert [verdict.gate for verdict in verdicts] == [f"performance.{metric}" for metric in METRICS["binary"]]
    assert {verdict.outcome for verdict in verdicts} == {"pass"}
    assert all(verdict.interval is not None for verdict in verdicts)


def test_the_reason_is_plain(binary: Any) -> None:
    good, bad = (
        judge_performance(binary(2000, signal=signal, seed=1), {"log_loss": BETTER}, confidence=0.95)[0]
        for signal in (1.5, 0)
    )
    assert good.reason.startswith("The log loss is 0.5")
    assert "on 2,000 rows, the trivial baseline's 0.6931; with 95 % confidence it is better by at least" in good.reason
    assert bad.reason.endswith("as far as these rows tell, the model is no better than answering without looking.")


def test_a_constant_answer_is_no_better_than_the_baseline(binary: Any) -> None:
    answers = Answers(np.full((500, 2), 0.5), np.ones(500, dtype=np.int64))
    limits: dict[Any, MetricLimit] = dict.fromkeys(METRICS["binary"], BETTER)
    verdicts = judge_performance(binary(500, answers=answers), limits, confidence=0.95)
    assert {verdict.outcome for verdict in verdicts} == {"fail"}


def test_a_limit_on_the_boundary_passes_as_often_as_promised(binary: Any, seen: Seen) -> None:
    exact = average_area(binary)
    passed = 0
    for seed in range(REPETITIONS):
        limits: dict[Any, MetricLimit] = {"roc_auc": MetricLimit(at_least=exact)}
        passed += judge_performance(binary(300, seed=seed), limits, confidence=0.95)[0].outcome == "pass"
    seen("passed on the boundary", passed / REPETITIONS)
    assert abs(passed / REPETITIONS - 0.05) < NOISE


def average_area(binary: Any) -> float:
    verdict = judge_performance(binary(300_000, seed=99), {"roc_auc": BETTER}, confidence=0.95)[0]
    assert verdict.measured is not None
    return verdict.measured


@pytest.mark.parametrize(
    ("limit", "outcome"),
    [
        (MetricLimit(at_least=0.5), "pass"),
        (MetricLimit(at_least=0.8), "insufficient"),
        (MetricLimit(at_least=0.95), "fail"),
        (MetricLimit(better_than="baseline", at_least=0.95), "fail"),
        (MetricLimit(better_than="baseline", at_least=0.8), "insufficient"),
    ],
)
def test_the_bound_decides_and_never_the_point(binary: Any, limit: MetricLimit, outcome: str) -> None:
    verdict = judge_performance(binary(500, seed=3), {"roc_auc": limit}, confidence=0.95)[0]
    assert verdict.measured == pytest.approx(0.82, abs=0.01)
    assert verdict.outcome == outcome


def test_an_undecided_limit_says_how_many_rows_would_decide(binary: Any) -> None:
    limits: dict[Any, MetricLimit] = {"roc_auc": MetricLimit(at_least=0.8)}
    verdict = judge_performance(binary(500, seed=3), limits, confidence=0.95)[0]
    assert "but it may be as low as 0.7" in verdict.reason
    assert verdict.reason.endswith("rows would decide.")


def test_too_few_rows_are_insufficient_however_good(binary: Any) -> None:
    verdict = judge_performance(binary(99, signal=20), {"log_loss": BETTER}, confidence=0.95)[0]
    assert verdict.outcome == "insufficient"
    assert verdict.reason == "There are 99 rows; a verdict needs at least 100."
    assert verdict.limit == "better than baseline"


def test_too_few_rows_of_a_class_are_insufficient(binary: Any) -> None:
    truth = np.zeros(500, dtype=np.int64)
    truth[:9] = 1
    verdict = judge_performance(binary(500, truth=truth), {"roc_auc": BETTER}, confidence=0.95)[0]
    assert verdict.outcome == "insufficient"
    assert "has 9 rows" in verdict.reason


def test_r2_of_a_constant_truth_is_insufficient() -> None:
    evidence = evidence_of("regression", (), np.ones(200), Answers(np.zeros(200)), np.zeros(2))
    verdict = judge_performance(evidence, {"r2": BETTER}, confidence=0.95)[0]
    assert verdict.outcome == "insufficient"


def test_a_regression_is_judged_in_the_unit_of_its_target() -> None:
    rng = np.random.default_rng(4)
    signal = rng.normal(size=500)
    evidence = evidence_of("regression", (), signal + 0.5 * rng.normal(size=500), Answers(signal), np.array([0.0, 0.0]))
    verdicts = judge_performance(
        evidence, {"mae": BETTER, "rmse": MetricLimit(at_most=0.6), "r2": BETTER}, confidence=0.95, unit="min"
    )
    assert [verdict.outcome for verdict in verdicts] == ["pass"] * 3
    assert [verdict.unit for verdict in verdicts] == ["min", "min", None]


def test_without_a_champion_its_gate_is_not_applicable(binary: Any) -> None:
    verdict = judge_champion(binary(500), {"log_loss": ChampionLimit(no_worse_by=0.01)}, confidence=0.95)[0]
    assert verdict.outcome == "not applicable"


def test_a_champion_that_cannot_answer_the_rows_is_insufficient(binary: Any) -> None:
    evidence = binary(500, champion=Champion("sha256:0", None))
    verdict = judge_champion(evidence, {"log_loss": ChampionLimit(no_worse_by=0.01)}, confidence=0.95)[0]
    assert verdict.outcome == "insufficient"


@pytest.mark.parametrize("metric", METRICS["binary"])
def test_a_model_equal_to_the_champion_is_not_worse(binary: Any, metric: Any) -> None:
    evidence = binary(500)
    same = binary(500, champion=Champion("sha256:0", evidence.answers))
    verdict = judge_champion(same, {metric: ChampionLimit(no_worse_by=0.0)}, confidence=0.95)[0]
    assert verdict.outcome == "pass"


def shifted(evidence: Evidence, by: float, seed: int) -> Answers:
    """Answers whose log loss is `by` lower on average than the evidence's, unevenly over the rows."""
    rng = np.random.default_rng(seed)
    rows = np.arange(evidence.rows)
    truth = evidence.truth.astype(np.int64)
    losses = -np.log(evidence.answers.values[rows, truth]) - by * rng.exponential(size=evidence.rows)
    chosen = np.exp(-np.maximum(losses, 1e-6))
    values = np.empty_like(evidence.answers.values)
    values[rows, truth], values[rows, 1 - truth] = chosen, 1 - chosen
    return Answers(values, evidence.answers.labels)


def test_a_model_exactly_the_margin_worse_passes_as_often_as_promised(binary: Any, seen: Seen) -> None:
    passed = 0
    for seed in range(REPETITIONS):
        better = binary(300, seed=seed, signal=0.3)
        champion = Champion("sha256:0", shifted(better, 0.02, seed))
        evidence = binary(300, seed=seed, signal=0.3, champion=champion)
        limits: dict[Any, ChampionLimit] = {"log_loss": ChampionLimit(no_worse_by=0.02)}
        passed += judge_champion(evidence, limits, confidence=0.95)[0].outcome == "pass"
    seen("passed on the boundary", passed / REPETITIONS)
    assert abs(passed / REPETITIONS - 0.05) < NOISE + 0.02  # the losses' differences are skewed


def test_a_wider_margin_never_turns_a_pass_into_a_stop(binary: Any) -> None:
    champion = Champion("sha256:0", binary(500, signal=1.6).answers)
    evidence = binary(500, champion=champion)
    outcomes = [
        judge_champion(evidence, {"brier": ChampionLimit(no_worse_by=margin)}, confidence=0.95)[0].outcome
        for margin in np.linspace(0, 0.1, 20)
    ]
    assert outcomes == sorted(outcomes, key=["fail", "insufficient", "pass"].index)


def test_a_surely_worse_model_fails_and_says_by_how_much(binary: Any) -> None:
    good = binary(2000)
    noise = Answers(np.full((2000, 2), 0.5), np.ones(2000, dtype=np.int64))
    evidence = binary(2000, answers=noise, champion=Champion("sha256:0", good.answers))
    verdict = judge_champion(evidence, {"log_loss": ChampionLimit(no_worse_by=0.01)}, confidence=0.95)[0]
    assert verdict.outcome == "fail"
    assert verdict.measured == pytest.approx(math.log(2))
    assert "The log loss's change from the serving release's 0.5" in verdict.reason


def test_every_slice_is_judged_and_a_small_one_is_named(binary: Any) -> None:
    groups = np.array(["north"] * 1200 + ["south"] * 750 + ["west"] * 40 + [None] * 10, dtype=object)
    evidence = binary(2000, slices={"region": groups})
    verdicts = judge_slices(evidence, ("region",), {"roc_auc": MetricLimit(at_least=0.65)}, confidence=0.95)
    assert {verdict.gate: (verdict.outcome, verdict.rows) for verdict in verdicts} == {
        "slices.roc_auc.region=north": ("pass", 1200),
        "slices.roc_auc.region=south": ("pass", 750),
        "slices.roc_auc.region=west": ("insufficient", 40),
    }


def test_the_average_precision_of_a_random_order_is_its_expectation() -> None:
    rng = np.random.default_rng(5)
    truth = np.arange(60) < 20
    drawn = [average_precision(truth, rng.random(60)) for _ in range(4000)]
    expected = random_average_precision(Sample(truth.astype(np.int64), 2, 1))
    assert np.mean(drawn) == pytest.approx(expected, abs=float(4 * np.std(drawn) / math.sqrt(4000)))
