"""Approvals and waivers: who vouched for a release in an environment, in which role, and what is still owed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shipworthy.bundle.attestation import sign_attestation
from shipworthy.bundle.deployment import bundle_path
from shipworthy.bundle.format import AttestationPredicate
from shipworthy.bundle.verify import verify_bundle
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract, Environment
from shipworthy.kernel.errors import AccessError, ConflictError, NotFoundError, RefusedError, UsageError
from shipworthy.ledger.events import Event, format_time
from shipworthy.ledger.store import Ledger
from shipworthy.release.publish import CONTRACT, VERDICTS
from shipworthy.security.access import PERMISSIONS, Principal
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.gate import permit
from shipworthy.workflows.inspect import release_name
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts

WAIVER_ROLES = 2  # of different people
LONGEST_WAIVER_S = 366 * 86400.0  # what is waived longer is a changed limit


@dataclass(frozen=True, slots=True)
class Bound:
    """A release with the documents that its signature binds: its own contract decides what it owes."""

    release: Mapping[str, Any]  # the body of `release.published`
    contract: Contract
    verdicts: tuple[Mapping[str, Any], ...]

    @property
    def name(self) -> str:
        """As people write it: `flights:3`."""
        return release_name(self.release)

    def environment(self, name: str) -> Environment:
        """The environment as the release's contract declares it.

        Raises:
            UsageError: it does not.
        """
        found = self.contract.environments.get(name)
        if found is None:
            known = ", ".join(self.contract.environments)
            raise UsageError(f"the contract of {self.name} has no environment {name!r}; it has: {known}")
        return found


def open_release(project: Project, ledger: Ledger, name: str) -> Bound:
    """The release called `name`, its bundle verified.

    Raises:
        NotFoundError: there is none, or its bundle is gone.
        IntegrityError: its bundle is unsigned or not what was signed.
    """
    release = ledger.find_release(name)
    directory = bundle_path(project.releases, str(release["digest"]))
    if not directory.is_dir():
        raise NotFoundError(f"{release_name(release)}: its bundle is not in {project.releases}; restore it from a copy")
    verify_bundle(directory, load_public_keys(project.public_keys), str(release["digest"]), project.vault)
    contract = parse_contract(
        (directory / CONTRACT).read_text(encoding="utf-8-sig"), f"{release_name(release)}/{CONTRACT}"
    )
    return Bound(release, contract, tuple(json.loads((directory / VERDICTS).read_bytes())))


def attestations(ledger: Ledger, release_digest: str, environment: str) -> list[dict[str, Any]]:
    """What was attested of a release in an environment, oldest first."""
    return [
        body
        for body in ledger.latest("attestation")
        if body["release_digest"] == release_digest and body["environment"] == environment
    ]


def owed(bound: Bound, environment: str, given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Which roles still have to approve, and how many of each: one person counts once."""
    missing = []
    for role, count in bound.environment(environment).approvals.items():
        have = sum(1 for body in given if body["attests"] == "approval" and body["role"] == role)
        if have < count:
            missing.append({"role": role, "count": count - have})
    return missing


def open_gates(bound: Bound, given: Sequence[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """The verdicts that keep the release out: neither passed nor waived, and what each waiver still needs."""
    stopped = []
    for verdict in bound.verdicts:
        if verdict["outcome"] in ("pass", "not applicable"):
            continue
        roles = {
            body["role"]: body["principal"]
            for body in given
            if body["attests"] == "waiver" and body["gate"] == verdict["gate"] and not _is_over(body, now)
        }
        if len(roles) < WAIVER_ROLES:
            stopped.append({"gate": verdict["gate"], "outcome": verdict["outcome"], "waived_by": sorted(roles)})
    return stopped


def approve(parts: Parts, principal: Principal, name: str, environment: str, role: str, reason: str) -> dict[str, Any]:
    """Sign, in `role`, that the release may serve in the environment.

    Raises:
        AccessError: the principal has not the role, or authored the release.
        UsageError: the environment owes no approval of that role.
        ConflictError: the principal has approved it already.
        RefusedError: a verdict keeps the release out, so an approval would mean nothing.
    """
    rule = _permit(parts, principal, "approve", name, environment)
    bound = open_release(parts.project, parts.ledger, name)
    asked = bound.environment(environment).approvals
    if role not in asked:
        needed = ", ".join(f"{count} x {need}" for need, count in asked.items()) or "no approval"
        raise UsageError(f"{environment} asks for {needed}, not for {role}")
    given = attestations(parts.ledger, str(bound.release["digest"]), environment)
    _check_signer(principal, role, given, "approval", None)
    stopped = open_gates(bound, given, parts.now())
    if stopped:
        raise RefusedError(f"{bound.name} cannot be approved: {_stopped(stopped)}")
    predicate = _predicate(parts, principal, bound, environment, role, reason or "approved")
    return _attest(parts, principal, bound, predicate, rule)


def waive(
    parts: Parts, principal: Principal, name: str, environment: str, *, gate: str, role: str, reason: str, for_s: float
) -> dict[str, Any]:
    """Sign, in `role`, that the release may serve although `gate` did not pass; two roles of different people count.

    Args:
        parts: of the project.
        principal: who signs.
        name: of the release.
        environment: where it may serve.
        gate: whose verdict is waived, such as `fairness.equal_opportunity_difference.race`.
        role: in which role.
        reason: why; it is kept for ever.
        for_s: how long the waiver holds, in s; at most a year.

    Raises:
        AccessError, UsageError, ConflictError: as for `approve`; also a gate that passed, no reason, no end.
    """
    rule = _permit(parts, principal, "waive", name, environment)
    if role not in PERMISSIONS["waive"]:
        raise UsageError(f"a waiver is signed as {' or '.join(sorted(PERMISSIONS['waive']))}, not as {role}")
    if not reason.strip():
        raise UsageError("a waiver needs a reason: --reason TEXT")
    if not 0 < for_s <= LONGEST_WAIVER_S:
        raise UsageError("a waiver ends within a year: --expires 30d; what holds longer is a changed limit")
    bound = open_release(parts.project, parts.ledger, name)
    bound.environment(environment)
    outcomes = {verdict["gate"]: verdict["outcome"] for verdict in bound.verdicts}
    if outcomes.get(gate) not in ("fail", "insufficient"):
        waivable = ", ".join(key for key, outcome in outcomes.items() if outcome in ("fail", "insufficient"))
        raise UsageError(f"{bound.name} has no verdict to waive called {gate!r}; there is: {waivable or 'none'}")
    given = attestations(parts.ledger, str(bound.release["digest"]), environment)
    _check_signer(principal, role, [body for body in given if not _is_over(body, parts.now())], "waiver", gate)
    expires = format_time(parts.now() + for_s)
    predicate = _predicate(parts, principal, bound, environment, role, reason, gate=gate, expires=expires)
    return _attest(parts, principal, bound, predicate, rule)


def standing(parts: Parts, bound: Bound, environment: str) -> dict[str, Any]:
    """What keeps the release out of the environment now: verdicts, approvals; and what speaks for it."""
    given = attestations(parts.ledger, str(bound.release["digest"]), environment)
    return {
        "release": bound.name,
        "environment": environment,
        "given": given,
        "owed": owed(bound, environment, given),
        "stopped": open_gates(bound, given, parts.now()),
    }


def check_admitted(parts: Parts, bound: Bound, environment: str) -> tuple[str, ...]:
    """The digests of the attestations that let the release into the environment.

    Raises:
        RefusedError: a verdict keeps it out, or an approval is owed; says which, and the command that cures it.
    """
    found = standing(parts, bound, environment)
    if found["stopped"]:
        raise RefusedError(f"{bound.name} may not serve in {environment}: {_stopped(found['stopped'])}")
    if found["owed"]:
        needed = ", ".join(f"{item['count']} x {item['role']}" for item in found["owed"])
        role = found["owed"][0]["role"]
        raise RefusedError(
            f"{bound.name} is not approved for {environment}: still owed {needed}; "
            f"run: shipworthy approve {bound.name} --env {environment} --role {role}"
        )
    return tuple(str(body["digest"]) for body in found["given"])


def _stopped(stopped: Sequence[Mapping[str, Any]]) -> str:
    words = []
    for item in stopped:
        signed = f", waived so far by {', '.join(item['waived_by'])}" if item["waived_by"] else ""
        words.append(f"{item['gate']} is {item['outcome']}{signed}")
    return f"{'; '.join(words)} (a waiver needs {WAIVER_ROLES} roles, a reason and an end: shipworthy waive)"


def _is_over(body: Mapping[str, Any], now: float) -> bool:
    expires = body.get("expires")
    return expires is not None and datetime.fromisoformat(str(expires)).timestamp() <= now


def _permit(parts: Parts, principal: Principal, verb: str, name: str, environment: str) -> str:
    """The gate's rule, which knows who authored the release: nobody signs for their own work."""
    try:
        author = str(parts.ledger.find_release(name)["author"])
    except NotFoundError:
        author = None  # said after the decision: who may not sign learns nothing
    return permit(parts, principal, verb, environment=environment, name=f"release:{name}", author=author)


def _check_signer(
    principal: Principal, role: str, given: Sequence[Mapping[str, Any]], what: str, gate: str | None
) -> None:
    if role not in principal.roles:
        raise AccessError(f"{principal.name} does not hold the role {role} and cannot sign in it")
    for body in given:
        if body["principal"] == principal.name and body["attests"] == what and body.get("gate") == gate:
            raise ConflictError(
                f"{principal.name} has signed this {what} already, as {body['role']}; one person counts once"
            )


def _predicate(
    parts: Parts,
    principal: Principal,
    bound: Bound,
    environment: str,
    role: str,
    reason: str,
    *,
    gate: str | None = None,
    expires: str | None = None,
) -> AttestationPredicate:
    return AttestationPredicate(
        attests="approval" if gate is None else "waiver",
        release=bound.name,
        verdicts=str(bound.release["verdicts"]),
        environment=environment,
        role=role,
        principal=principal.name,
        gate=gate,
        reason=reason,
        expires=expires,
        time=format_time(parts.now()),
    )


def _attest(
    parts: Parts, principal: Principal, bound: Bound, predicate: AttestationPredicate, rule: str
) -> dict[str, Any]:
    release_digest = str(bound.release["digest"])
    envelope = sign_attestation(predicate, release_digest, parts.key)
    kept = parts.artefacts.put_bytes(envelope, "attestation/in-toto")
    body = {
        "digest": kept.digest,
        "attests": predicate.attests,
        "release": predicate.release,
        "release_digest": release_digest,
        "verdicts": predicate.verdicts,
        "environment": predicate.environment,
        "role": predicate.role,
        "principal": predicate.principal,
        "reason": predicate.reason,
        "time": predicate.time,
        "revision": 1,
        "artefacts": [kept.to_json()],
        "links": [{"parent": f"release:{bound.name}", "relation": predicate.attests, "child": kept.digest}],
    }
    if predicate.gate is not None:
        body |= {"gate": predicate.gate, "expires": predicate.expires}
    parts.ledger.append(Event("release.attested", f"attestation:{kept.digest}", principal.actor, body, rule))
    return body
