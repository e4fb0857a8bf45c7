"""Whether two samples come from one distribution, when both are finite: the reference's own error counts too.

A test against a reference that is taken as exact calls the reference's luck a drift, in every window anew. Here the
counts of both samples enter. This file alone loads scipy, which serving never needs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, gammaln

from shipworthy.kernel.errors import EvidenceError

Floats = NDArray[np.float64]

MIN_EXPECTED = 20.0  # rows of the smaller sample in a bin: with 1, p-values of 1e-4 come 5 times too often, with 5 1.3
MAX_ALPHA = 0.05  # of one test: a budget that is larger than its windows is no reason to alarm at anything


def homogeneity(first: Sequence[int], second: Sequence[int], *, ordered: bool) -> float:
    """p-value that two histograms with the same bins are of one distribution: Pearson's chi-square, pooled counts.

    Bins too sparse for the chi-square distribution are merged: with their neighbours if the bins have an order, else
    with each other.

    Args:
        first: rows in each bin, of one sample.
        second: the same of the other.
        ordered: whether neighbouring bins hold neighbouring values.

    Returns:
        In [0, 1]; 1 where fewer than two bins are left, or a sample is empty.

    Raises:
        EvidenceError: the histograms have different bins.

    Source: Pearson (1911), doi:10.1093/biomet/8.1-2.250.

    >>> round(homogeneity([500, 500], [450, 550], ordered=True), 4)
    0.0252
    """
    if len(first) != len(second):
        raise EvidenceError(f"histograms of {len(first)} and {len(second)} bins cannot be compared")
    table = np.array([first, second], dtype=np.float64).reshape(2, -1)
    totals = table.sum(axis=1)
    if not totals.all():
        return 1.0
    table = _merged(table, float(totals.min() / totals.sum()), ordered)
    if table.shape[1] < 2:
        return 1.0
    expected = np.outer(totals, table.sum(axis=0)) / totals.sum()
    statistic = float((np.square(table - expected) / expected).sum())
    return float(chdtrc(table.shape[1] - 1, statistic))


def proportions(first: tuple[int, int], second: tuple[int, int]) -> float:
    """Two-sided p-value that two samples share one proportion: Fisher's exact test, the smaller tail twice.

    Args:
        first: successes and trials.
        second: successes and trials.

    Returns:
        In [0, 1]; 1 where a sample is empty.

    Raises:
        EvidenceError: the counts make no sense.

    Source: Fisher (1935), doi:10.2307/2342435.

    >>> round(proportions((8, 10), (1, 10)), 4)
    0.0055
    """
    for successes, trials in (first, second):
        if not 0 <= successes <= trials:
            raise EvidenceError(f"{successes} of {trials} is no proportion")
    if first[1] > second[1]:
        first, second = second, first  # the support is as long as the smaller sample
    (hits, rows), (others, rest) = first, second
    pooled = hits + others
    least, most = max(0, pooled - rest), min(pooled, rows)
    support = np.arange(least, most + 1, dtype=np.float64)
    logs = _log_binomial(rows, support) + _log_binomial(rest, pooled - support)
    weights = np.exp(logs - logs.max())
    at = hits - least
    tail = min(float(weights[: at + 1].sum()), float(weights[at:].sum())) / float(weights.sum())
    return min(1.0, 2 * tail)


def largest_difference(first: Sequence[int], second: Sequence[int]) -> tuple[int, float]:
    """The bin whose share differs most between two histograms, and by how much: second minus first.

    >>> at, difference = largest_difference([50, 50], [60, 140])
    >>> at, round(difference, 6)
    (0, -0.2)
    """
    one, two = (np.asarray(counts, dtype=np.float64) for counts in (first, second))
    difference = two / max(two.sum(), 1.0) - one / max(one.sum(), 1.0)
    at = int(np.abs(difference).argmax())
    return at, float(difference[at])


def largest_gap(first: Sequence[int], second: Sequence[int]) -> tuple[int, float]:
    """The edge at which the shares above it differ most between two ordered histograms: second minus first.

    Edge i parts bin i from bin i + 1. This is Kolmogorov's distance, as far as the bins show it; a small shift of
    all values hardly changes any bin, and shows here.

    Source: Kolmogorov (1933); for two samples Smirnov (1939).

    >>> at, gap = largest_gap([50, 30, 20], [40, 40, 20])
    >>> at, round(gap, 6)
    (0, 0.1)
    """
    one, two = (np.asarray(counts, dtype=np.float64) for counts in (first, second))
    if len(one) < 2:
        return 0, 0.0
    gaps = np.cumsum(one)[:-1] / max(one.sum(), 1.0) - np.cumsum(two)[:-1] / max(two.sum(), 1.0)
    at = int(np.abs(gaps).argmax())
    return at, float(gaps[at])


def mean_shift(mean: float, sd: float, values: Floats) -> float:
    """How far the mean of `values` lies from a reference mean, in the reference's standard deviations.

    Infinite where the reference does not vary and the mean differs.

    >>> mean_shift(10.0, 2.0, np.array([11.0, 12.0]))
    0.75
    """
    moved = float(values.mean()) - mean
    if sd > 0:
        return moved / sd
    return float(np.copysign(np.inf, moved)) if abs(moved) > 1e-9 * max(abs(mean), 1.0) else 0.0


def alpha_per_test(at_most: float, per_s: float, every_s: float, tests: int) -> float:
    """The level of each test, so that all of them together raise at most so many false alarms (Bonferroni).

    Args:
        at_most: false alarms that are tolerable in `per_s`, above 0.
        per_s: seconds.
        every_s: seconds from one window to the next.
        tests: in each window, at least 1.

    Raises:
        EvidenceError: an argument is out of range.

    >>> alpha_per_test(1, 90 * 86400, 86400, 30) == 1 / 90 / 30
    True
    """
    if at_most <= 0 or per_s <= 0 or every_s <= 0 or tests < 1:
        raise EvidenceError(f"{at_most} false alarms in {per_s} s, {tests} tests every {every_s} s: no such budget")
    return min(at_most * every_s / per_s, MAX_ALPHA) / tests


def _log_binomial(trials: int, chosen: Floats) -> Floats:
    logs = gammaln(trials + 1) - gammaln(chosen + 1) - gammaln(trials - chosen + 1)
    return np.asarray(logs, dtype=np.float64)


def _merged(table: Floats, share: float, ordered: bool) -> Floats:
    """The table with bins in which the smaller sample, `share` of all rows, expects MIN_EXPECTED rows or more."""
    enough = MIN_EXPECTED / share
    if not ordered:
        table = table[:, np.argsort(-table.sum(axis=0), kind="stable")]
    bins: list[Floats] = []
    open_bin = np.zeros(2)
    for counts in table.T:
        open_bin = open_bin + counts
        if open_bin.sum() >= enough:
            bins.append(open_bin)
            open_bin = np.zeros(2)
    if open_bin.any() and bins:
        bins[-1] = bins[-1] + open_bin
    elif open_bin.any():
        bins.append(open_bin)
    return np.array(bins).reshape(-1, 2).T
