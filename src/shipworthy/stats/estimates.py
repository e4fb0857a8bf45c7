"""A metric with its confidence interval, and the paired difference of two models' metrics on the same rows.

Which interval belongs to which metric is decided here alone:

| metric | interval | paired difference |
|---|---|---|
| log_loss, brier, mae | Student's t of the rows' losses | Student's t of the rows' differences |
| accuracy | Wilson | Student's t of the rows' differences |
| balanced_accuracy | Wilson per class, combined by MOVER | bootstrap of the table of outcomes |
| f1 | two classes: Wilson on its Jaccard form; else bootstrap of the table | bootstrap of the table |
| roc_auc | DeLong, logit scale | DeLong |
| average_precision | logit | paired bootstrap, stratified |
| rmse, r2 | delta method on the logarithm of the mean squared error | delta method |
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats import metrics, ranking
from shipworthy.stats.intervals import Interval, mean_interval, t_quantile, wilson_interval
from shipworthy.stats.metrics import Codes, Floats

REPETITIONS = 1000  # of a bootstrap: the 95 % percentile is then off by about 0.7 points of confidence
TAIL_REPETITIONS = 20  # how many bootstrap repetitions must lie beyond the bound
CHUNK_CELLS = 2**22  # of tables held at once, 32 MB
LABEL_METRICS = ("balanced_accuracy", "f1")
ROW_METRICS = ("log_loss", "brier", "accuracy", "mae")


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one model answers on the rows.

    Attributes:
        values: probabilities of shape (n, classes), or numbers of shape (n,).
        labels: shape (n,), index of the decided class; None for numbers.
    """

    values: Floats
    labels: Codes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The true side of the rows.

    Attributes:
        truth: shape (n,), class indexes, or numbers.
        classes: how many classes there are; 0 for numbers.
        positive: index of the positive class of two, else None.
    """

    truth: Codes | Floats
    classes: int = 0
    positive: int | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its bounds, each holding with the asked confidence on its own."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> Interval:
        """The two bounds."""
        return self.low, self.high


def estimate(metric: str, sample: Sample, answers: Answers, *, confidence: float, seed: int = 0) -> Estimate:
    """`metric` of `answers` with its interval.

    Args:
        metric: a name of the table above.
        sample: truth of the rows.
        answers: of one model on the rows.
        confidence: of each bound, in (0.5, 1).
        seed: of a bootstrap.

    Raises:
        EvidenceError: the metric is unknown or does not fit the rows.
    """
    value = point(metric, sample, answers)
    if metric == "accuracy":
        low, high = wilson_interval(round(value * len(sample.truth)), len(sample.truth), confidence)
    elif metric in ROW_METRICS:
        low, high = mean_interval(_row_values(metric, sample, answers), confidence)
    elif metric in LABEL_METRICS:
        low, high = _label_interval(metric, sample, answers, confidence, seed)
    elif metric == "roc_auc":
        low, high = ranking.roc_auc_interval(_is_positive(sample), _scores(sample, answers), confidence)
    elif metric == "average_precision":
        low, high = ranking.average_precision_interval(_is_positive(sample), _scores(sample, answers), confidence)
    else:
        low, high = _squared_interval(metric, sample, answers, confidence)
    return Estimate(value, low, high)


def estimate_difference(
    metric: str, sample: Sample, first: Answers, second: Answers, *, confidence: float, seed: int = 0
) -> Estimate:
    """`metric` of `first` minus that of `second` on the same rows, with its paired interval.

    Args:
        metric: a name of the table above.
        sample: truth of the rows.
        first: answers of one model.
        second: answers of another, on the same rows in the same order.
        confidence: of each bound, in (0.5, 1).
        seed: of a bootstrap.

    Raises:
        EvidenceError: the metric is unknown or does not fit the rows.
    """
    value = point(metric, sample, first) - point(metric, sample, second)
    if metric in ROW_METRICS:
        low, high = mean_interval(_row_values(metric, sample, first) - _row_values(metric, sample, second), confidence)
    elif metric in LABEL_METRICS:
        low, high = _label_difference(metric, sample, first, second, confidence, seed)
    elif metric == "roc_auc":
        truth = _is_positive(sample)
        low, high = ranking.roc_auc_difference(truth, _scores(sample, first), _scores(sample, second), confidence)
    elif metric == "average_precision":
        low, high = ranking.average_precision_difference(
            _is_positive(sample),
            _scores(sample, first),
            _scores(sample, second),
            confidence,
            seed=seed,
            repetitions=_repetitions(confidence),
        )
    else:
        low, high = _squared_difference(metric, sample, first, second, confidence)
    return Estimate(value, low, high)


def point(metric: str, sample: Sample, answers: Answers) -> float:
    """`metric` of `answers`, without an interval.

    Raises:
        EvidenceError: the metric is unknown, or the rows do not allow it.
    """
    truth = sample.truth
    if metric in ROW_METRICS:
        return float(_row_values(metric, sample, answers).mean())
    if metric in LABEL_METRICS:
        table = metrics.confusion(_codes(truth), _labels(answers), sample.classes)
        return float(_of_table(metric, table, sample.positive))
    if metric == "roc_auc":
        return metrics.roc_auc(_is_positive(sample), _scores(sample, answers))
    if metric == "average_precision":
        return metrics.average_precision(_is_positive(sample), _scores(sample, answers))
    if metric == "rmse":
        return metrics.rmse(_numbers(truth), answers.values)
    if metric == "r2":
        return metrics.r2(_numbers(truth), answers.values)
    raise EvidenceError(f"{metric} is no metric that can be measured")


def _row_values(metric: str, sample: Sample, answers: Answers) -> Floats:
    if metric == "log_loss":
        return metrics.log_losses(_codes(sample.truth), answers.values)
    if metric == "brier":
        return metrics.brier_scores(_codes(sample.truth), answers.values)
    if metric == "accuracy":
        return np.asarray(sample.truth == _labels(answers), dtype=np.float64)
    return np.abs(_numbers(sample.truth) - answers.values)


def _of_table(metric: str, tables: Codes, positive: int | None) -> Floats:
    return metrics.balanced_accuracy_of(tables) if metric == "balanced_accuracy" else metrics.f1_of(tables, positive)


def _label_interval(metric: str, sample: Sample, answers: Answers, confidence: float, seed: int) -> Interval:
    table = metrics.confusion(_codes(sample.truth), _labels(answers), sample.classes)
    if metric == "balanced_accuracy":
        return _combined([(int(row[i]), int(row.sum())) for i, row in enumerate(table)], confidence)
    involved = table.sum(axis=0) + table.sum(axis=1) - np.diag(table)
    shares = [(int(table[i, i]), int(involved[i])) for i in range(len(table))]
    if sample.positive is not None:
        hits, rows = shares[sample.positive]
        low, high = wilson_interval(hits, max(rows, 1), confidence)
        return _f1_of_jaccard(low), _f1_of_jaccard(high)
    scores = [
        metrics.f1_of(drawn.reshape(-1, *table.shape)) for drawn in _draws(table.ravel(), len(table), confidence, seed)
    ]
    low, high = np.quantile(np.concatenate(scores), [1 - confidence, confidence])
    flawless = _f1_of_jaccard(_combined(shares, confidence)[0])  # a flawless table has no spread to draw from
    return min(float(low), flawless), float(high)


def _label_difference(
    metric: str, sample: Sample, first: Answers, second: Answers, confidence: float, seed: int
) -> Interval:
    side = sample.classes
    codes = (_codes(sample.truth) * side + _labels(first)) * side + _labels(second)
    cells, counts = np.unique(codes, return_counts=True)
    truth, decided_1, decided_2 = cells // side**2, cells // side % side, cells % side
    differences = []
    for drawn in _draws(counts, side, confidence, seed):
        one, two = (
            _of_table(metric, _tables(drawn, truth * side + decided, side), sample.positive)
            for decided in (decided_1, decided_2)
        )
        differences.append(one - two)
    low, high = np.quantile(np.concatenate(differences), [1 - confidence, confidence])
    return float(low), float(high)


def _tables(drawn: Codes, cells: Codes, side: int) -> Codes:
    tables = np.zeros((len(drawn), side * side), dtype=np.int64)
    for place, cell in enumerate(cells):
        tables[:, cell] += drawn[:, place]
    return tables.reshape(-1, side, side)


def _draws(counts: Codes, side: int, confidence: float, seed: int) -> Iterator[Codes]:
    """Bootstrap repetitions of counts, in chunks that fit memory: drawing rows is drawing the table's cells."""
    rng = np.random.default_rng(seed)
    rows = int(counts.sum())
    chunk = max(CHUNK_CELLS // max(side * side, len(counts)), 1)
    left = _repetitions(confidence)
    while left > 0:
        yield rng.multinomial(rows, counts / rows, size=min(chunk, left))
        left -= chunk


def _repetitions(confidence: float) -> int:
    return max(REPETITIONS, math.ceil(TAIL_REPETITIONS / (1 - confidence)))


def _combined(shares: list[tuple[int, int]], confidence: float) -> Interval:
    """Interval of the mean of independent proportions (successes, trials), from their Wilson intervals.

    Source: Zou and Donner (2008), doi:10.1002/sim.3095 (MOVER).
    """
    seen = [(hits / rows, *wilson_interval(hits, rows, confidence)) for hits, rows in shares if rows]
    mean = sum(share for share, _, _ in seen) / len(seen)
    below = math.hypot(*(share - low for share, low, _ in seen)) / len(seen)
    above = math.hypot(*(high - share for share, _, high in seen)) / len(seen)
    return max(mean - below, 0.0), min(mean + above, 1.0)


def _f1_of_jaccard(share: float) -> float:
    return 2 * share / (1 + share)


def _squared_interval(metric: str, sample: Sample, answers: Answers, confidence: float) -> Interval:
    """RMSE, or 1 - R2, is a monotone function of a mean (a ratio of means): delta method on its logarithm."""
    truth = _numbers(sample.truth)
    squared = np.square(truth - answers.values)
    mean = float(squared.mean())
    spread = np.square(truth - truth.mean())
    if metric == "r2" and spread.mean() == 0:
        raise EvidenceError("the truth is the same in all rows; r2 has no meaning there")
    if mean == 0:
        return (0.0, 0.0) if metric == "rmse" else (1.0, 1.0)
    if metric == "rmse":
        half = _half_width(squared / mean, confidence) / 2
        return math.sqrt(mean) * math.exp(-half), math.sqrt(mean) * math.exp(half)
    half = _half_width(squared / mean - spread / spread.mean(), confidence)
    unexplained = mean / float(spread.mean())
    return 1 - unexplained * math.exp(half), 1 - unexplained * math.exp(-half)


def _squared_difference(metric: str, sample: Sample, first: Answers, second: Answers, confidence: float) -> Interval:
    truth = _numbers(sample.truth)
    one, two = np.square(truth - first.values), np.square(truth - second.values)
    if metric == "rmse":
        root_1, root_2 = math.sqrt(one.mean()), math.sqrt(two.mean())
        difference = root_1 - root_2
        influence = _half_over(one, root_1) - _half_over(two, root_2)
    else:
        spread = np.square(truth - truth.mean())
        difference = float((two.mean() - one.mean()) / spread.mean())
        influence = (two - one - difference * spread) / spread.mean()
    half = _half_width(influence, confidence)
    return difference - half, difference + half


def _half_over(squared: Floats, root: float) -> Floats:
    return squared / (2 * root) if root > 0 else np.zeros_like(squared)


def _half_width(influence: Floats, confidence: float) -> float:
    error = float(np.std(influence, ddof=1)) / math.sqrt(len(influence))
    return t_quantile(confidence, len(influence) - 1) * error


def _is_positive(sample: Sample) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.asarray(sample.truth == _positive(sample), dtype=np.bool_)


def _scores(sample: Sample, answers: Answers) -> Floats:
    return np.asarray(answers.values[:, _positive(sample)], dtype=np.float64)


def _positive(sample: Sample) -> int:
    if sample.positive is None:
        raise EvidenceError("a ranking metric needs a positive class; the target has none")
    return sample.positive


def _labels(answers: Answers) -> Codes:
    if answers.labels is None:
        raise EvidenceError("the answers carry no decided class")
    return np.asarray(answers.labels, dtype=np.int64)


def _codes(truth: Codes | Floats) -> Codes:
    return np.asarray(truth, dtype=np.int64)


def _numbers(truth: Codes | Floats) -> Floats:
    return np.asarray(truth, dtype=np.float64)
