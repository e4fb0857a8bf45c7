"""The spool: segments that were begun on another volume because the records' disk refused, and their way back.

    SPOOL/records/ENV/WORKER-N   ->   records/ENV/WORKER-N

A spooled segment has a number of the same sequence as all others of its worker, and is encrypted for the place where
it will be. Moving it is therefore done once, however often it is begun: whoever finds it there already only takes it
out of the spool. Its header says how much of the segment before it was acknowledged; that one is sealed at this length
first, so that what the disk refused is not read twice, even if it comes back after a power cut.
"""

import os
import re
from pathlib import Path

import msgspec

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import IntegrityError, StorageError, UsageError
from shipworthy.records.disk import Disk, write_file, write_seal
from shipworthy.records.format import (
    PARQUET,
    SEALED_MAGIC,
    SegmentHeader,
    SegmentSeal,
    has_magic,
    has_whole_frame_after,
    name_of,
    seal_of,
    whole_frames,
)
from shipworthy.records.sealed import count_groups

MARKER = ".spool-of"  # names the records' folder, so that no two projects share a spool
_SEGMENT = re.compile(r"(.+)-(\d{8})")


def open_spool(spool: Path, records: Path) -> Path:
    """The folder of the spool for `records`, made if missing.

    Args:
        spool: a directory, on another volume than the records.
        records: `records/ENV`.

    Raises:
        UsageError: it is another project's.
        StorageError: it cannot be written.
    """
    owner = str(records.parent.resolve())
    folder = spool / records.parent.name / records.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        marker = spool / MARKER
        try:
            descriptor = os.open(marker, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            found = marker.read_text(encoding="utf-8").strip()
        else:
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(found := owner)
    except OSError as error:
        raise StorageError(f"{spool} cannot be written: {error.strerror}; name another spool.") from None
    if found not in ("", owner):
        cure = f"give each project its own, or remove {marker} if {found} was moved to {owner}"
        raise UsageError(f"{spool} is the spool of {found}; {cure}.")
    return folder


def spooled_segments(folder: Path, worker: str | None = None) -> dict[str, list[Path]]:
    """What waits in the spool, by worker, in order; of one worker, or of all."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = _SEGMENT.fullmatch(path.name)
        if match is not None and worker in (None, match[1]):
            found.setdefault(match[1], []).append(path)
    return found


def move_segment(disk: Disk, spooled: Path, directory: Path) -> None:
    """Move a segment that is not written any more from the spool into the records; done again, it changes nothing.

    Args:
        disk: where both lie.
        spooled: the segment.
        directory: `records/ENV`.

    Raises:
        OSError: a disk refused; the segment is still in the spool.
        IntegrityError: another segment has its name.
    """
    content = spooled.read_bytes()
    spans = whole_frames(content) if has_magic(content) else []
    end = spans[-1][1] if spans else 0
    is_whole = not has_whole_frame_after(content, end)
    if is_whole:
        content = content[:end]  # a torn tail was never acknowledged
    if len(spans) > 1 or not is_whole:  # else nothing was acknowledged from it
        target = directory / spooled.name
        if not is_moved(target, content):
            if spans:
                _fence_before(disk, directory, msgspec.msgpack.decode(content[slice(*spans[0])], type=SegmentHeader))
            write_file(disk, target, content)
        if is_whole and not seal_of(target).exists():
            groups = [content[start:stop] for start, stop in spans[1:]]
            records = count_groups(groups) if content.startswith(SEALED_MAGIC) else len(groups)
            seal = SegmentSeal(digest=digest_bytes(content), size_bytes=len(content), records=records)
            write_seal(disk, target, seal)
    disk.remove(spooled)
    disk.sync_directory(spooled.parent)


def is_moved(target: Path, content: bytes) -> bool:
    """Whether the records have this segment already, as it is or compacted.

    Raises:
        IntegrityError: they have another one of its name.
    """
    seal, is_there = seal_of(target), target.exists() or target.with_name(target.name + PARQUET).exists()
    if (
        is_there
        and seal.exists()
        and msgspec.json.decode(seal.read_bytes(), type=SegmentSeal).digest == digest_bytes(content)
    ):
        return True
    if not target.exists():
        return False
    there = target.read_bytes()
    if there == content:
        return True
    if has_magic(there) and len(whole_frames(there)) > 1:
        raise IntegrityError(f"{target} is not the segment of that name in the spool; move one of them away.")
    return False  # begun by a writer whom the disk refused: nothing was acknowledged from it


def _fence_before(disk: Disk, directory: Path, header: SegmentHeader) -> None:
    """Seal the segment that the disk refused to carry on, at what was acknowledged of it."""
    segment = directory / name_of(header.worker, header.after)
    if not header.after or seal_of(segment).exists() or not segment.exists():
        return
    content = segment.read_bytes()[: header.after_bytes]
    spans = whole_frames(content) if has_magic(content) else []
    if not spans or spans[-1][1] < header.after_bytes:
        return  # some of it is lost: for the reader to tell
    groups = [content[start:end] for start, end in spans[1:]]
    records = count_groups(groups) if content.startswith(SEALED_MAGIC) else len(groups)
    seal = SegmentSeal(digest=digest_bytes(content), size_bytes=len(content), records=records, is_fenced=True)
    write_seal(disk, segment, seal)
