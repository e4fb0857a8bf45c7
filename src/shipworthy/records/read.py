"""Reading records: every whole one, in the order of each worker, what a caller sent twice once.

Outcomes lie in segments of the same format, and are read as they were told: joining them is the reader's part.
"""

import mmap
import os
import re
import zlib
from array import array
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import AccessError, IntegrityError, NotFoundError
from shipworthy.records.format import (
    FRAME,
    MAGIC,
    MAX_FRAME_BYTES,
    PARQUET,
    SEALED_MAGIC,
    Outcome,
    Record,
    SegmentHeader,
    SegmentSeal,
    frame_end,
    has_magic,
    has_whole_frame_after,
    may_have_magic,
    seal_of,
    stem_of,
    whole_frames,
)
from shipworthy.records.sealed import open_group, segment_cipher
from shipworthy.records.spool import spooled_segments
from shipworthy.security.vault import Vault

HEADER_BYTES = 4096  # a header has about 100
_SEGMENT = re.compile(r"(.+-\d{8})(\.parquet)?")

T = TypeVar("T", bound=msgspec.Struct)


def list_segments(directory: Path) -> list[Path]:
    """The segments of `records/ENV`, by worker and number, each in one form; none if the directory is missing.

    A compacted segment counts where the one that it was made of is gone.
    """
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()) if directory.is_dir() else ():
        if _SEGMENT.fullmatch(path.name) and not path.is_symlink():
            found.setdefault(stem_of(path), path)  # the shorter name, which is the original's, comes first
    return [found[stem] for stem in sorted(found)]


def read_header(segment: Path) -> SegmentHeader:
    """The header of a segment.

    Raises:
        IntegrityError: the file is not a segment.
    """
    if segment.name.endswith(PARQUET):
        content = load_segment(segment)
    else:
        with open(segment, "rb") as file:
            content = file.read(HEADER_BYTES)
    end = frame_end(content, len(MAGIC)) if has_magic(content) else None
    if end is None:
        raise IntegrityError(f"{segment} is not a record segment: its header is missing.")
    return msgspec.msgpack.decode(content[len(MAGIC) + FRAME.size : end], type=SegmentHeader)


def read_segment(segment: Path, vault: Vault | None = None) -> Iterator[Record]:
    """The records of one segment; a torn tail is passed over, as its writer never acknowledged it.

    Args:
        segment: its file.
        vault: opens it if it is sealed; here as everywhere below.

    Raises:
        AccessError: it is sealed, and its key is not here; here as everywhere below.
        IntegrityError: damage before a whole record: something acknowledged may be lost.
    """
    decoder = msgspec.msgpack.Decoder(Record)
    for content in _contents(segment, vault):
        yield decoder.decode(content)


def read_records(directory: Path, vault: Vault | None = None) -> Iterator[Record]:
    """Every record below `records/ENV`; of several with one `id` the first.

    Raises:
        IntegrityError: a segment is damaged before its tail.
    """
    seen: set[str] = set()
    for segment in list_segments(directory):
        for record in read_segment(segment, vault):
            if record.id is not None:
                if record.id in seen:
                    continue
                seen.add(record.id)
            yield record


def read_as(directory: Path, kind: type[T], vault: Vault | None = None) -> Iterator[T]:
    """Every whole frame below `directory` as a `kind`, which may have some of its fields; nothing is merged.

    One segment is in memory at a time.

    Args:
        directory: `records/ENV`.
        kind: what to decode; fields that it lacks are passed over, which is quick.
        vault: opens sealed segments.

    Raises:
        IntegrityError: a segment is damaged before its tail.
    """
    return _read_all(list_segments(directory), kind, vault)


def read_segment_as(segment: Path, kind: type[T], vault: Vault | None = None) -> Iterator[T]:
    """Every whole frame of one segment as a `kind`; see `read_as`."""
    return _read_all([segment], kind, vault)


def _read_all(segments: Iterable[Path], kind: type[T], vault: Vault | None) -> Iterator[T]:
    decoder = msgspec.msgpack.Decoder(kind)
    for segment in segments:
        for content in _contents(segment, vault):
            yield decoder.decode(content)


def read_places(segment: Path, kind: type[T], places: Collection[int], vault: Vault | None = None) -> list[T]:
    """The records of a segment that stand at `places`, counted from 0, in its order."""
    decoder, wanted = msgspec.msgpack.Decoder(kind), frozenset(places)
    return [decoder.decode(content) for place, content in enumerate(_contents(segment, vault)) if place in wanted]


def read_newest(
    directory: Path, worker: str, count: int, kind: type[T], vault: Vault | None = None, *, spool: Path | None = None
) -> list[T]:
    """The newest `count` frames of one writer, or all if it has fewer; the oldest of them first.

    Whole segments are read, newest first, until there are enough; one is in memory at a time.

    Args:
        directory: `records/ENV`.
        worker: whose.
        count: how many, > 0.
        kind: as for `read_as`.
        vault: opens sealed segments.
        spool: the folder that `open_spool` gave, where later ones may wait.

    Raises:
        IntegrityError: a segment is damaged before its tail.
    """
    decode = msgspec.msgpack.Decoder(kind).decode
    segments = [path for path in list_segments(directory) if stem_of(path).rpartition("-")[0] == worker]
    segments += [] if spool is None else spooled_segments(spool, worker).get(worker, [])
    found: deque[list[T]] = deque()
    while segments and (missing := count - sum(map(len, found))) > 0:
        newest = deque(map(bytes, _contents(segments.pop(), vault)), maxlen=missing)
        found.appendleft([decode(content) for content in newest])
    return [one for part in found for one in part]


def read_outcomes(directory: Path, vault: Vault | None = None, *, writer: str | None = None) -> Iterator[Outcome]:
    """Every outcome below `outcomes/ENV`, in the order of each writer; repetitions and contradictions included.

    Args:
        directory: where they lie.
        vault: opens what is sealed.
        writer: whose alone; None for all.

    Raises:
        IntegrityError: a segment is damaged before its tail.
    """
    segments = list_segments(directory)
    mine = [segment for segment in segments if writer in (None, stem_of(segment).rpartition("-")[0])]
    return _read_all(mine, Outcome, vault)


def find_record(directory: Path, prediction_id: str, vault: Vault | None = None) -> Record:
    """The record of one prediction, newest segments first.

    Raises:
        NotFoundError: there is none.
        IntegrityError: its segment is damaged before its tail.
    """
    needle = prediction_id.encode()
    for segment in sorted(list_segments(directory), key=_changed, reverse=True):
        if not _may_hold(segment, needle):
            continue
        for record in read_segment(segment, vault):
            if record.prediction_id == prediction_id:
                return record
    raise NotFoundError(f"There is no record of prediction {prediction_id!r} in {directory}.")


def _changed(segment: Path) -> int:
    try:
        return segment.stat().st_mtime_ns
    except FileNotFoundError:  # compacted since it was listed
        return 0


def _may_hold(segment: Path, needle: bytes) -> bool:
    if segment.name.endswith(PARQUET):
        return needle in load_segment(segment)
    try:
        with open(segment, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return False
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return content[: len(MAGIC)] == SEALED_MAGIC or content.find(needle) >= 0
    except FileNotFoundError:  # compacted since it was listed
        return needle in load_segment(segment)


def load_segment(segment: Path) -> bytes:
    """The segment's bytes as far as they were acknowledged, whichever form lies there.

    Raises:
        FileNotFoundError: there is none.
        IntegrityError: its compacted form is damaged.
    """
    original = segment.with_name(stem_of(segment))
    try:
        content = original.read_bytes()
    except FileNotFoundError:  # compacted, perhaps since it was listed
        compacted = segment.with_name(original.name + PARQUET)
        if not compacted.exists():
            raise
        return _load_compacted(compacted)
    return content[: _acknowledged(original)]


def _load_compacted(path: Path) -> bytes:
    from shipworthy.records.parquet import from_parquet  # needs polars, which a serving machine may lack

    content, seal = path.read_bytes(), read_seal(path)
    if seal is None or digest_bytes(content) != seal.compacted:  # asked first: damage is not for a parser to find
        raise IntegrityError(f"{path} is not what was compacted; restore it from a copy.")
    return from_parquet(content, path)


def _acknowledged(segment: Path) -> int | None:
    """How much of a segment was acknowledged, if the disk refused to carry it on; None: all of it."""
    seal = read_seal(segment)
    return seal.size_bytes if seal is not None and seal.is_fenced else None


def read_seal(segment: Path) -> SegmentSeal | None:
    """The seal of a closed segment, as it stands there; None if it is still open.

    Raises:
        IntegrityError: it is no seal.
    """
    path = seal_of(segment)
    try:
        return msgspec.json.decode(path.read_bytes(), type=SegmentSeal)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"{path} is not a seal: {error}.") from None


def verify_seal(segment: Path) -> SegmentSeal | None:
    """The seal of a closed segment, after comparing it with the bytes; None if it is still open.

    Raises:
        IntegrityError: the segment is not what was sealed.
    """
    seal = read_seal(segment)
    if seal is None:
        return None
    content = load_segment(segment)
    if len(content) != seal.size_bytes or digest_bytes(content) != seal.digest:
        raise IntegrityError(f"{segment} is not what was sealed: {len(content)} bytes, sealed {seal.size_bytes}.")
    return seal


def _contents(segment: Path, vault: Vault | None) -> Iterator[memoryview]:
    """Each record of the segment, encoded."""
    content = load_segment(segment)
    spans, view = _spans(segment, content), memoryview(content)
    if not spans or not content.startswith(SEALED_MAGIC):
        yield from (view[start:end] for start, end in spans[1:])
        return
    cipher = _cipher(segment, view[slice(*spans[0])], vault)
    for number, (start, end) in enumerate(spans[1:], start=1):
        yield from open_group(cipher, number, view[start:end], segment)


def _cipher(segment: Path, header: memoryview, vault: Vault | None) -> AESGCM:
    if vault is None:
        raise AccessError(f"{segment} is encrypted, and this process was given no key for it.")
    return segment_cipher(vault, segment, bytes(header))


def _spans(segment: Path, content: bytes) -> list[tuple[int, int]]:
    spans = whole_frames(content) if has_magic(content) else []
    end = spans[-1][1] if spans else 0
    if end < len(content) and (has_whole_frame_after(content, end) or not may_have_magic(content)):
        raise IntegrityError(f"{segment} is damaged at byte {end}; restore it from a copy.")
    return spans


@dataclass(slots=True)
class _Place:
    """How far a segment has been read."""

    last: int = 0  # where the last whole frame starts
    offset: int = 0  # and where it ends
    checksums: "array[int]" = field(default_factory=lambda: array("I"))  # of each frame, to know them again
    cipher: AESGCM | None = None  # of a sealed segment
    looked: tuple[int, int] = (-1, 0)  # size and time of change when all that was there had been judged


class Tail(Generic[T]):
    """Reads a directory of segments in instalments: each whole frame once, however often it is asked.

    Nothing is merged: what a caller sent twice under one id comes twice, and merging it is the caller's part. A torn
    tail is not there yet. What a writer cut away because the disk refused it was never acknowledged, and may have
    been returned.

    Args:
        directory: `records/ENV` or `outcomes/ENV`; may come to exist later.
        kind: what its frames hold.
        vault: opens sealed segments.
    """

    def __init__(self, directory: Path, kind: type[T], vault: Vault | None = None) -> None:
        self._directory = directory
        self._vault = vault
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._places: dict[Path, _Place] = {}

    def read_new(self) -> list[T]:
        """What came since the last call, by worker and in its order.

        Raises:
            IntegrityError: damage before a whole frame, or a segment that was read is gone or was cut.
        """
        return list(self.iter_new())

    def iter_new(self) -> Iterator[T]:
        """As `read_new`, with one segment in memory at a time; what was not taken of it does not come again."""
        segments = list_segments(self._directory)
        self._forget_unmade(segments)
        for segment in segments:
            place = self._places.setdefault(segment.with_name(stem_of(segment)), _Place())
            yield from self._read_segment(segment, place)

    def _forget_unmade(self, segments: list[Path]) -> None:
        """A segment may vanish only while it holds no record: its writer died, or was refused, while making it."""
        for segment in self._places.keys() - {segment.with_name(stem_of(segment)) for segment in segments}:
            if len(self._places[segment].checksums) > 1:
                raise IntegrityError(f"{segment} is missing; restore it from a copy.")
            del self._places[segment]

    def _read_segment(self, segment: Path, place: _Place) -> list[T]:
        try:
            with open(segment, "rb") as file:
                state = os.fstat(file.fileno())
                if (state.st_size, state.st_mtime_ns) == place.looked:
                    return []
                content = self._read_on(segment, file, place)
        except FileNotFoundError:  # unmade since it was listed
            return []
        read = place.offset - place.last
        if len(content) < read or (read and FRAME.unpack_from(content)[1] != place.checksums[-1]):
            _find_again(segment, place)
            return self._read_segment(segment, place)
        start = place.last
        found = self._decode(segment, content, read, place)
        if place.offset < start + len(content) and has_whole_frame_after(content, place.offset - start):
            _find_again(segment, place)
            return found + self._read_segment(segment, place)
        place.looked = (start + len(content), state.st_mtime_ns)
        return found

    def _read_on(self, segment: Path, file: BinaryIO, place: _Place) -> bytes:
        """What was acknowledged, from the last frame that was read on."""
        if segment.name.endswith(PARQUET):
            return load_segment(segment)[place.last :]
        file.seek(place.last)
        end = _acknowledged(segment)
        return file.read(-1 if end is None else max(end - place.last, 0))

    def _decode(self, segment: Path, content: bytes, end: int, place: _Place) -> list[T]:
        """The whole frames of `content`, which starts at the place's last frame, from `end` on."""
        decode, unpack, checksum, seen = self._decoder.decode, FRAME.unpack_from, zlib.crc32, place.checksums
        view, size, base, last = memoryview(content), len(content), place.last, 0
        if not seen:
            if not may_have_magic(content):
                raise IntegrityError(f"{segment} is not a record segment: its magic is missing.")
            base, end = 0, len(MAGIC)
        found: list[T] = []
        while (start := end + FRAME.size) <= size:
            length, expected = unpack(content, end)
            stop = start + length
            if not 0 < length <= MAX_FRAME_BYTES or stop > size or checksum(view[start:stop]) != expected:
                break
            if not seen:  # the first frame is the header
                is_sealed = content.startswith(SEALED_MAGIC)
                place.cipher = _cipher(segment, view[start:stop], self._vault) if is_sealed else None
            elif place.cipher is None:
                found.append(decode(view[start:stop]))
            else:
                found += map(decode, open_group(place.cipher, len(seen), view[start:stop], segment))
            seen.append(expected)
            last, end = end, stop
        if seen:
            place.last, place.offset = base + last, base + end
        return found


def _find_again(segment: Path, place: _Place) -> None:
    """Go back to the last frame that is still as it was read: a writer whom the disk refused cut its group away.

    Raises:
        IntegrityError: that explains nothing: the segment is damaged, or was cut after it was sealed.
    """
    content, seal = load_segment(segment), read_seal(segment)
    spans = _spans(segment, content)
    end = spans[-1][1] if spans else 0
    same = 0
    for (start, _), before in zip(spans, place.checksums, strict=False):
        if FRAME.unpack_from(content, start - FRAME.size)[1] != before:
            break
        same += 1
    is_torn = end < min(len(content), place.offset)
    if same < len(place.checksums) and (is_torn or (seal is not None and not seal.is_fenced)):
        raise IntegrityError(f"{segment} was cut or changed behind byte {end}; restore it from a copy.")
    del place.checksums[same:]
    place.last, place.offset = (spans[same - 1][0] - FRAME.size, spans[same - 1][1]) if same else (0, 0)
    place.looked = (-1, 0)
