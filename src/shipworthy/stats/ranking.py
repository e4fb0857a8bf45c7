"""Intervals of how well scores rank positive rows above negative ones."""

import math

import numpy as np
from numpy.typing import NDArray

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.intervals import Interval, normal_quantile, t_quantile
from shipworthy.stats.metrics import Floats, average_precision, average_precision_of, midranks, ranked, roc_auc

Truth = NDArray[np.bool_]

MANY_ROWS = 20_000
SPREAD_REPETITIONS = 100  # a standard deviation from so many is off by about 7 %


def roc_auc_interval(truth: Truth, scores: Floats, confidence: float) -> Interval:
    """DeLong's interval of the area under the ROC curve, on the logit scale.

    An area of 1 (or 0) has no variance to estimate: its bound is then that of as many successes without a failure
    as the smaller class has rows.

    Args:
        truth: shape (n,), whether the row is positive; at least 6 of each.
        scores: shape (n,), higher for positive.
        confidence: of each bound, in (0.5, 1).

    Source: DeLong, DeLong and Clarke-Pearson (1988), doi:10.2307/2531595; logit scale after Pepe (2003), 5.2.
    """
    area = roc_auc(truth, scores)
    smaller = _smaller_class(truth)
    if area in (0.0, 1.0):
        return _all_alike(area, smaller, confidence)
    error = _component_error(*_components(truth, scores))
    return _logit_interval(area, error / (area * (1 - area)), t_quantile(confidence, smaller - 1))


def roc_auc_difference(truth: Truth, first: Floats, second: Floats, confidence: float) -> Interval:
    """DeLong's interval of the difference of two areas under the ROC curve on the same rows, first minus second.

    Source: DeLong, DeLong and Clarke-Pearson (1988), doi:10.2307/2531595.
    """
    one, two = _components(truth, first), _components(truth, second)
    error = _component_error(one[0] - two[0], one[1] - two[1])
    difference = roc_auc(truth, first) - roc_auc(truth, second)
    half = t_quantile(confidence, _smaller_class(truth) - 1) * error
    return difference - half, difference + half


def average_precision_interval(truth: Truth, scores: Floats, confidence: float) -> Interval:
    """Logit interval of the average precision.

    Source: Boyd, Eng and Page (2013), doi:10.1007/978-3-642-40994-3_29: of the intervals that they compare, this
    and the binomial alone keep their coverage with few positive rows.
    """
    area = average_precision(truth, scores)
    positives = int(truth.sum())
    if area == 1.0:
        return _all_alike(area, _smaller_class(truth), confidence)
    error = 1 / math.sqrt(positives * area * (1 - area))
    return _logit_interval(area, error, normal_quantile(confidence))


def average_precision_difference(
    truth: Truth, first: Floats, second: Floats, confidence: float, *, seed: int, repetitions: int
) -> Interval:
    """Paired bootstrap interval, stratified by class, of the difference of two average precisions.

    Percentiles of `repetitions`; from MANY_ROWS rows on, where the difference is all but normal and a repetition
    slow, a normal interval with the standard deviation of SPREAD_REPETITIONS.

    Source: Efron and Tibshirani (1993), chapters 12 and 13.
    """
    many = len(truth) >= MANY_ROWS
    repetitions = SPREAD_REPETITIONS if many else repetitions
    rng = np.random.default_rng(seed)
    rankings = [(truth[order].astype(np.float64), ends, order) for order, ends in (ranked(first), ranked(second))]
    strata = [np.flatnonzero(truth), np.flatnonzero(~truth)]
    differences = np.empty(repetitions)
    for repetition in range(repetitions):
        weights = _stratified_weights(strata, len(truth), rng)
        one, two = (average_precision_of(hits, ends, weights[order]) for hits, ends, order in rankings)
        differences[repetition] = one - two
    if many:
        difference = average_precision(truth, first) - average_precision(truth, second)
        half = normal_quantile(confidence) * float(np.std(differences, ddof=1))
        return difference - half, difference + half
    low, high = np.quantile(differences, [1 - confidence, confidence])
    return float(low), float(high)


def _stratified_weights(strata: list[NDArray[np.intp]], rows: int, rng: np.random.Generator) -> Floats:
    weights = np.empty(rows)
    for members in strata:
        drawn = rng.integers(0, len(members), len(members))
        weights[members] = np.bincount(drawn, minlength=len(members))
    return weights


def _components(truth: Truth, scores: Floats) -> tuple[Floats, Floats]:
    """Per positive row the share of negatives below it, per negative row the share of positives above it."""
    overall = midranks(scores)
    positive, negative = scores[truth], scores[~truth]
    above = (overall[truth] - midranks(positive)) / len(negative)
    below = 1 - (overall[~truth] - midranks(negative)) / len(positive)
    return above, below


def _component_error(above: Floats, below: Floats) -> float:
    return math.sqrt(float(np.var(above, ddof=1)) / len(above) + float(np.var(below, ddof=1)) / len(below))


def _smaller_class(truth: Truth) -> int:
    positives = int(truth.sum())
    smaller = min(positives, len(truth) - positives)
    if smaller < 6:
        raise EvidenceError(f"the smaller class has {smaller} rows; a ranking's interval needs at least 6 of each")
    return smaller


def _all_alike(area: float, smaller: int, confidence: float) -> Interval:
    bound = (1 - confidence) ** (1 / smaller)
    return (bound, 1.0) if area == 1.0 else (0.0, 1 - bound)


def _logit_interval(share: float, error: float, quantile: float) -> Interval:
    logit = math.log(share / (1 - share))
    low, high = (1 / (1 + math.exp(-(logit + sign * quantile * error))) for sign in (-1, 1))
    return low, high
