"""Sealed segments: each group of records is one AEAD message under a key of the segment's own.

    SHIPREC2 | frame: header, which names data key and salt | frame: count and message | …

Frames keep their lengths and CRCs, so that a torn tail is known without a key. The nonce is the number of the frame:
such a segment is written from its first byte to its last by one writer, and never carried on.
"""

import struct
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from zlib import crc32

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shipworthy.kernel.errors import IntegrityError
from shipworthy.records.format import (
    FRAME,
    MAX_FRAME_BYTES,
    Contents,
    Framed,
    SegmentHeader,
    join_frames,
    whole_frames_of,
)
from shipworthy.security.vault import Vault

COUNT = struct.Struct("<I")  # records of a group, in the open, and authenticated
TAG_BYTES = 16
MAX_GROUP_BYTES = MAX_FRAME_BYTES - COUNT.size - TAG_BYTES


def segment_cipher(vault: Vault, segment: Path, header: bytes) -> AESGCM:
    """What encrypts the groups of the segment at `segment` and of no other place.

    Args:
        vault: has the data key that the header names.
        segment: the file's path.
        header: content of its first frame, which is bound as it stands: what it says is as safe as what follows it.

    Raises:
        AccessError: the data key or its master is not here.
        IntegrityError: it is no header.
    """
    try:
        known = msgspec.msgpack.decode(header, type=SegmentHeader)
    except msgspec.MsgspecError as error:
        raise IntegrityError(f"{segment} is damaged: its header says {error}.") from None
    place = "/".join(segment.absolute().parts[-3:])  # records/ENV/WORKER-N: wherever the project lies
    return AESGCM(vault.object_key(known.key, known.salt, f"segment/{place}/{sha256(header).hexdigest()}", segment))


def seal_groups(cipher: AESGCM, number: int, contents: Contents) -> list[Framed]:
    """The frames for one commit: one message, or several where they would not fit a frame.

    Args:
        cipher: of the segment.
        number: of the first frame that is written, from 1: the header is frame 0.
        contents: encoded records.
    """
    return [_seal(cipher, _nonce(at), group) for at, group in enumerate(_groups(contents), number)]


def _seal(cipher: AESGCM, nonce: bytes, group: Framed) -> Framed:
    """The frame of a group, put together in one place: a large one is not copied again."""
    content = bytearray(FRAME.size + COUNT.size + len(group.content) + TAG_BYTES)
    view = memoryview(content)
    count = view[FRAME.size : FRAME.size + COUNT.size]
    COUNT.pack_into(count, 0, group.records)
    cipher.encrypt_into(nonce, group.content, bytes(count), view[FRAME.size + COUNT.size :])
    FRAME.pack_into(content, 0, len(content) - FRAME.size, crc32(view[FRAME.size :]))
    return Framed(view, 1)


def open_group(cipher: AESGCM, number: int, content: bytes | memoryview, segment: Path) -> Iterator[memoryview]:
    """The records of the group in frame `number`.

    Raises:
        IntegrityError: it was changed, or is not the group that was written there.
    """
    count = bytes(content[: COUNT.size])
    try:
        plain = memoryview(cipher.decrypt(_nonce(number), bytes(content[COUNT.size :]), count))
    except InvalidTag:
        raise IntegrityError(
            f"{segment} is damaged: group {number} is not what was written there; restore it from a copy."
        ) from None
    for start, end in whole_frames_of(plain, 0):
        yield plain[start:end]


def count_groups(contents: Sequence[bytes | memoryview]) -> int:
    """How many records the groups say that they hold; needs no key."""
    return sum(COUNT.unpack_from(content)[0] for content in contents if len(content) >= COUNT.size)


def _groups(contents: Contents) -> Iterator[Framed]:
    """What goes into a frame each: records together; what is framed already, as it is."""
    group: list[bytes] = []
    size_bytes = 0
    for content in contents:
        if isinstance(content, Framed):
            yield content
            continue
        needed = FRAME.size + len(content)
        if group and size_bytes + needed > MAX_GROUP_BYTES:
            yield Framed(join_frames(group), len(group))
            group, size_bytes = [], 0
        group.append(content)
        size_bytes += needed
    if group:
        yield Framed(join_frames(group), len(group))


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")
