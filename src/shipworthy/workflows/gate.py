"""The gate: every act on a project is decided here, and recorded before it happens.

The decision is an event of its own, written first: where the log cannot be written, nothing is changed either.
"""

from functools import lru_cache

from shipworthy.contract.parse import parse_contract
from shipworthy.kernel.errors import ShipworthyError
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import Ledger
from shipworthy.security.access import VERBS, Decision, Principal, Target, decide, denial
from shipworthy.workflows.layout import CONTRACT_FILE, Project
from shipworthy.workflows.project import Parts


def permit(
    parts: Parts,
    principal: Principal,
    verb: str,
    *,
    environment: str | None = None,
    name: str = "",
    author: str | None = None,
    subject: str | None = None,
) -> str:
    """The rule that allows `principal` to do `verb`; the decision is on disk when this returns or raises.

    Args:
        parts: of the project.
        principal: who asks.
        verb: of `security.access.VERBS`.
        environment: where, if it is about one.
        name: the node that it is about; by default the system.
        author: actor who made the node, for what nobody may do to their own work.
        subject: the principal that is acted upon.

    Raises:
        AccessError: no rule allows it.
        StorageError: the decision cannot be recorded, so nothing may be done.
    """
    target = Target(system_of(parts.project, parts.ledger), environment, name, author, subject)
    decision = decide(principal, verb, target)
    if verb in VERBS and VERBS[verb].is_recorded:
        record_decision(parts.ledger, principal, verb, target, decision)
    if not decision.allowed:
        raise denial(principal, verb, decision)
    return decision.rule


def record_decision(ledger: Ledger, principal: Principal, verb: str, target: Target, decision: Decision) -> None:
    """Write down who was allowed, or denied, what."""
    body = {"verb": verb, "action": VERBS[verb].action, "system": target.system, "roles": sorted(principal.roles)}
    if target.environment is not None:
        body["environment"] = target.environment
    said = "access.allowed" if decision.allowed else "access.denied"
    ledger.append(Event(said, target.node, principal.actor, body, decision.rule))


def system_of(project: Project, ledger: Ledger) -> str:
    """The system of the project: as its contract says, else as its newest release does; empty if neither can be read.

    A contract that was broken by an edit must not keep anybody from rolling back.
    """
    try:
        return _contract_system(project)
    except (ShipworthyError, OSError):
        releases = ledger.releases()
        return str(releases[-1]["system"]) if releases else ""


def _contract_system(project: Project) -> str:
    """Parsed once for each state of the file: a decision takes microseconds, a contract milliseconds."""
    status = project.contract_file.stat()
    return _parse_system(project, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _parse_system(project: Project, *state: int) -> str:  # noqa: ARG001 (another state is parsed anew)
    return parse_contract(project.contract_text(), CONTRACT_FILE).system
