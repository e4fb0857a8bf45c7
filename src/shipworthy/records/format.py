"""The format of a record segment: a magic, then frames of length, CRC-32 and msgpack.

The first frame is the segment's header, every other one a record. A frame is complete or it does not exist: a
torn tail is recognised by its length or its CRC.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

MAGIC = b"SHIPREC1"
SEALED_MAGIC = b"SHIPREC2"  # its frames are groups of records, encrypted (records/sealed.py)
PARQUET = ".parquet"  # what the name of a compacted segment has in addition
FRAME = struct.Struct("<II")  # length of the content, its CRC-32
MAX_FRAME_BYTES = 2**24  # no record is longer: a request has at most 16 MB


class SegmentHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The first frame of a segment."""

    format: int = 1
    environment: str
    worker: str
    number: int  # of the segment, ascending for each worker
    created: float  # Unix seconds
    after: int = 0  # of a segment that was begun in the spool: number of the one that the disk refused to carry on
    after_bytes: int = 0  # and as much of that one as was acknowledged
    key: str = ""  # of a sealed segment: id of the data key
    salt: bytes = b""


class Record(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One answered prediction."""

    prediction_id: str
    time: float  # Unix seconds of the answer
    system: str
    release: str  # `mortgage-approval:7`
    environment: str
    worker: str
    id: str | None = None  # the caller's idempotency key
    inputs: Any = None  # {feature: value} as it was sent
    context: Any = None
    prediction: str | float | None = None
    probability: dict[str, float] | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    decision: str | float | None = None
    source: str = "model"  # or fallback
    handling: str = "automatic"  # or review
    warnings: tuple[str, ...] = ()
    reasons: Any = None
    latency_ms: float = 0.0  # from the request's last byte to its record


class Outcome(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The truth of one prediction, as somebody told it; late, perhaps again, perhaps otherwise."""

    id: str  # the caller's id of the request, or the prediction's id
    value: str | float  # the class, or the number
    time: float  # Unix seconds: when the truth was known
    received: float  # Unix seconds: when we were told
    source: str  # who says so: `api:NAME`, `file:NAME`


class SegmentSeal(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a closed segment, in `NAME.seal` beside it."""

    digest: str
    size_bytes: int
    records: int
    compacted: str = ""  # digest of its Parquet file, if there is one
    is_fenced: bool = False  # the disk refused to carry it on: what lies behind `size_bytes` was not acknowledged


def name_of(worker: str, number: int) -> str:
    """The file's name of a worker's segment.

    >>> name_of("w0", 12)
    'w0-00000012'
    """
    return f"{worker}-{number:08d}"


def seal_of(segment: Path) -> Path:
    """Where the seal of a segment is, in whichever form that lies there.

    >>> seal_of(Path("local/w0-00000012")) == seal_of(Path("local/w0-00000012.parquet"))
    True
    """
    return segment.with_name(stem_of(segment) + ".seal")


def stem_of(segment: Path) -> str:
    """The segment's name, in whichever form it lies there."""
    return segment.name.removesuffix(PARQUET)


@dataclass(frozen=True, slots=True)
class Framed:
    """Whole frames, one after the other, with their heads."""

    content: bytes | memoryview
    records: int


Contents = Sequence[bytes] | Sequence[Framed]  # records, each by itself or framed together


def frame(content: bytes) -> bytes:
    """`content` with its length and CRC in front."""
    return FRAME.pack(len(content), zlib.crc32(content)) + content


def join_frames(contents: Contents) -> bytes:
    """The frames of `contents`, one after the other, for a single write."""
    if contents and isinstance(contents[0], Framed):
        return b"".join(framed.content for framed in cast(Sequence[Framed], contents))
    pack, checksum = FRAME.pack, zlib.crc32
    parts: list[bytes] = []
    for content in cast(Sequence[bytes], contents):
        parts.append(pack(len(content), checksum(content)))
        parts.append(content)
    return b"".join(parts)


def write_out(contents: Contents) -> Sequence[bytes | memoryview]:
    """What is to be written of `contents`, in few pieces."""
    if contents and isinstance(contents[0], Framed):
        return [framed.content for framed in cast(Sequence[Framed], contents)]
    return [join_frames(contents)]


def count_records(contents: Contents) -> int:
    """How many records they are."""
    if contents and isinstance(contents[0], Framed):
        return sum(framed.records for framed in cast(Sequence[Framed], contents))
    return len(contents)


def frame_end(segment: bytes | memoryview, offset: int) -> int | None:
    """Where the frame that starts at `offset` ends; None if it is torn."""
    start = offset + FRAME.size
    if start > len(segment):
        return None
    length, checksum = FRAME.unpack_from(segment, offset)
    end = start + int(length)
    if length == 0 or length > MAX_FRAME_BYTES or end > len(segment) or zlib.crc32(segment[start:end]) != checksum:
        return None
    return end


def whole_frames(segment: bytes | memoryview) -> list[tuple[int, int]]:
    """Start and end of the content of each whole frame from the magic on, up to the first torn one.

    Raises:
        ValueError: the bytes are not a segment.
    """
    if not has_magic(segment):
        raise ValueError("not a record segment: the magic is missing")
    return whole_frames_of(segment, len(MAGIC))


def has_magic(segment: bytes | memoryview) -> bool:
    """Whether the bytes begin as a segment, sealed or not."""
    return bytes(segment[: len(MAGIC)]) in (MAGIC, SEALED_MAGIC)


def may_have_magic(start: bytes | memoryview) -> bool:
    """Whether a segment may begin so: its magic, or as much of one as was written."""
    start = bytes(start[: len(MAGIC)])
    return MAGIC.startswith(start) or SEALED_MAGIC.startswith(start)


def whole_frames_of(segment: bytes | memoryview, offset: int) -> list[tuple[int, int]]:
    """Start and end of the content of each whole frame from `offset` on, up to the first torn one."""
    spans = []
    while (end := frame_end(segment, offset)) is not None:
        spans.append((offset + FRAME.size, end))
        offset = end
    return spans


def read_frames(file: BinaryIO) -> Iterator[bytes]:
    """Each whole frame of an open segment behind its magic, head and content, up to the first torn one.

    In memory is one at a time.
    """
    while len(head := file.read(FRAME.size)) == FRAME.size:
        length, checksum = FRAME.unpack(head)
        content = file.read(length) if length <= MAX_FRAME_BYTES else b""
        if not content or len(content) != length or zlib.crc32(content) != checksum:
            return
        yield head + content


def has_whole_frame_after(segment: bytes | memoryview, offset: int) -> bool:
    """Whether a whole frame lies anywhere behind `offset`: then the damage before it is no torn tail."""
    return any(frame_end(segment, start) is not None for start in range(offset, len(segment) - FRAME.size))
