"""Quality: baselines of a model's inputs, and a profile that is JSON."""

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl

from shipworthy.data.columns import encode, target_array
from shipworthy.data.quality import build_baselines, profile_frame
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


def test_a_profile_of_a_snapshot_is_json(make: Any) -> None:
    contract = make(features=FEATURES, context={"at": {"role": "time", "type": "datetime"}})
    frame = FRAME.with_columns(at=pl.lit(datetime(2026, 1, 1, tzinfo=UTC)))
    found = json.loads(json.dumps(profile_frame(validate(contract, frame).accepted), allow_nan=False))
    assert found["income"]["missing"] == 1
    assert found["note"]["most_frequent"] == {"x": 2, "y": 1}
    assert found["at"]["first"].startswith("2026-01-01")
