"""A canary is worse, no worse or undecided, and a good one is seldom called worse however often one looks."""

import json
import math
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.contract.types import Rollout
from shipworthy.kernel.errors import EvidenceError
from shipworthy.rollout.judge import Judgement, Limits, Samples, judge, limits_of

LIMITS = Limits(errors_by=0.005, p99_by=0.2, value_by=0.5, unit="USD", alpha=0.01 / 6)
LOOKS = 60


def traffic(
    seed: int,
    rows: int,
    share: float,
    *,
    units: int | None = None,
    errors: tuple[float, float] = (0.002, 0.002),
    slower: float = 1.0,
    worth: float = 0.0,
) -> Samples:
    """Rows of an hour: `errors` of canary and champion, the canary's latency times and worth plus what is given."""
    rng = np.random.default_rng(seed)
    unit = np.arange(rows) if units is None else rng.integers(0, units, rows)
    is_canary = (rng.random(rows if units is None else units) < share)[unit]
    return Samples(
        look=np.sort(rng.integers(0, LOOKS, rows)),
        is_canary=is_canary,
        unit=unit,
        is_error=rng.random(rows) < np.where(is_canary, *errors),
        latency_ms=rng.lognormal(1, 0.5, rows) * np.where(is_canary, slower, 1.0),
        worth=np.where(rng.random(rows) < 0.9, rng.normal(size=rows) + worth * is_canary, math.nan),
    )


def outcomes(samples: Samples, limits: Limits = LIMITS) -> dict[str, str]:
    return {judgement.metric: judgement.outcome for judgement in judge(samples, limits)}


def first_decided(samples: Samples, limits: Limits, metric: str) -> tuple[int, str]:
    """The look at which the metric was first decided, judged anew at each, and how."""
    for look in range(LOOKS):
        outcome = outcomes(samples.only(samples.look <= look), limits)[metric]
        if outcome != "undecided":
            return look, outcome
    return LOOKS, "undecided"


def only(**margins: Any) -> Limits:
    return Limits(**{"errors_by": None, "p99_by": None, "value_by": None, "unit": None, "alpha": 0.01} | margins)


# --- limits


@pytest.mark.parametrize(
    ("steps", "no_worse", "alpha"),
    [
        (["5%", "25%", "100%"], {"errors": {"by": "0.5%"}, "p99": {"by": "20%"}, "value": {"by": "5 USD"}}, 0.01 / 6),
        (["25%", "100%"], {"value": {"by": "5 USD"}}, 0.01),
        (["100%"], {"value": {"by": "5 USD"}}, 0.01),
    ],
)
def test_the_budget_of_false_rollbacks_is_shared_by_metrics_and_judged_steps(
    steps: list[str], no_worse: dict[str, Any], alpha: float
) -> None:
    section = {"steps": tuple(steps), "hold": {"at_least": "30min", "at_most": "24h"}, "no_worse": no_worse}
    limits = limits_of(Rollout.model_validate(section))
    assert limits.alpha == pytest.approx(alpha)
    assert (limits.value_by, limits.unit) == (5.0, "USD")
    assert (limits.errors_by, limits.p99_by) == ((0.005, 0.2) if len(no_worse) == 3 else (None, None))


def test_only_declared_metrics_are_judged() -> None:
    samples = traffic(1, 500, 0.2)
    assert list(outcomes(samples, only(p99_by=0.1))) == ["p99"]
    assert list(outcomes(samples, LIMITS)) == ["errors", "p99", "value"]


def test_an_absurd_budget_is_still_judged() -> None:
    section = {
        "steps": ("100%",),
        "hold": {"at_least": "1s", "at_most": "2s"},
        "false_rollback": {"at_most": "99%"},
        "no_worse": {"errors": {"by": "1%"}},
    }
    assert outcomes(traffic(2, 500, 0.2), limits_of(Rollout.model_validate(section)))["errors"]


# --- decisions


def test_an_equal_canary_is_no_worse_on_all_metrics() -> None:
    samples = traffic(3, 60_000, 0.25)
    assert outcomes(samples) == {"errors": "no worse", "p99": "no worse", "value": "no worse"}


@pytest.mark.parametrize(
    ("change", "metric"), [({"errors": (0.02, 0.002)}, "errors"), ({"slower": 2.0}, "p99"), ({"worth": -1.0}, "value")]
)
def test_a_canary_worse_on_one_metric_is_worse_on_that_alone(change: dict[str, Any], metric: str) -> None:
    found = outcomes(traffic(4, 60_000, 0.25, **change))
    assert [name for name, outcome in found.items() if outcome == "worse"] == [metric]


@pytest.mark.parametrize(
    ("change", "metric"),
    [({"errors": (0.006, 0.002)}, "errors"), ({"slower": 1.15}, "p99"), ({"worth": -0.4}, "value")],
)
def test_a_canary_worse_by_less_than_its_margin_is_never_called_worse(change: dict[str, Any], metric: str) -> None:
    for seed in range(5):
        assert outcomes(traffic(seed, 20_000, 0.25, **change))[metric] != "worse"


def test_ten_times_the_errors_are_caught_in_the_first_minutes() -> None:
    """1,200 canary rows a look, as in the field; here a twentieth of the champion's."""
    looks = [first_decided(traffic(seed, 90_000, 0.5, errors=(0.02, 0.002)), LIMITS, "errors") for seed in range(5)]
    assert {outcome for _, outcome in looks} == {"worse"}
    assert max(look for look, _ in looks) <= 5


def test_a_loss_of_half_a_standard_deviation_is_caught_after_few_hundred_decisions() -> None:
    limits = only(value_by=0.0, alpha=0.01 / 6)
    looks = [first_decided(traffic(seed, 5000, 0.25, worth=-0.5), limits, "value") for seed in range(10)]
    assert {outcome for _, outcome in looks} == {"worse"}
    assert max(look for look, _ in looks) <= 12  # of 21 canary rows each


def test_a_canary_that_fails_at_once_is_caught_with_a_handful_of_rows() -> None:
    rows = np.arange(200)
    samples = replace(traffic(5, 200, 0.0), is_canary=rows % 20 == 0, is_error=rows % 20 == 0)
    judgement = judge(samples, only(errors_by=0.005))[0]
    assert (judgement.outcome, judgement.rows) == ("worse", (10, 190))
    assert judgement.e_value is not None
    assert judgement.e_value > 200


def test_customers_who_fail_from_some_moment_on_are_seen_by_the_interval_of_all_rows() -> None:
    """One in twelve of the canary's, each from another minute: as first failures, no more than the margin allows."""
    samples = traffic(6, 60_000, 0.5, units=3000)
    has_begun = samples.look >= samples.unit * 7 % LOOKS
    struck = replace(samples, is_error=samples.is_error | (samples.is_canary & (samples.unit % 12 == 0) & has_begun))
    judgement = judge(struck, only(errors_by=0.01))[0]
    assert judgement.outcome == "worse"
    assert judgement.e_value is not None
    assert judgement.e_value < 200
    assert judgement.interval is not None
    assert judgement.interval[0] > 0.01
    assert "between" in judgement.reason


def test_a_flaw_that_passed_is_not_held_against_it() -> None:
    """The first minute failed, then it ran well for long: the evidence stays, what was measured does not."""
    samples = traffic(7, 60_000, 0.25, errors=(0.0, 0.0))
    flawed = replace(samples, is_error=samples.is_canary & (np.cumsum(samples.is_canary) <= 20))
    early = judge(flawed.only(flawed.look < 1), only(errors_by=0.01))[0]
    late = judge(flawed, only(errors_by=0.01))[0]
    assert (early.outcome, late.outcome) == ("worse", "no worse")
    assert late.e_value is not None
    assert late.e_value > 200


def test_rows_of_unknown_worth_or_latency_are_left_out() -> None:
    samples = traffic(8, 2000, 0.25)
    half = replace(samples, latency_ms=np.where(np.arange(2000) < 500, math.nan, samples.latency_ms))
    by_metric = {judgement.metric: judgement for judgement in judge(half, LIMITS)}
    assert sum(by_metric["errors"].rows) == 2000
    assert sum(by_metric["p99"].rows) == 1500
    assert sum(by_metric["value"].rows) == int((~np.isnan(samples.worth)).sum())


@pytest.mark.parametrize("rows", [0, 1, 40])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_too_few_rows_are_undecided(rows: int, share: float) -> None:
    samples = traffic(9, rows, share, errors=(0.0, 0.0))
    assert set(outcomes(samples).values()) == {"undecided"}


def test_no_truth_yet_is_undecided_whatever_the_rest() -> None:
    samples = traffic(10, 20_000, 0.25)
    judgement = judge(replace(samples, worth=np.full(20_000, math.nan)), LIMITS)[2]
    assert (judgement.outcome, judgement.measured, judgement.interval, judgement.rows) == (
        "undecided",
        None,
        None,
        (0, 0),
    )


# --- promises


def test_a_good_release_is_seldom_rolled_back_however_often_one_looks() -> None:
    """The whole rule, looked at three times, on a canary at all its margins at once, customers clustered."""
    limits = replace(LIMITS, alpha=0.2 / 3)
    wrong = 0
    for seed in range(40):
        samples = traffic(seed, 4000, 0.2, units=1000, errors=(0.007, 0.002), slower=1.2, worth=-0.5)
        at_looks = (outcomes(samples.only(samples.look <= look), limits) for look in (14, 29, LOOKS - 1))
        wrong += any("worse" in found.values() for found in at_looks)
    assert wrong <= 8


def test_a_release_at_its_margins_is_seldom_called_no_worse() -> None:
    limits = replace(LIMITS, alpha=0.1)
    wrong = dict.fromkeys(("errors", "p99", "value"), 0)
    for seed in range(40):
        samples = traffic(1000 + seed, 4000, 0.2, units=1000, errors=(0.007, 0.002), slower=1.2, worth=-0.5)
        for metric, outcome in outcomes(samples, limits).items():
            wrong[metric] += outcome == "no worse"
    assert max(wrong.values()) <= 4


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    errors=st.sampled_from([0.0, 0.002, 0.01, 0.1]),
    slower=st.floats(0.8, 2),
    worth=st.floats(-1, 1),
    by=st.floats(0, 0.5),
    wider=st.floats(0, 0.5),
)
def test_a_wider_margin_never_turns_no_worse_into_worse_nor_doubts_it(
    seed: int, errors: float, slower: float, worth: float, by: float, wider: float
) -> None:
    samples = traffic(seed, 3000, 0.3, units=800, errors=(errors, 0.002), slower=slower, worth=worth)
    narrow = outcomes(samples, only(errors_by=by, p99_by=by, value_by=by, alpha=0.1))
    wide = outcomes(samples, only(errors_by=by + wider, p99_by=by + wider, value_by=by + wider, alpha=0.1))
    for metric, outcome in narrow.items():
        if outcome == "no worse":
            assert wide[metric] == "no worse"
        if wide[metric] == "worse":
            assert outcome != "no worse"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), lost=st.floats(0, 2))
def test_a_canary_that_earns_less_is_never_judged_better(seed: int, lost: float) -> None:
    order = ["worse", "undecided", "no worse"]
    samples = traffic(seed, 1500, 0.3)
    poorer = replace(samples, worth=samples.worth - lost * samples.is_canary)
    limits = only(value_by=0.3, alpha=0.05)
    assert order.index(outcomes(poorer, limits)["value"]) <= order.index(outcomes(samples, limits)["value"])


# --- what it says


def test_a_judgement_is_a_document() -> None:
    samples = replace(traffic(11, 300, 0.3), is_error=np.zeros(300, dtype=bool))
    judgement = judge(samples, only(errors_by=0.005))[0]
    document = judgement.to_json()
    assert json.loads(json.dumps(document)) == {
        "metric": "errors",
        "outcome": "undecided",
        "measured": 0.0,
        "interval": list(judgement.interval or ()),
        "limit": 0.005,
        "unit": None,
        "e_value": judgement.e_value,
        "rows": {"canary": judgement.rows[0], "champion": judgement.rows[1]},
        "units": {"canary": judgement.units[0], "champion": judgement.units[1]},
        "reason": judgement.reason,
    }


def test_numbers_without_bound_become_null() -> None:
    judgement = Judgement("value", "undecided", 1.0, (-math.inf, math.inf), -5.0, "USD", None, (1, 2), (1, 2), "So.")
    assert judgement.to_json()["interval"] == [None, None]
    assert json.dumps(judgement.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "limits", "reason"),
    [
        (
            {"errors": (0.05, 0.0)},
            only(errors_by=0.005),
            r"^The share of errors is \+5\.\d+ points against the champion's on 1,\d\d\d requests of the canary; "
            r"\+0\.5 points is allowed, and the evidence that it is exceeded is [\d,]+ to 1, "
            r"where 200 to 1 is enough\.$",
        ),
        (
            {},
            only(value_by=5.0, unit="USD"),
            r"^The mean worth of a decision is [+-]0\.\d\d USD against the champion's on 1,\d\d\d decisions of "
            r"known worth of the canary, between -0\.\d\d USD and \+0\.\d\d USD with 99 % confidence; "
            r"-5\.00 USD is allowed\.$",
        ),
        (
            {},
            only(p99_by=0.2),
            r"^The 99th percentile of the latency is .* % against the champion's on .*, between .* % and \+\d+.* % "
            r"with 99\.5 % confidence; \+20 % is allowed, which about [\d,]+ would decide\.$",
        ),
    ],
)
def test_a_reason_is_one_plain_sentence(change: dict[str, Any], limits: Limits, reason: str) -> None:

    assert re.match(reason, judge(traffic(12, 6000, 0.25, **change), limits)[0].reason)


@pytest.mark.parametrize(
    ("samples", "limits", "reason"),
    [
        (traffic(13, 0, 0.3), only(errors_by=0.01), "there are 0 requests of the canary and 0 of the champion."),
        (traffic(13, 90, 0.3), only(p99_by=0.01), "timed requests of the canary and 6"),
        (traffic(13, 60, 0.3), only(value_by=0.01), "or from fewer than 30 units in an arm to be sure."),
        (
            replace(traffic(13, 900, 0.3), worth=np.zeros(900)),
            only(value_by=0.01, unit="EUR"),
            "is +0.00 EUR against the champion's on 270 decisions of known worth of the canary; that is too few, too "
            "little varied",
        ),
    ],
)
def test_a_reason_says_why_nothing_can_be_said(samples: Samples, limits: Limits, reason: str) -> None:
    judgement = judge(samples, limits)[0]
    assert judgement.outcome == "undecided"
    assert reason in judgement.reason


# --- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"look": np.zeros(9, dtype=np.int64)}, "not of the same rows"),
        ({"look": np.full(10, -1)}, "look -1 lies before the step began"),
        ({"latency_ms": np.full(10, -2.5)}, r"a latency of -2\.5 ms is below 0"),
        ({"worth": np.full(10, math.inf)}, "a worth is infinite"),
    ],
)
def test_samples_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(EvidenceError, match=message):
        replace(traffic(14, 10, 0.3), **change)
