"""Alerts: few, each with one life, and the same window planned twice is planned once."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import ConflictError
from shipworthy.ledger.events import Event, format_time
from shipworthy.monitoring.alerts import acknowledge, due_everywhere, plan_alerts
from shipworthy.monitoring.findings import Finding

DAY = 86_400.0
HOOKS = ("${ALERT_URL}",)
STATE = {"environment", "alert", "kind", "about", "severity", "title", "cause", "next", "opened", "last_seen", "count",
         "state", "acknowledged_by", "deliveries", "revision"}  # fmt: skip


def finding(about: str = "temp", *, kind: str = "drift", effect: float = 2.0, severity: str = "warning") -> Finding:
    measured = f"mean 1 -> {effect}"
    return Finding(kind, about, "values", 1e-9, effect, measured, 1000, f"{about} moved.", f"Mend {about}.", severity)


class Board:
    """The latest word on every alert, as the ledger keeps it."""

    def __init__(self) -> None:
        self.alerts: dict[str, dict[str, Any]] = {}
        self.numbers = itertools.count(1)

    def judge(self, day: float, findings: Sequence[Finding], **changes: Any) -> list[str]:
        """Plan a window's alerts, take them in, and return the verbs."""
        given: dict[str, Any] = {"judged": ("drift", "quality"), "quiet_s": 3 * DAY, "channels": HOOKS}
        known = list(self.alerts.values())
        steps = plan_alerts(findings, known, "live", day * DAY, lambda: f"a_{next(self.numbers)}", **(given | changes))
        for _, body in steps:
            self.take(body)
        return [verb for verb, _ in steps]

    def take(self, body: dict[str, Any]) -> None:
        before = self.alerts.get(body["alert"], {"revision": 0})
        assert body["revision"] == before["revision"] + 1
        assert set(body) >= STATE
        self.alerts[body["alert"]] = body


@pytest.fixture
def board() -> Board:
    return Board()


def test_all_drift_of_a_window_is_one_alert_that_names_the_strongest(board: Board):
    found = [finding("hour", effect=2), finding("temp", effect=19), finding("score", effect=50), finding("temp"),
             finding("visib", effect=3), finding("humid", effect=1)]  # fmt: skip
    assert board.judge(1, found) == ["alert.opened"]
    alert = board.alerts["a_1"]
    assert (alert["kind"], alert["about"], alert["severity"], alert["count"]) == ("drift", "inputs", "warning", 1)
    assert alert["title"] == "temp, visib, hour and 1 more moved; temp: mean 1 -> 19"
    assert alert["cause"] == "score moved. temp moved. visib moved. hour moved."
    assert (alert["opened"], alert["state"]) == ("1970-01-02T00:00:00.000Z", "open")
    assert alert["deliveries"] == due_everywhere(HOOKS)


def test_answers_that_moved_alone_say_so(board: Board):
    board.judge(1, [finding("score")])
    assert board.alerts["a_1"]["title"] == "the answers moved: mean 1 -> 2.0"


def test_releases_have_alerts_of_their_own(board: Board):
    value, accuracy = (finding("flights:3", kind="quality", severity=one) for one in ("critical", "warning"))
    verbs = board.judge(1, [accuracy, value, finding("flights:2", kind="quality"), finding()])
    assert verbs == ["alert.opened"] * 3
    severities = {(alert["kind"], alert["about"]): alert["severity"] for alert in board.alerts.values()}
    assert severities == {
        ("quality", "flights:3"): "critical", ("quality", "flights:2"): "warning", ("drift", "inputs"): "warning",
    }  # fmt: skip


def test_what_is_seen_again_adds_to_the_alert_and_calls_nobody(board: Board):
    board.judge(1, [finding()])
    board.alerts["a_1"]["deliveries"]["${ALERT_URL}"]["state"] = "delivered"
    assert board.judge(2, [finding("hour")]) == ["alert.seen"]
    alert = board.alerts["a_1"]
    assert (alert["count"], alert["last_seen"], alert["opened"]) == (2, format_time(2 * DAY), format_time(DAY))
    assert alert["title"] == "hour moved: mean 1 -> 2.0"
    assert alert["deliveries"]["${ALERT_URL}"]["state"] == "delivered"


def test_planning_a_window_again_after_a_crash_plans_nothing(board: Board):
    board.judge(1, [finding()])
    assert board.judge(1, [finding()]) == []
    board.judge(2.00000000001, [finding()])  # also between two milliseconds
    assert board.judge(2.00000000001, [finding()]) == []
    assert board.judge(1, [finding()]) == []  # nor does an earlier one
    assert board.judge(5, []) == ["alert.closed"]
    assert board.judge(5, []) == []


def test_a_finding_that_is_gone_closes_its_alert_and_one_that_comes_back_is_new(board: Board):
    board.judge(1, [finding()])
    assert [board.judge(day, []) for day in (2, 3)] == [[], []]
    assert board.judge(4, []) == ["alert.closed"]
    alert = board.alerts["a_1"]
    assert (alert["state"], alert["closed"], alert["last_seen"]) == ("closed", format_time(4 * DAY), format_time(DAY))
    assert alert["deliveries"]["${ALERT_URL}"]["state"] == "due"  # that it is over is told as well
    assert board.judge(5, [finding()]) == ["alert.opened"]
    assert set(board.alerts) == {"a_1", "a_2"}


def test_a_window_closes_only_what_it_could_have_seen(board: Board):
    board.judge(1, [finding(), finding("flights:1", kind="quality")])
    assert board.judge(9, [], judged=("drift",)) == ["alert.closed"]
    assert {alert["kind"]: alert["state"] for alert in board.alerts.values()} == {"drift": "closed", "quality": "open"}


def test_other_environments_are_left_alone(board: Board):
    board.judge(1, [finding()])
    steps = plan_alerts([], list(board.alerts.values()), "other", 9 * DAY, str, judged=("drift",), quiet_s=DAY)
    assert steps == []


def test_an_alert_that_gets_worse_calls_again_once(board: Board):
    board.judge(1, [finding()])
    _, body = acknowledge(board.alerts["a_1"], "ada")
    body["deliveries"]["${ALERT_URL}"]["state"] = "delivered"
    board.take(body)
    assert (body["state"], body["acknowledged_by"]) == ("acknowledged", "ada")
    board.judge(2, [finding()])
    assert board.alerts["a_1"]["state"] == "acknowledged"
    board.judge(3, [finding(severity="critical")])
    alert = board.alerts["a_1"]
    assert (alert["state"], alert["acknowledged_by"], alert["severity"]) == ("open", None, "critical")
    assert alert["deliveries"] == due_everywhere(HOOKS)
    board.take(acknowledge(alert, "ada")[1])
    board.judge(4, [finding()])
    board.judge(5, [finding(severity="critical")])
    assert (board.alerts["a_1"]["state"], board.alerts["a_1"]["severity"]) == ("acknowledged", "critical")


def test_only_an_open_alert_is_acknowledged(board: Board):
    board.judge(1, [finding()])
    board.take(acknowledge(board.alerts["a_1"], "ada")[1])
    with pytest.raises(ConflictError, match="a_1 is acknowledged already, by ada"):
        acknowledge(board.alerts["a_1"], "bob")
    board.judge(9, [])
    with pytest.raises(ConflictError, match="a_1 is closed"):
        acknowledge(board.alerts["a_1"], "ada")


def test_the_ledger_takes_each_step_and_refuses_one_that_somebody_else_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "shipworthy.yaml").touch()
    with open_parts(tmp_path) as parts:

        def plan(day: int, findings: Sequence[Finding]) -> None:
            known = parts.ledger.latest("alert")
            steps = plan_alerts(
                findings, known, "live", day * DAY, lambda: "a_1", judged=("drift",), quiet_s=DAY, channels=HOOKS
            )
            for verb, body in steps:
                parts.ledger.append(Event(verb, f"alert:{body['alert']}", parts.actor, body))

        plan(1, [finding()])
        opened = parts.ledger.find_latest("alert", "a_1")
        assert opened is not None
        plan(2, [finding(severity="critical")])
        with pytest.raises(ConflictError, match="alert:a_1 is at revision 2"):
            parts.ledger.append(Event("alert.acknowledged", "alert:a_1", parts.actor, acknowledge(opened, "ada")[1]))
        plan(3, [])
        closed = parts.ledger.find_latest("alert", "a_1")
        assert closed is not None
        assert (closed["state"], closed["count"], closed["severity"], closed["revision"]) == (
            "closed",
            2,
            "critical",
            3,
        )


MAKERS: list[Callable[[], Finding]] = [
    finding,
    lambda: finding("hour", effect=9),
    lambda: finding(severity="critical"),
    lambda: finding("flights:1", kind="quality"),
    lambda: finding("flights:2", kind="quality", severity="critical"),
]


@given(st.lists(st.sets(st.sampled_from(range(len(MAKERS)))), max_size=12))
@settings(max_examples=80, deadline=None)
def test_whatever_comes_a_thing_has_at_most_one_alert_that_lives(windows: list[set[int]]):
    board = Board()
    for day, picked in enumerate(windows, start=1):
        board.judge(day, [MAKERS[number]() for number in sorted(picked)])
        living = [(one["kind"], one["about"]) for one in board.alerts.values() if one["state"] != "closed"]
        assert len(living) == len(set(living))
        seen = [one for one in board.alerts.values() if one["last_seen"] == format_time(day * DAY)]
        assert bool(seen) == bool(picked)
