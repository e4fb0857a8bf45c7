"""Planes: which was started where, and behind what, so that it can be told later who could have reached it."""

from dataclasses import dataclass

from shipworthy.ledger.events import Event
from shipworthy.workflows.project import Parts


@dataclass(frozen=True, slots=True)
class Start:
    """A plane that answers."""

    plane: str  # data or control
    address: str
    environment: str  # that it serves
    tls: str  # as `security.tls.Binding.mode` says
    access: str  # what callers need
    is_upstream: bool  # something in front of it ends TLS


def record_start(parts: Parts, actor: str, start: Start) -> None:
    """Put into the ledger that the plane was started, by whom and under which rule.

    Raises:
        StorageError: the ledger cannot be written.
    """
    body = {
        "plane": start.plane,
        "address": start.address,
        "environment": start.environment,
        "tls": start.tls,
        "access": start.access,
        "upstream": start.is_upstream,
    }
    parts.ledger.append(Event("plane.started", f"plane:{start.environment}/{start.plane}", actor, body, parts.rule))
