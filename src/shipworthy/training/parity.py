"""Proof that the model which is served answers as the trained one does, row by row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from shipworthy.kernel.errors import ConversionError

TOLERANCE = 1e-5  # of a probability; of a number, relative to max(1, its size)
BATCH = 256  # rows in one run, as in the server
CONVERTED = (
    "Hand trees the columns as they are (no scaler in front), or use LightGBM, HistGradientBoosting, a forest, or a "
    "linear model."
)
SINGLE = 100  # rows that are also run one by one: a batch must not change an answer


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the two models' answers differ at most."""

    rows: int
    max_difference: float
    worst_row: int
    labels_differing: int  # rows whose most probable class differs; 0 for regression


def open_session(model: bytes) -> ort.InferenceSession:
    """The model as the server runs it: one thread, no spinning.

    Raises:
        ConversionError: onnxruntime cannot load it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ConversionError(f"onnxruntime cannot load the converted model: {str(error)[:300]}") from error


def run_model(session: ort.InferenceSession, matrix: NDArray[np.float32], batch: int = BATCH) -> NDArray[np.float64]:
    """Answers of the ONNX model: probabilities of shape (n, classes), or predictions of shape (n,)."""
    name = session.get_outputs()[0].name
    parts = [
        np.asarray(session.run([name], {"features": matrix[start : start + batch]})[0], np.float64)
        for start in range(0, len(matrix), batch)
    ]
    width = session.get_outputs()[0].shape[1]
    found = np.concatenate(parts) if parts else np.zeros((0, width))
    return found[:, 0] if name == "prediction" else found


def prove_parity(
    run: Callable[[NDArray[np.float32], int], NDArray[np.float64]],
    parts: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float64]]],
    columns: Sequence[str],
    tolerance: float = TOLERANCE,
    cure: str = CONVERTED,
) -> Parity:
    """Compare the model that is served with the trained model's answers on every row of every part.

    Args:
        run: the served model's answers to a matrix, in runs of so many rows.
        parts: by name, such as `test`: matrix of shape (n, k) and the trained model's answers.
        columns: names of the matrix's columns.
        tolerance: largest tolerable difference.
        cure: what to do about a difference.

    Raises:
        ConversionError: a row differs by more; names the row, its values and both answers.
    """
    total, largest, worst, labels = 0, 0.0, 0, 0
    for name, (matrix, trained) in parts.items():
        if len(matrix) == 0:
            continue
        served = run(matrix, BATCH)
        difference = differences(served, trained)
        one_by_one = run(matrix[:SINGLE], 1)
        difference[:SINGLE] = np.maximum(difference[:SINGLE], differences(one_by_one, trained[:SINGLE]))
        at = int(np.argmax(difference))
        if not difference[at] <= tolerance:
            raise ConversionError(
                _explain(name, at, matrix[at], columns, trained[at], served[at], difference, tolerance, cure)
            )
        if difference[at] > largest:
            largest, worst = float(difference[at]), total + at
        total += len(matrix)
        if trained.ndim == 2:
            labels += int(np.sum(served.argmax(axis=1) != trained.argmax(axis=1)))
    return Parity(total, largest, worst, labels)


def differences(served: NDArray[np.float64], trained: NDArray[np.float64]) -> NDArray[np.float64]:
    """Difference by row: the largest of the classes, or relative to max(1, |trained|); infinite where not finite."""
    if served.shape != trained.shape:
        raise ConversionError(
            f"the served model answers with shape {served.shape}, the trained one with {trained.shape}."
        )
    gap = np.abs(served - trained)
    gap = gap.max(axis=1) if trained.ndim == 2 else gap / np.maximum(1.0, np.abs(trained))
    return np.where(np.isfinite(gap), gap, np.inf)


def _explain(
    part: str,
    at: int,
    row: NDArray[np.float32],
    columns: Sequence[str],
    trained: NDArray[np.float64] | np.float64,
    served: NDArray[np.float64] | np.float64,
    difference: NDArray[np.float64],
    tolerance: float,
    cure: str,
) -> str:
    values = ", ".join(f"{name}={float(value):.9g}" for name, value in zip(columns, row, strict=True))
    beyond = int(np.sum(~(difference <= tolerance)))
    return (
        f"the served model answers differently from the trained one on {beyond} of {len(difference)} {part} rows; "
        f"worst is {part} row {at} ({values}): trained {_show(trained)}, served {_show(served)}, "
        f"difference {difference[at]:.3g} where {tolerance:g} is tolerable. {cure}"
    )


def _show(answer: NDArray[np.float64] | np.float64) -> str:
    numbers = np.atleast_1d(answer)
    text = ", ".join(f"{number:.6g}" for number in numbers)
    return f"[{text}]" if len(numbers) > 1 else text
