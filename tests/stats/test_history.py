"""The next value of a series: false alarms as promised, whatever the series does; what is far off is found."""

from collections.abc import Callable

import numpy as np
import pytest

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.history import MIN_HISTORY, Floats, judge_next

SERIES = 12_000
Draw = Callable[[np.random.Generator, int], Floats]


def level(random: np.random.Generator, length: int) -> Floats:
    return random.normal(size=(length, SERIES))


def trend(random: np.random.Generator, length: int) -> Floats:
    slopes = random.normal(size=SERIES)
    return np.asarray(level(random, length) + np.arange(length)[:, None] * slopes, dtype=np.float64)


def walk(random: np.random.Generator, length: int) -> Floats:
    return np.asarray(np.cumsum(level(random, length), axis=0), dtype=np.float64)


def wandering_level(random: np.random.Generator, length: int) -> Floats:
    return np.asarray(walk(random, length) + level(random, length), dtype=np.float64)


def season(random: np.random.Generator, length: int) -> Floats:
    turns = np.arange(length)[:, None] / random.uniform(20, 300, SERIES) + random.uniform(size=SERIES)
    return np.asarray(level(random, length) + 5 * np.sin(2 * np.pi * turns), dtype=np.float64)


def closed_on_sundays(random: np.random.Generator, length: int) -> Floats:
    days = np.arange(length)[:, None] + random.integers(0, 7, SERIES)
    return np.asarray(0.3 * level(random, length) - 3.0 * (days % 7 == 0), dtype=np.float64)


def heavy_tails(random: np.random.Generator, length: int) -> Floats:
    return random.standard_t(5, size=(length, SERIES))


@pytest.mark.parametrize("length", [MIN_HISTORY, 15, 30])
@pytest.mark.parametrize("draw", [level, trend, walk, wandering_level, season, closed_on_sundays, heavy_tails])
def test_the_promised_rate_of_false_alarms_holds(draw: Draw, length: int) -> None:
    series = draw(np.random.default_rng(length), length + 1)
    found = judge_next(series[:-1], series[-1], np.zeros(SERIES)).p_values
    for alpha in (0.01, 0.001):
        allowed = alpha * SERIES + 4 * np.sqrt(alpha * SERIES)  # four sd of chance
        assert (found <= alpha).sum() <= allowed, (alpha, (found <= alpha).mean())


def test_a_break_of_fifteen_sd_is_found_in_a_month_of_days() -> None:
    series = level(np.random.default_rng(1), 31)
    found = judge_next(series[:-1], series[-1] + 15, np.zeros(SERIES)).p_values
    assert (found < 1e-4).mean() > 0.85


def test_after_one_bad_day_neither_the_next_good_nor_the_next_bad_one_is_misjudged() -> None:
    past = np.random.default_rng(2).normal(size=(20, 1))
    past[-1] = -40.0
    good, bad = (judge_next(past, np.array([value]), np.zeros(1)).p_values[0] for value in (0.0, 40.0))
    assert good > 0.05
    assert bad < 1e-4


def test_a_series_that_never_moved_may_move_by_its_sampling_noise() -> None:
    past, noise = np.zeros((10, 2)), np.array([1.0, 0.0])
    found = judge_next(past, np.array([2.0, 2.0]), noise).p_values
    assert found[0] > 0.01
    assert found[1] == 0.0
    assert judge_next(past, np.zeros(2), np.zeros(2)).p_values.tolist() == [1.0, 1.0]


def test_what_is_expected_is_the_trend_gone_on() -> None:
    past = np.arange(10.0)[:, None]
    assert judge_next(past, np.array([10.0]), np.array([0.1])).expected[0] == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("history", "values", "words"),
    [
        (np.zeros((MIN_HISTORY - 1, 1)), np.zeros(1), "are no history"),
        (np.zeros((MIN_HISTORY, 2)), np.zeros(1), "does not fit"),
        (np.full((MIN_HISTORY, 1), np.nan), np.zeros(1), "not finite"),
    ],
)
def test_what_is_no_history_is_refused(history: Floats, values: Floats, words: str) -> None:
    with pytest.raises(EvidenceError, match=words):
        judge_next(history, values, np.zeros(len(values)))
