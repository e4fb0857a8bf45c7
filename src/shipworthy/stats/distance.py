"""Distance: how unlike the rows that a model was trained on a row is. Pure, and light enough for a server.

Each number becomes the normal score of its rank among the training rows; the distance is Mahalanobis' on those scores,
so that odd combinations count as well as odd values. A missing value and a category count by how rare they were.
`stats.novelty` fits it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LARGEST = np.finfo(np.float32).max
LIMIT = 12.0  # of a score: beyond it more is no more telling, and one absurd value must not overflow


@dataclass(frozen=True, slots=True)
class Marginal:
    """How the values of one column become scores."""

    knots: tuple[float, ...] = ()  # of a number: ascending; between them scores are linear
    scores: tuple[float, ...] = ()  # normal scores at the knots
    below: float = 0.0  # score for each unit below the first knot
    above: float = 0.0
    rarities: tuple[float, ...] = ()  # of a category: by code
    missing: float = 0.0  # rarity of a missing value


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """Marginals and precision as arrays, for many rows at once."""

    knots: Floats  # (columns, w), padded with infinity
    slopes: Floats  # (columns, w + 1)
    offsets: Floats  # (columns, w + 1)
    precision: Floats  # (columns, columns); 0 for categories
    missing: Floats  # (columns,)
    rarities: Mapping[int, Floats]  # of category columns, with one place more for codes that there are not

    def scores(self, values: Floats) -> Floats:
        """The normal score of each value, shape (n, columns); 0 for categories."""
        columns = np.arange(values.shape[1])
        places = (values[:, :, None] >= self.knots).sum(axis=2)
        scores = self.offsets[columns, places] + self.slopes[columns, places] * values
        return np.asarray(np.clip(scores, -LIMIT, LIMIT), dtype=np.float64)

    def contributions(self, matrix: NDArray[np.float32]) -> Floats:
        """What each value adds to its row's distance, shape (n, columns); the distance is their sum.

        Args:
            matrix: shape (n, columns); missing is NaN, a category its code.
        """
        gone = np.isnan(matrix)
        values = np.clip(np.where(gone, 0.0, matrix), -LARGEST, LARGEST).astype(np.float64)  # no infinity times 0
        scores = np.where(gone, 0.0, self.scores(values))
        parts: Floats = scores * (scores @ self.precision)
        parts += np.where(gone, self.missing, 0.0)
        for column, rarities in self.rarities.items():
            codes = np.clip(values[:, column], 0, len(rarities) - 1).astype(np.intp)
            parts[:, column] += np.where(gone[:, column], 0.0, rarities[codes])
        return parts


def make_detector(marginals: tuple[Marginal, ...], precision: Floats) -> Detector:
    """The detector of these marginals.

    Args:
        marginals: one for each column.
        precision: shape (columns, columns), see `fit_precision`.
    """
    width = max((len(marginal.knots) for marginal in marginals), default=0)
    knots = np.full((len(marginals), width), np.inf)
    slopes, offsets = np.zeros((len(marginals), width + 1)), np.zeros((len(marginals), width + 1))
    for at, marginal in enumerate(marginals):
        count = len(marginal.knots)
        if not count:
            continue
        xs, ys = np.array(marginal.knots), np.array(marginal.scores)
        rise = np.concatenate([[marginal.below], np.diff(ys) / np.diff(xs), [marginal.above]])
        knots[at, :count] = xs
        slopes[at, : count + 1] = rise
        offsets[at, : count + 1] = ys[[0, *range(count)]] - rise * xs[[0, *range(count)]]
    rarities = {
        at: np.array([*marginal.rarities, max(marginal.rarities)])
        for at, marginal in enumerate(marginals)
        if marginal.rarities
    }
    missing = np.array([marginal.missing for marginal in marginals])
    return Detector(knots, slopes, offsets, precision, missing, rarities)
