"""Calibration, intervals and thresholds hold what they promise on rows that they have not seen."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.calibration import (
    choose_threshold,
    conformal_intervals,
    expected_calibration_error,
    fit_platt,
    fit_temperature,
)


def sigmoid(values: Any) -> Any:
    return 1 / (1 + np.exp(-values))


def draw(rows: Any, slope: Any = 1.0, offset: Any = 0.0, seed: Any = 1) -> Any:
    """Scores whose true log odds are slope * logit(score) + offset."""
    random = np.random.default_rng(seed)
    logit = random.normal(0, 2, rows)
    return sigmoid(logit), random.random(rows) < sigmoid(slope * logit + offset)


def test_platt_scaling_finds_the_distortion() -> None:
    found = fit_platt(*draw(20_000, slope=0.5, offset=-1.0))
    assert found.slope == pytest.approx(0.5, abs=0.03)
    assert found.offset == pytest.approx(-1.0, abs=0.05)
    assert found.loss_after < found.loss_before


def test_platt_scaling_brings_the_calibration_error_down_on_new_rows() -> None:
    found = fit_platt(*draw(5_000, slope=0.5, offset=-1.0))
    probability, truth = draw(20_000, slope=0.5, offset=-1.0, seed=2)
    logit = np.log(probability / (1 - probability))
    before = expected_calibration_error(probability, truth)
    after = expected_calibration_error(sigmoid(found.slope * logit + found.offset), truth)
    assert before > 0.1
    assert after < 0.02


def test_scaling_that_does_not_help_held_out_rows_is_not_kept() -> None:
    """On scores that are calibrated already, most fits make held-out rows worse and are dropped."""
    kept = sum(fit_platt(*draw(300, seed=seed)).slope != 1.0 for seed in range(100))
    assert kept < 50


@pytest.mark.parametrize("truth", [np.zeros(50, bool), np.ones(50, bool), np.arange(50) >= 25])
def test_one_class_or_separable_rows_stay_finite(truth: Any) -> None:
    found = fit_platt(np.linspace(0, 1, 50), truth)
    assert np.isfinite([found.slope, found.offset]).all()


def test_few_or_no_rows_change_nothing() -> None:
    assert fit_platt(np.zeros(0), np.zeros(0, bool)).slope == 1.0
    assert fit_platt(np.array([0.2, 0.9]), np.array([True, False])).slope == 1.0


def test_a_score_that_ranks_the_wrong_way_round_is_not_turned_round() -> None:
    assert fit_platt(*draw(2_000, slope=-1.0)).slope == 1.0


def test_temperature_finds_overconfidence() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(0, 1, (20_000, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = (true.cumsum(axis=1) > random.random((20_000, 1))).argmax(axis=1)
    sharp = np.exp(2.5 * logits) / np.exp(2.5 * logits).sum(axis=1, keepdims=True)
    found = fit_temperature(sharp, truth)
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    assert found.loss_after < found.loss_before


def test_temperature_needs_a_column_for_each_class() -> None:
    with pytest.raises(EvidenceError, match=r"\(rows, classes\)"):
        fit_temperature(np.zeros(3), np.zeros(3, int))


def test_calibration_error_of_an_example() -> None:
    probability = np.array([0.1, 0.1, 0.8, 0.8])
    truth = np.array([False, True, True, True])
    assert expected_calibration_error(probability, truth, bins=2) == pytest.approx((0.4 + 0.2) / 2)


@pytest.mark.parametrize("rows", [9, 50, 400])
def test_intervals_cover_new_rows_as_often_as_promised(rows: Any) -> None:
    """Over many draws, 90 % intervals hold 90 % of new truths, also where the spread grows with the prediction."""
    random = np.random.default_rng(5)
    covered = []
    for _ in range(2000):
        prediction = random.uniform(0, 10, rows + 50)
        truth = prediction + random.normal(0, 0.1 + prediction)
        found = conformal_intervals(prediction[:rows], truth[:rows], 0.9)
        place = np.searchsorted(found.edges, prediction[rows:], side="right")
        width = np.array(found.half_widths)[place]
        covered.append(np.mean(np.abs(truth[rows:] - prediction[rows:]) <= width))
    error = np.std(covered) / np.sqrt(len(covered))
    assert 0.9 - 3 * error < np.mean(covered) < 0.91 + 3 * error


def test_bins_follow_the_spread_and_rank_confidence() -> None:
    random = np.random.default_rng(6)
    prediction = random.uniform(0, 10, 2000)
    found = conformal_intervals(prediction, prediction + random.normal(0, 0.1 + prediction), 0.9)
    assert len(found.half_widths) == len(found.edges) + 1 == 10
    assert found.half_widths[0] < found.half_widths[-1]
    assert max(found.confidences) == pytest.approx(0.9)
    assert min(found.confidences) == 0.0


def test_few_rows_make_one_bin() -> None:
    found = conformal_intervals(np.arange(20.0), np.arange(20.0) + np.linspace(-1, 1, 20), 0.9)
    assert (found.edges, found.confidences) == ((), (0.0,))
    assert found.half_widths == (1.0,)


def test_a_constant_prediction_makes_one_bin() -> None:
    random = np.random.default_rng(1)
    assert conformal_intervals(np.zeros(1000), random.normal(size=1000), 0.9).edges == ()


def test_too_few_rows_for_the_coverage_say_how_many_are_needed() -> None:
    with pytest.raises(EvidenceError, match="8 calibrate rows; intervals that cover 90% need at least 9"):
        conformal_intervals(np.arange(8.0), np.arange(8.0), 0.9)


@pytest.mark.parametrize(
    ("prediction", "truth", "coverage", "words"),
    [
        (np.zeros(20), np.zeros(19), 0.9, "shape"),
        (np.full(20, np.nan), np.zeros(20), 0.9, "not finite"),
        (np.zeros(20), np.zeros(20), 1.0, "coverage is 1.0"),
    ],
)
def test_senseless_intervals_are_refused(prediction: Any, truth: Any, coverage: Any, words: Any) -> None:
    with pytest.raises(EvidenceError, match=words):
        conformal_intervals(prediction, truth, coverage)


SAMPLE = np.array([0.1, 0.4, 0.6, 0.9]), np.array([False, True, False, True])


@pytest.mark.parametrize(
    ("goal", "threshold", "score"), [("accuracy", 0.25, 0.75), ("f1", 0.25, 0.8), ("balanced_accuracy", 0.25, 0.75)]
)
def test_the_best_threshold_of_an_example(goal: Any, threshold: Any, score: Any) -> None:
    found = choose_threshold(*SAMPLE, goal)
    assert [found.threshold, found.score] == pytest.approx([threshold, score])


def test_value_decides_by_what_each_decision_is_worth() -> None:
    """Approving a repaid loan brings 900, an unpaid one costs 4000: the break-even probability is 0.816."""
    probability, truth = draw(50_000, seed=8)
    worth = np.array([[-60.0, -60.0], [-4000.0, 900.0]])
    found = choose_threshold(probability, truth, "value", worth)
    assert found.threshold == pytest.approx(3940 / 4900, abs=0.03)


def test_value_needs_its_table() -> None:
    with pytest.raises(EvidenceError, match="value section"):
        choose_threshold(*SAMPLE, "value")


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.5, 0.50000000000000011, 0.9, 1.0]), st.booleans()), min_size=1))
def test_no_threshold_is_more_accurate_than_the_chosen_one(rows: Any) -> None:
    probability = np.array([row[0] for row in rows])
    truth = np.array([row[1] for row in rows])
    found = choose_threshold(probability, truth, "accuracy")
    assert found.score == pytest.approx(np.mean((probability >= found.threshold) == truth))
    assert all(np.mean((probability >= t) == truth) <= found.score + 1e-12 for t in np.linspace(0, 1, 21))


@pytest.mark.parametrize("bad", [np.array([0.5, 1.2]), np.array([0.5, np.nan]), np.array([0.5])])
def test_what_is_no_probability_is_refused(bad: Any) -> None:
    with pytest.raises(EvidenceError):
        choose_threshold(bad, np.array([True, False]), "f1")
