"""Effect: how much two distributions differ, whatever the number of rows; where a p-value says only that they do.

Both measures are the largest difference between the two shares of any set of values (of those up to a cut, for what has
an order): 0 for equal distributions, 1 for distributions without a value in common.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from shipworthy.kernel.errors import EvidenceError

Magnitude = Literal["none", "small", "medium", "large"]

# Cohen's d of 0.2, 0.5 and 0.8 as this measure: two normal distributions d apart differ by 2 Phi(d / 2) - 1 at most.
# Cohen (1988), Statistical Power Analysis for the Behavioral Sciences, 2.2.
MAGNITUDES: tuple[tuple[float, Magnitude], ...] = ((0.3108, "large"), (0.1974, "medium"), (0.0797, "small"))


def kolmogorov(first: tuple[Sequence[int], int], second: tuple[Sequence[int], int]) -> float:
    """Kolmogorov's distance of two samples as far as some cuts show it.

    Args:
        first: of one sample, how many values lie at or below each cut, and how many there are.
        second: the same of the other, for the same cuts.

    Returns:
        In [0, 1]; 0 where a sample is empty. Between two cuts it may be more, by the share of values between them.

    Raises:
        EvidenceError: there are not as many cuts.

    Source: Kolmogorov (1933); for two samples Smirnov (1939).

    >>> kolmogorov(([25, 50], 100), ([10, 60], 100))
    0.15
    """
    (counts, rows), (others, rest) = first, second
    _check_as_many(counts, others)
    if not len(counts) or not rows or not rest:
        return 0.0
    gaps = np.asarray(counts, dtype=np.float64) / rows - np.asarray(others, dtype=np.float64) / rest
    return round(float(np.abs(gaps).max()), 12)


def total_variation(first: Sequence[int], second: Sequence[int]) -> float:
    """Distance of two samples of categories: half the sum of how much each category's share differs.

    Args:
        first: rows of each category in one sample.
        second: the same of the other.

    Returns:
        In [0, 1]; 0 where a sample is empty.

    Raises:
        EvidenceError: there are not as many categories.

    Source: Levin, Peres, Wilmer (2009), Markov Chains and Mixing Times, 4.1.

    >>> total_variation([50, 50, 0], [25, 50, 25])
    0.25
    """
    _check_as_many(first, second)
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if not one.sum() or not two.sum():
        return 0.0
    return round(float(np.abs(one / one.sum() - two / two.sum()).sum() / 2), 12)


def magnitude(effect: float) -> Magnitude:
    """The effect in a word.

    >>> magnitude(0.2)
    'medium'
    """
    return next((word for limit, word in MAGNITUDES if effect >= limit), "none")


def _check_as_many(first: Sequence[int], second: Sequence[int]) -> None:
    if len(first) != len(second):
        raise EvidenceError(f"counts of {len(first)} and {len(second)} places cannot be compared")
