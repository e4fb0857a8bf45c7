"""Every metric's interval, and that of a paired difference, errs as often as it promises."""

import math
import os
from collections.abc import Callable

import numpy as np
import pytest

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.estimates import Answers, Sample, estimate, estimate_difference, point
from shipworthy.stats.intervals import t_quantile
from shipworthy.stats.metrics import Floats
from shipworthy.stats.ranking import roc_auc_interval
from tests.conftest import Seen

Drawn = tuple[Sample, Answers, Answers]
Draw = Callable[[np.random.Generator, int], Drawn]

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "400"))
BINARY = ("log_loss", "brier", "roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1")
MULTICLASS = ("log_loss", "brier", "accuracy", "balanced_accuracy", "f1")
REGRESSION = ("mae", "rmse", "r2")
PRACTICE = 0.03  # how far an approximate interval may be off its promise: metrics are skewed, tables discrete


def binary(rng: np.random.Generator, rows: int, noise: float = 1.0) -> Drawn:
    """Rows whose scores have a signal, and what a second, noisier model says of them."""
    signal = rng.normal(size=rows)
    truth = (rng.random(rows) < 1 / (1 + np.exp(-signal))).astype(np.int64)
    return Sample(truth, 2, 1), two_columns(signal), two_columns(signal + noise * rng.normal(size=rows))


def two_columns(logits: Floats) -> Answers:
    positive = 1 / (1 + np.exp(-logits))
    return Answers(np.stack([1 - positive, positive], axis=1), (positive >= 0.5).astype(np.int64))


def multiclass(rng: np.random.Generator, rows: int, noise: float = 1.0) -> Drawn:
    logits = rng.normal(size=(rows, 3)) + np.array([0.8, 0.0, -0.8])
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (rng.random((rows, 1)) > np.cumsum(probabilities, axis=1)).sum(axis=1).clip(0, 2)
    noisy = np.exp(logits + noise * rng.normal(size=logits.shape))
    noisy /= noisy.sum(axis=1, keepdims=True)
    first, second = (Answers(values, values.argmax(axis=1)) for values in (probabilities, noisy))
    return Sample(truth, 3), first, second


def regression(rng: np.random.Generator, rows: int, noise: float = 1.0) -> Drawn:
    signal = rng.normal(size=rows)
    truth = signal + rng.standard_t(8, size=rows)
    return Sample(truth), Answers(signal), Answers(signal + noise * rng.normal(size=rows))


CASES = [
    *((binary, metric) for metric in BINARY),
    *((multiclass, metric) for metric in MULTICLASS),
    *((regression, metric) for metric in REGRESSION),
]


@pytest.mark.parametrize(("draw", "metric"), CASES)
def test_the_bounds_of_a_metric_err_as_often_as_promised(draw: Draw, metric: str, seen: Seen) -> None:
    rng = np.random.default_rng(7)
    sample, answers, _ = draw(rng, 400_000)
    exact = point(metric, sample, answers)
    low_misses = high_misses = 0
    for seed in range(REPETITIONS):
        sample, answers, _ = draw(rng, 300)
        found = estimate(metric, sample, answers, confidence=0.95, seed=seed)
        low_misses += found.low > exact
        high_misses += found.high < exact
    tolerated = 0.05 + PRACTICE + 3 * math.sqrt(0.05 * 0.95 / REPETITIONS)
    seen("bounds of a metric that erred", low_misses / REPETITIONS)
    seen("bounds of a metric that erred", high_misses / REPETITIONS)
    assert low_misses / REPETITIONS < tolerated
    assert high_misses / REPETITIONS < tolerated
    assert low_misses + high_misses > 0  # an interval that never errs promises too little


@pytest.mark.parametrize(("draw", "metric"), CASES)
def test_the_bounds_of_a_paired_difference_err_as_often_as_promised(draw: Draw, metric: str) -> None:
    rng = np.random.default_rng(8)
    sample, first, second = draw(rng, 400_000)
    exact = point(metric, sample, first) - point(metric, sample, second)
    repetitions = REPETITIONS // (16 if metric == "average_precision" else 2)
    low_misses = high_misses = 0
    for seed in range(repetitions):
        sample, first, second = draw(rng, 300)
        found = estimate_difference(metric, sample, first, second, confidence=0.95, seed=seed)
        assert found.low <= found.value <= found.high
        low_misses += found.low > exact
        high_misses += found.high < exact
    tolerated = 0.05 + PRACTICE + 3 * math.sqrt(0.05 * 0.95 / repetitions)
    assert low_misses / repetitions < tolerated
    assert high_misses / repetitions < tolerated


@pytest.mark.parametrize(("draw", "metric"), CASES)
def test_a_model_does_not_differ_from_itself(draw: Draw, metric: str) -> None:
    sample, answers, _ = draw(np.random.default_rng(9), 200)
    found = estimate_difference(metric, sample, answers, answers, confidence=0.95)
    assert (found.low, found.value, found.high) == pytest.approx((0, 0, 0), abs=1e-12)


@pytest.mark.parametrize("metric", ["roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1"])
def test_flawless_answers_on_few_rows_are_not_believed_to_be_flawless(metric: str) -> None:
    truth = np.arange(60) % 2
    found = estimate(metric, Sample(truth, 2, 1), two_columns(20 * truth.astype(np.float64) - 10), confidence=0.95)
    assert found.value == 1
    assert 0.8 < found.low < 0.97


def test_flawless_answers_for_many_classes_are_not_believed_to_be_flawless() -> None:
    truth = np.arange(60) % 3
    found = estimate("f1", Sample(truth, 3), Answers(np.eye(3)[truth], truth), confidence=0.95)
    assert found.value == 1
    assert 0.8 < found.low < 0.98


def test_delong_of_a_hand_made_example() -> None:
    truth = np.array([True] * 6 + [False] * 6)
    scores = np.array([9, 8, 7, 6, 3, 2, 5, 4, 1, 0.5, 0.4, 0.3])
    # components: 1, 1, 1, 1, 4/6, 4/6 above; 4/6, 4/6, 1, 1, 1, 1 below; variance 4/135 each, over 6
    error = math.sqrt(2 * (4 / 135) / 6)
    area = 32 / 36
    low, high = roc_auc_interval(truth, scores, 0.95)
    logit = math.log(area / (1 - area))
    assert (math.log(high / (1 - high)) - logit) / (error / (area * (1 - area))) == pytest.approx(2.015, abs=1e-3)
    assert (logit - math.log(low / (1 - low))) / (error / (area * (1 - area))) == pytest.approx(2.015, abs=1e-3)


def test_delong_equals_its_definition_with_ties_and_classes_of_different_size() -> None:
    rng = np.random.default_rng(14)
    truth = np.arange(70) < 20
    scores = np.round(rng.normal(size=70) + truth, 1)
    wins = (scores[truth][:, None] > scores[~truth]) + 0.5 * (scores[truth][:, None] == scores[~truth])
    area = wins.mean()
    error = math.sqrt(wins.mean(axis=1).var(ddof=1) / 20 + wins.mean(axis=0).var(ddof=1) / 50)
    half = t_quantile(0.95, 19) * error / (area * (1 - area))
    logit = math.log(area / (1 - area))
    expected = [1 / (1 + math.exp(-(logit + sign * half))) for sign in (-1, 1)]
    assert roc_auc_interval(truth, scores, 0.95) == pytest.approx(expected)


def test_on_many_rows_the_difference_of_average_precisions_has_the_spread_of_few() -> None:
    sample, first, second = binary(np.random.default_rng(15), 20_000)
    many = estimate_difference("average_precision", sample, first, second, confidence=0.95)
    part = Sample(sample.truth[:5000], 2, 1)
    few = estimate_difference(
        "average_precision", part, Answers(first.values[:5000]), Answers(second.values[:5000]), confidence=0.95
    )
    assert many.high - many.low == pytest.approx((few.high - few.low) / 2, rel=0.25)
    assert many.low < many.value < many.high


def test_the_same_seed_gives_the_same_interval() -> None:
    sample, first, second = binary(np.random.default_rng(10), 200)
    found = [estimate_difference("f1", sample, first, second, confidence=0.95, seed=seed) for seed in (1, 1, 2)]
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_unknown_metrics_are_refused() -> None:
    sample, answers, _ = binary(np.random.default_rng(11), 50)
    with pytest.raises(EvidenceError, match="glory is no metric"):
        estimate("glory", sample, answers, confidence=0.95)


def test_ranking_without_a_positive_class_is_refused() -> None:
    sample, answers, _ = multiclass(np.random.default_rng(12), 50)
    with pytest.raises(EvidenceError, match="needs a positive class"):
        point("roc_auc", sample, answers)


def test_labels_are_needed_where_decisions_count() -> None:
    sample, answers, _ = multiclass(np.random.default_rng(13), 50)
    with pytest.raises(EvidenceError, match="no decided class"):
        point("accuracy", sample, Answers(answers.values))


def test_a_ranking_of_too_few_rows_of_a_class_is_refused() -> None:
    truth = np.array([True] * 3 + [False] * 50)
    with pytest.raises(EvidenceError, match="smaller class has 3 rows"):
        roc_auc_interval(truth, np.arange(53.0), 0.95)


def test_r2_of_a_truth_that_never_changes_is_refused() -> None:
    with pytest.raises(EvidenceError, match="the same in all rows"):
        estimate("r2", Sample(np.ones(50)), Answers(np.zeros(50)), confidence=0.95)
