"""Novelty: marginals, correlations and limit of the distance by which rows unlike the training rows are told. Pure."""

import numpy as np
from numpy.typing import NDArray

from shipworthy.stats.distance import Marginal, make_detector
from shipworthy.stats.intervals import normal_quantile
from shipworthy.stats.profile import QUANTILES

Floats = NDArray[np.float64]

SHRINKAGE = 0.05  # of the correlations towards none: a combination counts at most 20 times what its values do alone
LEAST_STEP = 0.25  # of a robust sd: so far beyond the last training row a value scores at most 1 more
TINY = 1e-9  # relative; of a column that never changed


def rarity(count: float, rows: int) -> float:
    """What a value that `count` of `rows` had adds to a distance: on the scale of a squared normal score.

    >>> round(rarity(50, 100), 1), round(rarity(0, 100), 1)
    (1.4, 10.6)
    """
    return float(-2 * np.log((count + 0.5) / (rows + 1)))


def number_marginal(values: NDArray[np.float32]) -> Marginal:
    """Of a column of numbers.

    Args:
        values: shape (n,) of the training rows; missing is NaN.
    """
    known = np.sort(values[~np.isnan(values)].astype(np.float64))
    missing = rarity(len(values) - len(known), len(values))
    if not len(known):
        return Marginal(missing=missing)
    knots = np.unique(np.concatenate([known[[0, -1]], np.quantile(known, QUANTILES, method="inverted_cdf")]))
    first = np.searchsorted(known, knots, side="left")
    last = np.searchsorted(known, knots, side="right")
    ranks = (first + last) / 2 / len(known)
    scores = np.array([normal_quantile(rank) for rank in ranks.tolist()])
    low, high = np.quantile(known, (0.16, 0.84)).tolist()
    least = max(LEAST_STEP * (high - low) / 2, TINY * max(float(np.abs(knots).max()), 1.0))
    below, above = 1 / least, 1 / least
    if len(knots) > 1:
        rise = np.diff(scores) / np.diff(knots)
        below, above = min(below, float(rise[0])), min(above, float(rise[-1]))
    return Marginal(tuple(knots.tolist()), tuple(scores.tolist()), below, above, missing=missing)


def category_marginal(values: NDArray[np.float32], categories: int) -> Marginal:
    """Of a column of codes 0 to `categories` - 1."""
    known = values[~np.isnan(values)].astype(np.intp)
    counts = np.bincount(known, minlength=categories)
    return Marginal(
        rarities=tuple(rarity(count, len(values)) for count in counts.tolist()),
        missing=rarity(len(values) - len(known), len(values)),
    )


def fit_precision(marginals: tuple[Marginal, ...], matrix: NDArray[np.float32]) -> Floats:
    """The inverse of the scores' shrunk covariance over training rows; 0 for categories.

    Args:
        marginals: one for each column of the same rows.
        matrix: shape (n, columns), n >= 1.
    """
    count = len(marginals)
    numbers = [at for at, marginal in enumerate(marginals) if marginal.knots]
    inverse = np.zeros((count, count))
    if not numbers:
        return inverse
    values = matrix.astype(np.float64)
    scores = np.nan_to_num(make_detector(marginals, inverse).scores(values)[:, numbers])
    covariance = scores.T @ scores / len(scores)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.eye(len(numbers))
    inverse[np.ix_(numbers, numbers)] = np.linalg.inv(shrunk)
    return inverse


def threshold(distances: Floats, share: float) -> float:
    """The distance that a share of like rows exceeds; with too few rows for that the largest that they have.

    Args:
        distances: shape (n,), of rows that nothing was fitted on, n >= 1.
        share: of them that may exceed it, in (0, 1).

    Source: split conformal prediction, Vovk et al. 2005: the k-th smallest, k = ceil((n + 1) (1 - share)).

    >>> threshold(np.arange(1.0, 1000.0), 0.01)
    990.0
    """
    place = int(np.ceil((len(distances) + 1) * (1 - share)))
    return float(np.sort(distances)[min(place, len(distances)) - 1])
