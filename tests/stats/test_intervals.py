"""Intervals keep the confidence that they promise, bound by bound."""

import math
import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.intervals import (
    mean_interval,
    normal_quantile,
    proportion_difference,
    proportion_ratio,
    quantile_interval,
    rows_needed,
    t_quantile,
    wilson_interval,
)

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "2000"))


def promised(misses: int, repetitions: int, rate: float) -> bool:
    """Whether so many misses are within four standard errors of the promised rate."""
    return abs(misses / repetitions - rate) < 4 * math.sqrt(rate * (1 - rate) / repetitions)


@pytest.mark.parametrize("degrees", [5, 9, 29, 199, 100_000])
@pytest.mark.parametrize("probability", [0.6, 0.9, 0.95, 0.99])
def test_the_t_quantile_agrees_with_scipy(degrees: int, probability: float) -> None:
    exact = reference.t.ppf(probability, degrees)
    assert t_quantile(probability, degrees) == pytest.approx(exact, rel=1e-3)


def test_too_few_degrees_of_freedom_are_refused() -> None:
    with pytest.raises(EvidenceError, match="3 degrees of freedom are too few; at least 6 rows are needed"):
        t_quantile(0.95, 3)


@pytest.mark.parametrize("confidence", [0.0, 1.0, -1.0, 2.0])
def test_a_confidence_outside_0_to_1_is_refused(confidence: float) -> None:
    with pytest.raises(EvidenceError, match="must lie between 0 and 1"):
        normal_quantile(confidence)


def test_the_mean_interval_is_students() -> None:
    values = np.random.default_rng(1).normal(size=50)
    exact = reference.t.interval(0.9, 49, values.mean(), reference.sem(values))
    assert mean_interval(values, 0.95) == pytest.approx(exact, rel=1e-6)


def test_a_mean_of_values_that_are_not_finite_is_refused() -> None:
    with pytest.raises(EvidenceError, match="not finite"):
        mean_interval(np.array([1.0, math.nan] * 10), 0.95)


def test_each_bound_of_a_mean_errs_as_often_as_promised() -> None:
    rng = np.random.default_rng(2)
    draws = [mean_interval(rng.normal(size=40), 0.95) for _ in range(REPETITIONS)]
    assert promised(sum(low > 0 for low, _ in draws), REPETITIONS, 0.05)
    assert promised(sum(high < 0 for _, high in draws), REPETITIONS, 0.05)


@given(trials=st.integers(1, 5000), share=st.floats(0, 1), confidence=st.floats(0.55, 0.999))
def test_wilson_contains_the_share_and_stays_within_0_and_1(trials: int, share: float, confidence: float) -> None:
    successes = round(share * trials)
    low, high = wilson_interval(successes, trials, confidence)
    assert 0 <= low <= successes / trials <= high <= 1


@given(trials=st.integers(10, 500), share=st.floats(0, 1))
def test_more_confidence_never_narrows_an_interval(trials: int, share: float) -> None:
    successes = round(share * trials)
    narrow, wide = (wilson_interval(successes, trials, confidence) for confidence in (0.8, 0.95))
    assert wide[0] <= narrow[0]
    assert narrow[1] <= wide[1]


def test_wilson_agrees_with_scipy() -> None:
    exact = reference.binomtest(17, 200).proportion_ci(0.9, method="wilson")
    assert wilson_interval(17, 200, 0.95) == pytest.approx((exact.low, exact.high), rel=1e-9)


def test_more_successes_than_trials_are_refused() -> None:
    with pytest.raises(EvidenceError, match="5 of 4 is no proportion"):
        wilson_interval(5, 4, 0.95)


def test_newcombe_of_a_published_example() -> None:
    low, high = proportion_difference((9, 10), (3, 10), 0.975)  # Newcombe 1998, table II, example (c), method 10
    assert (low, high) == pytest.approx((0.1705, 0.8090), abs=5e-5)


def test_the_upper_bound_of_a_difference_errs_at_most_as_often_as_promised() -> None:
    rng = np.random.default_rng(3)
    misses = 0
    for _ in range(REPETITIONS):
        first, second = (int(rng.binomial(rows, share)) for rows, share in ((150, 0.7), (400, 0.6)))
        misses += proportion_difference((first, 150), (second, 400), 0.95)[1] < 0.1
    assert misses / REPETITIONS < 0.05 + 4 * math.sqrt(0.05 * 0.95 / REPETITIONS)


def test_the_lower_bound_of_a_ratio_errs_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(4)
    misses = 0
    for _ in range(REPETITIONS):
        first, second = (int(rng.binomial(rows, share)) for rows, share in ((150, 0.32), (400, 0.4)))
        misses += proportion_ratio((first, 150), (second, 400), 0.95)[0] > 0.8
    assert 0.03 < misses / REPETITIONS < 0.07


def test_a_ratio_to_nothing_has_no_upper_bound() -> None:
    low, high = proportion_ratio((5, 50), (0, 50), 0.95)
    assert low >= 0
    assert high == math.inf
    assert proportion_ratio((0, 50), (5, 50), 0.95)[0] == 0


def test_the_bounds_of_a_quantile_err_at_most_as_often_as_promised() -> None:
    rng = np.random.default_rng(5)
    exact = reference.expon.ppf(0.99)
    bounds = [quantile_interval(rng.exponential(size=400), 0.99, 0.95) for _ in range(REPETITIONS)]
    tolerated = 0.05 + 4 * math.sqrt(0.05 * 0.95 / REPETITIONS)
    assert sum(low > exact for low, _ in bounds) / REPETITIONS < tolerated
    assert sum(high < exact for _, high in bounds) / REPETITIONS < tolerated


def test_the_99th_percentile_has_an_upper_bound_from_299_values_on() -> None:
    assert quantile_interval(np.arange(299.0), 0.99, 0.95)[1] == 298
    assert quantile_interval(np.arange(298.0), 0.99, 0.95)[1] == math.inf


def test_a_quantile_of_nothing_is_refused() -> None:
    with pytest.raises(EvidenceError, match="no values"):
        quantile_interval(np.array([]), 0.5, 0.95)


def test_rows_needed_says_nothing_where_more_rows_would_not_help() -> None:
    assert rows_needed(500, measured=0.70, bound=0.65, limit=0.74) is None
    assert rows_needed(500, measured=0.74, bound=0.70, limit=0.74) is None
    assert rows_needed(500, measured=1.0, bound=math.inf, limit=2.0) is None
