"""Quality: baselines of a model's inputs."""

from typing import Any

import numpy as np
import polars as pl

from shipworthy.data.columns import encode, target_array
from shipworthy.data.quality import build_baselines
from shipworthy.data.validate import validate

FEATURES = {
    "income": {"type": "float", "missing": "allow"},
    "kind": {"type": "category", "values": ["b", "a"], "missing": "allow"},
    "owner": {"type": "bool"},
    "note": {"type": "text", "missing": "allow"},
}
FRAME = pl.DataFrame(
    {
        "income": ["1", "2", None, "3"],
        "kind": ["a", "b", "a", None],
        "owner": ["true", "false", "true", "true"],
        "note": ["x", None, "x", "y"],
        "repaid": ["0", "1", "1", "0"],
    }
)


def test_rows_become_the_matrix_that_the_model_sees(make: Any) -> None:
    contract = make(features=FEATURES, derived={"double": {"from": "2 * income", "type": "float"}})
    accepted = validate(contract, FRAME).accepted
    matrix = encode(contract, accepted)
    nan = np.float32("nan")
    expected = [[1, 1, 1, 2], [2, 0, 0, 4], [nan, 1, 1, nan], [3, nan, 1, 6]]
    np.testing.assert_array_equal(matrix, np.array(expected, np.float32))
    assert matrix.dtype == np.dtype("float32")
    assert contract.model_columns == ("income", "kind", "owner", "double")
    np.testing.assert_array_equal(encode(contract, accepted.drop("double")), matrix)
    assert target_array(contract, accepted).tolist() == [0, 1, 1, 0]


def test_baselines_by_example(make: Any) -> None:
    contract = make(features=FEATURES)
    matrix = encode(contract, validate(contract, FRAME).accepted)
    found = build_baselines(contract, matrix, np.array([0.1, 0.2, 0.3, 0.4]))
    income, kind, owner = found.columns
    assert (income.rows, income.missing, income.reference, income.mean) == (4, 1, 2.0, 2.0)
    assert (income.edges, income.counts) == ((1.0, 2.0, 3.0), (0, 1, 1, 1))
    assert (kind.reference, kind.counts, kind.missing) == (1.0, (1, 2), 1)
    assert (owner.edges, owner.counts) == ((0.0, 1.0), (0, 1, 3))
    assert sum(found.score_counts) == 4
