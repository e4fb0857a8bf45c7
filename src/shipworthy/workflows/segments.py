"""Closed record segments: their digests go into the ledger, so that a change to old predictions is found."""

from shipworthy.ledger.events import Event
from shipworthy.records.read import list_segments, verify_seal
from shipworthy.workflows.project import Parts


def record_closed_segments(parts: Parts, environment: str) -> int:
    """Put the digest of each closed record segment into the ledger, once; how many were new.

    Raises:
        IntegrityError: a segment is not what its server sealed.
    """
    known = {entry.object for entry in parts.ledger.events(verb="segment.closed")}
    new = 0
    for segment in list_segments(parts.project.records(environment)):
        name = f"segment:{environment}/{segment.name}"
        if name in known:
            continue
        seal = verify_seal(segment)
        if seal is not None:
            body = {"digest": seal.digest, "size_bytes": seal.size_bytes, "records": seal.records}
            parts.ledger.append(Event("segment.closed", name, parts.actor, body))
            new += 1
    return new
