"""The portfolio: what a page says of a system follows from the bodies in the ledger, and from nothing else."""

from typing import Any

import pytest

from shipworthy.governance.portfolio import (
    MAX_WINDOWS,
    Ledgered,
    approvals_owed,
    environment_states,
    figures,
    headline,
    last_rollout,
    moments,
    open_alerts,
    release_rows,
    windows_of,
)

DAY = 86400.0


def release(version: int) -> dict[str, Any]:
    return {
        "system": "loans",
        "version": version,
        "digest": f"sha256:{version}",
        "created": "2026-01-01T00:00:00Z",
        "author": "user:dan",
    }


def deployment(generation: int, **shares: float) -> dict[str, Any]:
    named = [{"release": f"loans:{name[1:]}", "share": share} for name, share in shares.items()]
    return {"generation": generation, "releases": named}


def approval(version: int, role: str, who: str, environment: str = "production", **facts: Any) -> dict[str, Any]:
    return {
        "attests": "approval",
        "release_digest": f"sha256:{version}",
        "environment": environment,
        "role": role,
        "principal": who,
        **facts,
    }


def alert(name: str, severity: str = "warning", state: str = "open", seen: int = 1) -> dict[str, Any]:
    return {
        "alert": name,
        "environment": "production",
        "severity": severity,
        "state": state,
        "title": name,
        "last_seen": f"2013-01-{seen:02}T00:00:00Z",
    }


def rollout(number: int, state: str, environment: str = "production", **facts: Any) -> dict[str, Any]:
    return {
        "environment": environment,
        "number": number,
        "release": f"loans:{number + 1}",
        "state": state,
        "share": 0.1,
        "started": number * DAY,
        "judged": number * DAY + 60,
        "judgements": [],
        **facts,
    }


def window(kind: str, day: int, environment: str = "production", **facts: Any) -> dict[str, Any]:
    return {
        "environment": environment,
        "window": kind,
        "start": f"2013-{1 + day // 28:02}-{1 + day % 28:02}T00:00:00Z",
        "as_of": f"2013-12-{1 + day % 28:02}T00:00:00Z",
        **facts,
    }


def inputs(day: int, rows: int = 100, **facts: Any) -> dict[str, Any]:
    answered = {"loans:1": rows}
    body = {"rows": rows, "releases": answered, "handling": {"review": 25}, "errors": 0.02, "p99_ms": 4.0, **facts}
    return window("inputs", day, **body)


def quality(day: int, *rows: dict[str, Any]) -> dict[str, Any]:
    return window("quality", day, known=sum(row["known"] for row in rows), quality=list(rows))


def row(release: str, **facts: Any) -> dict[str, Any]:
    known = {"accuracy": 0.8, "value_per_decision": 2.0, "value_interval": [1.0, 3.0], "unit": "USD"}
    return {"release": release, "known": 90, **known, **facts}


def test_releases_come_newest_first_with_where_they_serve():
    facts = Ledgered(
        releases=[release(1), release(2)],
        deployments={"local": deployment(1, v2=1.0), "production": deployment(3, v1=0.9, v2=0.1), "spare": None},
    )
    found = release_rows(facts)
    assert [item["release"] for item in found] == ["loans:2", "loans:1"]
    assert found[0]["serves"] == [{"environment": "local", "share": 1.0}, {"environment": "production", "share": 0.1}]
    assert found[1]["verdicts"] == {"counts": {}, "worst": None, "open": []}


@pytest.mark.parametrize(
    ("attestations", "owed"),
    [
        ([], [{"role": "ml-engineer", "count": 1}, {"role": "risk", "count": 2}]),
        ([approval(2, "risk", "ruth"), approval(2, "risk", "ruth")], [("ml-engineer", 1), ("risk", 1)]),
        ([approval(2, "risk", "ruth"), approval(2, "risk", "rob"), approval(2, "ml-engineer", "mia")], None),
        ([approval(1, "ml-engineer", "mia")], [("ml-engineer", 1), ("risk", 2)]),
        ([approval(2, "ml-engineer", "mia", "staging")], [("ml-engineer", 1), ("risk", 2)]),
        ([approval(2, "ml-engineer", "mia", attests="waiver")], [("ml-engineer", 1), ("risk", 2)]),
    ],
)
def test_an_approval_counts_once_for_each_person_and_only_for_its_release_and_environment(
    attestations: list[dict[str, Any]], owed: Any
):
    facts = Ledgered(
        releases=[release(1), release(2)],
        deployments={"production": deployment(1, v1=1.0)},
        approvals={"production": {"ml-engineer": 1, "risk": 2}},
        attestations=attestations,
    )
    expected = [item if isinstance(item, dict) else {"role": item[0], "count": item[1]} for item in owed or []]
    assert approvals_owed(facts, "production") == ({"release": "loans:2", "owed": expected} if owed else None)


def test_nothing_is_owed_for_what_serves_already_or_where_nothing_is_asked():
    facts = Ledgered(
        releases=[release(1)],
        deployments={"local": None, "production": deployment(1, v1=1.0)},
        approvals={"local": {}, "production": {"risk": 1}},
    )
    assert approvals_owed(facts, "production") is None
    assert approvals_owed(facts, "local") is None


def test_the_rollout_that_moves_is_shown_before_one_that_ended_later():
    found = [rollout(1, "running"), rollout(2, "promoted"), rollout(9, "running", "staging")]
    assert (last_rollout(found, "production") or {})["number"] == 1
    assert (last_rollout(found[1:], "production") or {})["number"] == 2
    assert last_rollout(found, "local") is None


def test_alerts_that_nobody_has_seen_come_first_then_critical_then_newest():
    found = open_alerts(
        [
            alert("closed", "critical", "closed"),
            alert("taken", "critical", "acknowledged", seen=9),
            alert("old", seen=2),
            alert("new", seen=3),
            alert("worst", "critical", seen=1),
        ]
    )
    assert [item["alert"] for item in found] == ["worst", "new", "old", "taken"]


def test_windows_stand_in_event_time_and_of_two_with_one_start_the_later_judged_counts():
    again = inputs(2, rows=7) | {"as_of": "2013-12-31T00:00:00Z"}
    found = windows_of(
        [again, inputs(3), inputs(2), inputs(1), quality(1), inputs(9, environment="local")], "production", "inputs"
    )
    assert [(body["start"][8:10], body["rows"]) for body in found] == [("02", 100), ("03", 7), ("04", 100)]


def test_figures_have_one_value_for_each_window_and_none_where_the_release_had_no_traffic():
    both = quality(1, row("loans:1"), row("loans:2", accuracy=0.9, value_interval=[None, 3.0]))
    found = {
        figure.name: figure
        for figure in figures(
            [quality(0, row("loans:1")), both, quality(2, row("loans:2", accuracy=None))], "production"
        )
    }
    accuracy = {line.name: line.values for line in found["accuracy"].lines}
    assert accuracy == {"loans:1": (0.8, 0.8, None), "loans:2": (None, 0.9, None)}
    value = {line.name: line for line in found["value"].lines}
    assert found["value"].unit == "USD"
    assert value["loans:1"].band == ((1.0, 3.0), (1.0, 3.0), None)
    assert value["loans:2"].values == (None, 2.0, 2.0)
    assert value["loans:2"].band == (None, None, (1.0, 3.0))


def test_of_numbers_the_mean_error_takes_the_place_of_accuracy():
    wrong = {"release": "loans:1", "known": 9, "mae": 2.5, "value_per_decision": None, "value_interval": None}
    found = figures([quality(0, wrong)], "production")
    assert [figure.name for figure in found] == ["answers", "mae", "value", "p99", "errors", "reviews"]
    assert found[1].lines[0].values == (2.5,)
    assert found[2].lines == ()


def test_shares_of_a_window_are_percent_and_a_window_without_rows_has_none():
    empty = inputs(1, rows=0, p99_ms=None)
    found = {figure.name: figure for figure in figures([inputs(0), empty], "production")}
    assert found["reviews"].lines[0].values == (25.0,)
    assert found["errors"].lines[0].values == (2.0, 2.0)
    assert (found["p99"].lines[0].values, found["p99"].unit) == ((4.0,), "ms")
    assert found["answers"].lines[0].values == (100.0, 0.0)


def test_an_environment_without_windows_has_figures_without_times():
    assert [(figure.times, figure.lines) for figure in figures([inputs(0)], "local")] == [((), ())] * 6


def test_a_chart_shows_the_newest_windows_only():
    found = figures([inputs(day) for day in range(MAX_WINDOWS + 5)], "production")[0]
    assert len(found.times) == MAX_WINDOWS
    assert found.times[-1] - found.times[0] == pytest.approx((MAX_WINDOWS - 1) * DAY, rel=0.1)


def test_moments_are_when_a_release_was_first_tried_and_how_that_ended():
    found = moments([rollout(2, "running"), rollout(1, "rolled back"), rollout(1, "promoted", "staging")], "production")
    assert [moment["words"] for moment in found] == ["loans:2 is tried", "loans:2 rolled back", "loans:3 is tried"]


def test_an_environment_shows_its_newest_quality_of_which_something_is_known():
    unknown = quality(1) | {"known": 0}
    facts = Ledgered(deployments={"production": None}, windows=[inputs(1), quality(0, row("loans:1")), unknown])
    (state,) = environment_states(facts)
    assert state["quality"]["start"].startswith("2013-01-01")
    assert state["inputs"]["start"].startswith("2013-01-02")


@pytest.mark.parametrize(
    ("facts", "word"),
    [
        ({}, "no release"),
        ({"releases": [release(1)], "deployments": {"local": None}}, "not deployed"),
        ({"alerts": [alert("a"), alert("b", "critical")]}, "2 alerts"),
        ({"alerts": [alert("a", state="acknowledged")], "rollouts": [rollout(1, "running")]}, "rollout"),
        ({"rollouts": [rollout(1, "promoted")], "approvals": {"production": {"risk": 1}}}, "approval owed"),
        ({"rollouts": [rollout(1, "promoted")]}, "well"),
    ],
)
def test_the_headline_is_what_a_person_should_look_at_first(facts: dict[str, Any], word: str):
    serving = {"releases": [release(1), release(2)], "deployments": {"production": deployment(1, v1=1.0)}}
    known = Ledgered(**({**serving, **facts} if facts else {"deployments": {"local": None}}))
    found = headline(environment_states(known), open_alerts(known.alerts), release_rows(known))
    assert found["word"] == word
    assert found["sentence"]
