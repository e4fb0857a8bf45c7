"""Drift: what matters is found at 5,000 rows, and what did not move raises no more alarms than promised."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from shipworthy.bundle.format import Baselines, Calibration, Policy
from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode
from shipworthy.monitoring.drift import event_times, find_drift, reference_scores, window_alpha, with_swings
from shipworthy.monitoring.windows import Journal, model_rows
from shipworthy.records.format import Record
from tests.monitoring.conftest import baselines_of, build, people, reference, window, write_segment

ALPHA = 1 / 180  # one false alarm in 90 days, a window each day, half of it for the inputs
BASELINES = reference(build())


def older(columns: dict[str, Any]) -> None:
    columns["age"] = columns["age"] + 3


def in_thousands(columns: dict[str, Any]) -> None:
    columns["income"] = np.where(np.arange(5000) % 100 == 0, columns["income"] / 1000, columns["income"])


def in_cents(columns: dict[str, Any]) -> None:
    columns["income"] = np.where(np.arange(5000) % 100 == 0, columns["income"] * 100, columns["income"])


def lost(columns: dict[str, Any]) -> None:
    columns["income"] = np.where(np.arange(5000) % 50 == 0, np.nan, columns["income"])


def more_owners(columns: dict[str, Any]) -> None:
    columns["owner"] = columns["owner"] | (np.arange(5000) % 14 == 0)  # 30 % -> 35 %


def more_cars(columns: dict[str, Any]) -> None:
    columns["purpose"] = np.where(np.arange(5000) % 10 == 0, "car", columns["purpose"])  # 50 % -> 55 %


def unknown_purpose(columns: dict[str, Any]) -> None:
    columns["purpose"] = np.where(np.arange(5000) % 40 == 0, "boat", columns["purpose"])


def riskier(columns: dict[str, Any]) -> None:
    columns["score"] = columns["score"] - 0.05


@pytest.mark.parametrize(
    ("change", "about", "aspect"),
    [
        (older, "age", "values"),
        (in_thousands, "income", "range"),
        (in_cents, "income", "range"),
        (lost, "income", "missing"),
        (more_owners, "owner", "values"),
        (more_cars, "purpose", "values"),
        (unknown_purpose, "purpose", "missing"),
        (riskier, "score", "values"),
    ],
)
def test_what_matters_is_found_at_5000_rows(
    change: Callable[[dict[str, Any]], None], about: str, aspect: str, contract: Contract
):
    for seed in range(1, 6):
        columns = people(5000, seed)
        assert find_drift(BASELINES, contract, window(columns), ALPHA) == ()
        change(columns)
        found = find_drift(BASELINES, contract, window(columns), ALPHA)
        assert (about, aspect) in {(finding.about, finding.aspect) for finding in found}


@pytest.mark.parametrize(("rows", "reference_rows"), [(500, 20_000), (1000, 1000), (5000, 2000)])
def test_windows_in_which_nothing_moved_raise_no_more_alarms_than_promised(
    rows: int, reference_rows: int, contract: Contract
):
    """At 5 % for a window, with a new reference every time: a small one errs as much as the window does."""
    alarms = 0
    for seed in range(150):
        baselines = reference(contract, reference_rows, seed=10_000 + seed)
        alarms += bool(find_drift(baselines, contract, window(people(rows, seed)), 0.05))
    assert alarms <= 15  # 7.5 promised at most; more than 15 has a chance of 0.5 % at that rate


def test_a_difference_that_is_sure_but_too_small_to_matter_is_no_finding(contract: Contract):
    """With 400,000 rows on each side half a year of age is beyond doubt, and moves nothing."""
    baselines = reference(contract, 400_000)
    columns = people(400_000, 1)
    columns["age"] = columns["age"] + 0.5
    assert find_drift(baselines, contract, window(columns), ALPHA) == ()


def seasonal(rows: int, seed: int, days: int) -> tuple[dict[str, Any], np.ndarray]:
    """People whose age depends on the day: within each, 0.4 standard deviations off on average."""
    columns, day = people(rows, seed), np.arange(rows) * days // rows
    columns["age"] = columns["age"] + np.random.default_rng(seed).normal(0, 4, days)[day]
    return columns, day * 86_400.0 + 3600


def test_a_window_is_held_to_how_far_past_windows_swung(contract: Contract):
    """Of 60 days as changeable as those of training at most three are found; without their swings half are."""
    columns, times = seasonal(60_000, 0, 60)
    trained = window(columns)
    plain = baselines_of(contract, trained)
    matrix = encode(contract, model_rows(contract, trained))
    swung = with_swings(plain, contract, (matrix, times), (trained["score"].to_numpy(), times))
    assert swung.swings["age"]["values"] > 5
    assert swung.swings["owner"]["values"] < 3
    assert 0 < swung.score_swing < 3
    later, _ = seasonal(60_000, 1, 60)
    days = [window({name: values[at : at + 1000] for name, values in later.items()}) for at in range(0, 60_000, 1000)]
    assert sum(bool(find_drift(plain, contract, day, ALPHA)) for day in days) >= 30
    assert sum(bool(find_drift(swung, contract, day, ALPHA)) for day in days) <= 3
    for day in days[:5]:
        found = find_drift(swung, contract, day.with_columns(pl.col("inputs.age") + 30), ALPHA)
        assert ("age", "values") in {(finding.about, finding.aspect) for finding in found}


def test_swings_travel_as_json_and_need_a_monitor_and_enough_rows(contract: Contract):
    columns, times = seasonal(3000, 0, 3)
    columns["age"] = np.full(3000, 40.0)
    trained = window(columns)
    baselines, matrix = baselines_of(contract, trained), encode(contract, model_rows(contract, trained))
    moved = matrix.copy()
    moved[1000:2000, 0] = 41  # a constant that once moved
    moved[:1000, 3] = 1  # on the first day, which is not whole and does not count
    times[0] = np.nan
    swung = with_swings(baselines, contract, (moved, times), None)
    assert msgspec.json.decode(msgspec.json.encode(swung), type=Baselines) == swung
    assert swung.swings["age"]["values"] == 1e12
    assert swung.swings["owner"]["values"] < 3
    assert with_swings(baselines, build(monitor=None), (moved, times), None) == baselines
    assert with_swings(baselines, contract, (moved[:400], times[:400]), None).swings == {}


def test_event_times_are_those_of_the_time_column(contract: Contract):
    frame = pl.DataFrame({"asked": [datetime(1970, 1, 2, tzinfo=UTC), None]})
    np.testing.assert_array_equal(event_times(contract, frame), [86_400.0, np.nan])
    assert event_times(build(context={}), frame) is None


def test_a_finding_says_what_was_what_is_and_what_to_do(contract: Contract):
    columns = people(5000, 1)
    columns["age"] = columns["age"] + 11
    columns["score"] = np.sqrt(columns["score"])
    first, *others, last = find_drift(BASELINES, contract, window(columns), ALPHA)
    assert (first.kind, first.about, first.aspect, first.rows) == ("drift", "age", "values", 5000)
    assert first.measured == "mean 40.05 -> 50.89 years (+0.99 sd)"
    assert first.cause == f"age is higher than in training: {first.measured}."
    assert first.next.startswith("Look at what feeds age; if the change is real")
    assert "burden" in {finding.about for finding in others}  # derived from it
    assert last.about == "score"
    assert last.cause.startswith("The answers moved with the inputs, of which age, burden moved most: median score 0.4")
    assert json.loads(json.dumps(first.to_json()))["effect"] == pytest.approx(12.4, abs=0.1)


def test_a_derived_category_is_compared_by_its_values():
    band = {"from": "bucket(age, 30, 50)", "type": "category", "values": ["young", "middle", "old"]}
    contract = build(derived={"band": band})
    baselines = baselines_of(contract, window(people(20_000, 3)))
    baseline = next(column for column in baselines.columns if column.name == "band")
    assert len(baseline.counts) == 3
    assert baseline.reference == 1.0
    assert find_drift(baselines, contract, window(people(5000, 4)), ALPHA) == ()
    columns = people(5000, 1)
    found = find_drift(baselines, contract, window(columns | {"age": columns["age"] + 11}), ALPHA)
    [finding] = [one for one in found if (one.about, one.aspect) == ("band", "values")]
    assert "band is old more often than in training" in finding.cause
    assert finding.next.startswith("Look at the columns from which band is derived")


def test_another_unit_is_guessed_from_a_power_of_ten(contract: Contract):
    columns = people(5000, 1)
    in_cents(columns)
    found = find_drift(BASELINES, contract, window(columns), ALPHA)
    cause = next(finding.cause for finding in found if (finding.about, finding.aspect) == ("income", "range"))
    assert "about 100 times the usual value, which looks like another unit" in cause


def test_a_feed_that_broke_is_critical_and_a_shift_is_a_warning(contract: Contract):
    """A shift that takes a quarter of the values beyond the known range is no broken feed; cents for euros are."""
    columns = people(5000, 1)
    columns["income"] = np.where(np.arange(5000) % 4 == 0, np.nan, columns["income"])
    columns["age"] = columns["age"] + 25
    found = find_drift(BASELINES, contract, window(columns), ALPHA)
    severities = {(finding.about, finding.aspect): finding.severity for finding in found}
    assert severities["income", "missing"] == "critical"
    assert severities["age", "values"] == severities["age", "range"] == "warning"
    columns["income"] = np.where(np.arange(5000) % 4 == 0, columns["income"], columns["income"] * 100)
    found = find_drift(BASELINES, contract, window(columns), ALPHA)
    assert ("income", "range", "critical") in {(one.about, one.aspect, one.severity) for one in found}


def test_inputs_are_compared_as_the_model_saw_them():
    """What `outside: clip` and `missing` did to training rows is done to the window's as well."""
    features = {
        "age": {"type": "float", "range": [30, 50], "outside": "clip"},
        "income": {"type": "float", "range": [1000, 5000], "outside": "missing", "missing": "allow"},
        "purpose": {"type": "category", "values": ["car", "home"], "unknown": "missing", "missing": "allow"},
        "owner": {"type": "bool"},
    }
    contract = build(features=features, derived={})

    def clipped(columns: dict[str, Any]) -> dict[str, Any]:
        age, income = np.clip(columns["age"], 30, 50), columns["income"]
        return columns | {"age": age, "income": np.where((income < 1000) | (income > 5000), np.nan, income)}

    trained = window(clipped(people(20_000, 0)))
    baselines = baselines_of(contract, trained)
    assert baselines.columns[1].missing > 500
    assert find_drift(baselines, contract, window(people(5000, 1)), ALPHA) == ()


def test_only_the_scores_of_one_release_are_compared_with_its_own(contract: Contract):
    columns = people(4000, 1)
    other = people(4000, 2)
    other["score"] = other["score"] ** 3
    frame = pl.concat([window(columns), window(other, "loans:2")])
    assert find_drift(BASELINES, contract, frame, ALPHA, release="loans:1") == ()
    found = find_drift(BASELINES, contract, frame, ALPHA, release="loans:2")
    assert [finding.about for finding in found] == ["score"]
    assert "no single input did" in found[0].cause


def test_windows_without_rows_answers_or_a_reference_find_nothing(contract: Contract):
    columns = people(2000, 1)
    assert find_drift(BASELINES, contract, window(columns).head(0), ALPHA) == ()
    silent = window(columns).with_columns(pl.lit(None, pl.Float64).alias("score"))
    assert find_drift(BASELINES, contract, silent, ALPHA) == ()
    assert find_drift(Baselines(columns=()), contract, window(columns), ALPHA) == ()


def test_a_constant_input_that_moves_is_found(contract: Contract):
    trained, columns = people(5000, 0), people(5000, 1)
    trained["age"], columns["age"] = np.full(5000, 40.0), np.full(5000, 40.0)
    baselines = baselines_of(contract, window(trained))
    assert not find_drift(baselines, contract, window(columns), ALPHA)
    columns["age"] = np.full(5000, 41.0)
    found = find_drift(baselines, contract, window(columns), ALPHA)
    assert [(finding.about, finding.aspect) for finding in found[:1]] == [("age", "range")]


def test_records_from_disk_are_judged_as_they_were_sent(
    contract: Contract, record: Callable[..., Record], tmp_path: Path
):
    columns = people(2000, 3)
    older(columns)
    older(columns)
    names = ("age", "income", "purpose", "owner")
    rows = zip(*(columns[name].tolist() for name in (*names, "score")), strict=True)
    records = [
        record(
            inputs={name: value for name, value in zip(names, sent, strict=True) if value == value},
            probability={"0": 1 - score, "1": score},
        )
        for *sent, score in rows
    ]
    write_segment(tmp_path / "records", "a", records)
    journal = Journal(contract, tmp_path / "records", tmp_path / "outcomes")
    journal.refresh()
    found = find_drift(BASELINES, contract, journal.frame(0, 1e9), ALPHA)
    assert {finding.about for finding in found} == {"age", "burden"}


def test_the_reference_of_a_score_is_what_is_answered():
    """Records hold calibrated probabilities; the model's own would look like a drift from the first window on."""
    answers = np.array([[0.8, 0.2], [0.1, 0.9]])
    policy = Policy(
        task="binary",
        classes=("0", "1"),
        positive="0",
        calibration=Calibration(slope=2.0),
        fallback_otherwise="0",
        timeout_s=1.0,
    )
    np.testing.assert_allclose(reference_scores(policy, answers), [16 / 17, 1 / 82])
    number = Policy(task="regression", fallback_otherwise=0.0, timeout_s=1.0)
    np.testing.assert_array_equal(reference_scores(number, np.array([1.0, 2.0])), [1.0, 2.0])
    several = Policy(task="multiclass", classes=("a", "b"), fallback_otherwise="a", timeout_s=1.0)
    assert reference_scores(several, answers) is None


def test_half_of_the_budget_is_for_the_inputs_of_a_window(contract: Contract):
    assert contract.monitor is not None
    assert window_alpha(contract.monitor) == pytest.approx(ALPHA)
