"""Attempts: what may pass is tried again after a pause, what takes too long is cut, and nobody waits for another."""

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.data.sources.attempts import Deadline, Pace, keep_trying, longest_pause, run_together
from shipworthy.kernel.errors import DeadlineError, SourceError, UnavailableError


def pace(pauses: list[float], chance: float = 0.5) -> Pace:
    return Pace(lambda: 0.0, pauses.append, lambda: chance)


def failing(*errors: Exception) -> Callable[[Deadline], str]:
    """Work that fails so, and then is done."""
    left = list(errors)

    def work(_: Deadline) -> str:
        if left:
            raise left.pop(0)
        return "done"

    return work


def test_what_may_pass_is_tried_again_after_growing_pauses():
    pauses: list[float] = []
    work = failing(*[UnavailableError("away")] * 3)
    assert keep_trying(work, place="x", retries=3, timeout_s=10, pace=pace(pauses)) == "done"
    assert pauses == [0.5, 1.0, 2.0]


def test_the_last_try_says_how_often_it_was_tried():
    with pytest.raises(UnavailableError, match=r"^away \(tried 3 times\)$"):
        keep_trying(failing(*[UnavailableError("away")] * 3), place="x", retries=2, timeout_s=10, pace=pace([]))
    with pytest.raises(UnavailableError, match=r"^away$"):
        keep_trying(failing(UnavailableError("away")), place="x", retries=0, timeout_s=10, pace=pace([]))


def test_what_will_not_pass_is_not_tried_again():
    pauses: list[float] = []
    with pytest.raises(SourceError, match=r"^wrong$"):
        keep_trying(failing(SourceError("wrong")), place="x", retries=5, timeout_s=10, pace=pace(pauses))
    assert pauses == []


def test_a_pause_that_is_asked_for_is_kept_within_reason():
    pauses: list[float] = []
    work = failing(UnavailableError("busy", wait_s=7), UnavailableError("busy", wait_s=86_400))
    assert keep_trying(work, place="x", retries=2, timeout_s=10, pace=pace(pauses)) == "done"
    assert pauses == [7, 60]


@given(st.integers(0, 19), st.floats(0, 1, exclude_max=True))
def test_a_pause_is_never_longer_than_its_bound(tried: int, chance: float):
    pauses: list[float] = []
    work = failing(*[UnavailableError("away")] * (tried + 1))
    keep_trying(work, place="x", retries=20, timeout_s=10, pace=pace(pauses, chance))
    assert all(pause <= longest_pause(at) <= 60 for at, pause in enumerate(pauses))


def test_what_hangs_is_cut_and_may_be_tried_again():
    release = threading.Event()
    tries: list[int] = []

    def work(_: Deadline) -> str:
        tries.append(1)
        if len(tries) == 1:
            release.wait(60)
        return "done"

    assert keep_trying(work, place="x", retries=1, timeout_s=0.2, pace=pace([])) == "done"
    with pytest.raises(DeadlineError, match=r"^x: was not read within 0.2 s; allow it more time with timeout$"):
        keep_trying(lambda _: release.wait(60), place="x", retries=0, timeout_s=0.2, pace=pace([]))
    release.set()


def test_a_deadline_that_is_over_says_so():
    assert Deadline(3.0, lambda: 1.0).left_s == 2.0
    with pytest.raises(DeadlineError, match="it takes too long"):
        _ = Deadline(3.0, lambda: 3.0).left_s


def test_all_run_at_the_same_time_and_one_that_fails_leaves_the_others():
    barrier = threading.Barrier(2, timeout=60)

    def meet() -> str:
        barrier.wait()
        return "met"

    def fail() -> str:
        raise SourceError("gone")

    results = run_together({"a": meet, "b": meet, "c": fail})
    assert (results["a"], results["b"], str(results["c"])) == ("met", "met", "gone")


def test_a_fault_of_our_own_is_not_taken_for_a_broken_source():
    def fail() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_together({"a": fail})
