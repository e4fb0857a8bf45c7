"""Whether the next value of a short series surprises, given the values before it. Pure.

A series may stay around a level, follow a trend, or wander. Two forecasts are made: a straight line through the past,
and the last value plus the usual step. A value counts as surprising only as far as it surprises both, so the promise
holds for a series that fits either. Alone, a line takes every wandering series for a fault, and a step takes the
return to normal for one. Where a longer past has plainly kept to its line, the line alone is asked: what went wrong
yesterday is not usual today.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shipworthy.kernel.errors import EvidenceError

Floats = NDArray[np.float64]

MIN_HISTORY = 8  # values before a judgement: with fewer, Student's t finds only what nobody needs a monitor for
MAX_HISTORY = 30  # values looked back at: older ones tell of another time, and more narrow the interval by under 2 %
OUTLIER_SD = 6.0  # robust sd: of a normal series one value in 5e8; a past fault must not hide the next one
MOST_OUTLIERS = 1  # of a longer past: what came twice, such as closed Sundays, is how the series is
MOST_DEGREES = 6  # of freedom: with the 28 of a long history, tails as of Student's t with 5 alarm 20 times too often
SETTLED_HISTORY = 20  # values from which a past can be told to have kept to its line
SETTLED_RATIO = 1.5  # of the variances of steps and of residuals: 2 around a line, under 1 of what wanders that long
_MAD_TO_SD = 1.4826  # of a normal distribution


@dataclass(frozen=True, slots=True, eq=False)
class Forecast:
    """What was expected of the next value of each series, and how surprising it is. All of shape (series,)."""

    expected: Floats  # by the forecast that it surprises less
    p_values: Floats  # two-sided: of a value as far off or farther, if the series went on as before


def judge_next(history: Floats, values: Floats, noise: Floats) -> Forecast:
    """How surprising the next value of each series is.

    Under either model (independent errors around a line; a random walk) a p-value of at most `a` comes with a chance
    of at most about `a`, for errors up to the tails of Student's t with 5 degrees; heavier ones exceed it.

    Args:
        history: shape (n, series), oldest first, n at least `MIN_HISTORY`; finite, on a scale where changes add up
            (logarithm of a count, arcsine root of a share).
        values: shape (series,), the next ones.
        noise: shape (series,), least sd of a value that sampling alone gives it; at least 0. A history that never
            moved is not taken for one that cannot.

    Raises:
        EvidenceError: shapes differ, there is too little history, or something is not finite.

    Source: Student's t prediction interval of a regression, e.g. Montgomery, Peck, Vining (2012), section 2.5.

    >>> past = np.array([[5.0], [5.1], [4.9], [5.0], [5.1], [4.9], [5.0], [5.1], [4.9], [5.0]])
    >>> [bool(judge_next(past, np.array([x]), np.array([0.0])).p_values[0] < 0.001) for x in (5.1, 4.8, 2.0)]
    [False, False, True]
    """
    past, now, least = (np.asarray(part, dtype=np.float64) for part in (history, values, noise))
    if past.ndim != 2 or now.shape != past.shape[1:] or least.shape != now.shape:
        raise EvidenceError(f"a history of shape {past.shape} does not fit values of shape {now.shape}")
    if len(past) < MIN_HISTORY:
        raise EvidenceError(f"{len(past)} values are no history; {MIN_HISTORY} are the least")
    if not (np.isfinite(past).all() and np.isfinite(now).all() and np.isfinite(least).all()):
        raise EvidenceError("a value of the history is not finite")
    line, residual = _by_line(past, now, least)
    step, change = _by_step(past, now, least)
    is_settled = (len(past) >= SETTLED_HISTORY) & (change >= SETTLED_RATIO * residual)
    by_line = is_settled | (line.p_values >= step.p_values)
    return Forecast(np.where(by_line, line.expected, step.expected), np.where(by_line, line.p_values, step.p_values))


def _by_line(past: Floats, now: Floats, noise: Floats) -> tuple[Forecast, Floats]:
    """Forecast, and variance of the residuals, by least squares through the past without its outliers."""
    times = np.arange(len(past), dtype=np.float64)[:, None]
    first, second = np.triu_indices(len(past), 1)
    slopes = np.median((past[second] - past[first]) / (second - first)[:, None], axis=0)  # Theil and Sen
    kept = _ordinary(past - slopes * times, noise)
    count = kept.sum(axis=0)
    middle = (times * kept).sum(axis=0) / count
    level = (past * kept).sum(axis=0) / count
    spread = (np.square(times - middle) * kept).sum(axis=0)
    slope = ((times - middle) * (past - level) * kept).sum(axis=0) / spread
    residuals = (past - level - slope * (times - middle)) * kept
    ahead = len(past) - middle
    expected = level + slope * ahead
    variance = np.maximum(np.square(residuals).sum(axis=0) / (count - 2), np.square(noise))
    scale = np.sqrt(variance * (1 + 1 / count + ahead**2 / spread))
    return Forecast(expected, _p_values(now - expected, scale, count - 2)), variance


def _by_step(past: Floats, now: Floats, noise: Floats) -> tuple[Forecast, Floats]:
    """Forecast, and variance of the steps, by the steps from each value to the next."""
    steps = np.diff(past, axis=0)
    least = noise * np.sqrt(2)
    kept = _ordinary(steps, least)
    count = kept.sum(axis=0)
    usual = (steps * kept).sum(axis=0) / count
    variance = np.square((steps - usual) * kept).sum(axis=0) / (count - 1)
    expected = past[-1] + usual
    variance = np.maximum(variance, np.square(least))
    return Forecast(expected, _p_values(now - expected, np.sqrt(variance * (1 + 1 / count)), count - 1)), variance


def _ordinary(values: Floats, noise: Floats) -> NDArray[np.bool_]:
    """Which values are no outliers of their series; all of them where there would be several, or the past is short."""
    off = np.abs(values - np.median(values, axis=0))
    scale = np.maximum(_MAD_TO_SD * np.median(off, axis=0), noise)
    kept = off <= OUTLIER_SD * scale
    many = (~kept).sum(axis=0) > (MOST_OUTLIERS if len(values) + 1 >= SETTLED_HISTORY else 0)
    return np.asarray(kept | many | (scale == 0), dtype=np.bool_)


def _p_values(off: Floats, scale: Floats, degrees: NDArray[np.int_]) -> Floats:
    from scipy.special import stdtr  # 0.2 s that `check` need not wait

    known = scale > 0
    ratio = np.divide(np.abs(off), scale, out=np.where(np.abs(off) > 0, np.inf, 0.0), where=known)
    return np.asarray(2 * stdtr(np.minimum(degrees, MOST_DEGREES), -ratio), dtype=np.float64)
