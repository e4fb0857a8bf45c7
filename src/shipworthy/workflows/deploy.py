"""Deploy: a release into an environment, by steps where its contract declares them, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from shipworthy.bundle.format import DeployedRelease
from shipworthy.kernel.errors import ConflictError, IntegrityError, UsageError
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import Ledger
from shipworthy.rollout.plan import plan_of
from shipworthy.security.access import Principal
from shipworthy.workflows.attest import Bound, check_admitted, open_release, standing
from shipworthy.workflows.gate import permit
from shipworthy.workflows.project import Parts
from shipworthy.workflows.traffic import repair, set_traffic

LOCAL = "local"

Rollout = Mapping[str, Any]


def deploy(parts: Parts, principal: Principal, name: str, environment: str) -> dict[str, Any]:
    """Give the release called `name` the environment's traffic: by its rollout's steps, else at once.

    Raises:
        AccessError: the principal may not deploy.
        NotFoundError, IntegrityError: no such release, or its bundle is unsigned or changed.
        RefusedError: a verdict keeps it out, or an approval is owed.
        ConflictError: a rollout is under way, or somebody else deployed meanwhile.
    """
    rule = permit(parts, principal, "deploy", environment=environment, name=f"release:{name}")
    bound = open_release(parts.project, parts.ledger, name)
    declared = bound.environment(environment)
    approved = () if environment == LOCAL else check_admitted(parts, bound, environment)
    running = running_rollout(parts.ledger, environment)
    if running is not None:
        raise ConflictError(
            f"{running['release']} is being rolled out in {environment} ({running['share']:.0%} of traffic); "
            f"wait for its end, or run: shipworthy rollback --env {environment}"
        )
    current = parts.ledger.current_deployment(environment)
    entry = _entry(bound, 1.0, approved)
    if current is not None and [item["digest"] for item in current["releases"]] == [entry.digest]:
        repair(parts, environment)
        return _told(environment, int(current["generation"]), "deployed", bound.name, 1.0)
    if current is None or declared.rollout is None:
        unit = "subject" if declared.rollout is None else declared.rollout.unit
        generation = set_traffic(parts, principal.actor, rule, environment, (entry,), unit=unit)
        return _told(environment, generation, "deployed", bound.name, 1.0)
    return _start_rollout(parts, principal, rule, bound, environment, approved)


def deploy_or_wait(parts: Parts, principal: Principal, name: str, environment: str) -> dict[str, Any]:
    """As `deploy`, but what is still owed is told instead of refused: `state` is then `awaiting`.

    Raises:
        UsageError: the release's contract has no such environment.
        AccessError, ConflictError, IntegrityError: as for `deploy`.
    """
    found = standing(parts, open_release(parts.project, parts.ledger, name), environment)
    if environment != LOCAL and (found["owed"] or found["stopped"]):
        awaiting = {"owed": found["owed"], "stopped": found["stopped"]}
        return {"state": "awaiting", "environment": environment, "release": found["release"], **awaiting}
    return deploy(parts, principal, name, environment)


def _start_rollout(
    parts: Parts, principal: Principal, rule: str, bound: Bound, environment: str, approved: tuple[str, ...]
) -> dict[str, Any]:
    declared = bound.environment(environment).rollout
    champion = champion_entry(parts.ledger, environment)
    if declared is None or champion is None:
        raise UsageError(f"{environment} has no rollout to start")
    plan = plan_of(declared)
    share = plan.steps[0]
    if share >= 1:
        generation = set_traffic(
            parts, principal.actor, rule, environment, (_entry(bound, 1.0, approved),), unit=declared.unit
        )
        return _told(environment, generation, "deployed", bound.name, 1.0)
    number = 1 + sum(1 for body in parts.ledger.latest("rollout") if body["environment"] == environment)
    as_of = clock(parts, environment)
    body: Rollout = {
        "environment": environment,
        "number": number,
        "system": bound.contract.system,
        "release": bound.name,
        "champion": champion.release,
        "step": 0,
        "share": share,
        "state": "running",
        "started": as_of,
        "step_started": as_of,
        "judged": as_of,
        "judgements": [],
        "reason": f"{share:.0%} of traffic, sticky by {declared.unit}",
        "revision": 1,
    }
    releases = (_entry(bound, share, approved), msgspec.structs.replace(champion, share=1 - share))
    started = Event("rollout.started", f"rollout:{environment}:{number}", principal.actor, body, rule)
    generation = set_traffic(
        parts, principal.actor, rule, environment, releases, unit=declared.unit, also=(started,), salt_of=number
    )
    return _told(environment, generation, "canary", bound.name, share) | {"rollout": number}


def roll_back(
    parts: Parts, principal: Principal, environment: str, reason: str, to: str | None = None
) -> dict[str, Any]:
    """Return all traffic to the champion of the running rollout, or to the release before, or to `to`.

    Raises:
        AccessError: the principal may not roll back.
        UsageError: no reason is given.
        ConflictError: there is nothing to go back to.
    """
    rule = permit(parts, principal, "rollback", environment=environment)
    if not reason.strip():
        raise UsageError("a rollback needs a reason: --reason TEXT")
    running = running_rollout(parts.ledger, environment)
    if running is not None and to in (None, running["champion"]):
        return end_rollout(parts, principal.actor, rule, running, "rolled back", reason)
    current = parts.ledger.current_deployment(environment)
    if current is None:
        raise ConflictError(f"nothing is deployed in {environment}; there is nothing to roll back")
    target = (
        _release_before(parts.ledger, environment, current) if to is None else _named_before(parts, environment, to)
    )
    also = () if running is None else (_ended(running, principal.actor, rule, "withdrawn", reason),)
    entry = msgspec.structs.replace(target, share=1.0)
    generation = set_traffic(parts, principal.actor, rule, environment, (entry,), also=also, reason=reason)
    return _told(environment, generation, "rolled back", entry.release, 1.0) | {"reason": reason}


def end_rollout(
    parts: Parts,
    actor: str,
    rule: str,
    running: Rollout,
    state: str,
    reason: str,
    *,
    also: Sequence[Event] = (),
) -> dict[str, Any]:
    """All traffic to the release (`promoted`) or back to its champion (`rolled back`), and the rollout's end."""
    environment = str(running["environment"])
    current = parts.ledger.current_deployment(environment) or {"releases": []}
    kept = running["release"] if state == "promoted" else running["champion"]
    entries = [_stored(item) for item in current["releases"] if item["release"] == kept]
    if not entries:
        raise IntegrityError(f"{environment} does not serve {kept}; run `shipworthy verify` and look at its deployment")
    generation = set_traffic(
        parts,
        actor,
        rule,
        environment,
        (msgspec.structs.replace(entries[0], share=1.0),),
        also=(_ended(running, actor, rule, state, reason), *also),
        reason=reason,
    )
    return _told(environment, generation, state, str(kept), 1.0) | {"reason": reason}


def running_rollout(ledger: Ledger, environment: str) -> dict[str, Any] | None:
    """The rollout that has not ended; None if there is none."""
    found = [
        body
        for body in ledger.latest("rollout")
        if body["environment"] == environment and body["state"] in ("running", "held")
    ]
    return found[-1] if found else None


def champion_entry(ledger: Ledger, environment: str) -> DeployedRelease | None:
    """The release with the most traffic now."""
    current = ledger.current_deployment(environment)
    if current is None:
        return None
    return max((_stored(item) for item in current["releases"]), key=lambda item: item.share)


def clock(parts: Parts, environment: str) -> float:
    """The time by which things are judged: where control's clock was set, that; else now. Unix seconds."""
    body = parts.ledger.find_latest("clock", environment)
    return parts.now() if body is None or body["as_of"] is None else float(body["as_of"])


def _entry(bound: Bound, share: float, approved: tuple[str, ...]) -> DeployedRelease:
    return DeployedRelease(
        release=bound.name,
        digest=str(bound.release["digest"]),
        payload=str(bound.release["payload"]),
        share=share,
        attestations=approved,
    )


def _stored(item: Mapping[str, Any]) -> DeployedRelease:
    return msgspec.convert(item, DeployedRelease)


def _ended(running: Rollout, actor: str, rule: str, state: str, reason: str) -> Event:
    body = {**running, "state": state, "reason": reason, "revision": int(running["revision"]) + 1}
    return Event("rollout.ended", f"rollout:{running['environment']}:{running['number']}", actor, body, rule)


def _release_before(ledger: Ledger, environment: str, current: Mapping[str, Any]) -> DeployedRelease:
    serving = {item["digest"] for item in current["releases"]}
    for entry in reversed([*ledger.events(verb="deployment.set")]):
        body = entry.body
        whole = [item for item in body["releases"] if item["share"] >= 1]
        if body["environment"] == environment and whole and whole[0]["digest"] not in serving:
            return _stored(whole[0])
    raise ConflictError(f"nothing was deployed in {environment} before; there is nothing to roll back to")


def _named_before(parts: Parts, environment: str, name: str) -> DeployedRelease:
    """A release that had all traffic here before: going back needs no new approval, going anywhere else does."""
    for entry in reversed([*parts.ledger.events(verb="deployment.set")]):
        for item in entry.body["releases"]:
            if entry.body["environment"] == environment and item["release"] == name and item["share"] >= 1:
                return _stored(item)
    raise ConflictError(f"{name} never served in {environment}; `shipworthy deploy {name} --env {environment}` can")


def _told(environment: str, generation: int, state: str, release: str, share: float) -> dict[str, Any]:
    return {
        "state": state,
        "environment": environment,
        "release": release,
        "share": share,
        "generation": generation,
    }
