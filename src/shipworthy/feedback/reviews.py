"""Reviews: who may take an answer that waits for a person, and what they may decide. Pure: no clock, no file.

A review is claimed by one person, who alone decides it, once. An unclaimed one may be decided at once. The whole state
is the latest body; `revision` grows by one with each step, so that of two who are as fast one is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shipworthy.kernel.errors import ConflictError, UsageError

CLAIMED, DECIDED = "claimed", "decided"
MAX_REASON = 2000  # characters

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """An answer that waits for a person."""

    environment: str
    prediction_id: str
    actions: Sequence[str]  # what may be decided; none where any number may


def claim(case: Case, latest: Body | None, by: str, time: str) -> dict[str, Any]:
    """The state of the review once `by` has it; claiming one's own again changes nothing but the time.

    Args:
        case: what is claimed.
        latest: the review as it is; None if nobody touched it.
        by: the person's name.
        time: RFC 3339.

    Raises:
        ConflictError: somebody else has it, or it is decided.

    >>> claim(Case("local", "p_1", ("approve",)), None, "ruth", "2026-01-31T09:30:00Z")["revision"]
    1
    """
    _judge_free(case, latest, by)
    return {
        "prediction_id": case.prediction_id,
        "environment": case.environment,
        "state": CLAIMED,
        "by": by,
        "claimed": time,
        "decided": None,
        "decision": None,
        "reason": None,
        "revision": _next(latest),
    }


def decide(case: Case, latest: Body | None, by: str, time: str, decision: str, reason: str) -> dict[str, Any]:
    """The state of the review once `by` decided it.

    Args:
        case: what is decided.
        latest: the review as it is; None if nobody touched it.
        by: the person's name.
        time: RFC 3339.
        decision: one of the case's actions.
        reason: why, in words.

    Raises:
        ConflictError: somebody else has it, or it is decided.
        UsageError: the decision is none that may be made, or there is no reason.
    """
    _judge_free(case, latest, by)
    _judge_decision(case, decision)
    words = reason.strip()
    if not words or len(words) > MAX_REASON or not words.isprintable():
        raise UsageError(f"a decision needs a reason: one line of 1 to {MAX_REASON} characters; got {reason[:60]!r}")
    body = claim(case, latest, by, latest["claimed"] if latest else time)
    return {**body, "state": DECIDED, "decided": time, "decision": decision, "reason": words}


def _judge_free(case: Case, latest: Body | None, by: str) -> None:
    if latest is None:
        return
    if latest["state"] == DECIDED:
        raise ConflictError(
            f"{case.prediction_id} was decided by {latest['by']} on {latest['decided']}: {latest['decision']} "
            f"({latest['reason']}); a decision stands"
        )
    if latest["by"] != by:
        raise ConflictError(
            f"{case.prediction_id} is claimed by {latest['by']} since {latest['claimed']}; they decide it"
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
