"""What is due by now: a pure decision on what the ledger says."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.monitoring.windows import DAY_S
from shipworthy.workflows.control import Deliver, JudgeRollout, JudgeWindow, Repair, State, due

WEEK_S = 7 * DAY_S
NOON = 1_364_817_600.0  # 2013-04-01T12:00:00Z


def state(**changes: object) -> State:
    quiet = {
        "is_live_behind": False,
        "rollout": None,
        "look_s": 3600.0,
        "every_s": None,
        "known_after_s": 0.0,
    }
    return State(**(quiet | changes))


def alert(at: float, told: str = "due") -> dict[str, object]:
    return {"alert": "a_1", "deliveries": {"hook": {"state": told, "attempts": 0, "next_at": at, "error": None}}}


def test_nothing_is_due_where_nothing_is_watched() -> None:
    assert due(state(), now=NOON, as_of=NOON) == ()


def test_traffic_comes_first_then_what_is_watched_then_who_is_told() -> None:
    busy = state(
        is_live_behind=True,
        rollout={"number": 3, "judged": NOON - 3600},
        every_s=DAY_S,
        starts=[NOON - DAY_S],
        alerts=[alert(NOON)],
        channels=["hook"],
    )
    kinds = [type(action) for action in due(busy, now=NOON, as_of=NOON)]
    assert kinds == [Repair, JudgeRollout, JudgeWindow, JudgeWindow, Deliver]


@pytest.mark.parametrize(("since", "expected"), [(3599.0, ()), (3600.0, (JudgeRollout(1, NOON),))])
def test_a_canary_is_looked_at_once_a_look(since: float, expected: tuple[object, ...]) -> None:
    assert due(state(rollout={"number": 1, "judged": NOON - since}), now=0, as_of=NOON) == expected


def test_outcomes_wait_until_they_are_known() -> None:
    watched = state(every_s=DAY_S, starts=[NOON, NOON + DAY_S], known_after_s=DAY_S)
    assert due(watched, now=0, as_of=NOON + DAY_S - 1) == ()
    assert due(watched, now=0, as_of=NOON + DAY_S) == (JudgeWindow("inputs", NOON, NOON + DAY_S),)
    later = due(watched, now=0, as_of=NOON + 2 * DAY_S)
    assert later[-1] == JudgeWindow("quality", NOON, NOON + DAY_S)


def test_a_webhook_is_told_when_its_time_has_come_and_only_while_the_contract_names_it() -> None:
    waiting = state(alerts=[alert(NOON)], channels=["hook"])
    assert due(waiting, now=NOON - 1, as_of=0) == ()
    assert due(waiting, now=NOON, as_of=0) == (Deliver("a_1", "hook"),)
    assert due(state(alerts=[alert(NOON)], channels=["other"]), now=NOON, as_of=0) == ()
    assert due(state(alerts=[alert(0, told="delivered")], channels=["hook"]), now=NOON, as_of=0) == ()


def test_a_clock_that_is_set_back_judges_nothing_again() -> None:
    """It waits until the time that was judged comes once more."""
    judged = state(
        every_s=DAY_S,
        starts=[NOON - 3 * DAY_S, NOON - 2 * DAY_S],
        judged_until={"inputs": NOON, "quality": NOON},
        rollout={"number": 1, "judged": NOON},
    )
    assert due(judged, now=0, as_of=NOON - 365 * DAY_S) == ()


@settings(deadline=None)
@given(
    stops=st.lists(st.integers(0, 40 * 24), min_size=1, max_size=12),
    every_h=st.sampled_from([1, 6, 24, 24 * 7]),
)
def test_however_the_clock_jumps_each_window_is_judged_once_and_none_is_left_out(
    stops: list[int], every_h: int
) -> None:
    """Whatever has been judged up to the last stop, all in all the same windows are judged."""
    every_s = every_h * 3600.0
    starts = [NOON + number * every_s for number in range(40 * 24 // every_h) if number % 5]  # some hold no row
    judged: list[tuple[float, float]] = []
    for hours in sorted(stops):
        until = {"inputs": judged[-1][1]} if judged else {}
        watched = state(every_s=every_s, starts=starts, judged_until=until, known_after_s=1e12)
        actions = due(watched, now=0, as_of=NOON + hours * 3600.0)
        judged += [(action.start, action.end) for action in actions if isinstance(action, JudgeWindow)]
    at_once = due(state(every_s=every_s, starts=starts, known_after_s=1e12), now=0, as_of=NOON + max(stops) * 3600.0)
    assert judged == [(action.start, action.end) for action in at_once if isinstance(action, JudgeWindow)]
    assert all(later[0] >= earlier[1] for earlier, later in pairwise(judged))
