"""Trees keep every branch that the learner took."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.kernel.errors import ConversionError
from shipworthy.training.trees import ZERO, read_lightgbm, round_down


@given(
    st.floats(allow_nan=False, allow_infinity=False, width=64, max_value=3e38, min_value=-3e38),
    st.floats(allow_nan=False, width=32),
)
def test_a_threshold_rounded_down_parts_float32_values_as_the_float64_one(threshold: Any, value: Any) -> None:
    x = np.float32(value)
    assert (float(x) <= threshold) == bool(x <= round_down(np.array([threshold]))[0])


def test_a_threshold_beyond_float32_keeps_every_finite_value_left() -> None:
    limit = round_down(np.array([1.7e308]))[0]
    assert np.finfo(np.float32).max <= limit < np.inf


STUMP = """tree
version=v4
num_class=1
num_tree_per_iteration=1
max_feature_idx=0
objective={objective}

Tree=0
num_leaves=2
num_cat=0
split_feature=0
threshold={threshold}
decision_type={kind}
left_child=-1
right_child=-2
leaf_value=1 2
is_linear={linear}


end of trees
parameters:
[linear_tree: 0]
end of parameters
"""


def stump(objective: Any = "regression", threshold: Any = "0.5", kind: Any = 2, linear: Any = 0) -> Any:
    return read_lightgbm(STUMP.format(objective=objective, threshold=threshold, kind=kind, linear=linear))


def test_a_stump_is_read_with_its_split_and_leaves() -> None:
    trees = stump()
    assert (trees.mode, trees.threshold[0], trees.left[0], trees.right[0]) == (
        ["BRANCH_LEQ", "LEAF", "LEAF"],
        0.5,
        1,
        2,
    )
    assert [leaf[3] for leaf in trees.leaf] == [1.0, 2.0]
    assert trees.split_points() == {0: np.array([0.5], np.float32)}


@pytest.mark.parametrize(("threshold", "goes_left"), [("0.5", True), ("-0.5", False)])
def test_without_a_missing_type_a_missing_value_is_read_as_zero(threshold: Any, goes_left: Any) -> None:
    assert stump(threshold=threshold, kind=0).missing_left[0] is goes_left


@pytest.mark.parametrize(("kind", "goes_left"), [(8, False), (10, True)])
def test_with_missing_type_nan_a_missing_value_takes_the_default_side(kind: Any, goes_left: Any) -> None:
    assert stump(kind=kind).missing_left[0] is goes_left


def test_a_threshold_inside_the_zero_band_moves_to_its_end() -> None:
    assert stump(threshold="1e-36").threshold[0] == ZERO
    assert stump(threshold="-1e-36").threshold[0] < -ZERO


def test_linear_leaves_are_refused() -> None:
    with pytest.raises(ConversionError, match="linear_tree"):
        stump(linear=1)


@pytest.mark.parametrize("objective", ["lambdarank", "", "multiclassova num_class:3"])
def test_an_objective_without_probabilities_or_numbers_is_refused(objective: Any) -> None:
    with pytest.raises(ConversionError, match="objective"):
        stump(objective=objective)
