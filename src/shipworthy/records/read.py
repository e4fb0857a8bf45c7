"""Reading records: every whole one, in the order of each worker, what a caller sent twice once."""

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import IntegrityError, NotFoundError
from shipworthy.records.format import (
    FRAME,
    MAGIC,
    Record,
    SegmentHeader,
    SegmentSeal,
    frame_end,
    has_whole_frame_after,
    whole_frames,
)

HEADER_BYTES = 4096  # a header has about 100
_SEGMENT = re.compile(r"(.+)-(\d{8})")


def list_segments(directory: Path) -> list[Path]:
    """The segments of `records/ENV`, by worker and number; none if the directory is missing."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if _SEGMENT.fullmatch(path.name) and not path.is_symlink())


def read_header(segment: Path) -> SegmentHeader:
    """The header of a segment.

    Raises:
        IntegrityError: the file is not a segment.
    """
    with open(segment, "rb") as file:
        content = file.read(HEADER_BYTES)
    end = frame_end(content, len(MAGIC)) if content.startswith(MAGIC) else None
    if end is None:
        raise IntegrityError(f"{segment} is not a record segment: its header is missing.")
    return msgspec.msgpack.decode(content[len(MAGIC) + FRAME.size : end], type=SegmentHeader)


def read_segment(segment: Path) -> Iterator[Record]:
    """The records of one segment; a torn tail is passed over, as its writer never acknowledged it.

    Raises:
        IntegrityError: damage before a whole record: something acknowledged may be lost.
    """
    content = segment.read_bytes()
    decoder = msgspec.msgpack.Decoder(Record)
    for start, end in _spans(segment, content)[1:]:
        yield decoder.decode(content[start:end])


def read_records(directory: Path) -> Iterator[Record]:
    """Every record below `records/ENV`; of several with one `id` the first.

    Raises:
        IntegrityError: a segment is damaged before its tail.
    """
    seen: set[str] = set()
    for segment in list_segments(directory):
        for record in read_segment(segment):
            if record.id is not None:
                if record.id in seen:
                    continue
                seen.add(record.id)
            yield record


def find_record(directory: Path, prediction_id: str) -> Record:
    """The record of one prediction, newest segments first.

    Raises:
        NotFoundError: there is none.
        IntegrityError: its segment is damaged before its tail.
    """
    needle = prediction_id.encode()
    for segment in sorted(list_segments(directory), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if segment.stat().st_size == 0:
            continue
        with (
            open(segment, "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            if content.find(needle) < 0:
                continue
        for record in read_segment(segment):
            if record.prediction_id == prediction_id:
                return record
    raise NotFoundError(f"There is no record of prediction {prediction_id!r} in {directory}.")


def verify_seal(segment: Path) -> SegmentSeal | None:
    """The seal of a closed segment, after comparing it with the bytes; None if it is still open.

    Raises:
        IntegrityError: the segment is not what was sealed.
    """
    path = segment.with_name(segment.name + ".seal")
    if not path.exists():
        return None
    try:
        seal = msgspec.json.decode(path.read_bytes(), type=SegmentSeal)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"{path} is not a seal: {error}.") from None
    content = segment.read_bytes()
    if len(content) != seal.size_bytes or digest_bytes(content) != seal.digest:
        raise IntegrityError(f"{segment} is not what was sealed: {len(content)} bytes, sealed {seal.size_bytes}.")
    return seal


def _spans(segment: Path, content: bytes) -> list[tuple[int, int]]:
    spans = whole_frames(content) if content.startswith(MAGIC) else []
    end = spans[-1][1] if spans else 0
    if end < len(content) and (has_whole_frame_after(content, end) or not MAGIC.startswith(content[: len(MAGIC)])):
        raise IntegrityError(f"{segment} is damaged at byte {end}; restore it from a copy.")
    return spans
