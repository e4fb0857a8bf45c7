"""Rows that are unlike those of the training: which they are, and which of their values make them so."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.format import Novelty, Schema
from shipworthy.kernel.errors import IntegrityError
from shipworthy.stats.distance import Detector, Marginal, make_detector

NAMED = 3  # columns in the words
WORDS = "out of distribution"


@dataclass(frozen=True, slots=True, eq=False)
class Sentinel:
    """Tells rows whose distance from the training rows is beyond the release's limit."""

    detector: Detector
    names: tuple[str, ...]
    limit: float

    def judge(self, matrix: NDArray[np.float32]) -> dict[int, str]:
        """Rows beyond the limit, by their place, and what is said of each.

        Args:
            matrix: shape (n, columns), as the model sees it.
        """
        parts = self.detector.contributions(matrix)
        return {
            int(row): f"{WORDS}: unlike the training rows, mostly by {self._mostly(parts[row])}"
            for row in np.flatnonzero(parts.sum(axis=1) > self.limit)
        }

    def _mostly(self, parts: NDArray[np.float64]) -> str:
        largest = np.argsort(-parts, kind="stable")[:NAMED]
        return ", ".join(self.names[at] for at in largest if parts[at] > 0)


def load_sentinel(novelty: Novelty | None, schema: Schema) -> Sentinel | None:
    """The sentinel of a payload; None if it has none.

    Raises:
        IntegrityError: it does not fit the schema.
    """
    if novelty is None:
        return None
    names = tuple(column.name for column in novelty.columns)
    precision = np.array(novelty.precision, dtype=np.float64)
    if names != schema.columns or precision.shape != (len(names), len(names)) or not np.isfinite(precision).all():
        raise IntegrityError("The payload's novelty does not fit its schema.")
    marginals = []
    for column in novelty.columns:
        if len(column.knots) != len(column.scores) or any(np.diff(column.knots) <= 0):
            raise IntegrityError(f"The payload's novelty has no ascending knots with scores for {column.name!r}.")
        marginals.append(
            Marginal(column.knots, column.scores, column.below, column.above, column.rarities, column.missing)
        )
    return Sentinel(make_detector(tuple(marginals), precision), names, novelty.limit)
