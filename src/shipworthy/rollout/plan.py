"""What a rollout does next: hold, advance, promote, roll back, or wait for a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from shipworthy.contract.quantities import format_duration, format_share
from shipworthy.contract.types import Rollout
from shipworthy.kernel.errors import InternalError
from shipworthy.rollout.judge import Judgement

Kind = Literal["hold", "advance", "promote", "roll back", "wait for a person"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The steps of a rollout and how long each lasts.

    Attributes:
        steps: shares of traffic, each above the one before, the last 1.
        at_least_s: shortest time of a step, seconds.
        at_most_s: longest time of a step until a person is asked, seconds.

    Raises:
        InternalError: the steps do not end at 1, which the contract's checks hold.
    """

    steps: tuple[float, ...]
    at_least_s: float
    at_most_s: float

    def __post_init__(self) -> None:
        """Refuse steps that never end."""
        if not self.steps or self.steps[-1] != 1:
            raise InternalError(f"the steps of a rollout are {self.steps}; the last must be 1")


@dataclass(frozen=True, slots=True)
class Move:
    """What to do now.

    Attributes:
        kind: `hold` and `wait for a person` change nothing.
        step: index of the step from now on; that in which it failed for `roll back`.
        share: of the traffic that the canary gets from now on; 0 for `roll back`.
        reason: one sentence in plain words.
    """

    kind: Kind
    step: int
    share: float
    reason: str


def plan_of(rollout: Rollout) -> Plan:
    """The plan that a contract's rollout declares.

    Args:
        rollout: section `environments.ENV.rollout`, as the contract's checks have let it through.
    """
    return Plan(rollout.steps, rollout.hold.at_least, rollout.hold.at_most)


def next_move(plan: Plan, step: int, since_step_s: float, judgements: Sequence[Judgement]) -> Move:
    """What a running rollout does next. Pure: no clock.

    What is worse on any metric goes back at once. What is no worse on every metric goes on once the step has lasted
    `at_least_s`; a next step of 100 % is the promotion, as no champion is left to compare with. What stays undecided
    for `at_most_s` keeps its share and waits for a person: doubt never promotes.

    Args:
        plan: of the rollout.
        step: index of the step that it is in.
        since_step_s: how long it has been in it, seconds; below 0 if the clock was set back.
        judgements: latest of each declared metric; none is doubt.

    Raises:
        InternalError: the plan has no such step.
    """
    if not 0 <= step < len(plan.steps):
        raise InternalError(f"the rollout is in step {step}, but its plan has steps 0 to {len(plan.steps) - 1}")
    share = plan.steps[step]
    worse = [judgement for judgement in judgements if judgement.outcome == "worse"]
    if worse:
        return Move("roll back", step, 0.0, " ".join(judgement.reason for judgement in worse))
    if share >= 1:
        return Move("promote", step, 1.0, "The release has all traffic; there is no champion left to compare with.")
    lasted = f"The step at {format_share(share)} has lasted {_lasted(since_step_s)}"
    if since_step_s < plan.at_least_s:
        return Move("hold", step, share, f"{lasted} of at least {format_duration(plan.at_least_s)}.")
    open_metrics = [judgement.metric for judgement in judgements if judgement.outcome != "no worse"]
    if judgements and not open_metrics:
        return _go_on(plan, step, judgements)
    doubt = f"{', '.join(open_metrics)} still undecided" if open_metrics else "nothing judged yet"
    if since_step_s < plan.at_most_s:
        return Move("hold", step, share, f"{lasted}, with {doubt}.")
    limit = format_duration(plan.at_most_s)
    return Move(
        "wait for a person", step, share, f"{lasted}, which is the most ({limit}), with {doubt}; a person must decide."
    )


def _go_on(plan: Plan, step: int, judgements: Sequence[Judgement]) -> Move:
    metrics = ", ".join(judgement.metric for judgement in judgements)
    share = plan.steps[step + 1]
    good = f"No worse than the champion at {format_share(plan.steps[step])} of the traffic on {metrics}"
    if share >= 1:
        return Move("promote", step + 1, 1.0, f"{good}; it takes all traffic.")
    return Move("advance", step + 1, share, f"{good}; it goes on to {format_share(share)}.")


def _lasted(seconds: float) -> str:
    return format_duration(float(round(seconds))) if seconds >= 1 else "less than a second"
