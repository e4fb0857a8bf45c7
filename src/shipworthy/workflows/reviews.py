"""Reviews of a project: the answers that wait for a person, oldest first, and what people decide of them.

Where a decision is the truth of its case, it is told as an outcome: the event comes first, and whoever looks next tells
what a killed process could not.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import msgspec

from shipworthy.bundle.format import Policy
from shipworthy.bundle.verify import VerifiedPayload, verify_bundle
from shipworthy.feedback import reviews as rules
from shipworthy.kernel.errors import ConflictError, NotFoundError
from shipworthy.ledger.events import Event, format_time
from shipworthy.records.format import Outcome, Record
from shipworthy.records.read import Tail, find_record, read_outcomes
from shipworthy.records.write import SegmentWriter
from shipworthy.security.access import Principal
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.gate import permit
from shipworthy.workflows.inspect import release_directory
from shipworthy.workflows.moments import parse_moment
from shipworthy.workflows.project import Parts, read_contract

REVIEW = "review"
WRITER = "review"  # names the segments of outcomes; its lock parts those who tell at once
TELL_S = 5.0  # longest wait for that lock
TRY_S = 0.01

State = Literal["waiting", "unclaimed", "claimed", "decided"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which reviews are asked for."""

    state: State = "waiting"  # unclaimed or claimed
    by: str | None = None  # who has claimed or decided it
    release: str | None = None  # that answered
    after: str | None = None  # the prediction behind which to go on: ids ascend with time
    limit: int | None = None


ALL_WAITING = Wanted()


class _Reviewed(msgspec.Struct):
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


class Reviewed:
    """The answers that were sent to a person, by environment; who keeps it reads each record once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tails: dict[str, Tail[_Reviewed]] = {}
        self._found: dict[str, dict[str, _Reviewed]] = {}

    def look(self, parts: Parts, environment: str) -> list[_Reviewed]:
        """All that there are by now, as ids ascend; of what a caller sent twice the first.

        Raises:
            IntegrityError: a record segment is damaged.
        """
        project = parts.project
        with self._lock:
            if environment not in self._tails:
                self._tails[environment] = Tail(project.records(environment), _Reviewed, project.vault)
            found = self._found.setdefault(environment, {})
            for record in self._tails[environment].iter_new():
                if record.handling == REVIEW:
                    record.inputs = record.inputs.copy()  # lets the segment go
                    found.setdefault(record.id or record.prediction_id, record)
            return sorted(found.values(), key=lambda record: record.prediction_id)


def queue(
    parts: Parts, environment: str, wanted: Wanted = ALL_WAITING, reviewed: Reviewed | None = None
) -> list[dict[str, Any]]:
    """The answers in `environment` that were sent to a person, oldest first.

    Args:
        parts: whose records are read, and whose ledger knows what is claimed and decided.
        environment: names the records.
        wanted: which of them.
        reviewed: what was read before; None: all is read.

    Raises:
        IntegrityError: a record segment is damaged.
    """
    now = parts.now()
    bodies = parts.ledger.latest(REVIEW)
    states = {body["prediction_id"]: body for body in bodies if body["environment"] == environment}
    found = (Reviewed() if reviewed is None else reviewed).look(parts, environment)
    chosen = (one for one in found if _is_wanted(one, states.get(one.prediction_id), wanted, now))
    return [_row(one, states.get(one.prediction_id), now) for one in islice(chosen, wanted.limit)]


def show(parts: Parts, principal: Principal, environment: str, prediction_id: str) -> dict[str, Any]:
    """One answer that was sent to a person, with all that is needed to decide it.

    Reasons that were not recorded are made now, by the release that answered. Protected context is left out.

    Raises:
        AccessError: `principal` may not read decisions.
        NotFoundError: no answer of that id was sent to a person there.
        IntegrityError: the release that answered does not hold.
    """
    permit(parts, principal, "review show", environment=environment, name=f"{REVIEW}:{prediction_id}")
    record = _find_record(parts, environment, prediction_id)
    payload, contract = _payload(parts, record), read_contract(parts.project)
    state = parts.ledger.find_latest(REVIEW, prediction_id)
    protected = set(contract.context_by_role("protected"))
    context: Mapping[str, Any] = record.context or {}
    kept = (record.prediction_id, record.time, record.release, record.id)
    brief = _Reviewed(*kept, confidence=record.confidence, decision=record.decision, warnings=record.warnings)
    return {
        **_row(brief, state, parts.now()),
        "inputs": record.inputs,
        "context": {name: value for name, value in context.items() if name not in protected},
        "source": record.source,
        "prediction": record.prediction,
        "probability": record.probability,
        "interval": record.interval,
        "reasons": record.reasons or _reasons(payload, record),
        "actions": list(actions_of(payload.policy)),
    }


def claim(parts: Parts, principal: Principal, environment: str, prediction_id: str) -> dict[str, Any]:
    """Take an answer out of the queue for `principal`, who alone decides it until the claim ends.

    Raises:
        AccessError: `principal` may not review.
        NotFoundError: nothing of that id waits there.
        ConflictError: somebody else has it, or it is decided.
    """
    rule = permit(parts, principal, "review claim", environment=environment, name=f"{REVIEW}:{prediction_id}")
    case = _find_case(parts, environment, prediction_id)
    latest = parts.ledger.find_latest(REVIEW, prediction_id)
    body = rules.claim(case, latest, principal.name, parts.now())
    parts.ledger.append(Event("review.claimed", f"{REVIEW}:{prediction_id}", principal.actor, body, rule))
    return body


def decide(
    parts: Parts, principal: Principal, environment: str, prediction_id: str, decision: str, reason: str
) -> dict[str, Any]:
    """Decide an answer that waits for a person; where that is the truth of the case, it is told as its outcome.

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
        StorageError: the outcome cannot be written; the decision stands, and its outcome is told later.
    """
    rule = permit(parts, principal, "review decide", environment=environment, name=f"{REVIEW}:{prediction_id}")
    case = _find_case(parts, environment, prediction_id)
    latest = parts.ledger.find_latest(REVIEW, prediction_id)
    body = rules.decide(case, latest, principal.name, parts.now(), decision, reason)
    parts.ledger.append(Event("review.decided", f"{REVIEW}:{prediction_id}", principal.actor, body, rule))
    if body["outcome"] is not None:
        tell(parts, environment)
    return body


def tell(parts: Parts, environment: str, monotonic: Callable[[], float] = time.monotonic) -> int:
    """Tell the outcomes that reviewers' decisions are and that were not told yet; how many.

    Raises:
        ConflictError: another process tells all the while.
        StorageError: the disk refuses.
    """
    project = parts.project
    decided = [body for body in parts.ledger.latest(REVIEW) if body.get("outcome") is not None]
    due = [body for body in decided if body["environment"] == environment]
    if not due:
        return 0
    with _writer(parts, environment, monotonic) as writer:
        told = {one.id for one in read_outcomes(project.outcomes(environment), project.vault, writer=WRITER)}
        fresh = [_outcome(body, parts.now()) for body in due if body["prediction_id"] not in told]
        if fresh:
            seal = read_contract(project).encryption == "at_rest"
            writer.append([msgspec.msgpack.encode(outcome) for outcome in fresh], seal=seal)
    return len(fresh)


@contextmanager
def _writer(parts: Parts, environment: str, monotonic: Callable[[], float]) -> Iterator[SegmentWriter]:
    """The writer of outcomes of reviews, once nobody else has it."""
    directory, until = parts.project.outcomes(environment), monotonic() + TELL_S
    while True:
        try:
            writer = SegmentWriter(
                directory, environment, WRITER, now=parts.now, monotonic=monotonic, vault=parts.project.vault
            )
            break
        except ConflictError:
            if monotonic() > until:
                raise
            time.sleep(TRY_S)
    with closing(writer):
        yield writer


def _outcome(body: Mapping[str, Any], now: float) -> Outcome:
    return Outcome(
        id=body["prediction_id"],
        value=body["outcome"],
        time=parse_moment(body["decided"], "decided"),
        received=now,
        source=f"review:{body['by']}",
    )


def _is_wanted(record: _Reviewed, state: Mapping[str, Any] | None, wanted: Wanted, now: float) -> bool:
    is_decided = state is not None and state["state"] == rules.DECIDED
    holder = rules.holder(state, now)
    who = state["by"] if state is not None and is_decided else holder
    return (
        {"waiting": not is_decided, "decided": is_decided}.get(
            wanted.state, not is_decided and (holder is not None) == (wanted.state == "claimed")
        )
        and wanted.by in (None, who)
        and wanted.release in (None, record.release)
        and (wanted.after is None or record.prediction_id > wanted.after)
    )


def _find_record(parts: Parts, environment: str, prediction_id: str) -> Record:
    try:
        record = find_record(parts.project.records(environment), prediction_id, parts.project.vault)
    except NotFoundError:
        raise NotFoundError(
            f"{environment} has no prediction {prediction_id!r}; see `shipworthy review list`"
        ) from None
    if record.handling != REVIEW:
        raise NotFoundError(f"{prediction_id} waits for nobody: {record.decision} was answered at once")
    return record


def _find_case(parts: Parts, environment: str, prediction_id: str) -> rules.Case:
    policy = _payload(parts, _find_record(parts, environment, prediction_id)).policy
    contract = read_contract(parts.project)
    review = contract.decision.review
    return rules.Case(
        environment,
        prediction_id,
        actions_of(policy),
        rules.HOLD_S if review is None else review.claim,
        _truths(policy) if contract.decides_truth else None,
    )


def _payload(parts: Parts, record: Record) -> VerifiedPayload:
    """Of the release that answered."""
    project = parts.project
    release = parts.ledger.find_release(record.release)
    directory = release_directory(project, release)
    keys = load_public_keys(project.public_keys)
    return verify_bundle(directory, keys, str(release["digest"]), project.vault).payload


def actions_of(policy: Policy) -> tuple[str, ...]:
    """The actions between which a policy decides, in its order; none for numbers.

    >>> actions_of(Policy(task="binary", classes=("0", "1"), fallback_otherwise="0", timeout_s=1.0))
    ('0', '1')
    """
    named = [policy.actions.get(label, label) for label in policy.classes] + [band.action for band in policy.bands]
    return tuple(dict.fromkeys(named))


def _truths(policy: Policy) -> dict[str, str]:
    """The class that an action says came true; none for actions of several classes, or of bands of a number."""
    by_action: dict[str, list[str]] = {}
    for label in policy.classes:
        by_action.setdefault(policy.actions.get(label, label), []).append(label)
    return {action: labels[0] for action, labels in by_action.items() if len(labels) == 1}


def _reasons(payload: VerifiedPayload, record: Record) -> dict[str, Any] | None:
    """Those that the release would give now; None for a fallback, or where it gives none."""
    # the engine of models, which nothing else of the control plane loads
    from shipworthy.serving.reasons import explain
    from shipworthy.serving.run import infer
    from shipworthy.serving.runtimes.load import load_patiently
    from shipworthy.serving.servable import make_servable

    if record.source != "model" or not payload.policy.reasons:
        return None
    servable = make_servable(payload.as_recorded(), record.release, payload.digest, load_patiently)
    sample = servable.decoder.decode_object({"inputs": record.inputs, "context": record.context})
    decided = infer(servable, [sample])[0]
    found = None if isinstance(decided, str) else explain(servable, [sample], [decided])[0]
    return None if found is None else msgspec.to_builtins(found)


def _row(record: _Reviewed, state: Mapping[str, Any] | None, now: float) -> dict[str, Any]:
    holder = rules.holder(state, now)
    is_decided = state is not None and state["state"] == rules.DECIDED
    decided = {name: state[name] for name in ("by", "decided", "decision", "reason")} if state and is_decided else None
    return {
        "prediction_id": record.prediction_id,
        "id": record.id,
        "time": format_time(record.time),
        "release": record.release,
        "inputs": msgspec.msgpack.decode(record.inputs),
        "decision": record.decision,
        "confidence": record.confidence,
        "warnings": list(record.warnings),
        "claimed_by": holder,
        "claimed_until": state["expires"] if state and holder else None,
        "decided": decided,
    }
