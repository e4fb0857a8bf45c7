"""The decision policy of a payload: the contract's words, with what the calibrate part fixed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.format import ActionBand, Calibration, FallbackRule, Intervals, Policy
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.calibration import (
    choose_threshold,
    conformal_intervals,
    expected_calibration_error,
    fit_platt,
    fit_temperature,
    log_odds,
)

DEFAULT_THRESHOLD = 0.5  # without a threshold in the contract: the likelier class
Floats = NDArray[np.float64]
IDENTITY = Calibration()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What the calibrate part fixed, and on how many rows."""

    rows: int
    calibration: Calibration = IDENTITY
    threshold: float | None = None  # binary
    intervals: Intervals | None = None  # regression
    calibration_error_before: float | None = None  # expected calibration error on the calibrate part; binary
    calibration_error_after: float | None = None


def tune(contract: Contract, answers: Floats, truth: NDArray[Any]) -> Tuning:
    """Calibration, threshold and intervals, chosen on the calibrate part alone.

    Args:
        contract: says the task, the threshold's goal and the intervals' coverage.
        answers: the model's probabilities (n, classes) or predictions (n,) on the calibrate part.
        truth: class indices or numbers of the same rows.

    Raises:
        EvidenceError: too few rows for what the contract asks.
    """
    if contract.target.type == "regression":
        return _tune_number(contract, answers, truth.astype(np.float64))
    if contract.target.type == "multiclass":
        if len(truth) == 0:
            return Tuning(rows=0)
        temperature = fit_temperature(answers, truth.astype(np.int64)).temperature
        return Tuning(rows=len(truth), calibration=Calibration(temperature=temperature))
    return _tune_binary(contract, answers, truth.astype(np.int64))


def compile_policy(contract: Contract, tuning: Tuning) -> Policy:
    """From the model's output to an answer; the same arguments, the same policy."""
    decision, review = contract.decision, contract.decision.review
    return Policy(
        task=contract.target.type,
        classes=contract.target.values or (),
        positive=_positive(contract) if contract.target.type == "binary" else None,
        actions=dict(decision.actions or {}),
        bands=tuple(ActionBand(action=band.action, below=band.below) for band in decision.bands or ()),
        threshold=tuning.threshold,
        calibration=tuning.calibration,
        intervals=tuning.intervals,
        review_below=review.confidence_below if review else None,
        review_answer=review.answer if review else None,
        out_of_distribution=decision.out_of_distribution.handling if decision.out_of_distribution else "off",
        fallback_last_good=decision.fallback.last_good,
        fallback_rules=tuple(FallbackRule(condition=rule.if_, action=rule.then) for rule in decision.fallback.rules),
        fallback_otherwise=decision.fallback.otherwise,
        timeout_s=contract.serving.timeout,
        reasons=contract.serving.reasons,
        reasons_always=contract.serving.give_reasons == "always",
        durability=contract.records.durability,
        when_full=contract.records.when_full,
        spool_bytes=contract.records.spool if contract.records.when_full == "spool" else 0,
        encryption=contract.encryption,
        workers=contract.serving.workers,
        worker_memory_bytes=contract.serving.memory or 0,
        model_memory_bytes=contract.serving.python.memory if contract.serving.python else 0,
    )


def _positive(contract: Contract) -> str:
    target = contract.target
    return target.positive if target.positive is not None else (target.values or ("",))[-1]


def _tune_number(contract: Contract, answers: Floats, truth: Floats) -> Tuning:
    found = conformal_intervals(answers, truth, contract.decision.interval)
    intervals = Intervals(
        coverage=contract.decision.interval,
        edges=found.edges,
        half_widths=found.half_widths,
        confidences=found.confidences,
    )
    return Tuning(rows=len(truth), intervals=intervals)


def _tune_binary(contract: Contract, answers: Floats, truth: NDArray[np.int64]) -> Tuning:
    classes = contract.target.values or ()
    at = classes.index(_positive(contract))
    probability, came = np.clip(answers[:, at], 0.0, 1.0), truth == at
    negative = np.clip(answers[:, 1 - at], 0.0, 1.0)
    scaling = fit_platt(probability, came, negative)
    changed = (scaling.slope, scaling.offset) != (1.0, 0.0)
    scaled = 1 / (1 + np.exp(-(scaling.slope * log_odds(probability, negative) + scaling.offset)))
    calibrated = scaled if changed else probability
    return Tuning(
        rows=len(truth),
        calibration=Calibration(slope=scaling.slope, offset=scaling.offset),
        threshold=_threshold(contract, calibrated, came, at),
        calibration_error_before=expected_calibration_error(probability, came) if len(came) else None,
        calibration_error_after=expected_calibration_error(calibrated, came) if len(came) else None,
    )


def _threshold(contract: Contract, probability: Floats, came: NDArray[np.bool_], positive: int) -> float:
    wanted = contract.decision.threshold
    if wanted is None:
        return DEFAULT_THRESHOLD
    if wanted.at is not None:
        return wanted.at
    if wanted.maximise is None:
        return DEFAULT_THRESHOLD
    worth = _worth(contract, positive) if wanted.maximise == "value" else None
    return choose_threshold(probability, came, wanted.maximise, worth).threshold


def _worth(contract: Contract, positive: int) -> Floats:
    """What calling a row negative or positive is worth when it is negative or positive, in the contract's currency."""
    classes, actions = contract.target.values or (), contract.decision.actions or {}
    if contract.value is None:
        raise EvidenceError("decision.threshold maximises value, but there is no value section; add one")
    order = (classes[1 - positive], classes[positive])
    outcomes = contract.value.outcomes
    return np.array([[outcomes[actions.get(called, called)][came] for came in order] for called in order], np.float64)
