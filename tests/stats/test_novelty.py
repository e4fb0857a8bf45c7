"""Distances: exact where they can be checked by hand, and a limit that ordinary rows exceed as often as was said."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shipworthy.stats.distance import LIMIT, Detector, Marginal, make_detector
from shipworthy.stats.novelty import category_marginal, fit_precision, number_marginal, rarity, threshold

NONE = np.zeros(0, dtype=np.float32)


def alone(marginal: Marginal) -> Detector:
    return make_detector((marginal,), np.ones((1, 1)))


def column(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)[:, None]


def test_a_value_scores_as_its_rank_would_in_a_normal_column() -> None:
    values = np.random.default_rng(1).gamma(2.0, size=20_000).astype(np.float32)
    detector = alone(number_marginal(values))
    at = column(*np.quantile(values, [0.5, 0.05, 0.841345, 0.99]))
    assert detector.scores(at.astype(np.float64))[:, 0] == pytest.approx([0, -1.645, 1.0, 2.326], abs=0.02)
    assert detector.contributions(at)[:, 0] == pytest.approx([0, 2.706, 1.0, 5.412], abs=0.1)


def test_beyond_all_rows_a_value_scores_more_and_more_up_to_a_limit() -> None:
    detector = alone(number_marginal(np.arange(1000, dtype=np.float32)))
    far = detector.scores(np.array([[999.0], [1200.0], [1500.0], [1e9], [-1e9]]))[:, 0]
    assert 3.0 < far[0] < far[1] < far[2] < LIMIT
    assert far[3:].tolist() == [LIMIT, -LIMIT]


def test_a_heavy_tail_is_no_stranger_to_itself() -> None:
    values = np.random.default_rng(2).pareto(1.5, size=50_000).astype(np.float32)
    detector = alone(number_marginal(values))
    assert detector.scores(np.array([[float(values.max())]]))[0, 0] < 4.5


def test_a_column_that_never_changed_knows_its_value_alone() -> None:
    detector = alone(number_marginal(np.full(100, 7.0, dtype=np.float32)))
    assert np.abs(detector.scores(np.array([[7.0], [7.1], [6.9]]))[:, 0]) == pytest.approx([0, LIMIT, LIMIT])


def test_what_is_missing_counts_by_how_rare_that_was() -> None:
    values = np.where(np.arange(1000) % 10 == 0, np.nan, 1.0).astype(np.float32)
    assert alone(number_marginal(values)).contributions(column(np.nan))[0, 0] == pytest.approx(rarity(100, 1000))
    never = alone(number_marginal(np.nan_to_num(values)))
    assert never.contributions(column(np.nan))[0, 0] == pytest.approx(-2 * np.log(0.5 / 1001))
    nothing = number_marginal(np.full(10, np.nan, dtype=np.float32))
    assert alone(nothing).contributions(column(5.0))[0, 0] == 0.0  # nothing is known, so nothing is strange


def test_a_category_counts_by_how_rare_it_was() -> None:
    codes = np.array([0] * 90 + [1] * 10 + [np.nan] * 100, dtype=np.float32)
    found = alone(category_marginal(codes, 3)).contributions(column(0, 1, 2, 7, np.nan))[:, 0]
    assert found.tolist() == [rarity(90, 200), rarity(10, 200), rarity(0, 200), rarity(0, 200), rarity(100, 200)]


def test_two_usual_values_that_never_come_together_are_strange() -> None:
    chance = np.random.default_rng(3)
    first = chance.normal(size=5000)
    rows = np.stack([first, first + 0.1 * chance.normal(size=5000)], axis=1).astype(np.float32)
    marginals = (number_marginal(rows[:, 0]), number_marginal(rows[:, 1]))
    detector = make_detector(marginals, fit_precision(marginals, rows))
    limit = threshold(detector.contributions(rows).sum(axis=1), 0.01)
    odd = np.array([[1.5, 1.5], [1.5, -1.5]], dtype=np.float32)
    assert (detector.contributions(odd).sum(axis=1) > limit).tolist() == [False, True]
    assert fit_precision((category_marginal(rows[:, 0] * 0, 1),), rows[:, :1]).tolist() == [[0.0]]


def test_ordinary_rows_exceed_the_limit_as_often_as_was_declared() -> None:
    """Mean over 200 fits of the share of fresh rows beyond the limit: 2 %, whatever their distribution."""
    chance = np.random.default_rng(4)
    shares = []
    for _ in range(200):
        rows = np.stack([chance.gamma(1.0, size=1500), chance.integers(0, 5, 1500), chance.normal(size=1500)], axis=1)
        rows = rows.astype(np.float32)
        train, held, fresh = rows[:500], rows[500:800], rows[800:]
        marginals = (number_marginal(train[:, 0]), category_marginal(train[:, 1], 5), number_marginal(train[:, 2]))
        detector = make_detector(marginals, fit_precision(marginals, train))
        limit = threshold(detector.contributions(held).sum(axis=1), 0.02)
        shares.append(np.mean(detector.contributions(fresh).sum(axis=1) > limit))
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - 0.02) < 4 * error + 1 / 301  # the limit is one of 300 held-out rows


def test_with_few_rows_the_limit_is_the_largest_that_they_have() -> None:
    assert threshold(np.array([3.0, 1.0, 2.0]), 0.005) == 3.0


@example([float("nan")], float("inf"))
@given(st.lists(st.floats(width=32, allow_infinity=False), min_size=1, max_size=60), st.floats(width=32))
@settings(max_examples=200, deadline=None)
def test_any_column_and_any_value_have_a_finite_distance(values: list[float], value: float) -> None:
    marginal = number_marginal(np.array(values, dtype=np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        found = alone(marginal).contributions(column(value))
    assert np.isfinite(found).all()
