"""What a rollout does next, in every case."""

import pytest

from shipworthy.contract.types import Rollout
from shipworthy.kernel.errors import InternalError
from shipworthy.rollout.judge import Judgement, Metric, Outcome
from shipworthy.rollout.plan import Kind, Plan, next_move, plan_of

PLAN = Plan((0.05, 0.25, 1.0), at_least_s=1800.0, at_most_s=86_400.0)


def judged(metric: Metric, outcome: Outcome) -> Judgement:
    return Judgement(metric, outcome, 0.0, (-0.1, 0.1), 0.005, None, 1.0, (10, 90), (10, 90), f"{metric} is {outcome}.")


GOOD = (judged("errors", "no worse"), judged("value", "no worse"))
OPEN = (judged("errors", "no worse"), judged("value", "undecided"))
BAD = (judged("errors", "undecided"), judged("value", "worse"))


def test_the_plan_is_the_contracts() -> None:
    rollout = Rollout.model_validate(
        {
            "steps": ("5%", "25%", "100%"),
            "hold": {"at_least": "30min", "at_most": "24h"},
            "no_worse": {"errors": {"by": "0.5%"}},
        }
    )
    assert plan_of(rollout) == PLAN


@pytest.mark.parametrize(
    ("step", "since_step_s", "judgements", "kind", "next_step", "share"),
    [
        (0, 0.0, BAD, "roll back", 0, 0.0),
        (1, 10**6, BAD, "roll back", 1, 0.0),
        (2, 0.0, BAD, "roll back", 2, 0.0),
        (0, -5.0, GOOD, "hold", 0, 0.05),
        (0, 1799.9, GOOD, "hold", 0, 0.05),
        (0, 1799.9, OPEN, "hold", 0, 0.05),
        (0, 1800.0, GOOD, "advance", 1, 0.25),
        (0, 10**6, GOOD, "advance", 1, 0.25),
        (1, 1799.9, GOOD, "hold", 1, 0.25),
        (1, 1800.0, GOOD, "promote", 2, 1.0),
        (2, 0.0, (), "promote", 2, 1.0),
        (2, 0.0, OPEN, "promote", 2, 1.0),
        (0, 1800.0, OPEN, "hold", 0, 0.05),
        (0, 86_399.0, OPEN, "hold", 0, 0.05),
        (0, 86_400.0, OPEN, "wait for a person", 0, 0.05),
        (1, 10**6, OPEN, "wait for a person", 1, 0.25),
        (0, 1800.0, (), "hold", 0, 0.05),
        (0, 86_400.0, (), "wait for a person", 0, 0.05),
    ],
)
def test_every_case_has_its_move(
    step: int, since_step_s: float, judgements: tuple[Judgement, ...], kind: Kind, next_step: int, share: float
) -> None:
    move = next_move(PLAN, step, since_step_s, judgements)
    assert (move.kind, move.step, move.share) == (kind, next_step, share)
    assert move.reason.endswith(".")


def test_a_plan_of_one_step_is_a_promotion_at_once() -> None:
    assert next_move(Plan((1.0,), 60.0, 600.0), 0, 0.0, ()).kind == "promote"


def test_a_rollback_says_what_was_worse_and_nothing_else() -> None:
    assert next_move(PLAN, 0, 0.0, BAD).reason == "value is worse."


@pytest.mark.parametrize(
    ("since_step_s", "judgements", "reason"),
    [
        (600.0, OPEN, "The step at 5% has lasted 10min of at least 30min."),
        (-3.0, OPEN, "The step at 5% has lasted less than a second of at least 30min."),
        (3600.0, OPEN, "The step at 5% has lasted 1h, with value still undecided."),
        (3600.0, (), "The step at 5% has lasted 1h, with nothing judged yet."),
        (
            90_000.0,
            OPEN,
            "The step at 5% has lasted 25h, which is the most (1d), with value still undecided; a person must decide.",
        ),
        (3600.0, GOOD, "No worse than the champion at 5% of the traffic on errors, value; it goes on to 25%."),
    ],
)
def test_a_reason_names_what_it_waits_for(since_step_s: float, judgements: tuple[Judgement, ...], reason: str) -> None:
    assert next_move(PLAN, 0, since_step_s, judgements).reason == reason


def test_doubt_never_raises_the_share() -> None:
    for step in (0, 1):
        for since_step_s in (0.0, 1800.0, 86_400.0, 1e9):
            for judgements in ((), OPEN, (judged("errors", "undecided"),), BAD):
                assert next_move(PLAN, step, since_step_s, judgements).share <= PLAN.steps[step]


@pytest.mark.parametrize("step", [-1, 3])
def test_a_step_that_the_plan_lacks_is_our_fault(step: int) -> None:
    with pytest.raises(InternalError, match=f"in step {step}, but its plan has steps 0 to 2"):
        next_move(PLAN, step, 0.0, GOOD)


@pytest.mark.parametrize("steps", [(), (0.05, 0.25)])
def test_steps_that_never_end_are_our_fault(steps: tuple[float, ...]) -> None:
    with pytest.raises(InternalError, match="the last must be 1"):
        Plan(steps, 1.0, 2.0)
