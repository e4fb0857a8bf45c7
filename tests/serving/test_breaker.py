"""The circuit breaker as a machine of three states."""

from hypothesis import given
from hypothesis import strategies as st

from shipworthy.serving.breaker import FAILURES, MAX_REST_S, REST_S, Breaker


def opened(clock: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(FAILURES):
        breaker.fail(clock)
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_after_as_many_with_a_success_between():
    breaker = Breaker()
    for _ in range(3 * FAILURES):
        breaker.fail(0.0)
        breaker.succeed()
    assert breaker.state == "closed"
    assert opened().state == "open"
    assert opened().opened == 1


def test_one_trial_is_let_through_after_the_rest_and_its_success_closes():
    breaker = opened()
    assert not breaker.admits(REST_S - 0.001)
    assert breaker.admits(REST_S)
    assert not breaker.admits(REST_S + 5)  # the trial is under way
    breaker.succeed()
    assert breaker.admits(REST_S)
    assert breaker.state == "closed"


def test_each_failed_trial_doubles_the_rest_up_to_half_a_minute():
    breaker, clock, rests = opened(), 0.0, []
    for _ in range(8):
        began = clock
        while not breaker.admits(clock):
            clock += 0.5
        rests.append(clock - began)
        breaker.fail(clock)
    assert rests == [1, 2, 4, 8, 16, 30, 30, 30]
    assert rests[-1] == MAX_REST_S


def test_a_trial_that_was_not_made_leaves_the_next_one_free():
    breaker = opened()
    assert breaker.admits(REST_S)
    breaker.give_back()
    assert breaker.admits(REST_S)


@given(st.lists(st.tuples(st.sampled_from(["admits", "fail", "succeed", "give_back"]), st.floats(0, 5))))
def test_whatever_happens_it_asks_again_within_the_longest_rest(events: list[tuple[str, float]]):
    breaker, clock, trial = Breaker(), 0.0, False
    for name, step in events:
        clock += step
        if name == "admits":
            trial = breaker.admits(clock) or trial
        elif name == "fail":
            breaker.fail(clock)
        else:
            getattr(breaker, name)()
    if breaker.state == "half-open":
        breaker.give_back()  # every trial that is under way ends
    assert breaker.admits(clock + MAX_REST_S)
