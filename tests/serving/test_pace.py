"""Runs as large as the deadline allows."""

import time
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from shipworthy.serving.pace import MAX_RUN_ROWS, SHARE, Pace
from tests.serving.conftest import Place, Running, good_request, loans_policy
from tests.serving.faulty_server import SLOW, SLOW_S
from tests.serving.test_faults import FAULTY


def settle(pace: Pace, run_s: float, row_s: float) -> float:
    """Seconds of a full run, after many."""
    for _ in range(50):
        pace.learn(pace.limit, run_s + pace.limit * row_s)
    return run_s + pace.limit * row_s


@given(st.floats(1e-6, 0.02), st.floats(0.0, 0.2))
def test_full_runs_settle_within_their_share_of_the_deadline(row_s: float, run_s: float) -> None:
    pace = Pace(timeout_s=1.0)
    seconds = settle(pace, run_s, row_s)
    assert 1 <= pace.limit <= MAX_RUN_ROWS
    assert seconds <= SHARE or pace.limit == 1
    assert pace.limit == MAX_RUN_ROWS or seconds > SHARE / 8  # and no smaller than they need to be


def test_a_model_that_is_fast_again_gets_full_runs_again() -> None:
    pace = Pace(timeout_s=1.0)
    settle(pace, 0.0, 0.05)
    assert pace.limit == 5
    settle(pace, 0.0, 1e-5)
    assert pace.limit == MAX_RUN_ROWS


def test_small_runs_of_a_fast_model_change_nothing() -> None:
    pace = Pace(timeout_s=1.0)
    for _ in range(100):
        pace.learn(1, 0.0001)
    assert pace.limit == MAX_RUN_ROWS


def test_a_list_for_a_slow_model_is_run_in_parts_that_keep_the_deadline(
    place: Place, start: Callable[..., Running]
) -> None:
    """100 rows of 5 ms are half a second: in one run every one of them would be late."""
    place.deploy(place.publish(1, policy=loans_policy(timeout_s=0.4)))
    running = start(script=FAULTY)
    first = running.predict([good_request(income=SLOW) for _ in range(100)])[1]
    time.sleep(0.5)
    again = running.predict([good_request(income=SLOW) for _ in range(100)])[1]
    by_model = [sum(answer["source"] == "model" for answer in answers) for answers in (first, again)]
    assert 100 * SLOW_S > 0.4
    assert by_model[1] >= 20  # the first parts are in time, though the list as a whole cannot be
