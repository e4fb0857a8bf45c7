"""From a model's scores to probabilities, intervals and a threshold that hold on rows it has not seen."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shipworthy.kernel.errors import EvidenceError

Floats = NDArray[np.float64]
Goal = Literal["value", "f1", "balanced_accuracy", "accuracy"]

FOLDS = 5  # of the comparison that decides whether a scaling is kept
CLIP = 1e-12  # probabilities are kept this far from 0 and 1 before a logarithm
STEPS = 100  # Newton steps at most; a few suffice
PULL = 1.0  # pull towards doing nothing, in rows' worth of loss: keeps separable data finite
ROWS_PER_BIN = 100  # conformal bins hold at least so many rows
BINS = 10


@dataclass(frozen=True, slots=True)
class PlattScaling:
    """p' = sigmoid(slope * logit(p) + offset); slope 1 and offset 0 change nothing."""

    slope: float
    offset: float
    loss_before: float  # log loss per row on held-out folds
    loss_after: float


@dataclass(frozen=True, slots=True)
class TemperatureScaling:
    """log p is divided by `temperature` and normalised again; 1 changes nothing."""

    temperature: float
    loss_before: float
    loss_after: float


@dataclass(frozen=True, slots=True)
class ConformalIntervals:
    """Half-widths by bin of the prediction: bin i holds [edges[i-1], edges[i])."""

    edges: tuple[float, ...]
    half_widths: tuple[float, ...]
    confidences: tuple[float, ...]  # share of rows whose bin has a wider interval


@dataclass(frozen=True, slots=True)
class ChosenThreshold:
    """The threshold that did best on the rows given, and how well: mean worth of a row, or the metric."""

    threshold: float
    score: float


def log_odds(positive: Floats, negative: Floats) -> Floats:
    """Logarithm of the odds, exact also where one of the two is tiny: 1 - p would have lost its digits there.

    Args:
        positive: shape (n,), probability of the positive class, in [0, 1].
        negative: shape (n,), probability of the other class.
    """
    odds: Floats = np.log(np.clip(positive, CLIP, None)) - np.log(np.clip(negative, CLIP, None))
    return odds


def fit_platt(probability: Floats, truth: NDArray[np.bool_], negative: Floats | None = None) -> PlattScaling:
    """Platt scaling on the logit, kept only if it lowers the log loss of held-out folds.

    Args:
        probability: shape (n,), of the positive class, in [0, 1].
        truth: shape (n,), whether the positive class came.
        negative: shape (n,), of the other class; None for 1 - probability.

    Raises:
        EvidenceError: shapes differ, or a probability is out of range.

    Source: Platt 1999, "Probabilistic outputs for support vector machines".
    """
    _require_probabilities(probability, truth)
    logit = log_odds(probability, 1 - probability if negative is None else negative)
    label = truth.astype(np.float64)
    before = _binary_losses(logit, label)
    after = np.empty_like(before)
    for held in _folds(len(label)):
        slope, offset = _newton_platt(logit[~held], label[~held])
        after[held] = _binary_losses(slope * logit[held] + offset, label[held])
    slope, offset = _newton_platt(logit, label)
    if not (len(label) >= 2 * FOLDS and after.mean() < before.mean() and slope > 0):
        return PlattScaling(1.0, 0.0, _mean(before), _mean(before))
    return PlattScaling(slope, offset, _mean(before), _mean(after))


def fit_temperature(probability: Floats, truth: NDArray[np.integer]) -> TemperatureScaling:
    """Temperature scaling, kept only if it lowers the log loss of held-out folds.

    Args:
        probability: shape (n, classes), rows sum to 1.
        truth: shape (n,), index of the class that came.

    Raises:
        EvidenceError: shapes differ, or a probability is out of range.

    Source: Guo et al. 2017, "On calibration of modern neural networks".
    """
    if probability.ndim != 2:
        raise EvidenceError(f"probabilities have the shape {probability.shape}; expected is (rows, classes)")
    _require_probabilities(probability, truth)
    logs = np.log(np.clip(probability, CLIP, None))
    before = _multiclass_losses(logs, truth)
    after = np.empty_like(before)
    for held in _folds(len(truth)):
        after[held] = _multiclass_losses(
            _newton_inverse_temperature(logs[~held], truth[~held]) * logs[held], truth[held]
        )
    inverse = _newton_inverse_temperature(logs, truth)
    if not (len(truth) >= 2 * FOLDS and after.mean() < before.mean() and inverse > 0):
        return TemperatureScaling(1.0, _mean(before), _mean(before))
    return TemperatureScaling(1.0 / inverse, _mean(before), _mean(after))


def expected_calibration_error(probability: Floats, truth: NDArray[np.bool_], bins: int = BINS) -> float:
    """Mean distance between forecast and frequency over bins of equally many rows.

    Args:
        probability: shape (n,), n above 0, forecast of an event.
        truth: shape (n,), whether it came.
        bins: at most so many.

    Raises:
        EvidenceError: no rows, shapes differ, or a probability is out of range.

    Source: Naeini, Cooper, Hauskrecht 2015, with equal-mass bins.

    >>> expected_calibration_error(np.array([0.5, 0.5]), np.array([True, False]), bins=1)
    0.0
    """
    _require_probabilities(probability, truth)
    if len(truth) == 0:
        raise EvidenceError("calibration error of no rows; at least one is needed")
    order = np.argsort(probability, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    gaps = [abs(float(probability[part].mean() - truth[part].mean())) * len(part) for part in parts]
    return sum(gaps) / len(order)


def conformal_intervals(
    prediction: Floats, truth: Floats, coverage: float, bins: int = BINS, rows_per_bin: int = ROWS_PER_BIN
) -> ConformalIntervals:
    """Half-widths such that prediction ± half-width holds the truth of a new row with probability >= `coverage`.

    Split conformal prediction within bins of the prediction (Mondrian); few rows make one bin.

    Args:
        prediction: shape (n,), on rows that the model was not trained on.
        truth: shape (n,).
        coverage: in (0, 1).
        bins: at most so many.
        rows_per_bin: at least so many rows in each bin, if there is more than one.

    Raises:
        EvidenceError: too few rows for the coverage, shapes differ, or a number is not finite.

    Source: Vovk, Gammerman, Shafer 2005, "Algorithmic learning in a random world", chapter 4.5.
    """
    if not 0 < coverage < 1:
        raise EvidenceError(f"coverage is {coverage}; it must be above 0 and below 1")
    if prediction.shape != truth.shape or prediction.ndim != 1:
        raise EvidenceError(f"predictions have the shape {prediction.shape}, truths {truth.shape}; they must be equal")
    residual = np.abs(truth - prediction)
    if not np.isfinite(residual).all():
        raise EvidenceError("a prediction or truth is not finite; intervals need numbers")
    fewest = int(np.ceil(coverage / (1 - coverage) - 1e-9))
    if len(truth) < fewest:
        raise EvidenceError(
            f"{len(truth)} calibrate rows; intervals that cover {coverage:.0%} need at least {fewest}: give more rows, "
            "a larger training.split.calibrate, or a smaller decision.interval"
        )
    edges = _bin_edges(prediction, bins, max(rows_per_bin, fewest))
    place = np.searchsorted(edges, prediction, side="right")
    widths = np.array([_conformal_quantile(residual[place == at], coverage) for at in range(len(edges) + 1)])
    rows = np.bincount(place, minlength=len(widths))
    wider = [float(rows[widths > width].sum() / rows.sum()) for width in widths]
    return ConformalIntervals(tuple(edges.tolist()), tuple(widths.tolist()), tuple(wider))


def choose_threshold(
    probability: Floats, truth: NDArray[np.bool_], goal: Goal, worth: Floats | None = None
) -> ChosenThreshold:
    """The threshold that does best on these rows when rows at or above it are called positive.

    Thresholds lie half way between neighbouring probabilities; of equally good ones the nearest to 0.5
    is taken, the lower of two.

    Args:
        probability: shape (n,), n above 0, of the positive class.
        truth: shape (n,), whether it came.
        goal: what to maximise.
        worth: with goal `value`, shape (2, 2): `worth[called, came]` is what calling a row negative (0) or positive
            (1) is worth when the truth is negative (0) or positive (1).

    Raises:
        EvidenceError: no rows, shapes differ, a probability is out of range, or `worth` is missing.
    """
    _require_probabilities(probability, truth)
    if len(truth) == 0:
        raise EvidenceError("a threshold cannot be chosen on no rows; give the calibrate part some")
    levels, place = np.unique(probability, return_inverse=True)
    positives = np.bincount(place, weights=truth.astype(np.float64), minlength=len(levels))
    rows = np.bincount(place, minlength=len(levels)).astype(np.float64)
    # from calling all rows positive to calling none so
    true_called = np.append(np.cumsum(positives[::-1])[::-1], 0.0)
    called = np.append(np.cumsum(rows[::-1])[::-1], 0.0)
    thresholds = np.concatenate([[0.0], (levels[:-1] + levels[1:]) / 2, [(levels[-1] + 1.0) / 2]])
    scores = _goal_scores(goal, true_called, called - true_called, float(truth.sum()), len(truth), worth)
    usable = thresholds > np.append(-1.0, levels)  # a half way point can round down onto its lower neighbour
    best = scores[usable].max()
    good = usable & (scores >= best - 1e-12 * max(abs(best), 1.0))
    at = int(np.argmin(np.where(good, np.abs(thresholds - 0.5), np.inf)))
    return ChosenThreshold(float(thresholds[at]), float(scores[at]))


def _goal_scores(goal: Goal, tp: Floats, fp: Floats, positives: float, rows: int, worth: Floats | None) -> Floats:
    fn, tn = positives - tp, rows - positives - fp
    if goal == "value":
        if worth is None or worth.shape != (2, 2):
            raise EvidenceError("maximising value needs what each decision is worth for each truth: the value section")
        total: Floats = worth[1, 1] * tp + worth[1, 0] * fp + worth[0, 1] * fn + worth[0, 0] * tn
        return total / rows
    if goal == "accuracy":
        return (tp + tn) / rows
    if goal == "f1":
        return 2 * tp / np.maximum(2 * tp + fp + fn, 1.0)
    return (tp / max(positives, 1.0) + tn / max(rows - positives, 1.0)) / 2


def _require_probabilities(probability: Floats, truth: NDArray[np.generic]) -> None:
    if len(probability) != len(truth):
        raise EvidenceError(f"{len(probability)} probabilities for {len(truth)} truths; there must be as many")
    if not ((probability >= 0) & (probability <= 1)).all():
        raise EvidenceError("a probability is below 0, above 1 or not a number")


def _folds(rows: int) -> list[NDArray[np.bool_]]:
    place = np.arange(rows) % FOLDS
    return [place == fold for fold in range(min(FOLDS, rows))]


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _binary_losses(logit: Floats, label: Floats) -> Floats:
    losses: Floats = np.logaddexp(0, logit) - label * logit
    return losses


def _multiclass_losses(logs: Floats, truth: NDArray[np.integer]) -> Floats:
    top = logs.max(axis=1, keepdims=True)
    total = np.log(np.exp(logs - top).sum(axis=1)) + top[:, 0]
    losses: Floats = total - logs[np.arange(len(truth)), truth]
    return losses


def _newton_platt(logit: Floats, label: Floats) -> tuple[float, float]:
    """Slope and offset of least penalised loss, by Newton's method with halved steps."""
    place = np.array([1.0, 0.0])
    design = np.column_stack([logit, np.ones_like(logit)])
    rest = np.array([1.0, 0.0])

    def objective(at: Floats) -> float:
        return float(_binary_losses(design @ at, label).sum() + PULL * ((at - rest) ** 2).sum() / 2)

    now = objective(place)
    for _ in range(STEPS):
        chance = 1 / (1 + np.exp(-np.clip(design @ place, -500, 500)))
        gradient = design.T @ (chance - label) + PULL * (place - rest)
        curvature = (design * (chance * (1 - chance))[:, None]).T @ design + PULL * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-8 and objective(place - size * step) > now:
            size /= 2
        place = place - size * step
        before, now = now, objective(place)
        if before - now < 1e-10 * max(abs(now), 1.0):
            break
    return float(place[0]), float(place[1])


def _newton_inverse_temperature(logs: Floats, truth: NDArray[np.integer]) -> float:
    """1 / temperature of least penalised loss; the loss is convex in it."""
    inverse = 1.0
    chosen = logs[np.arange(len(truth)), truth]
    for _ in range(STEPS):
        scaled = inverse * logs
        weight = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        weight /= weight.sum(axis=1, keepdims=True)
        mean = (weight * logs).sum(axis=1)
        spread = (weight * logs**2).sum(axis=1) - mean**2
        step = ((mean - chosen).sum() + PULL * (inverse - 1)) / (spread.sum() + PULL)
        moved = float(np.clip(inverse - step, inverse / 2, inverse * 2))
        if abs(moved - inverse) < 1e-9:
            return moved
        inverse = moved
    return inverse


def _bin_edges(prediction: Floats, bins: int, rows_per_bin: int) -> Floats:
    """Inner edges at quantiles of the prediction, each bin with at least `rows_per_bin` rows."""
    count = min(bins, len(prediction) // rows_per_bin)
    if count < 2:
        return np.zeros(0)
    wanted = np.unique(np.quantile(prediction, np.arange(1, count) / count))
    kept: list[float] = []
    ordered = np.sort(prediction)
    start = 0
    for edge in wanted.tolist():
        end = int(np.searchsorted(ordered, edge, side="left"))
        if end - start >= rows_per_bin and len(ordered) - end >= rows_per_bin:
            kept.append(edge)
            start = end
    return np.array(kept)


def _conformal_quantile(residual: Floats, coverage: float) -> float:
    rank = int(np.ceil((len(residual) + 1) * coverage - 1e-9))
    return float(np.sort(residual)[min(rank, len(residual)) - 1])
