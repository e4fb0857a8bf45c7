"""The decision policy: from a model's outputs to predictions, confidence, decisions and handling.

The same function answers live traffic and judges a candidate offline, so that a gate measures what will be served.
"""

from dataclasses import dataclass
from itertools import repeat

import msgspec
import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.format import Calibration, Policy

CLIP = 1e-12  # as `stats.calibration` clips: what was fitted is what is applied
SUM_TOLERANCE = 1e-3  # float32 softmax over thousands of classes stays well within
DEFAULT_THRESHOLD = 0.5  # where the payload fixes none: the likelier class


class Decided(msgspec.Struct, gc=False):
    """What the policy says of one row."""

    prediction: str | float  # class, or number
    probability: list[float] | None  # of `policy.classes`, calibrated; None for regression
    interval: list[float] | None  # low, high
    confidence: float
    decision: str | float
    review: bool  # confidence is under the policy's limit


@dataclass(frozen=True, slots=True)
class Decisions:
    """What the policy says of n rows; where `valid` is false the model's output is unusable and a fallback is due."""

    valid: NDArray[np.bool_]  # (n,)
    prediction: list[str | float]  # class, or number
    index: NDArray[np.intp] | None  # (n,) of the predicted class in `policy.classes`; None for regression
    probability: NDArray[np.float64] | None  # (n, classes), calibrated; None for regression
    confidence: NDArray[np.float64]  # (n,)
    interval: NDArray[np.float64] | None  # (n, 2); None for classification or without intervals
    decision: list[str | float]
    review: NDArray[np.bool_]  # (n,) confidence is under the policy's limit

    def rows(self) -> list[Decided | None]:
        """Each row by itself, as plain values; None where the model's output is unusable."""
        probability = repeat(None) if self.probability is None else self.probability.tolist()
        interval = repeat(None) if self.interval is None else self.interval.tolist()
        rows = map(
            Decided,
            self.prediction,
            probability,
            interval,
            self.confidence.tolist(),
            self.decision,
            self.review.tolist(),
        )
        if self.valid.all():
            return list(rows)
        return [row if is_valid else None for row, is_valid in zip(rows, self.valid.tolist(), strict=True)]


def decide(policy: Policy, outputs: NDArray[np.floating], rows: int | None = None) -> Decisions:
    """Apply calibration, threshold, intervals, actions and the review limit to a model's outputs.

    Args:
        policy: of the payload.
        outputs: shape (n, classes), probabilities in the order of `policy.classes`; regression: (n,) or (n, 1).
        rows: how many rows were asked for; outputs of another shape make all of them invalid.
    """
    count = len(outputs) if rows is None and outputs.ndim else int(rows or 0)
    if policy.task == "regression":
        return _decide_number(policy, outputs, count)
    return _decide_class(policy, outputs, count)


def calibrate(policy: Policy, probabilities: NDArray[np.floating]) -> NDArray[np.float64]:
    """Calibrated probabilities; rows sum to 1.

    Args:
        policy: a classification's.
        probabilities: shape (n, classes), valid rows.

    Source: Platt 1999 (binary, on the logit); Guo et al. 2017 (temperature).
    """
    raw = probabilities.astype(np.float64)
    calibration = policy.calibration
    if policy.task == "binary":
        return _calibrate_binary(raw, calibration, _positive(policy))
    if calibration.temperature == 1.0:
        return raw
    logs = np.log(np.clip(raw, CLIP, None)) / calibration.temperature
    scaled: NDArray[np.float64] = np.exp(logs - logs.max(axis=1, keepdims=True))
    scaled /= scaled.sum(axis=1, keepdims=True)
    return scaled


def _calibrate_binary(raw: NDArray[np.float64], calibration: Calibration, positive: int) -> NDArray[np.float64]:
    if calibration.slope == 1.0 and calibration.offset == 0.0:
        return raw
    logs = np.log(np.clip(raw, CLIP, None))  # of both classes: 1 - p would have lost the digits of a tiny one
    logit = calibration.slope * (logs[:, positive] - logs[:, 1 - positive]) + calibration.offset
    calibrated = np.empty_like(raw)
    calibrated[:, positive] = 1 / (1 + np.exp(-logit))
    calibrated[:, 1 - positive] = 1 - calibrated[:, positive]
    return calibrated


def _decide_class(policy: Policy, outputs: NDArray[np.floating], count: int) -> Decisions:
    classes = len(policy.classes)
    if outputs.shape != (count, classes):
        return _nothing_valid(count, classes)
    with np.errstate(invalid="ignore"):
        valid = (np.abs(outputs.sum(axis=1) - 1) <= SUM_TOLERANCE) & (outputs.min(axis=1) >= -SUM_TOLERANCE)
    if not valid.all():
        outputs = np.where(valid[:, None], outputs, 1 / classes)
    probability = np.minimum(np.maximum(calibrate(policy, outputs), 0.0), 1.0)
    if policy.task == "binary":
        positive = _positive(policy)
        threshold = DEFAULT_THRESHOLD if policy.threshold is None else policy.threshold
        index = np.where(probability[:, positive] >= threshold, positive, 1 - positive)
    else:
        index = probability.argmax(axis=1)
    confidence = probability[np.arange(count), index]
    picked = index.tolist()
    actions = [policy.actions.get(name, name) for name in policy.classes]
    return Decisions(
        valid=valid,
        prediction=[policy.classes[i] for i in picked],
        index=index,
        probability=probability,
        confidence=confidence,
        interval=None,
        decision=_reviewed(policy, [actions[i] for i in picked], confidence),
        review=_review(policy, confidence),
    )


def _decide_number(policy: Policy, outputs: NDArray[np.floating], count: int) -> Decisions:
    if outputs.size != count or outputs.shape[:1] != (count,):
        return _nothing_valid(count, None)
    numbers = outputs.reshape(count).astype(np.float64)
    valid = np.isfinite(numbers)
    numbers = np.where(valid, numbers, 0.0)
    interval, confidence = None, np.ones(count)
    if policy.intervals is not None:
        bins = np.searchsorted(np.asarray(policy.intervals.edges, dtype=np.float64), numbers, side="right")
        widths = np.asarray(policy.intervals.half_widths, dtype=np.float64)[bins]
        interval = np.stack([numbers - widths, numbers + widths], axis=1)
        confidence = np.asarray(policy.intervals.confidences, dtype=np.float64)[bins]
    predictions: list[str | float] = list(numbers.tolist())
    decisions = [_band(policy, number) for number in numbers.tolist()] if policy.bands else predictions
    return Decisions(
        valid=valid,
        prediction=predictions,
        index=None,
        probability=None,
        confidence=confidence,
        interval=interval,
        decision=_reviewed(policy, decisions, confidence),
        review=_review(policy, confidence),
    )


def _band(policy: Policy, number: float) -> str | float:
    for band in policy.bands:
        if band.below is None or number < band.below:
            return band.action
    return number


def _review(policy: Policy, confidence: NDArray[np.float64]) -> NDArray[np.bool_]:
    if policy.review_below is None:
        return np.zeros(len(confidence), dtype=np.bool_)
    return confidence < policy.review_below


def _reviewed(policy: Policy, decisions: list[str | float], confidence: NDArray[np.float64]) -> list[str | float]:
    answer = policy.review_answer
    if policy.review_below is None or answer is None:
        return decisions
    low = _review(policy, confidence).tolist()
    return [answer if due else decision for decision, due in zip(decisions, low, strict=True)]


def _positive(policy: Policy) -> int:
    return len(policy.classes) - 1 if policy.positive is None else policy.classes.index(policy.positive)


def _nothing_valid(count: int, classes: int | None) -> Decisions:
    nan = np.full(count, np.nan)
    return Decisions(
        valid=np.zeros(count, dtype=np.bool_),
        prediction=[0.0] * count,
        index=None if classes is None else np.zeros(count, dtype=np.intp),
        probability=None if classes is None else np.full((count, classes), np.nan),
        confidence=nan,
        interval=None,
        decision=[0.0] * count,
        review=np.zeros(count, dtype=np.bool_),
    )
