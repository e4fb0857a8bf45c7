"""Sequential comparisons keep their promise however often they are looked at."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats as reference

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.sequential import (
    MIN_UNITS,
    ODDS,
    Arm,
    arm_of,
    boundary,
    estimate_of,
    mean_difference,
    share_difference,
    split_evidence,
)

Floats = NDArray[np.float64]
Difference = Callable[..., tuple[Floats, Floats, Floats]]

LOOKS = 60  # a look a minute for an hour
CANARY = 1200.0  # rows of the first arm in a look: 20 a second


def counts(*numbers: float) -> Floats:
    return np.array(numbers, dtype=np.float64)


def drawn(rng: np.random.Generator, first: float, second: float, second_rows: float, repetitions: int) -> list[Floats]:
    """Bad events and rows of two arms, shape (repetitions, LOOKS)."""
    shape = (repetitions, LOOKS)
    return [
        rng.binomial(int(CANARY), first, shape).astype(np.float64),
        np.full(shape, CANARY),
        rng.binomial(int(second_rows), second, shape).astype(np.float64),
        np.full(shape, second_rows),
    ]


def growing(values: Floats, looks: int) -> Arm:
    """Each unit has one row; an equal part of the units arrives in each look. Shape (repetitions, looks, units)."""
    units = values.shape[1]
    seen = (np.arange(units) * looks // units <= np.arange(looks)[:, None]).astype(np.float64)
    rows = np.broadcast_to(seen, (len(values), looks, units))
    kept = values[:, None, :] * seen
    return Arm(rows, kept, kept * kept)


def ever_wrong(difference: Difference, first: Arm, second: Arm, truth: float, alpha: float) -> tuple[float, float]:
    """How often the lower and the upper bound were at any look on the wrong side of the truth."""
    _, low, high = difference(first, second, alpha=alpha)
    return float((low > truth).any(-1).mean()), float((high < truth).any(-1).mean())


# --- evidence from the split of bad events


def test_without_a_margin_the_evidence_is_the_mixture_on_the_split() -> None:
    bad, rows, other_bad, other_rows = counts(3, 2), counts(100, 50), counts(4, 1), counts(900, 350)
    products = []
    for odds in ODDS:
        product = 1.0
        for look in range(2):
            null = rows[look] / (rows[look] + other_rows[look])
            raised = odds * null / (1 - null + odds * null)
            product *= (raised / null) ** bad[look] * ((1 - raised) / (1 - null)) ** other_bad[look]
        products.append(product)
    assert split_evidence(bad, rows, other_bad, other_rows)[-1] == pytest.approx(np.mean(products), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    first_rows=st.integers(0, 25),
    second_rows=st.integers(0, 25),
    base=st.one_of(st.just(0.0), st.floats(1e-6, 0.9)),
    margin=st.one_of(st.just(0.0), st.floats(1e-4, 0.5)),
    used=st.floats(0, 1),
)
def test_the_evidence_of_one_look_is_at_most_one_on_average_under_the_null(
    first_rows: int, second_rows: int, base: float, margin: float, used: float
) -> None:
    """Exact: over all outcomes of both arms, for any pair of rates that the margin allows."""
    first = min(base + used * margin, 1.0)
    bad, other_bad = np.meshgrid(np.arange(first_rows + 1.0), np.arange(second_rows + 1.0), indexing="ij")
    evidence = split_evidence(
        bad[..., None],
        np.full((*bad.shape, 1), float(first_rows)),
        other_bad[..., None],
        np.full((*bad.shape, 1), float(second_rows)),
        margin=margin,
    )[..., 0]
    chances = reference.binom.pmf(bad, first_rows, first) * reference.binom.pmf(other_bad, second_rows, base)
    assert (evidence * chances).sum() <= 1 + 1e-9


@pytest.mark.parametrize("margin", [0.0, 0.005])
@pytest.mark.parametrize("base", [0.002, 0.008])
def test_looking_sixty_times_raises_no_more_false_alarms_than_promised(base: float, margin: float) -> None:
    """At the boundary itself: the first arm is worse by all that the margin allows."""
    repetitions = 2000 if margin == 0 else 400
    rng = np.random.default_rng(11)
    evidence = split_evidence(*drawn(rng, base + margin, base, 19 * CANARY, repetitions), margin=margin)
    for alpha in (0.01, 0.05):
        assert (evidence >= 1 / alpha).any(-1).mean() <= alpha


@pytest.mark.parametrize(("times", "latest"), [(2, 9), (5, 1), (10, 1)])
def test_a_higher_error_rate_is_caught_within_minutes(times: int, latest: int) -> None:
    rng = np.random.default_rng(12)
    evidence = split_evidence(*drawn(rng, 0.002 * times, 0.002, 19 * CANARY, 300))
    caught = evidence >= 100
    assert caught.any(-1).all()
    assert np.median(caught.argmax(-1) + 1) <= latest


def test_a_rate_beyond_the_margin_is_caught_and_one_within_it_is_not() -> None:
    rng = np.random.default_rng(13)
    beyond = split_evidence(*drawn(rng, 0.02, 0.002, 19 * CANARY, 100), margin=0.005)
    within = split_evidence(*drawn(rng, 0.006, 0.002, 19 * CANARY, 100), margin=0.005)
    assert np.median((beyond >= 100).argmax(-1)) <= 1
    assert (beyond >= 100).any(-1).all()
    assert not (within >= 100).any()


def test_an_outage_of_both_arms_is_no_evidence() -> None:
    calm, outage = counts(2, 2, 2), counts(2, 600, 2)
    rows = counts(1000, 1000, 1000)
    assert split_evidence(outage, rows, outage, rows)[-1] < split_evidence(calm, rows, calm, rows)[-1] < 1


def test_a_look_of_one_arm_alone_says_nothing() -> None:
    both = split_evidence(counts(9), counts(500), counts(10), counts(9500), margin=0.001)
    padded = split_evidence(
        counts(0, 0, 9, 50), counts(0, 0, 500, 700), counts(0, 40, 10, 0), counts(0, 900, 9500, 0), margin=0.001
    )
    assert padded == pytest.approx([1, 1, both[0], both[0]], rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(bad=st.integers(1, 40), first=st.integers(0, 39), rows=st.integers(40, 500), margin=st.floats(0, 0.2))
def test_evidence_grows_when_a_bad_event_moves_to_the_first_arm(bad: int, first: int, rows: int, margin: float) -> None:
    first = min(first, bad - 1)
    split = [
        split_evidence(counts(k), counts(rows), counts(bad - k), counts(3 * rows), margin=margin)[0]
        for k in (first, first + 1)
    ]
    assert split[1] > split[0]


@pytest.mark.parametrize(
    ("numbers", "margin", "message"),
    [
        ((counts(2), counts(1), counts(0), counts(1)), 0.0, "fewer rows than bad events"),
        ((counts(-1), counts(1), counts(0), counts(1)), 0.0, "negative or not finite"),
        ((counts(0), counts(math.inf), counts(0), counts(1)), 0.0, "negative or not finite"),
        ((counts(0), counts(1), counts(0, 0), counts(1)), 0.0, r"shapes \(1,\), \(1,\), \(2,\), \(1,\)"),
        ((counts(0), counts(1), counts(0), counts(1)), 1.5, "the margin is 1.5; it must lie between 0 and 1"),
        ((counts(0), counts(1), counts(0), counts(1)), math.nan, "the margin is nan"),
    ],
)
def test_counts_that_make_no_sense_are_refused(numbers: tuple[Floats, ...], margin: float, message: str) -> None:
    with pytest.raises(EvidenceError, match=message):
        split_evidence(*numbers, margin=margin)


# --- intervals that hold at every look


def test_the_boundary_is_rarely_crossed_by_a_random_walk() -> None:
    walk = np.random.default_rng(14).normal(size=(1000, 3000)).cumsum(axis=1)
    time = np.arange(1, 3001, dtype=np.float64)
    for alpha in (0.01, 0.05):
        assert (walk > boundary(time, alpha) * np.sqrt(time)).any(-1).mean() <= alpha


def test_a_single_look_bound_would_be_crossed_often() -> None:
    """The walk above is a test: the bound of one look fails it."""
    walk = np.random.default_rng(14).normal(size=(1000, 3000)).cumsum(axis=1)
    assert (walk > 1.645 * np.sqrt(np.arange(1, 3001))).any(-1).mean() > 0.3


def test_no_rows_have_no_boundary() -> None:
    assert boundary(np.array([0.0, math.nan]), 0.05).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0, math.nan])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(EvidenceError, match=r"must lie between 0 and 0\.5"):
        boundary(np.array([10.0]), alpha)


SKEWED: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "lognormal": lambda rng, shape: rng.lognormal(0, 1, shape) - math.exp(0.5),
    "rare losses": lambda rng, shape: np.where(rng.random(shape) < 0.03, -97.0, 3.0),
    "rare gains": lambda rng, shape: np.where(rng.random(shape) < 0.03, 97.0, -3.0),
    "three sums": lambda rng, shape: rng.choice([-0.25, -30.0, 7.0], p=[0.7, 0.05, 0.25], size=shape) - 0.075,
}


@pytest.mark.parametrize("name", SKEWED)
@pytest.mark.parametrize(("first", "second"), [(300, 300), (100, 900)])
def test_each_bound_of_a_mean_errs_no_more_often_than_promised_whatever_the_skew(
    name: str, first: int, second: int
) -> None:
    rng = np.random.default_rng(15)
    arms = [growing(SKEWED[name](rng, (300, units)), 20) for units in (first, second)]
    below, above = ever_wrong(mean_difference, arms[0], arms[1], 0.0, 0.05)
    assert max(below, above) <= 0.05


@pytest.mark.parametrize("share", [0.002, 0.02, 0.3])
@pytest.mark.parametrize(("first", "second"), [(500, 500), (100, 900)])
def test_each_bound_of_a_share_errs_no_more_often_than_promised(share: float, first: int, second: int) -> None:
    rng = np.random.default_rng(16)
    arms = [growing((rng.random((300, units)) < share).astype(np.float64), 20) for units in (first, second)]
    below, above = ever_wrong(share_difference, arms[0], arms[1], 0.0, 0.05)
    assert max(below, above) <= 0.05


@pytest.mark.parametrize("difference", [share_difference, mean_difference])
def test_rows_of_one_unit_that_are_alike_do_not_make_it_surer(difference: Difference) -> None:
    """Each unit is bad throughout or not at all; as independent rows the bounds would fail far too often."""
    rng = np.random.default_rng(17)

    def arm(units: int, size: float) -> Arm:
        alone = growing((rng.random((300, units)) < 0.3).astype(np.float64), 10)
        return Arm(alone.rows * size, alone.totals * size, alone.squares * size)

    assert max(ever_wrong(difference, arm(80, 20.0), arm(300, 20.0), 0.0, 0.05)) <= 0.05


def test_a_loss_of_half_a_standard_deviation_is_caught_within_few_hundred_rows() -> None:
    rng = np.random.default_rng(18)
    arms = [growing(rng.normal(mean, 1, (200, units)), 20) for mean, units in ((-0.5, 400), (0.0, 1200))]
    _, _, high = mean_difference(arms[0], arms[1], alpha=0.01 / 6)
    assert (high < 0).any(-1).mean() > 0.99
    assert np.median((high < 0).argmax(-1)) <= 8  # of 20 rows each


def test_the_mean_difference_is_that_of_the_rows_with_the_sandwich_error() -> None:
    rng = np.random.default_rng(19)
    units = [rng.integers(0, 60, 500), rng.integers(0, 90, 900)]
    values = [rng.normal(size=500) + units[0] / 30, rng.normal(size=900)]
    offs = []
    for value, unit in zip(values, units, strict=True):
        offs.append(np.array([(value - value.mean())[unit == code].sum() for code in np.unique(unit)]))
    farthest = max(np.abs(off).max() for off in offs)
    spreads = [len(off) / (len(off) - 1) * (off**2).sum() for off in offs]
    pooled = sum(spreads) / 1400
    squared = sum((max(s, pooled * n) + farthest**2) / n**2 for s, n in zip(spreads, (500, 900), strict=True))
    time = (values[0].var() + values[1].var()) / 2 / squared
    half = boundary(np.array(time), 0.05) * math.sqrt(squared)
    arms = [arm_of(value, unit) for value, unit in zip(values, units, strict=True)]
    found = estimate_of(mean_difference(arms[0], arms[1], alpha=0.05))
    value = values[0].mean() - values[1].mean()
    assert (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half), rel=1e-9)


def test_no_errors_at_all_are_not_certainty() -> None:
    quiet = [arm_of(np.zeros(rows), np.arange(rows)) for rows in (1200, 20_000)]
    found = estimate_of(share_difference(quiet[0], quiet[1], alpha=0.01))
    assert found.value == 0
    assert 0.003 < found.high < 0.02  # exactly nothing seen in 1,200 rows excludes 0.4 % at one look with 99 %


def test_no_errors_of_few_large_units_say_less_than_of_many_small_ones() -> None:
    champion = arm_of(np.zeros(20_000), np.arange(20_000))
    small = share_difference(arm_of(np.zeros(1200), np.arange(1200)), champion, alpha=0.01)[2]
    large = share_difference(arm_of(np.zeros(1200), np.arange(1200) % 40), champion, alpha=0.01)[2]
    assert large > 2 * small


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3])
def test_values_that_never_vary_have_no_bounds(value: float) -> None:
    arms = [arm_of(np.full(rows, value), np.arange(rows)) for rows in (100, 700)]
    assert estimate_of(mean_difference(arms[0], arms[1], alpha=0.05)).interval == (-math.inf, math.inf)


@pytest.mark.parametrize("difference", [share_difference, mean_difference])
@pytest.mark.parametrize(("units", "says_something"), [(MIN_UNITS - 1, False), (MIN_UNITS, True)])
def test_few_units_say_nothing(difference: Difference, units: int, says_something: bool) -> None:
    rng = np.random.default_rng(20)
    few = arm_of(rng.random(900) < 0.5, np.arange(900) % units)
    many = arm_of(rng.random(900) < 0.5, np.arange(900))
    for arms in ((few, many), (many, few)):
        found = estimate_of(difference(*arms, alpha=0.05))
        assert math.isfinite(found.low) is math.isfinite(found.high) is says_something


@pytest.mark.parametrize("difference", [share_difference, mean_difference])
def test_an_arm_without_rows_has_no_value(difference: Difference) -> None:
    empty = arm_of(np.zeros(0), np.zeros(0, dtype=np.int64))
    full = arm_of(np.arange(40) % 2 == 0, np.arange(40))
    for arms in ((empty, full), (full, empty), (empty, empty)):
        found = estimate_of(difference(*arms, alpha=0.05))
        assert math.isnan(found.value)
        assert found.interval == (-math.inf, math.inf)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), other=st.floats(0, 1), alpha=st.floats(0.0005, 0.4))
def test_bounds_hold_the_value_and_shrink_as_alpha_grows(seed: int, share: float, other: float, alpha: float) -> None:
    rng = np.random.default_rng(seed)
    arms = [arm_of(rng.random(rows) < p, rng.integers(0, 60, rows)) for rows, p in ((200, share), (900, other))]
    wide = estimate_of(share_difference(arms[0], arms[1], alpha=alpha))
    narrow = estimate_of(share_difference(arms[0], arms[1], alpha=min(2 * alpha, 0.45)))
    assert -1 <= wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high <= 1


@pytest.mark.parametrize(
    ("values", "units", "message"),
    [
        (np.zeros(2), np.zeros(3, dtype=np.int64), r"shape \(2,\) do not fit units of shape \(3,\)"),
        (np.zeros((2, 2)), np.zeros((2, 2), dtype=np.int64), r"shape \(2, 2\)"),
        (np.array([1.0, math.nan]), np.arange(2), "not finite"),
    ],
)
def test_values_that_cannot_be_added_up_are_refused(values: Floats, units: NDArray[np.int64], message: str) -> None:
    with pytest.raises(EvidenceError, match=message):
        arm_of(values, units)
