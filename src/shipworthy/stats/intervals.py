"""Confidence intervals of means, proportions, their differences and ratios, and of quantiles.

Every function takes `confidence` as that of *each bound on its own*: the truth lies below the upper bound with
`confidence`, and above the lower bound with `confidence`. So a 95 % gate that looks at one bound errs 5 % of the
time, and the two bounds together hold with 90 %.
"""

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from shipworthy.kernel.errors import EvidenceError

Interval = tuple[float, float]

MIN_DEGREES = 5  # below this the expansion of the t quantile is off by more than 0.5 %


def normal_quantile(probability: float) -> float:
    """Quantile of the standard normal distribution, `probability` in (0, 1)."""
    if not 0 < probability < 1:
        raise EvidenceError(f"confidence is {probability}; it must lie between 0 and 1")
    return NormalDist().inv_cdf(probability)


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution, within 0.5 % at 5 degrees of freedom and 1e-6 from 100 on.

    Args:
        probability: in (0, 1).
        degrees: of freedom, at least 5.

    Raises:
        EvidenceError: an argument is out of range.

    Source: Abramowitz and Stegun (1964), 26.7.5.

    >>> round(t_quantile(0.95, 20), 3)
    1.725
    """
    if degrees < MIN_DEGREES:
        raise EvidenceError(f"{degrees} degrees of freedom are too few; at least {MIN_DEGREES + 1} rows are needed")
    z = normal_quantile(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / degrees**power for power, term in enumerate(terms, start=1))


def mean_interval(values: NDArray[np.float64], confidence: float) -> Interval:
    """Student's t interval of the mean of independent `values`.

    Args:
        values: shape (n,), n at least 6, finite.
        confidence: of each bound, in (0.5, 1).

    Raises:
        EvidenceError: too few values, or one is not finite.

    Source: Student (1908).

    >>> low, high = mean_interval(np.arange(11.0), 0.95)
    >>> round(low, 2), round(high, 2)
    (3.19, 6.81)
    """
    if not np.isfinite(values).all():
        raise EvidenceError("a value is not finite; its mean has no interval")
    quantile = t_quantile(confidence, len(values) - 1)
    mean = float(np.mean(values))
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def wilson_interval(successes: int, trials: int, confidence: float) -> Interval:
    """Wilson's score interval of a proportion; honest at 0 and at 1.

    Args:
        successes: 0 to `trials`.
        trials: at least 1.
        confidence: of each bound, in (0.5, 1).

    Raises:
        EvidenceError: the counts make no sense.

    Source: Wilson (1927), doi:10.1080/01621459.1927.10502953.

    >>> low, high = wilson_interval(81, 263, 0.975)
    >>> round(low, 4), round(high, 4)
    (0.2553, 0.3662)
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise EvidenceError(f"{successes} of {trials} is no proportion")
    z = normal_quantile(confidence)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return low, high


def proportion_difference(first: tuple[int, int], second: tuple[int, int], confidence: float) -> Interval:
    """Newcombe's hybrid score interval of the difference of two independent proportions, first minus second.

    Args:
        first: successes and trials.
        second: successes and trials.
        confidence: of each bound, in (0.5, 1).

    Source: Newcombe (1998), method 10, doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I.

    >>> low, high = proportion_difference((56, 70), (48, 80), 0.975)
    >>> round(low, 4), round(high, 4)
    (0.0524, 0.3339)
    """
    low_1, high_1 = wilson_interval(*first, confidence)
    low_2, high_2 = wilson_interval(*second, confidence)
    share_1, share_2 = first[0] / first[1], second[0] / second[1]
    difference = share_1 - share_2
    return (
        difference - math.hypot(share_1 - low_1, high_2 - share_2),
        difference + math.hypot(high_1 - share_1, share_2 - low_2),
    )


def proportion_ratio(first: tuple[int, int], second: tuple[int, int], confidence: float) -> Interval:
    """Interval of the ratio of two independent proportions, first over second, from their Wilson intervals.

    Args:
        first: successes and trials.
        second: successes and trials; without a success the upper bound is infinite.
        confidence: of each bound, in (0.5, 1).

    Source: Donner and Zou (2012), doi:10.1177/0962280210376579 (the MOVER-R form).
    """
    low_1, high_1 = wilson_interval(*first, confidence)
    low_2, high_2 = wilson_interval(*second, confidence)
    share_1, share_2 = first[0] / first[1], second[0] / second[1]
    return (
        _ratio_bound(share_1, low_1, share_2, high_2, sign=-1),
        _ratio_bound(share_1, high_1, share_2, low_2, sign=1),
    )


def _ratio_bound(share_1: float, bound_1: float, share_2: float, bound_2: float, *, sign: int) -> float:
    divisor = bound_2 * (2 * share_2 - bound_2)
    product = share_1 * share_2
    root = math.sqrt(max(product * product - bound_1 * (2 * share_1 - bound_1) * divisor, 0.0))
    if divisor == 0:
        return math.inf if sign > 0 else 0.0
    return max((product + sign * root) / divisor, 0.0)


def quantile_interval(values: NDArray[np.float64], share: float, confidence: float) -> Interval:
    """Distribution-free interval of a quantile from two order statistics of independent `values`.

    A bound that the sample is too small for is infinite: the 99 % quantile has an upper bound with 95 % only from
    299 values on.

    Args:
        values: shape (n,), n at least 1; infinite values are allowed.
        share: of the quantile, in (0, 1).
        confidence: of each bound, in (0.5, 1).

    Source: Hahn and Meeker (1991), Statistical Intervals, section 5.2.
    """
    rows = len(values)
    if rows == 0:
        raise EvidenceError("no values: their quantile has no interval")
    ordered = np.sort(values)
    below = np.cumsum(_binomial_weights(rows, share))  # below[k] = P(at most k values lie under the quantile)
    upper = int(np.searchsorted(below, confidence))  # first k with P(at most k) >= confidence: value k+1 covers
    lower = int(np.searchsorted(below, 1 - confidence, side="right"))
    return (
        float(ordered[lower - 1]) if lower >= 1 else -math.inf,
        float(ordered[upper]) if upper < rows else math.inf,
    )


def _binomial_weights(trials: int, share: float) -> NDArray[np.float64]:
    counts = np.arange(trials + 1, dtype=np.float64)
    steps = np.log(trials - counts[:-1]) - np.log(counts[1:]) + math.log(share) - math.log1p(-share)
    logs = np.concatenate([[0.0], np.cumsum(steps)]) + trials * math.log1p(-share)
    return np.asarray(np.exp(logs), dtype=np.float64)


def rows_needed(rows: int, measured: float, bound: float, limit: float) -> int | None:
    """About how many rows would bring `bound` to `limit` if `measured` stayed as it is; two digits.

    None when more rows would not help: `measured` is not on the good side of the limit, or all but on it.

    Args:
        rows: looked at so far.
        measured: the point estimate.
        bound: its confidence bound on the side of the limit.
        limit: between the two.

    >>> rows_needed(500, measured=0.78, bound=0.70, limit=0.74)
    2000
    """
    margin, half = limit - measured, bound - measured
    if margin == 0 or not math.isfinite(half) or margin * half <= 0:
        return None
    needed = rows * (half / margin) ** 2
    if needed > 1e9:
        return None
    scale = 10 ** max(math.floor(math.log10(needed)) - 1, 0)
    return int(math.ceil(round(needed / scale, 6)) * scale)
