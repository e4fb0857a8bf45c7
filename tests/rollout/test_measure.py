"""What is measured of two arms: first bad rows only, tails known beforehand, ratios with honest bounds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.rollout.measure import (
    MIN_TAIL_ROWS,
    Bools,
    Codes,
    Floats,
    compare_tails,
    earlier_tail,
    highest_evidence,
)
from shipworthy.stats.sequential import split_evidence

LOOKS = 60


def traffic(
    rng: np.random.Generator, rows: int, units: int, share: float, *, heavy: bool = False
) -> tuple[Codes, Bools, Codes]:
    """Look, arm and unit of each row; units keep their arm, and some of them come far more often when `heavy`."""
    is_canary = rng.random(units) < share
    weights = rng.pareto(1.2, units) + 0.1 if heavy else np.ones(units)
    unit = rng.choice(units, rows, p=weights / weights.sum())
    look = np.sort(rng.integers(0, LOOKS, rows))
    return look.astype(np.int64), is_canary[unit], unit.astype(np.int64)


# --- evidence


def test_with_one_row_a_unit_the_evidence_is_that_of_the_split() -> None:
    look = np.repeat(np.arange(3), 1000)
    is_canary = np.arange(3000) % 10 == 0
    is_bad = np.isin(np.arange(3000), [0, 10, 20, 1, 1010, 1020, 1003, 2010])
    evidence = split_evidence(
        np.array([3.0, 2, 1]), np.full(3, 100.0), np.array([1.0, 1, 0]), np.full(3, 900.0), margin=0.001
    )
    found = highest_evidence(look, is_canary, np.arange(3000), is_bad, margin=0.001)
    assert found == pytest.approx(evidence.max(), rel=1e-12)


def test_the_same_bug_met_a_hundred_times_by_one_customer_counts_once() -> None:
    rng = np.random.default_rng(1)
    look, is_canary, unit = traffic(rng, 8000, 400, 0.25)
    victims = np.unique(unit[is_canary])[:6]
    again = is_canary & np.isin(unit, victims)
    once = np.zeros(len(look), dtype=bool)
    once[[np.flatnonzero(unit == victim)[0] for victim in victims]] = True
    assert highest_evidence(look, is_canary, unit, again, margin=0.0) == pytest.approx(
        highest_evidence(look, is_canary, unit, once, margin=0.0), rel=1e-12
    )
    assert highest_evidence(look, is_canary, np.arange(8000), again, margin=0.0) > 1e6


def test_codes_of_units_and_looks_may_be_any_numbers() -> None:
    rng = np.random.default_rng(2)
    look, is_canary, unit = traffic(rng, 4000, 1500, 0.2)
    is_bad = rng.random(4000) < np.where(is_canary, 0.02, 0.01)
    plain = highest_evidence(look, is_canary, unit, is_bad, margin=0.0)
    shifted = highest_evidence(look * 977 + 10**12, is_canary, unit * 2**50 - 2**60, is_bad, margin=0.0)
    assert shifted == plain


def test_looks_of_a_row_each_still_compare_the_arms() -> None:
    """With one row a look there is nothing to compare in any of them; they are joined."""
    rows = np.arange(2000)
    is_canary = rows % 10 == 0
    assert highest_evidence(rows, is_canary, rows, is_canary & (rows % 100 == 0), margin=0.0) > 1000


def test_no_rows_are_no_evidence() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert highest_evidence(none, none.astype(bool), none, none.astype(bool), margin=0.0) == 1.0


@pytest.mark.parametrize(
    ("units", "share", "frailty", "base", "margin"),
    [
        (400, 0.25, 20.0, 0.01, 0.0),
        (3000, 0.05, 20.0, 0.01, 0.005),
        (3000, 0.5, 5.0, 0.05, 0.0),
        (200, 0.1, 1.0, 0.2, 0.0),
    ],
)
def test_customers_who_differ_widely_raise_no_more_false_alarms_than_promised(
    units: int, share: float, frailty: float, base: float, margin: float
) -> None:
    """Some fail often and some never, some come a thousand times; looked at 60 times."""
    rng = np.random.default_rng(3)
    alarms = np.zeros(2)
    for _ in range(100):
        look, is_canary, unit = traffic(rng, 8000, units, share, heavy=True)
        prone = rng.gamma(1 / frailty, frailty, units)[unit]
        is_bad = rng.random(8000) < prone * (base + margin * is_canary)
        evidence = highest_evidence(look, is_canary, unit, is_bad, margin=margin)
        alarms += [evidence >= 20, evidence >= 100]
    assert alarms[0] <= 5
    assert alarms[1] <= 1


# --- tails


def test_a_look_is_judged_by_the_tail_known_before_it() -> None:
    rows = np.arange(1000)
    look, is_canary = rows // 100, rows % 2 == 0
    latency = rows.astype(np.float64)
    tails = earlier_tail(look, is_canary, latency)
    assert np.isinf(tails[look < 2]).all()  # fewer than 100 rows of the champion
    first = np.quantile(latency[(look < 2) & ~is_canary], 0.99, method="higher")
    second = np.quantile(latency[(look < 4) & ~is_canary], 0.99, method="higher")
    third = np.quantile(latency[(look < 8) & ~is_canary], 0.99, method="higher")
    assert (tails[(look >= 2) & (look < 4)] == first).all()
    assert (tails[(look >= 4) & (look < 8)] == second).all()  # anew when the rows have doubled
    assert (tails[look >= 8] == third).all()


def test_the_tail_of_a_look_does_not_depend_on_it() -> None:
    rng = np.random.default_rng(4)
    look, is_canary, _ = traffic(rng, 6000, 6000, 0.2)
    latency = rng.lognormal(1, 0.5, 6000)
    slowed = np.where(look >= 30, 50 * latency, latency)
    same = look <= 30
    assert (earlier_tail(look, is_canary, latency)[same] == earlier_tail(look, is_canary, slowed)[same]).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), factor=st.floats(0.5, 3))
def test_the_ratio_of_tails_lies_within_its_bounds_and_scales(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    _, is_canary, unit = traffic(rng, 6000, 3000, 0.3)
    latency = rng.lognormal(1, 0.5, 6000)
    plain = compare_tails(is_canary, unit, latency, alpha=0.05)
    scaled = compare_tails(is_canary, unit, np.where(is_canary, factor * latency, latency), alpha=0.05)
    assert plain.low <= plain.value <= plain.high
    assert [1 + number for number in (scaled.value, scaled.low, scaled.high)] == pytest.approx(
        [factor * (1 + number) for number in (plain.value, plain.low, plain.high)], rel=1e-9
    )


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_canary_that_is_slower_by_all_that_is_allowed_is_seldom_misjudged(spread: float) -> None:
    """Customers with slow lines included; the bounds at the last look, the evidence at all 60."""
    rng = np.random.default_rng(5)
    alarms = wrong = 0
    for _ in range(60):
        look, is_canary, unit = traffic(rng, 5000, 500 if spread else 5000, 0.2, heavy=spread > 0)
        latency = rng.lognormal(1, 0.6, 5000) * np.exp(rng.normal(0, spread, 5000))[unit] * np.where(is_canary, 1.2, 1)
        allowed = np.where(is_canary, 1.2, 1.0) * earlier_tail(look, is_canary, latency)
        alarms += highest_evidence(look, is_canary, unit, latency > allowed, margin=0.0) >= 20
        bounds = compare_tails(is_canary, unit, latency, alpha=0.05)
        wrong += not bounds.low <= 0.2 <= bounds.high
    assert alarms <= 3
    assert wrong <= 6


@pytest.mark.parametrize(
    ("canary", "champion"),
    [
        (np.ones(0), np.ones(500)),
        (np.ones(500), np.ones(MIN_TAIL_ROWS - 1)),
        (np.ones(500), np.zeros(500)),
        (np.ones(500), np.full(500, math.inf)),
    ],
)
def test_tails_that_cannot_be_compared_have_no_ratio(canary: Floats, champion: Floats) -> None:
    latency = np.concatenate([canary, champion])
    rows = np.arange(len(latency))
    found = compare_tails(rows < len(canary), rows, latency, alpha=0.05)
    assert math.isnan(found.value)
    assert found.interval == (-math.inf, math.inf)


def test_few_slow_rows_bound_the_ratio_on_one_side_at_most() -> None:
    rng = np.random.default_rng(6)
    latency = rng.lognormal(1, 0.5, 700)
    found = compare_tails(np.arange(700) < 100, np.arange(700), latency, alpha=0.01)
    assert math.isinf(found.high)
    assert math.isfinite(found.value)
