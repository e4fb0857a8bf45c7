"""How good answers are: the metrics of classification and regression.

Probabilities have shape (rows, classes) and truth holds class indexes; numbers have shape (rows,).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

CLIP = float(np.finfo(np.float32).eps)  # models answer float32; nearer to 0 or 1 a probability means nothing more
TINY = 1e-300  # in place of a divisor of 0, where the dividend is 0 as well


def log_losses(truth: Codes, probabilities: Floats) -> Floats:
    """Log loss of each row: minus the log of the true class's probability, clipped to [CLIP, 1 - CLIP]."""
    chosen = probabilities[np.arange(len(truth)), truth].astype(np.float64)
    return np.asarray(-np.log(np.clip(chosen, CLIP, 1 - CLIP)), dtype=np.float64)


def log_loss(truth: Codes, probabilities: Floats) -> float:
    """Mean log loss; lower is better."""
    return float(log_losses(truth, probabilities).mean())


def brier_scores(truth: Codes, probabilities: Floats) -> Floats:
    """Brier score of each row: of two classes the squared error of one, else the sum over all classes.

    Source: Brier (1950); halved for two classes, as is usual, so that it lies in [0, 1].
    """
    errors = probabilities.astype(np.float64)
    errors[np.arange(len(truth)), truth] -= 1
    squared = np.square(errors)
    scores = squared[:, 1] if probabilities.shape[1] == 2 else squared.sum(axis=1)
    return np.asarray(scores, dtype=np.float64)


def brier(truth: Codes, probabilities: Floats) -> float:
    """Mean Brier score; lower is better."""
    return float(brier_scores(truth, probabilities).mean())


def accuracy(truth: Codes, labels: Codes) -> float:
    """Share of rows whose decided class is the true one."""
    return float(np.mean(truth == labels))


def confusion(truth: Codes, labels: Codes, classes: int) -> Codes:
    """Counts by true class (rows) and decided class (columns)."""
    return np.bincount(truth * classes + labels, minlength=classes * classes).reshape(classes, classes)


def balanced_accuracy(truth: Codes, labels: Codes, classes: int) -> float:
    """Mean recall of the classes that occur in `truth`."""
    return float(balanced_accuracy_of(confusion(truth, labels, classes)))


def balanced_accuracy_of(tables: NDArray[np.number]) -> Floats:
    """Balanced accuracy of confusion tables, shape (..., classes, classes)."""
    rows = tables.sum(axis=-1)
    recalls = np.diagonal(tables, axis1=-2, axis2=-1) / np.maximum(rows, TINY)
    return _mean_where(recalls, rows > 0)


def f1(truth: Codes, labels: Codes, classes: int, positive: int | None = None) -> float:
    """F1 of the positive class; without one, the mean F1 of the classes that occur (macro)."""
    return float(f1_of(confusion(truth, labels, classes), positive))


def f1_of(tables: NDArray[np.number], positive: int | None = None) -> Floats:
    """F1 of confusion tables, shape (..., classes, classes); 0 where a class is neither true nor decided."""
    involved = tables.sum(axis=-2) + tables.sum(axis=-1)
    scores = 2 * np.diagonal(tables, axis1=-2, axis2=-1) / np.maximum(involved, TINY)
    if positive is not None:
        return np.asarray(scores[..., positive], dtype=np.float64)
    return _mean_where(scores, involved > 0)


def _mean_where(values: Floats, kept: NDArray[np.bool_]) -> Floats:
    mean = np.where(kept, values, 0.0).sum(axis=-1) / np.maximum(kept.sum(axis=-1), 1)
    return np.asarray(mean, dtype=np.float64)


def roc_auc(truth: NDArray[np.bool_], scores: Floats) -> float:
    """Probability that a positive row scores above a negative one, ties counted half; NaN without both.

    Source: Hanley and McNeil (1982), doi:10.1148/radiology.143.1.7063747.
    """
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if not positives or not negatives:
        return float("nan")
    rank_sum = midranks(scores)[truth].sum()
    return float((rank_sum - positives * (positives + 1) / 2) / (positives * negatives))


def midranks(values: Floats) -> Floats:
    """Rank of each value from 1, ties sharing the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], dtype=np.float64)


def average_precision(truth: NDArray[np.bool_], scores: Floats) -> float:
    """Area under the precision-recall steps; NaN without a positive row."""
    order, ends = ranked(scores)
    return average_precision_of(truth[order].astype(np.float64), ends, np.ones(len(truth)))


def ranked(scores: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows by falling score, and the place of the last row of each group of tied scores."""
    order = np.argsort(-scores, kind="stable")
    return order, np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))


def average_precision_of(truth: Floats, ends: NDArray[np.intp], weights: Floats) -> float:
    """Average precision of rows in `ranked` order, truth as 0/1, each counting `weights` times."""
    hits = np.cumsum(truth * weights)[ends]
    if hits[-1] == 0:
        return float("nan")
    precision = hits / np.maximum(np.cumsum(weights)[ends], TINY)
    return float((np.diff(hits, prepend=0.0) * precision).sum() / hits[-1])


def mae(truth: Floats, numbers: Floats) -> float:
    """Mean absolute error."""
    return float(np.abs(truth - numbers).mean())


def rmse(truth: Floats, numbers: Floats) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(np.square(truth - numbers).mean()))


def r2(truth: Floats, numbers: Floats) -> float:
    """Share of the variance explained, 1 at best; NaN if the truth does not vary."""
    variance = float(np.var(truth))
    if variance == 0:
        return float("nan")
    return float(1 - np.square(truth - numbers).mean() / variance)
