"""Quality: the baselines that monitors compare with."""

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.format import Baselines, ColumnBaseline
from shipworthy.contract.types import Contract
from shipworthy.stats.profile import histogram, moments, quantile_edges


def build_baselines(
    contract: Contract, matrix: NDArray[np.float32], scores: NDArray[np.floating] | None = None
) -> Baselines:
    """How the model's inputs were distributed in training rows.

    Args:
        contract: gives the columns and their categories.
        matrix: shape (n, columns) as `columns.encode` makes it.
        scores: shape (n,), what the model's score was on them, if known.
    """
    edges = quantile_edges(scores.astype(np.float64)) if scores is not None and len(scores) else ()
    return Baselines(
        columns=tuple(_baseline(contract, name, matrix[:, at]) for at, name in enumerate(contract.model_columns)),
        score_edges=edges,
        score_counts=histogram(scores, edges) if scores is not None and edges else (),
    )


def _baseline(contract: Contract, name: str, values: NDArray[np.float32]) -> ColumnBaseline:
    known = values[~np.isnan(values)]
    missing = len(values) - len(known)
    categories = contract.model_categories.get(name)
    if categories is not None:
        counts = np.bincount(known.astype(np.int64), minlength=len(categories))
        return ColumnBaseline(
            name=name,
            rows=len(values),
            missing=missing,
            reference=float(counts.argmax()) if len(known) else None,
            counts=tuple(counts.tolist()),
        )
    numbers = known.astype(np.float64)
    described, edges = moments(numbers), quantile_edges(numbers) if len(numbers) else ()
    return ColumnBaseline(
        name=name,
        rows=len(values),
        missing=missing,
        reference=float(np.median(numbers)) if len(numbers) else None,
        mean=described.mean if len(numbers) else None,
        sd=described.sd if len(numbers) else None,
        edges=edges,
        counts=histogram(numbers, edges) if edges else (),
    )
