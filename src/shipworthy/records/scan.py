"""Looking through a segment that nobody closed, in little memory: what its worker's next writer carries on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from shipworthy.records.format import FRAME, MAGIC, SEALED_MAGIC, has_magic, has_whole_frame_after, read_frames
from shipworthy.records.sealed import count_groups

READ_BYTES = 2**20  # at once


@dataclass(slots=True)
class Scan:
    """What a segment holds that nobody closed."""

    is_sealed: bool
    digest: "hashlib._Hash"  # up to `end`
    end: int = 0  # of the last whole frame
    frames: int = 0  # with the header's
    records: int = 0
    is_torn: bool = False  # there is more behind `end`
    is_damaged: bool = False  # and in it a whole frame


def scan(path: Path) -> Scan:
    """Look through a segment; in memory is one frame at a time, but for what lies behind a torn one."""
    with path.open("rb", buffering=READ_BYTES) as file:
        magic = file.read(len(MAGIC))
        found = Scan(magic == SEALED_MAGIC, hashlib.sha256(magic))
        for framed in read_frames(file) if has_magic(magic) else ():
            found.digest.update(framed)
            if found.frames:
                found.records += count_groups([framed[FRAME.size :]]) if found.is_sealed else 1
            found.end += len(framed) + (0 if found.frames else len(magic))
            found.frames += 1
        file.seek(found.end)
        rest = file.read()
    found.is_torn = bool(rest)
    found.is_damaged = has_whole_frame_after(rest, 0)
    return found
