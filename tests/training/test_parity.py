"""Parity is proven on every row, or the worst row is shown."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.kernel.errors import ConversionError
from shipworthy.training.graph import Graph, Layout
from shipworthy.training.parity import differences, open_session, prove_parity, run_model


def sum_of_columns() -> bytes:
    graph = Graph(Layout(("a", "b"), "regression", 0), double=True)
    graph.select([0, 1])
    graph.constant("ones", np.ones((2, 1)))
    graph.last = graph.op("MatMul", [graph.last, "ones"], "sum")
    graph.answer("identity", 1)
    return graph.finish()


SERVED = partial(run_model, open_session(sum_of_columns()))
ROWS = np.arange(2000, dtype=np.float32).reshape(1000, 2)
SUMS = ROWS.sum(axis=1).astype(np.float64)


def test_equal_answers_are_proven_on_all_rows_of_all_parts() -> None:
    parity = prove_parity(SERVED, {"test": (ROWS, SUMS), "edge": (ROWS[:10], SUMS[:10])}, ("a", "b"))
    assert (parity.rows, parity.max_difference, parity.labels_differing) == (1010, 0.0, 0)


def test_one_differing_row_is_named_with_its_values_and_both_answers() -> None:
    trained = SUMS.copy()
    trained[700] += 0.5
    with pytest.raises(ConversionError, match=r"1 of 1000 test rows; worst is test row 700 \(a=1400, b=1401\)"):
        prove_parity(SERVED, {"test": (ROWS, trained)}, ("a", "b"))


def test_an_answer_that_is_not_finite_is_never_equal() -> None:
    trained = SUMS.copy()
    trained[3] = np.nan
    with pytest.raises(ConversionError, match="worst is test row 3"):
        prove_parity(SERVED, {"test": (ROWS, trained)}, ("a", "b"))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(ConversionError, match=r"shape \(1000,\)"):
        prove_parity(SERVED, {"test": (ROWS, np.zeros((1000, 2)))}, ("a", "b"))


def test_no_rows_are_answered_with_none() -> None:
    assert run_model(open_session(sum_of_columns()), np.zeros((0, 2), np.float32)).shape == (0,)


def test_a_model_that_does_not_load_says_so() -> None:
    with pytest.raises(ConversionError, match="cannot load"):
        open_session(b"nonsense")


@given(st.floats(-1e6, 1e6), st.floats(0, 1))
def test_numbers_are_compared_relative_to_their_size_above_one(number: Any, gap: Any) -> None:
    found = differences(np.array([number + gap]), np.array([number]))[0]
    assert found == pytest.approx(gap / max(1, abs(number)), abs=1e-9)
