"""Batches beside their past: false alarms stay within the budget, planted faults are found, a short past says so."""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest

from shipworthy.contract.data_section import FalseAlarms
from shipworthy.data.health import Judgement, Observation, judge_batch_history, judge_silence
from shipworthy.data.profile import profile_frame, profile_json
from shipworthy.stats.history import MAX_HISTORY, MIN_HISTORY

DAY_S = 86_400.0
START = 1_760_000_000.0
DAYS = int(os.environ.get("SHIPWORTHY_SOAK", "100"))  # judged in the simulation of false alarms
USUAL = FalseAlarms(at_most=1, per="90d")
EDGES = {"income": (-2.0, -1.0, 0.0, 1.0, 2.0), "amount": (1.0, 10.0, 30.0, 100.0)}


def day_of(day: int, *, growth: float = 0.0, drift: float = 0.0) -> pl.DataFrame:
    """A day of a business: every day has its own size, level, mix and share of gaps."""
    random = np.random.default_rng(day)
    rows = int(600 * np.exp(growth * day + random.normal(0, 0.08)))
    level, gap = random.normal(drift * day, 0.1), 0.03 * np.exp(random.normal(0, 0.3))
    mix = random.dirichlet((400, 300, 100))
    frame = pl.DataFrame(
        {
            "income": random.normal(level, 1, rows),
            "amount": np.exp(random.normal(3 + level / 4, 1, rows)),
            "kind": random.choice(["a", "b", "c"], rows, p=mix),
        }
    )
    return frame.with_columns(
        pl.when(pl.Series(random.uniform(size=rows) > gap)).then(pl.col("income")).alias("income")
    )


def observed(day: int, frame: pl.DataFrame, *, quarantined: int = 4, late_s: float = 3600.0) -> Observation:
    at = START + day * DAY_S
    columns: Mapping[str, Any] = profile_json(profile_frame(frame, EDGES))
    delay = late_s * np.exp(np.random.default_rng(day).normal(0, 0.3))
    return Observation(at, frame.height, quarantined, at - delay, {"loans": frame.height + quarantined}, columns)


def judged(past_days: int, batch: Observation, budget: FalseAlarms = USUAL) -> Judgement:
    past = [observed(day, day_of(day)) for day in range(past_days)]
    return judge_batch_history(past, batch, budget)


@pytest.mark.parametrize("change", [{}, {"growth": 0.01, "drift": 0.02}], ids=["steady", "growing and drifting"])
def test_false_alarms_stay_within_the_declared_budget(change: dict[str, float]) -> None:
    """With one in ten days allowed to batches and silences together, one day in twenty may alarm."""
    budget = FalseAlarms(at_most=1, per="10d")
    seen = [observed(day, day_of(day, **change)) for day in range(MAX_HISTORY + DAYS)]
    alarms = sum(
        bool(judge_batch_history(seen[at - MAX_HISTORY : at], seen[at], budget).anomalies)
        for at in range(MAX_HISTORY, len(seen))
    )
    assert alarms <= DAYS / 20 + 2 * np.sqrt(DAYS / 20)


def half(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.head(frame.height // 2)


def null_burst(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.when(pl.int_range(pl.len()) % 4 != 0).then(pl.col("income")).alias("income"))


def shifted(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.col("income") + 2)


def other_unit(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.when(pl.int_range(pl.len()) % 10 == 0).then(pl.col("amount") * 100).otherwise("amount")
    )


def other_mix(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(
        pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("d")).otherwise("kind").alias("kind")
    )


FAULTS: dict[tuple[str, str], Callable[[pl.DataFrame], pl.DataFrame]] = {
    ("the batch", "volume"): half,
    ("income", "missing"): null_burst,
    ("income", "values"): shifted,
    ("amount", "values"): other_unit,
    ("kind", "values"): other_mix,
}


@pytest.mark.parametrize(("place", "fault"), FAULTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_a_planted_fault_is_found_and_named(
    place: tuple[str, str], fault: Callable[[pl.DataFrame], pl.DataFrame]
) -> None:
    found = judged(MAX_HISTORY, observed(99, fault(day_of(99))))
    assert (found.anomalies[0].about, found.anomalies[0].aspect) == place
    assert judged(MAX_HISTORY, observed(99, day_of(99))).anomalies == ()


def test_old_rows_and_many_quarantined_ones_are_found() -> None:
    late = judged(MAX_HISTORY, observed(99, day_of(99), late_s=5 * DAY_S)).anomalies
    assert [(each.about, each.aspect) for each in late] == [("the batch", "freshness")]
    assert "old" in late[0].measured
    bad = judged(MAX_HISTORY, observed(99, day_of(99), quarantined=90)).anomalies
    assert [(each.about, each.aspect) for each in bad] == [("the batch", "quarantined")]


def test_rows_that_are_fresher_than_ever_are_no_fault() -> None:
    assert judged(MAX_HISTORY, observed(99, day_of(99), late_s=1.0)).anomalies == ()


def test_a_short_past_is_said_to_be_short_and_nothing_is_guessed() -> None:
    found = judged(MIN_HISTORY - 1, observed(99, half(day_of(99))))
    assert (found.is_judged, found.anomalies, found.snapshots) == (False, (), MIN_HISTORY - 1)
    assert found.to_json()["state"] == "insufficient history"
    assert judged(MIN_HISTORY, observed(99, day_of(99))).is_judged


def test_a_column_is_judged_once_it_has_a_past_of_its_own() -> None:
    past = [observed(day, day_of(day).drop("kind") if day < 25 else day_of(day)) for day in range(30)]
    found = judge_batch_history(past, observed(99, other_mix(day_of(99))), USUAL)
    assert found.anomalies == ()
    assert found.tests < judged(30, observed(99, day_of(99))).tests


def test_a_source_that_gives_half_is_named_beside_one_that_gives_all() -> None:
    def two(seen: Observation, share: float) -> Observation:
        return replace(seen, sources={"loans": seen.rows, "rates": int(300 * share)})

    past = [two(observed(day, day_of(day)), 1.0) for day in range(20)]
    found = judge_batch_history(past, two(observed(99, day_of(99)), 0.5), USUAL).anomalies
    assert [(each.about, each.aspect) for each in found] == [("rates", "volume")]
    assert found[0].measured == "300 -> 150 rows"


def test_a_wider_budget_never_finds_less() -> None:
    batch = observed(99, shifted(day_of(99)).with_columns(pl.col("income") - 1))
    counts = [len(judged(20, batch, FalseAlarms(at_most=n, per="90d")).anomalies) for n in (0.01, 1, 90)]
    assert counts == sorted(counts)
    assert counts[-1] > 0


def test_a_source_that_fell_silent_is_stale_and_one_that_is_merely_late_is_not() -> None:
    random = np.random.default_rng(4)
    times = (START + np.arange(20) * DAY_S + random.normal(0, 1800, 20)).tolist()
    assert judge_silence("loans", times, times[-1] + 1.2 * DAY_S, USUAL) is None
    found = judge_silence("loans", times, times[-1] + 3 * DAY_S, USUAL)
    assert found is not None
    assert found.cause == "loans is stale: usually it has something new after 24 h, nothing for 3 d."
    assert judge_silence("loans", times[:MIN_HISTORY], times[-1] + 30 * DAY_S, USUAL) is None


def test_silences_of_a_source_without_a_schedule_raise_no_alarm() -> None:
    """Waiting times that are exponential: the last moment before the next arrival is looked at each time."""
    random, alarms = np.random.default_rng(5), 0
    budget = FalseAlarms(at_most=1, per="20d")
    for _ in range(400):
        times = np.cumsum(random.exponential(DAY_S, 22))
        alarms += judge_silence("loans", times[:-1].tolist(), float(times[-1]), budget) is not None
    assert alarms <= 400 * 0.025 + 3 * np.sqrt(10)


def test_what_was_found_is_json() -> None:
    found = judged(MAX_HISTORY, observed(99, shifted(day_of(99)))).to_json()
    assert found["state"] == "judged"
    assert found["snapshots"] == MAX_HISTORY
