"""The decision policy, the same offline and live."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.bundle.format import ActionBand, Calibration, Intervals, Policy
from shipworthy.serving.policy import calibrate, decide
from shipworthy.serving.router import choose_release

BINARY = Policy(
    task="binary",
    classes=("no", "yes"),
    positive="yes",
    actions={"yes": "approve", "no": "refer"},
    threshold=0.7,
    review_below=0.6,
    review_answer="ask",
    fallback_otherwise="refer",
    timeout_s=1.0,
)


def test_the_threshold_divides_and_low_confidence_is_reviewed() -> None:
    outputs = np.array([[0.3, 0.7], [0.31, 0.69], [0.45, 0.55], [0.9, 0.1]], dtype=np.float64)
    decisions = decide(BINARY, outputs)
    assert decisions.prediction == ["yes", "no", "no", "no"]
    assert decisions.confidence.tolist() == [0.7, 0.31, 0.45, 0.9]
    assert decisions.decision == ["approve", "ask", "ask", "refer"]
    assert decisions.review.tolist() == [False, True, True, False]
    assert decisions.index is not None
    assert decisions.index.tolist() == [1, 0, 0, 0]


def test_calibration_is_the_sigmoid_of_the_scaled_logit() -> None:
    policy = Policy(**{**as_fields(BINARY), "calibration": Calibration(slope=2.0, offset=-1.0)})
    calibrated = calibrate(policy, np.array([[0.25, 0.75]]))
    expected = 1 / (1 + math.exp(-(2.0 * math.log(3) - 1.0)))
    assert calibrated[0].tolist() == pytest.approx([1 - expected, expected])


def test_temperature_one_half_squares_the_probabilities() -> None:
    policy = Policy(
        task="multiclass",
        classes=("a", "b", "c"),
        calibration=Calibration(temperature=0.5),
        fallback_otherwise="a",
        timeout_s=1.0,
    )
    decisions = decide(policy, np.array([[0.5, 0.3, 0.2]]))
    total = 0.25 + 0.09 + 0.04
    assert decisions.probability is not None
    assert decisions.probability[0].tolist() == pytest.approx([0.25 / total, 0.09 / total, 0.04 / total])
    assert decisions.decision == ["a"]


def test_regression_has_interval_confidence_and_band() -> None:
    policy = Policy(
        task="regression",
        bands=(ActionBand(action="short", below=10.0), ActionBand(action="long")),
        intervals=Intervals(coverage=0.9, edges=(5.0,), half_widths=(1.0, 2.0), confidences=(0.8, 0.4)),
        fallback_otherwise=0.0,
        timeout_s=1.0,
    )
    decisions = decide(policy, np.array([[4.0], [5.0], [10.0]], dtype=np.float32))
    assert decisions.prediction == [4.0, 5.0, 10.0]
    assert decisions.decision == ["short", "short", "long"]
    assert decisions.interval is not None
    assert decisions.interval.tolist() == [[3.0, 5.0], [3.0, 7.0], [8.0, 12.0]]
    assert decisions.confidence.tolist() == [0.8, 0.4, 0.4]


def test_without_bands_the_decision_of_a_regression_is_its_prediction() -> None:
    policy = Policy(task="regression", fallback_otherwise=1.5, timeout_s=1.0)
    assert decide(policy, np.array([2.5, 3.5])).decision == [2.5, 3.5]


@pytest.mark.parametrize(
    "row", [[math.nan, 0.5], [math.inf, 0.0], [0.6, 0.6], [1.5, -0.5], [0.0, 0.0], [math.nan, math.nan]]
)
def test_outputs_that_are_no_probabilities_are_not_valid_and_spare_their_neighbours(row: list[float]) -> None:
    decisions = decide(BINARY, np.array([[0.2, 0.8], row], dtype=np.float32))
    assert decisions.valid.tolist() == [True, False]
    assert decisions.prediction[0] == "yes"


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (2,), (2, 2, 1), (0, 2)])
def test_outputs_of_another_shape_are_valid_for_no_row(shape: tuple[int, ...]) -> None:
    assert decide(BINARY, np.full(shape, 0.5, dtype=np.float32), 2).valid.tolist() == [False, False]


def test_a_number_that_is_not_finite_is_not_valid() -> None:
    policy = Policy(task="regression", fallback_otherwise=0.0, timeout_s=1.0)
    assert decide(policy, np.array([1.0, math.nan, math.inf])).valid.tolist() == [True, False, False]


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30))
def test_a_row_is_decided_alike_alone_and_in_a_batch(shares: list[float]) -> None:
    outputs = np.array([[1 - share, share] for share in shares], dtype=np.float32)
    together = decide(BINARY, outputs)
    for row in range(len(shares)):
        alone = decide(BINARY, outputs[row : row + 1])
        assert alone.decision[0] == together.decision[row]
        assert alone.confidence[0] == together.confidence[row]


@given(st.text(max_size=20), st.floats(0.0, 0.9), st.floats(0.0, 0.1))
def test_a_growing_share_moves_no_unit_away(unit: str, share: float, growth: float) -> None:
    before = choose_release([share, 1 - share], "salt", unit)
    after = choose_release([share + growth, 1 - share - growth], "salt", unit)
    assert not (before == 0 and after == 1)


def test_units_fall_by_the_shares() -> None:
    hits = sum(choose_release([0.25, 0.75], "salt", str(unit)) == 0 for unit in range(20_000))
    assert abs(hits - 5000) < 4 * math.sqrt(20_000 * 0.25 * 0.75)


def as_fields(policy: Policy) -> dict[str, object]:
    return {name: getattr(policy, name) for name in policy.__struct_fields__}
