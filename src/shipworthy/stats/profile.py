"""Profile of a column of numbers: moments and a histogram with fixed edges; parts of it merge without loss."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shipworthy.kernel.errors import EvidenceError

QUANTILES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
# tails finer than deciles: a fault in one row of a hundred moves no decile


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and spread of numbers; `least` and `most` are infinite where there is none."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared deviations from the mean
    least: float = math.inf
    most: float = -math.inf

    @property
    def sd(self) -> float:
        """Standard deviation of the numbers as a population; 0 without any."""
        return math.sqrt(self.squares / self.count) if self.count else 0.0

    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of numbers together.

        Source: Chan, Golub, LeVeque (1983), doi:10.1080/00031305.1983.10483115.

        >>> moments(np.array([1.0, 2.0])).merge(moments(np.array([6.0])))
        Moments(count=3, mean=3.0, squares=14.0, least=1.0, most=6.0)
        """
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        apart = other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * other.count / count,
            self.squares + other.squares + apart * apart * self.count * other.count / count,
            min(self.least, other.least),
            max(self.most, other.most),
        )


def moments(values: NDArray[np.floating]) -> Moments:
    """Moments of `values`; NaN is left out.

    Args:
        values: shape (n,), finite or NaN.
    """
    known = values[~np.isnan(values)].astype(np.float64)
    if not len(known):
        return Moments()
    mean = float(known.mean())
    return Moments(len(known), mean, float(np.square(known - mean).sum()), float(known.min()), float(known.max()))


def quantile_edges(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Observed values at `QUANTILES`, each once, ascending; few distinct values become the edges themselves."""
    ranked = np.quantile(values, QUANTILES, method="inverted_cdf")
    return tuple(float(edge) for edge in np.unique(ranked))


def histogram(values: NDArray[np.floating], edges: tuple[float, ...]) -> tuple[int, ...]:
    """How many values lie in each bin; bin i holds [edges[i-1], edges[i]), the outer ones are open. NaN is left out.

    >>> histogram(np.array([0.0, 1.0, 5.0]), (1.0, 2.0))
    (1, 1, 1)
    """
    known = values[~np.isnan(values)].astype(np.float64)
    bins = np.searchsorted(np.asarray(edges, dtype=np.float64), known, side="right")
    return tuple(int(count) for count in np.bincount(bins, minlength=len(edges) + 1))


def merge_counts(
    first: tuple[tuple[float, ...], tuple[int, ...]], second: tuple[tuple[float, ...], tuple[int, ...]]
) -> tuple[int, ...]:
    """Counts of two histograms together, each given as edges and counts.

    Raises:
        EvidenceError: their edges differ.

    >>> merge_counts(((1.0,), (2, 3)), ((1.0,), (10, 20)))
    (12, 23)
    """
    if first[0] != second[0]:
        raise EvidenceError(f"histograms with the edges {first[0]} and {second[0]} cannot be merged")
    return tuple(one + other for one, other in zip(first[1], second[1], strict=True))
