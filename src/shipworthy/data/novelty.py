"""Novelty: what a payload keeps of its training rows to tell rows that are unlike them."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.format import Novelty, NoveltyColumn
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.distance import Marginal, make_detector
from shipworthy.stats.novelty import category_marginal, fit_precision, number_marginal, threshold

MAX_ROWS = 50_000  # fitted on: more move no knot that counts
DIGITS = 12  # of what is kept: the last bits of sums differ from machine to machine, and a payload's digest must not


def fit_novelty(contract: Contract, train: NDArray[np.float32], held: NDArray[np.float32]) -> Novelty | None:
    """The marginals and correlations of the training rows, and the limit that held-out rows give; None if not asked.

    Args:
        contract: says the share, and which columns are categories.
        train: shape (n, columns), in the model's columns.
        held: shape (m, columns), rows that nothing was fitted on.

    Raises:
        EvidenceError: there are no held-out rows.
    """
    wanted = contract.decision.out_of_distribution
    if wanted is None:
        return None
    if not len(held):
        raise EvidenceError(
            "the calibrate part has no rows, which decision.out_of_distribution needs for its limit; "
            "raise training.split.calibrate"
        )
    rows = train[np.linspace(0, len(train) - 1, min(len(train), MAX_ROWS)).astype(np.intp)]
    marginals = tuple(_marginal(contract, name, rows[:, at]) for at, name in enumerate(contract.model_columns))
    precision = _rounded(fit_precision(marginals, rows))
    distances = make_detector(marginals, precision).contributions(held).sum(axis=1)
    return Novelty(
        columns=tuple(
            NoveltyColumn(name=name, **dataclasses.asdict(marginal))
            for name, marginal in zip(contract.model_columns, marginals, strict=True)
        ),
        precision=tuple(tuple(row) for row in precision.tolist()),
        limit=threshold(distances, wanted.share),
        share=wanted.share,
        rows=len(held),
    )


def _marginal(contract: Contract, name: str, values: NDArray[np.float32]) -> Marginal:
    categories = contract.model_categories.get(name)
    if categories is not None:
        return category_marginal(values, len(categories))
    return number_marginal(values)


def _rounded(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([[float(f"{value:.{DIGITS}g}") for value in row] for row in matrix.tolist()])
