"""Reviews: who may take an answer that waits for a person, and what they may decide. Pure: no clock, no file.

A review is claimed by one person, who alone decides it, once; a claim ends by itself after a while. An unclaimed one
may be decided at once. The whole state is the latest body; `revision` grows by one with each step, so that of two who
are as fast one is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shipworthy.kernel.errors import ConflictError, UsageError
from shipworthy.ledger.events import format_time

CLAIMED, DECIDED = "claimed", "decided"
MAX_REASON = 2000  # characters
HOLD_S = 1800.0  # a claim, where the contract does not say: longer than a case takes, shorter than a colleague waits

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """An answer that waits for a person."""

    environment: str
    prediction_id: str
    actions: Sequence[str]  # what may be decided; none where any number may
    hold_s: float = HOLD_S  # how long a claim holds
    truths: Mapping[str, str] | None = None  # action -> class that it says came true; None: a decision is no truth


def claim(case: Case, latest: Body | None, by: str, now: float) -> dict[str, Any]:
    """The state of the review once `by` has it; claiming one's own again makes it hold longer.

    Args:
        case: what is claimed.
        latest: the review as it is; None if nobody touched it.
        by: the person's name.
        now: Unix seconds.

    Raises:
        ConflictError: somebody else has it, or it is decided.

    >>> claim(Case("local", "p_1", ("approve",)), None, "ruth", 0.0)["expires"]
    '1970-01-01T00:30:00.000Z'
    """
    _judge_free(case, latest, by, now)
    return {
        "prediction_id": case.prediction_id,
        "environment": case.environment,
        "state": CLAIMED,
        "by": by,
        "claimed": format_time(now),
        "expires": format_time(now + case.hold_s),
        "decided": None,
        "decision": None,
        "reason": None,
        "outcome": None,
        "revision": _next(latest),
    }


def decide(case: Case, latest: Body | None, by: str, now: float, decision: str, reason: str) -> dict[str, Any]:
    """The state of the review once `by` decided it.

    Args:
        case: what is decided.
        latest: the review as it is; None if nobody touched it.
        by: the person's name.
        now: Unix seconds.
        decision: one of the case's actions.
        reason: why, in words.

    Raises:
        ConflictError: somebody else has it, or it is decided.
        UsageError: the decision is none that may be made, or there is no reason.
    """
    _judge_free(case, latest, by, now)
    _judge_decision(case, decision)
    words = reason.strip()
    if not words or len(words) > MAX_REASON or not words.isprintable():
        raise UsageError(f"a decision needs a reason: one line of 1 to {MAX_REASON} characters; got {reason[:60]!r}")
    body = claim(case, latest, by, now)
    since = latest["claimed"] if latest is not None and latest["by"] == by else body["claimed"]
    told = {"decision": decision, "reason": words, "outcome": _truth(case, decision)}
    return {**body, "state": DECIDED, "claimed": since, "expires": None, "decided": body["claimed"], **told}


def holder(latest: Body | None, now: float) -> str | None:
    """Who has claimed a review that is not decided; None once the claim has ended."""
    if latest is None or latest["state"] != CLAIMED or str(latest.get("expires")) <= format_time(now):
        return None
    return str(latest["by"])


def _truth(case: Case, decision: str) -> str | float | None:
    """What a decision says came true; None where it says nothing, or an action stands for several classes."""
    if case.truths is None:
        return None
    return case.truths.get(decision) if case.actions else float(decision)


def _judge_free(case: Case, latest: Body | None, by: str, now: float) -> None:
    if latest is None:
        return
    if latest["state"] == DECIDED:
        raise ConflictError(
            f"{case.prediction_id} was decided by {latest['by']} on {latest['decided']}: {latest['decision']} "
            f"({latest['reason']}); a decision stands"
        )
    if (other := holder(latest, now)) not in (None, by):
        raise ConflictError(
            f"{case.prediction_id} is claimed by {other} until {latest['expires']}; until then they decide it"
        )


def _judge_decision(case: Case, decision: str) -> None:
    if case.actions:
        if decision not in case.actions:
            raise UsageError(f"{decision!r} cannot be decided here; the actions are {', '.join(case.actions)}")
        return
    try:
        float(decision)
    except ValueError:
        raise UsageError(f"{decision!r} cannot be decided here; this system answers with numbers") from None


def _next(latest: Body | None) -> int:
    return 1 if latest is None else int(latest["revision"]) + 1
