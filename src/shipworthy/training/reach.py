"""What the contract lets through to the model, column by column."""

import numpy as np
from numpy.typing import NDArray

from shipworthy.contract.types import Contract
from shipworthy.training.edges import EdgeColumn


def edge_columns(contract: Contract, matrix: NDArray[np.float32]) -> tuple[EdgeColumn, ...]:
    """What the server lets through to the model, by model column.

    Args:
        contract: gives kinds, ranges and what happens to missing and outside values.
        matrix: shape (n, k), all rows known; where one is missing, a later one may be.
    """
    return tuple(
        _edge_column(contract, name, bool(np.isnan(matrix[:, at]).any()))
        for at, name in enumerate(contract.model_columns)
    )


def _edge_column(contract: Contract, name: str, seen_missing: bool) -> EdgeColumn:
    feature = contract.features.get(name)
    column = feature or contract.derived[name]
    codes = {"bool": 2, "category": len(column.values or ())}.get(column.type)
    low, high = column.range or (None, None)
    if column.outside == "review":  # a person looks at the answer, but the model gives it
        low = high = None
    gone = column.outside == "missing" and column.range is not None
    gone = gone or (column.type == "category" and column.unknown != "reject")
    gone = gone or (feature is not None and feature.missing == "allow")
    return EdgeColumn(name, low, high, codes, column.type == "int", gone or seen_missing)
