"""Comparisons of two arms that may be looked at as often as one likes: the promise holds over all looks together.

`split_evidence` accumulates evidence that bad events fall on the first arm more often than they may.
`share_difference` and `mean_difference` give intervals that hold at every look at once. `alpha` is the chance, over
an endless series of looks, that a bound is ever on the wrong side of the truth.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.estimates import Estimate

Floats = NDArray[np.float64]

ODDS = np.geomspace(1.15, 10.0, 16)  # from hardly worth a rollback to an outage; finer steps catch nothing sooner
BASE_RATES = np.geomspace(1e-4, 0.4, 13)  # steps of 2: a rate between two loses little, and 13 cost at most 2.6 nats
MIN_UNITS = 30  # below this a mean of skewed values is too far from normal for any bound
TUNED_ROWS = 30.0  # of the mixture: tightest at about 15 times as many rows, where the first decisions fall
ROUNDING = 1e-9  # of the largest sum: closer than that, values are equal


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """Sums of the values of one arm by unit, such as a customer whose rows are alike.

    All of shape (..., units), float64; leading axes are looks or repetitions. A unit without rows counts for nothing.

    Attributes:
        rows: how many rows each unit has.
        totals: sum of its values.
        squares: sum of their squares.
    """

    rows: Floats
    totals: Floats
    squares: Floats


def arm_of(values: NDArray[np.float64] | NDArray[np.bool_], units: NDArray[np.int64]) -> Arm:
    """The sums of one arm.

    Args:
        values: shape (n,), finite; n may be 0.
        units: shape (n,), any code of the unit that each row belongs to.

    Raises:
        EvidenceError: shapes differ, or a value is not finite.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.shape != units.shape or numbers.ndim != 1:
        raise EvidenceError(f"values of shape {numbers.shape} do not fit units of shape {units.shape}")
    if not np.isfinite(numbers).all():
        raise EvidenceError("a value is not finite; its mean has no interval")
    _, codes = np.unique(units, return_inverse=True)
    return Arm(
        np.bincount(codes).astype(np.float64),
        np.bincount(codes, numbers).astype(np.float64),
        np.bincount(codes, numbers * numbers).astype(np.float64),
    )


def split_evidence(
    first_bad: Floats, first_rows: Floats, second_bad: Floats, second_rows: Floats, *, margin: float = 0.0
) -> Floats:
    """Evidence, after each look, that the first arm's rate of bad events is above the second's plus `margin`.

    An e-process: whatever the two rates are and however they move together, if the first is at each look at most
    the second plus `margin`, the chance that the evidence ever reaches 1/a is at most a (Ville). So one may look at
    any time and stop at 1/a.

    Without a margin only the split of the bad events counts: under the null each falls on the first arm with
    probability pi = rows of the first / rows of both, and a mixture of odds multipliers bets against that. What makes
    both arms bad at once, such as an outage of a shared service, is no evidence. With a margin, pi is shifted: each
    alternative (p1, p0) is weighed against the closest pair (q1, q0) with q1 = q0 + margin, and pays a toll for the
    bad events that the margin allows. As the base rate is not known, it is mixed over too.

    For rows x of an arm the factor is (p/q)^x exp(-rows (p - q)). Its mean under Bernoulli rates t is at most
    exp(sum of rows (t - q)(p - q)/q), and that sum is at most 0 on the null because q is the Kullback-Leibler
    projection of p on it.

    Args:
        first_bad: shape (..., looks), bad events of the first arm in each look.
        first_rows: same shape, rows that could become bad in each look.
        second_bad: same shape.
        second_rows: same shape.
        margin: of the rate, 0 to 1.

    Returns:
        Same shape, 1 at no evidence; may be infinite.

    Raises:
        EvidenceError: shapes differ, a count makes no sense, or the margin is out of range.

    Source: Ville (1939); Wald (1945); Robbins (1970), doi:10.1214/aoms/1177696786, for mixtures; Gruenwald, de Heide
    and Koolen (2024), doi:10.1093/jrsssb/qkae011; Turner, Ly and Gruenwald (2024), doi:10.1016/j.jspi.2023.106116, for
    two arms; ter Schure, Perez-Ortiz, Ly and Gruenwald (2024), doi:10.51387/24-NEJSDS65, for rows at risk.

    >>> split_evidence(np.array([9.0]), np.array([500.0]), np.array([10.0]), np.array([9500.0])).round(-2)
    array([137500.])
    """
    counts = [np.asarray(each, dtype=np.float64) for each in (first_bad, first_rows, second_bad, second_rows)]
    _check_counts(counts, margin)
    rates = BASE_RATES if margin > 0 else BASE_RATES[:1]  # without a margin the base rate cancels out
    logs = np.full((len(rates), *counts[0].shape), -np.inf)
    for index, rate in enumerate(rates):
        for odds in ODDS:
            steps = _log_factors(counts, margin, rate, odds * (rate + margin))
            logs[index] = np.logaddexp(logs[index], np.cumsum(steps, axis=-1))
    total = np.logaddexp.reduce(logs, axis=0) - math.log(len(rates) * len(ODDS))
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(total), dtype=np.float64)


def share_difference(first: Arm, second: Arm, *, alpha: float) -> tuple[Floats, Floats, Floats]:
    """Share of bad events in the first arm minus that in the second, with bounds that hold at every look at once.

    Honest where no bad event was seen: each arm is given z^2/4 events and as many non-events (Agresti and Caffo), and
    the rows are discounted for bad events that come in clusters, as if one more unit had been bad throughout.

    Args:
        first: of zeros and ones.
        second: of zeros and ones.
        alpha: of each bound on its own, in (0, 0.5).

    Returns:
        Value, lower and upper bound, each of the arms' leading shape. Without rows the value is NaN; the bounds are
        infinite below `MIN_UNITS` units in an arm.

    Source: as `mean_difference`; Agresti and Caffo (2000), doi:10.1080/00031305.2000.10474560.
    """
    shares = [_ratio(arm.totals.sum(-1), arm.rows.sum(-1)) for arm in (first, second)]
    discount = _design_effect(first, shares[0], second, shares[1])
    rows = [_effective_rows(arm, discount) for arm in (first, second)]
    width = boundary(_ratio(rows[0] * rows[1], rows[0] + rows[1]), alpha)
    width = np.where(np.isfinite(width), width, np.nan)  # an arm without rows
    added = width * width / 4
    moved = [_ratio(share * count + added, count + 2 * added) for share, count in zip(shares, rows, strict=True)]
    spread = np.sqrt(sum(_ratio(m * (1 - m), n + 2 * added) for m, n in zip(moved, rows, strict=True)))
    value, centre = shares[0] - shares[1], moved[0] - moved[1]
    return _bounded(
        first, second, value, np.maximum(centre - width * spread, -1), np.minimum(centre + width * spread, 1)
    )


def mean_difference(first: Arm, second: Arm, *, alpha: float) -> tuple[Floats, Floats, Floats]:
    """Mean of the first arm's rows minus that of the second's, with bounds that hold at every look at once.

    The error of each mean is that of a ratio of sums over units (the sandwich), so rows of one unit may be alike. One
    more unit, as far off as the farthest seen, is added to it, and no arm counts as less variable than both together:
    a small arm that missed the rare values does not look certain. The boundary is Robbins' normal mixture, valid as
    the arms grow (an asymptotic confidence sequence).

    Args:
        first: any values of finite variance.
        second: likewise.
        alpha: of each bound on its own, in (0, 0.5).

    Returns:
        Value, lower and upper bound, each of the arms' leading shape. Without rows the value is NaN; the bounds are
        infinite below `MIN_UNITS` units in an arm and while all values of each arm are equal.

    Source: Robbins (1970), doi:10.1214/aoms/1177696786; Howard, Ramdas, McAuliffe and Sekhon (2021),
    doi:10.1214/20-AOS1991; Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas (2024), doi:10.1214/24-AOS2408; Johari,
    Koomen, Pekelis and Walsh (2022), doi:10.1287/opre.2021.2135; Liang and Zeger (1986) for the sandwich.
    """
    arms = (first, second)
    means = [_ratio(arm.totals.sum(-1), arm.rows.sum(-1)) for arm in arms]
    squared = _squared_errors(arms, means)
    of_rows = [_ratio(arm.squares.sum(-1), arm.rows.sum(-1)) - mean**2 for arm, mean in zip(arms, means, strict=True)]
    time = _ratio((of_rows[0] + of_rows[1]) / 2, squared)
    half = boundary(time, alpha) * np.sqrt(np.where(squared > 0, squared, 1.0))
    value = means[0] - means[1]
    return _bounded(first, second, value, value - half, value + half)


def boundary(rows: Floats, alpha: float) -> Floats:
    """How many standard errors a mean may be off, at any look, on one side.

    Robbins' mixture of normal alternatives, half of them on each side, at intrinsic time `rows` (the variance of a
    row over that of the mean).

    Args:
        rows: any shape, 0 or more; NaN and 0 give infinity.
        alpha: chance that it is ever exceeded on this side, in (0, 0.5).

    Raises:
        EvidenceError: `alpha` is out of range.

    Source: Howard et al. (2021), doi:10.1214/20-AOS1991, the closed upper bound of the one-sided mixture.

    >>> boundary(np.array([500.0, 50_000.0]), 0.05).round(2)
    array([2.82, 3.47])
    """
    if not 0 < alpha < 0.5:
        raise EvidenceError(f"alpha is {alpha}; it must lie between 0 and 0.5")
    known = np.where(rows > 0, rows, np.nan)
    grown = np.log(np.sqrt((known + TUNED_ROWS) / TUNED_ROWS) / (2 * alpha) + 1)
    return np.asarray(np.nan_to_num(np.sqrt(2 * (1 + TUNED_ROWS / known) * grown), nan=np.inf), dtype=np.float64)


def estimate_of(sequence: tuple[Floats, Floats, Floats]) -> Estimate:
    """One look's value and bounds as plain numbers."""
    value, low, high = (float(each) for each in sequence)
    return Estimate(value, low, high)


def _log_factors(counts: list[Floats], margin: float, rate: float, raised: float) -> Floats:
    first_bad, first_rows, second_bad, second_rows = counts
    nearest = _nearest(first_rows, second_rows, margin, rate, raised)
    shifted = nearest + margin
    toll = margin * first_rows * (raised - shifted) / shifted
    return np.asarray(first_bad * np.log(raised / shifted) + second_bad * np.log(rate / nearest) - toll)


def _nearest(first_rows: Floats, second_rows: Floats, margin: float, rate: float, raised: float) -> Floats:
    """The q0 of the projection: root of q(q + margin) = w raised q + (1 - w) rate (q + margin), w the first's part."""
    rows = first_rows + second_rows
    part = first_rows / np.maximum(rows, 1)
    slope = margin - part * raised - (1 - part) * rate
    constant = (1 - part) * rate * margin
    root = np.sqrt(slope * slope + 4 * constant)
    with np.errstate(divide="ignore", invalid="ignore"):  # the branch not taken; the other form would cancel
        return np.asarray(np.where(slope > 0, 2 * constant / (slope + root), (root - slope) / 2), dtype=np.float64)


def _check_counts(counts: list[Floats], margin: float) -> None:
    first_bad, first_rows, second_bad, second_rows = counts
    if len({each.shape for each in counts}) != 1 or counts[0].ndim == 0:
        raise EvidenceError(
            f"counts of shapes {', '.join(str(each.shape) for each in counts)} are not of the same looks"
        )
    if not 0 <= margin <= 1:
        raise EvidenceError(f"the margin is {margin}; it must lie between 0 and 1")
    for bad, rows in ((first_bad, first_rows), (second_bad, second_rows)):
        if not ((bad >= 0) & (bad <= rows) & np.isfinite(rows)).all():
            raise EvidenceError("a look has fewer rows than bad events, or a count that is negative or not finite")


def _squared_errors(arms: tuple[Arm, Arm], means: list[Floats]) -> Floats:
    """Squared standard error of the difference of means; 0 where the values of each arm are all equal."""
    offs = [arm.totals - arm.rows * np.nan_to_num(mean)[..., None] for arm, mean in zip(arms, means, strict=True)]
    farthest = np.maximum(*(np.abs(off).max(-1, initial=0.0) for off in offs))
    largest = np.maximum(*(np.abs(arm.totals).max(-1, initial=0.0) for arm in arms))
    farthest = np.where(farthest > ROUNDING * largest, farthest, 0.0)
    rows = [arm.rows.sum(-1) for arm in arms]
    spreads = [_corrected(arm) * (off**2).sum(-1) for arm, off in zip(arms, offs, strict=True)]
    pooled = _ratio(spreads[0] + spreads[1], rows[0] + rows[1])
    squared = sum(
        _ratio(np.maximum(spread, pooled * count) + farthest**2, count**2)
        for spread, count in zip(spreads, rows, strict=True)
    )
    return np.asarray(np.where(farthest > 0, squared, 0.0), dtype=np.float64)


def _design_effect(first: Arm, first_share: Floats, second: Arm, second_share: Floats) -> Floats:
    """By how much the rows count less because bad events come in clusters; at least 1."""
    seen, expected = np.zeros(first_share.shape), np.zeros(first_share.shape)
    for arm, share in ((first, first_share), (second, second_share)):
        known = np.nan_to_num(share)
        seen = seen + _corrected(arm) * ((arm.totals - arm.rows * known[..., None]) ** 2).sum(-1)
        expected = expected + arm.rows.sum(-1) * known * (1 - known)
    sizes = np.concatenate([first.rows, second.rows], axis=-1)
    units = np.maximum((sizes > 0).sum(-1), 1)
    return np.maximum(_ratio(seen + (sizes**2).sum(-1) / units, expected + sizes.sum(-1) / units), 1.0)


def _effective_rows(arm: Arm, discount: Floats) -> Floats:
    return np.asarray(arm.rows.sum(-1) / np.where(np.isnan(discount), 1.0, discount), dtype=np.float64)


def _corrected(arm: Arm) -> Floats:
    units = (arm.rows > 0).sum(-1)
    return np.asarray(units / np.maximum(units - 1, 1), dtype=np.float64)


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, np.where(whole > 0, whole, np.nan)), dtype=np.float64)


def _bounded(first: Arm, second: Arm, value: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats, Floats]:
    """Bounds that hold the value, and none for arms of few units."""
    few = np.minimum(*((arm.rows > 0).sum(-1) for arm in (first, second))) < MIN_UNITS
    return (
        np.asarray(value),
        np.where(few, -np.inf, np.minimum(low, value)),
        np.where(few, np.inf, np.maximum(high, value)),
    )
