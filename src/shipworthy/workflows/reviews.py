"""Reviews of a project: the answers that wait for a person, oldest first, and what people decide of them."""

from typing import Any

import msgspec

from shipworthy.bundle.format import Policy
from shipworthy.bundle.verify import verify_bundle
from shipworthy.feedback import reviews as rules
from shipworthy.kernel.errors import NotFoundError
from shipworthy.ledger.events import Event, format_time
from shipworthy.ledger.store import Ledger
from shipworthy.records.format import Record
from shipworthy.records.read import find_record, read_as
from shipworthy.security.access import Principal
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.gate import permit
from shipworthy.workflows.inspect import release_directory
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts

REVIEW = "review"


class _Waiting(msgspec.Struct):
    """What of a record the queue is made of; the rest is passed over."""

    prediction_id: str
    time: float
    release: str
    id: str | None = None
    inputs: msgspec.Raw = msgspec.Raw(b"\xc0")  # decoded for those that are shown
    confidence: float | None = None
    decision: str | float | None = None
    handling: str = "automatic"
    warnings: tuple[str, ...] = ()


def queue(project: Project, ledger: Ledger, environment: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The answers in `environment` that wait for a person, oldest first.

    Args:
        project: whose records are read.
        ledger: knows what is claimed and decided.
        environment: names the records.
        limit: how many at most; None for all.

    Raises:
        IntegrityError: a record segment is damaged.
    """
    states = {body["prediction_id"]: body for body in ledger.latest(REVIEW) if body["environment"] == environment}
    found: list[_Waiting] = []
    seen: set[str] = set()
    for record in read_as(project.records(environment), _Waiting, project.vault):
        if record.id is not None:
            if record.id in seen:  # sent twice: the first answer stands
                continue
            seen.add(record.id)
        if record.handling == REVIEW and states.get(record.prediction_id, {}).get("state") != rules.DECIDED:
            record.inputs = record.inputs.copy()  # lets the segment go
            found.append(record)
    found.sort(key=lambda record: (record.time, record.prediction_id))
    return [_row(record, states.get(record.prediction_id)) for record in found[:limit]]


def claim(parts: Parts, principal: Principal, environment: str, prediction_id: str) -> dict[str, Any]:
    """Take an answer out of the queue for `principal`, who alone decides it then.

    Raises:
        AccessError: `principal` may not review.
        NotFoundError: nothing of that id waits there.
        ConflictError: somebody else has it, or it is decided.
    """
    rule = permit(parts, principal, "review claim", environment=environment, name=f"{REVIEW}:{prediction_id}")
    case = _find_case(parts, environment, prediction_id)
    latest = parts.ledger.find_latest(REVIEW, prediction_id)
    body = rules.claim(case, latest, principal.name, format_time(parts.now()))
    parts.ledger.append(Event("review.claimed", f"{REVIEW}:{prediction_id}", principal.actor, body, rule))
    return body


def decide(
    parts: Parts, principal: Principal, environment: str, prediction_id: str, decision: str, reason: str
) -> dict[str, Any]:
    """Decide an answer that waits for a person.

    Args:
        parts: of the project.
        principal: who decides.
        environment: names the records.
        prediction_id: of the answer.
        decision: an action of the release that answered.
        reason: why, in one line.

    Raises:
        AccessError: `principal` may not review.
        NotFoundError: nothing of that id waits there.
        ConflictError: somebody else has it, or it is decided.
        UsageError: the decision is no action of the contract, or there is no reason.
    """
    rule = permit(parts, principal, "review decide", environment=environment, name=f"{REVIEW}:{prediction_id}")
    case = _find_case(parts, environment, prediction_id)
    latest = parts.ledger.find_latest(REVIEW, prediction_id)
    body = rules.decide(case, latest, principal.name, format_time(parts.now()), decision, reason)
    parts.ledger.append(Event("review.decided", f"{REVIEW}:{prediction_id}", principal.actor, body, rule))
    return body


def _find_case(parts: Parts, environment: str, prediction_id: str) -> rules.Case:
    try:
        record = find_record(parts.project.records(environment), prediction_id, parts.project.vault)
    except NotFoundError:
        raise NotFoundError(
            f"{environment} has no prediction {prediction_id!r}; see `shipworthy review list`"
        ) from None
    if record.handling != REVIEW:
        raise NotFoundError(f"{prediction_id} waits for nobody: {record.decision} was answered at once")
    return rules.Case(environment, prediction_id, _actions(parts, record))


def _actions(parts: Parts, record: Record) -> tuple[str, ...]:
    """What the release that answered may answer; none where it answers with numbers."""
    release = parts.ledger.find_release(record.release)
    directory = release_directory(parts.project, release)
    project = parts.project
    bundle = verify_bundle(directory, load_public_keys(project.public_keys), str(release["digest"]), project.vault)
    return actions_of(bundle.payload.policy)


def actions_of(policy: Policy) -> tuple[str, ...]:
    """The actions between which a policy decides, in its order; none for numbers.

    >>> actions_of(Policy(task="binary", classes=("0", "1"), fallback_otherwise="0", timeout_s=1.0))
    ('0', '1')
    """
    named = [policy.actions.get(label, label) for label in policy.classes] + [band.action for band in policy.bands]
    return tuple(dict.fromkeys(named))


def _row(record: _Waiting, state: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "prediction_id": record.prediction_id,
        "id": record.id,
        "time": format_time(record.time),
        "release": record.release,
        "inputs": msgspec.msgpack.decode(record.inputs),
        "decision": record.decision,
        "confidence": record.confidence,
        "warnings": list(record.warnings),
        "claimed_by": None if state is None else state["by"],
    }
