"""Two-sample tests: exact numbers, the promised error rate with a small reference, and each refusal."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.two_sample import (
    MAX_ALPHA,
    alpha_per_test,
    homogeneity,
    largest_difference,
    largest_gap,
    mean_shift,
    proportions,
)

COUNTS = st.lists(st.integers(0, 3000), min_size=1, max_size=12)


def test_homogeneity_is_pearsons_chi_square_of_the_pooled_counts():
    first, second = [100, 200, 300], [80, 230, 290]
    rows = np.array([first, second], float)
    expected = rows.sum(1, keepdims=True) * rows.sum(0) / rows.sum()
    statistic = float(((rows - expected) ** 2 / expected).sum())
    assert homogeneity(first, second, ordered=True) == pytest.approx(math.exp(-statistic / 2))  # 2 degrees of freedom


def test_fishers_tea_taster_has_the_known_probability():
    assert proportions((3, 4), (1, 4)) == pytest.approx(2 * 17 / 70)
    assert proportions((4, 4), (0, 4)) == pytest.approx(2 * 1 / 70)


def test_shares_and_means_are_told_in_plain_units():
    at, difference = largest_difference([700, 200, 100], [60, 30, 10])
    assert (at, round(difference, 9)) == (0, -0.1)
    at, gap = largest_gap([700, 200, 100], [60, 30, 10])
    assert (at, round(gap, 9)) == (0, 0.1)
    assert largest_gap([5], [7]) == (0, 0.0)
    assert mean_shift(40.0, 10.0, np.array([41.0, 45.0])) == pytest.approx(0.3)
    assert mean_shift(40.0, 0.0, np.array([40.0, 40.0])) == 0
    assert mean_shift(40.0, 0.0, np.array([41.0])) == math.inf


def test_a_budget_is_shared_by_windows_and_tests_and_capped():
    assert alpha_per_test(1, 90 * 86_400, 86_400, 50) == pytest.approx(1 / 90 / 50)
    assert alpha_per_test(100, 3600, 3600, 1) == MAX_ALPHA


@pytest.mark.parametrize("rows", [(20_000, 1000), (1000, 1000), (1000, 5000)])
def test_homogeneity_alarms_as_often_as_it_promises_also_with_a_small_reference(rows: tuple[int, int]):
    """At 1 %; a test that takes a reference of as many rows as the window for exact alarms five times as often."""
    rng = np.random.default_rng(1)
    shares = np.array([0.001, 0.009, 0.04, 0.05, *[0.1] * 8, 0.05, 0.04, 0.009, 0.001])
    pairs = zip(*(rng.multinomial(count, shares, size=4000) for count in rows), strict=True)
    alarms = sum(homogeneity(first, second, ordered=True) <= 0.01 for first, second in pairs)
    assert 22 <= alarms <= 60  # 40 expected, standard deviation 6.3


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5])
def test_proportions_never_alarm_more_often_than_they_promise(share: float):
    rng = np.random.default_rng(2)
    pairs = zip(rng.binomial(3000, share, 3000), rng.binomial(1000, share, 3000), strict=True)
    alarms = sum(proportions((int(one), 3000), (int(two), 1000)) <= 0.01 for one, two in pairs)
    assert alarms <= 30 + 3 * 5.5


@given(COUNTS, COUNTS, st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_p_value_is_one_and_the_same_either_way_round(first: list[int], second: list[int], ordered: bool):
    length = min(len(first), len(second))
    first, second = first[:length], second[:length]
    p_value = homogeneity(first, second, ordered=ordered)
    assert 0 <= p_value <= 1
    assert p_value == pytest.approx(homogeneity(second, first, ordered=ordered))
    assert homogeneity(first, first, ordered=ordered) == pytest.approx(1)


@given(st.integers(0, 300), st.integers(0, 300), st.integers(0, 5000), st.integers(0, 5000))
@settings(max_examples=60, deadline=None)
def test_exact_proportions_are_symmetric_and_sure_of_nothing_without_rows(hits: int, misses: int, one: int, two: int):
    first, second = (hits, hits + misses), (one, one + two)
    assert 0 <= proportions(first, second) <= 1
    assert proportions(first, second) == pytest.approx(proportions(second, first))
    assert proportions(first, (0, 0)) == 1


def test_too_few_rows_are_sure_of_nothing():
    assert homogeneity([5, 5], [5, 0], ordered=False) == 1
    assert homogeneity([500, 500], [0, 0], ordered=True) == 1


def test_sparse_bins_are_merged_with_neighbours_or_with_each_other():
    """Rare categories at both ends count together; of ordered bins only neighbours do."""
    first, second = [4, 5000, 4, 5000, 4], [30, 5000, 30, 5000, 30]
    together, apart = homogeneity(first, second, ordered=False), homogeneity(first, second, ordered=True)
    assert together < 1e-10
    assert apart > together


def test_what_makes_no_sense_is_refused():
    with pytest.raises(EvidenceError, match="2 and 3 bins"):
        homogeneity([1, 2], [1, 2, 3], ordered=True)
    with pytest.raises(EvidenceError, match="5 of 4 is no proportion"):
        proportions((5, 4), (1, 2))
    with pytest.raises(EvidenceError, match="no such budget"):
        alpha_per_test(0, 1, 1, 1)
    with pytest.raises(EvidenceError, match="no such budget"):
        alpha_per_test(1, 1, 1, 0)
