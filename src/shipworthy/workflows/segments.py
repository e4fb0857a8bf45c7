"""Closed segments: their digests go into the ledger, so that a change to old predictions or outcomes is found."""

from shipworthy.ledger.events import Event
from shipworthy.records.read import list_segments, verify_seal
from shipworthy.workflows.layout import name_segment
from shipworthy.workflows.project import Parts


def record_closed_segments(parts: Parts, environment: str) -> int:
    """Put the digest of each closed segment of records and outcomes into the ledger, once; how many were new.

    Raises:
        IntegrityError: a segment is not what its writer sealed.
    """
    known = {entry.object for entry in parts.ledger.events(verb="segment.closed")}
    new = 0
    folders = parts.project.records(environment), parts.project.outcomes(environment)
    for segment in (segment for folder in folders for segment in list_segments(folder)):
        name = name_segment(segment)
        if name in known:
            continue
        seal = verify_seal(segment)
        if seal is not None:
            body = {"digest": seal.digest, "size_bytes": seal.size_bytes, "records": seal.records}
            parts.ledger.append(Event("segment.closed", name, parts.actor, body, parts.rule))
            new += 1
    return new
