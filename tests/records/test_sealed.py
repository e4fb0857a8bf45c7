"""Sealed segments: read back as they were told, never carried on, and damage is named."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.kernel.errors import AccessError, IntegrityError, StorageError
from shipworthy.records.disk import LocalDisk
from shipworthy.records.format import FRAME, MAGIC, SEALED_MAGIC, Outcome, frame, whole_frames, whole_frames_of
from shipworthy.records.read import (
    Tail,
    find_record,
    list_segments,
    read_header,
    read_outcomes,
    read_records,
    verify_seal,
)
from shipworthy.records.sealed import open_group, seal_groups
from shipworthy.records.write import SegmentWriter
from shipworthy.security.datakeys import make_data_key
from shipworthy.security.vault import Vault
from tests.records.test_records import make_record
from tests.vaults import ENVIRONMENT, make_vault


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return make_vault(tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "outcomes" / "local"


def open_writer(place: Path, vault: Vault | None, clock: Any = lambda: 1e6, **changes: Any) -> SegmentWriter:
    return SegmentWriter(place, "local", "w0", now=clock, monotonic=clock, vault=vault, **changes)


def told(*numbers: int) -> list[bytes]:
    return [
        msgspec.msgpack.encode(Outcome(id=f"planted-{number}", value=1.0, time=1.0, received=2.0, source="test"))
        for number in numbers
    ]


def read(place: Path, vault: Vault) -> list[int]:
    return [int(outcome.id.partition("-")[2]) for outcome in read_outcomes(place, vault)]


def write(place: Path, vault: Vault, *groups: Sequence[int]) -> None:
    writer = open_writer(place, vault)
    for group in groups:
        writer.append(told(*group), seal=True)
    writer.close()


def test_what_was_written_sealed_is_read_in_order_and_lies_nowhere_in_the_open(place: Path, vault: Vault) -> None:
    write(place, vault, [1, 2, 3], [4], [5, 6])
    assert read(place, vault) == [1, 2, 3, 4, 5, 6]
    assert all(b"planted" not in path.read_bytes() for path in place.iterdir())
    (segment,) = list_segments(place)
    assert segment.read_bytes().startswith(SEALED_MAGIC)


def test_a_closed_sealed_segment_is_counted_and_digested_without_a_key(place: Path, vault: Vault) -> None:
    write(place, vault, [1, 2, 3], [4])
    (segment,) = list_segments(place)
    seal = verify_seal(segment)
    assert seal is not None
    assert seal.records == 4


def test_a_restart_starts_a_new_segment_and_closes_the_torn_one(place: Path, vault: Vault) -> None:
    writer = open_writer(place, vault)
    writer.append(told(1, 2), seal=True)
    writer.append(told(3), seal=True)
    (segment,) = list_segments(place)
    content = segment.read_bytes()
    writer._guard, guard = -1, writer._guard  # as if killed: nothing is closed
    os.close(guard)
    segment.write_bytes(content[:-5])
    write(place, vault, [4])
    first, second = list_segments(place)
    assert (verify_seal(first), read_header(first).salt) != (None, read_header(second).salt)
    seal = verify_seal(first)
    assert seal is not None
    assert seal.records == 2
    assert read(place, vault) == [1, 2, 4]


def test_a_plain_segment_is_closed_when_sealing_begins_and_both_are_read(place: Path, vault: Vault) -> None:
    writer = open_writer(place, vault)
    writer.append(told(1))
    writer.append(told(2), seal=True)
    writer.append(told(3))  # once sealed, always sealed
    writer.close()
    plain, sealed = list_segments(place)
    assert plain.read_bytes().startswith(MAGIC)
    assert verify_seal(plain) is not None
    assert b"planted-3" not in sealed.read_bytes()
    assert read(place, vault) == [1, 2, 3]


class TearingDisk(LocalDisk):
    """Writes half of the chosen write and refuses."""

    def __init__(self, refused: int) -> None:
        self.left = refused

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        self.left -= 1
        if self.left == 0:
            super().write(descriptor, content[: len(content) // 2])
            raise OSError(28, "No space left on device")
        return super().write(descriptor, content)


def test_after_a_failed_write_no_frame_is_written_under_its_nonce_again(place: Path, vault: Vault) -> None:
    clock = iter(range(1_000_000, 2_000_000)).__next__
    writer = open_writer(place, vault, clock, disk=TearingDisk(3))
    writer.append(told(1), seal=True)
    with pytest.raises(StorageError, match="No space left"):
        writer.append(told(2), seal=True)
    writer.append(told(3), seal=True)
    writer.close()
    first, second = list_segments(place)
    assert read_header(first).salt != read_header(second).salt
    assert len(whole_frames(first.read_bytes())) == 2  # header and the acknowledged group
    assert read(place, vault) == [1, 3]


def test_a_tail_reads_sealed_groups_as_they_come(place: Path, vault: Vault) -> None:
    tail, writer, found = Tail(place, Outcome, vault), open_writer(place, vault), []
    for number in range(5):
        writer.append(told(2 * number, 2 * number + 1), seal=True)
        found += [int(outcome.id.partition("-")[2]) for outcome in tail.read_new()]
        assert found == list(range(2 * number + 2))
    writer.close()
    write(place, vault, [10])
    assert [outcome.id for outcome in tail.read_new()] == ["planted-10"]


def with_crc(segment: bytes, number: int, change: Any) -> bytes:
    """The segment with one frame's content changed, its CRC put right: what somebody does who knows the format."""
    start, end = whole_frames(segment)[number]
    return segment[: start - FRAME.size] + frame(change(segment[start:end])) + segment[end:]


def test_a_changed_group_is_found_whatever_its_checksum_says(place: Path, vault: Vault) -> None:
    write(place, vault, [1], [2], [3])
    (segment,) = list_segments(place)
    content = segment.read_bytes()
    changes = (
        (2, lambda old: old[:-1] + bytes([old[-1] ^ 1]), "group 2 is not what was written there"),
        (1, lambda old: b"\x09" + old[1:], "group 1 is not"),
        (0, lambda old: old.replace(b"\x01", b"\x02", 1), "group 1 is not|damaged|its header"),
    )
    for number, change, words in changes:
        segment.write_bytes(with_crc(content, number, change))
        with pytest.raises(IntegrityError, match=words):
            read(place, vault)
        with pytest.raises(IntegrityError, match=words):
            Tail(place, Outcome, vault).read_new()


def test_groups_cannot_change_places_nor_segments_their_names(place: Path, vault: Vault) -> None:
    write(place, vault, [1], [2])
    write(place, vault, [3])
    first, second = list_segments(place)
    content = first.read_bytes()
    spans = whole_frames(content)
    one, two = (content[start - FRAME.size : end] for start, end in spans[1:])
    first.write_bytes(content[: spans[1][0] - FRAME.size] + two + one)
    with pytest.raises(IntegrityError, match="group 1 is not what was written there"):
        read(place, vault)
    first.write_bytes(second.read_bytes())
    with pytest.raises(IntegrityError, match=f"{first.name} is damaged: group 1"):
        read(place, vault)


def test_without_the_key_a_segment_names_the_cure(place: Path, vault: Vault) -> None:
    write(place, vault, [1])
    with pytest.raises(AccessError, match="w0-00000001 is encrypted, and this process was given no key"):
        list(read_records(place))
    with pytest.raises(AccessError, match=r"w0-00000001 is encrypted\. The master key environment:.* set SHIPWORTHY"):
        read(place, Vault(vault.directory, {}))


def test_a_writer_without_a_key_refuses_records_and_goes_on_when_it_comes(place: Path, tmp_path: Path) -> None:
    vault = Vault(tmp_path / "data", ENVIRONMENT)
    writer = open_writer(place, vault)
    with pytest.raises(StorageError, match=r"records cannot be encrypted.*there is no data key to encrypt with"):
        writer.append(told(1), seal=True)
    make_data_key(tmp_path / "data", ENVIRONMENT, 0.0)
    writer.append(told(2), seal=True)
    writer.close()
    assert read(place, vault) == [2]
    with pytest.raises(StorageError, match="This process was given no key"):
        open_writer(tmp_path / "outcomes" / "other", None).append(told(1), seal=True)


def test_one_record_is_found_among_sealed_ones(place: Path, vault: Vault) -> None:
    writer = open_writer(place, vault)
    writer.append([msgspec.msgpack.encode(make_record(number)) for number in range(9)], seal=True)
    writer.close()
    assert find_record(place, "p_000007", vault) == make_record(7)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 6 * 2**20), min_size=1, max_size=8))
def test_a_group_that_no_frame_holds_is_parted_and_its_nonces_follow(sizes: list[int]) -> None:
    cipher = AESGCM(bytes(32))
    contents = [bytes([1]) * size for size in sizes]
    whole = b"".join(framed.content for framed in seal_groups(cipher, 5, contents))
    frames = [whole[start:end] for start, end in whole_frames_of(whole, 0)]
    assert sum(FRAME.size + len(content) for content in frames) == len(whole)
    assert all(len(content) <= 2**24 for content in frames)
    opened = [bytes(part) for at, it in enumerate(frames) for part in open_group(cipher, 5 + at, it, Path("s"))]
    assert opened == contents
