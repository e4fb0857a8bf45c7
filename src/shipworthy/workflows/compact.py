"""`records compact`: closed segments of records as Parquet, which the digests in the ledger go on proving."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import InternalError, StorageError
from shipworthy.ledger.events import Event
from shipworthy.records.disk import Disk, LocalDisk, write_file, write_seal
from shipworthy.records.format import PARQUET, SEALED_MAGIC, Record, SegmentHeader, SegmentSeal, whole_frames
from shipworthy.records.parquet import from_parquet, to_parquet
from shipworthy.records.read import list_segments, load_segment, verify_seal
from shipworthy.security.access import Principal
from shipworthy.workflows.gate import permit
from shipworthy.workflows.layout import name_segment
from shipworthy.workflows.project import Parts
from shipworthy.workflows.segments import record_closed_segments

COMPACTED = "segment.compacted"


@dataclass(slots=True)
class Compaction:
    """What became of an environment's segments."""

    segments: int = 0  # compacted now
    records: int = 0  # in them
    bytes_before: int = 0
    bytes_after: int = 0
    encrypted: int = 0  # left as they are
    open_or_young: int = 0  # left for later

    def to_json(self) -> dict[str, Any]:
        """As a mapping."""
        return asdict(self)


def compact_records(
    parts: Parts, principal: Principal, environment: str, older_than_s: float, disk: Disk | None = None
) -> Compaction:
    """Turn closed segments whose last record is old enough into Parquet; killed anywhere, the next run carries on.

    A segment counts until it is removed, its Parquet file from then on; readers take either. The file is read back
    and compared before that; its digest is in the seal and, linked to the segment's, in an event. Encrypted segments
    stay as they are: the file would show others what they hide.

    Args:
        parts: of the project.
        principal: who asks.
        environment: whose records.
        older_than_s: age of the last record, seconds.
        disk: where to write.

    Raises:
        AccessError: the principal may not.
        IntegrityError: a segment is not what its writer sealed.
        StorageError: the disk refused.
    """
    rule = permit(parts, principal, "records compact", environment=environment)
    record_closed_segments(parts, environment)
    known = {entry.object: str(entry.body["digest"]) for entry in parts.ledger.events(verb=COMPACTED)}
    done = Compaction()
    for segment in list_segments(parts.project.records(environment)):
        if segment.name.endswith(PARQUET):
            continue
        content = load_segment(segment)
        seal = verify_seal(segment)
        if content.startswith(SEALED_MAGIC):
            done.encrypted += 1
        elif seal is None or _ended(content) > parts.now() - older_than_s:
            done.open_or_young += 1
        else:
            name = name_segment(segment)
            try:
                compacted = _write(disk or LocalDisk(), segment, content, seal)
                digest = digest_bytes(compacted)
                if known.get(name) != digest:
                    body = {
                        "digest": digest,
                        "segment": seal.digest,
                        "size_bytes": len(compacted),
                        "records": seal.records,
                    }
                    parts.ledger.append(Event(COMPACTED, name, principal.actor, body, rule))
                _remove(disk or LocalDisk(), segment)
            except OSError as error:
                raise StorageError(f"{segment} cannot be compacted: {error.strerror}; make room, then again.") from None
            done.segments += 1
            done.records += seal.records
            done.bytes_before += len(content)
            done.bytes_after += len(compacted)
    return done


def _write(disk: Disk, segment: Path, content: bytes, seal: SegmentSeal) -> bytes:
    """The Parquet file of the segment, beside it, and its digest in the seal; one that a run before made is kept."""
    path = segment.with_name(segment.name + PARQUET)
    if seal.compacted and path.exists() and digest_bytes(there := path.read_bytes()) == seal.compacted:
        return there
    compacted = to_parquet(content)
    if from_parquet(compacted, path) != content:
        raise InternalError(f"{segment} would not come back from Parquet as it is; it was left alone.")
    write_file(disk, path, compacted)
    write_seal(disk, segment, msgspec.structs.replace(seal, compacted=digest_bytes(compacted)))
    return compacted


def _remove(disk: Disk, segment: Path) -> None:
    disk.remove(segment)
    disk.sync_directory(segment.parent)


def _ended(segment: bytes) -> float:
    """When the last record was written, Unix seconds."""
    spans = whole_frames(segment)
    start, end = spans[-1]
    if len(spans) == 1:
        return msgspec.msgpack.decode(segment[start:end], type=SegmentHeader).created
    return msgspec.msgpack.decode(segment[start:end], type=Record).time
