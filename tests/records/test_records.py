"""Records: what was acknowledged is found again, whatever happens to the process or the disk."""

import errno
import os
import random
import threading
import tracemalloc
from contextlib import closing
from itertools import count, product
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import ConflictError, IntegrityError, NotFoundError, StorageError
from shipworthy.records.disk import Disk, LocalDisk
from shipworthy.records.format import MAGIC, Record, frame, has_whole_frame_after, join_frames, whole_frames
from shipworthy.records.read import (
    find_record,
    list_segments,
    read_header,
    read_records,
    read_segment,
    verify_seal,
)
from shipworthy.records.write import RETRY_AFTER_S, SegmentWriter
from tests.conftest import Seen

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "1"))


def make_record(number: int, id: str | None = None) -> Record:
    return Record(
        prediction_id=f"p_{number:06d}",
        time=1.0 + number,
        system="loans",
        release="loans:1",
        environment="local",
        worker="w0",
        id=id,
        inputs={"income": number},
    )


def encode(*records: Record) -> list[bytes]:
    return [msgspec.msgpack.encode(record) for record in records]


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_writer(directory: Path, disk: Disk | None = None, clock: Clock | None = None, **changes: int) -> SegmentWriter:
    clock = clock or Clock()
    return SegmentWriter(directory, "local", "w0", now=clock, monotonic=clock, disk=disk, **changes)


def numbers(directory: Path) -> list[int]:
    return [int(record.prediction_id[2:]) for record in read_records(directory)]


class PoweredDisk(LocalDisk):
    """A disk that remembers what was synced, and can refuse the k-th call of a kind."""

    def __init__(self, refuse: str = "", at: int = 0, code: int = errno.ENOSPC, short: int = 0) -> None:
        self.synced: dict[str, int] = {}
        self.calls = {"write": count(1), "sync": count(1), "open": count(1)}
        self.refuse, self.at, self.code, self.short = refuse, at, code, short
        self.syncs_after_failure = 0
        self.failed: set[int] = set()

    def _check(self, kind: str) -> None:
        if next(self.calls[kind]) == self.at and kind == self.refuse:
            raise OSError(self.code, os.strerror(self.code))

    def open(self, path: Path, flags: int) -> int:
        self._check("open")
        descriptor = super().open(path, flags)
        self.failed.discard(descriptor)  # the number of a closed one
        return descriptor

    def write(self, descriptor: int, content: bytes | memoryview) -> int:
        if self.short and len(content) > self.short:
            super().write(descriptor, content[: self.short])
            self._check("write")
            return self.short
        self._check("write")
        return super().write(descriptor, content)

    def sync(self, descriptor: int) -> None:
        if descriptor in self.failed:
            self.syncs_after_failure += 1
        try:
            self._check("sync")
        except OSError:
            self.failed.add(descriptor)
            raise
        super().sync(descriptor)
        self.synced[os.readlink(f"/proc/self/fd/{descriptor}")] = os.fstat(descriptor).st_size

    def lose_power(self, directory: Path, chance: random.Random) -> None:
        """Keep what was synced; of the rest drop, tear or keep any part."""
        for path in list_segments(directory):
            content = path.read_bytes()
            kept = self.synced.get(str(path), 0)
            tail = bytearray(content[kept : kept + chance.randint(0, len(content) - kept)])
            if tail and chance.random() < 0.5:  # a hole where a page was not written
                start = chance.randrange(len(tail))
                tail[start : start + 64] = bytes(len(tail[start : start + 64]))
            path.write_bytes(content[:kept] + bytes(tail))


def test_records_come_back_in_order(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    writer.append(encode(make_record(1), make_record(2)))
    writer.append(encode(make_record(3)))
    writer.close()
    assert list(read_records(tmp_path)) == [make_record(1), make_record(2), make_record(3)]
    assert read_header(list_segments(tmp_path)[0]).worker == "w0"


def test_a_repeated_id_is_read_once(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    writer.append(encode(make_record(1, "a"), make_record(2, "b"), make_record(3, "a"), make_record(4), make_record(5)))
    assert numbers(tmp_path) == [1, 2, 4, 5]


def test_a_record_is_found_by_its_prediction_id(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, segment_bytes=4000)
    for number in range(200):
        writer.append(encode(make_record(number)))
    assert len(list_segments(tmp_path)) > 3
    assert find_record(tmp_path, "p_000123") == make_record(123)
    with pytest.raises(NotFoundError, match="p_999999"):
        find_record(tmp_path, "p_999999")


def test_a_closed_segment_is_sealed_with_its_digest(tmp_path: Path) -> None:
    writer = make_writer(tmp_path, segment_bytes=2000)
    for number in range(40):
        writer.append(encode(make_record(number)))
    first, *_, last = list_segments(tmp_path)
    seal = verify_seal(first)
    assert seal is not None
    assert seal.digest == digest_bytes(first.read_bytes())
    assert seal.records == len(list(read_segment(first)))
    assert verify_seal(last) is None
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    with pytest.raises(IntegrityError, match="not what was sealed"):
        verify_seal(first)


def test_a_second_writer_of_the_same_name_is_refused(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    with pytest.raises(ConflictError, match="another process writes records as w0"):
        make_writer(tmp_path)
    writer.close()
    make_writer(tmp_path).close()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_a_torn_tail_is_cut_and_carried_on(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    directory = tmp_path_factory.mktemp("torn")
    writer = make_writer(directory)
    writer.append(encode(make_record(1), make_record(2)))
    writer.close()
    segment = list_segments(directory)[0]
    whole = segment.read_bytes()
    torn = join_frames(encode(make_record(3)))
    segment.write_bytes(whole + torn[: data.draw(st.integers(0, len(torn) - 1))])
    assert numbers(directory) == [1, 2]
    again = make_writer(directory)
    again.append(encode(make_record(4)))
    again.close()
    assert numbers(directory) == [1, 2, 4]
    assert len(list_segments(directory)) == 1


@pytest.mark.parametrize("cut", [0, 3, len(MAGIC), len(MAGIC) + 5])
def test_a_segment_torn_while_it_was_made_is_no_obstacle(tmp_path: Path, cut: int) -> None:
    make_and_close = make_writer(tmp_path)
    make_and_close.append(encode(make_record(1)))
    make_and_close.close()
    segment = list_segments(tmp_path)[0]
    segment.write_bytes(segment.read_bytes()[:cut])
    assert numbers(tmp_path) == []
    writer = make_writer(tmp_path)
    writer.append(encode(make_record(2)))
    assert numbers(tmp_path) == [2]


def test_a_long_segment_is_carried_on_in_little_memory(tmp_path: Path) -> None:
    """What was not closed is looked through, and not held."""
    with closing(make_writer(tmp_path)) as writer:
        for number in range(200):
            writer.append([bytes([number]) * 40_000], sync=False)
    tracemalloc.start()
    try:
        writer = make_writer(tmp_path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    writer.append(encode(make_record(1)))
    writer.close()
    (segment,) = list_segments(tmp_path)
    assert segment.stat().st_size > 8_000_000
    assert peak < 4_000_000
    assert len(whole_frames(segment.read_bytes())) == 1 + 200 + 1


def test_damage_before_a_whole_record_is_told_and_not_cut(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)
    writer.append(encode(make_record(1), make_record(2), make_record(3)))
    writer.close()
    segment = list_segments(tmp_path)[0]
    content = bytearray(segment.read_bytes())
    content[content.index(b"p_000002")] ^= 1
    segment.write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged at byte"):
        list(read_segment(segment))
    again = make_writer(tmp_path)
    again.append(encode(make_record(4)))
    assert segment.read_bytes() == content
    assert len(list_segments(tmp_path)) == 2


def test_frames_are_found_and_torn_ones_are_not() -> None:
    content = MAGIC + frame(b"one") + frame(b"two")
    assert [content[start:end] for start, end in whole_frames(content)] == [b"one", b"two"]
    assert whole_frames(content[:-1]) == whole_frames(content)[:1]
    assert has_whole_frame_after(content, len(MAGIC))
    assert not has_whole_frame_after(content[:-1], len(MAGIC) + len(frame(b"one")))
    with pytest.raises(ValueError, match="magic"):
        whole_frames(b"something else")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("kind", ["write", "sync", "open"])
@pytest.mark.parametrize("at", range(1, 7))
def test_what_a_failing_disk_refused_is_not_acknowledged_and_the_rest_is_kept(
    tmp_path: Path, kind: str, at: int, code: int
) -> None:
    disk, clock = PoweredDisk(kind, at, code, short=100), Clock()
    writer = make_writer(tmp_path, disk, clock)
    acknowledged, refused = [], 0
    for number in range(12):
        try:
            writer.append(encode(make_record(number)))
            acknowledged.append(number)
        except StorageError as error:
            refused += 1
            assert writer.is_fenced
            assert "free space or mend the disk" in str(error)  # noqa: PT017
        clock.now += RETRY_AFTER_S
    writer.close()
    assert refused <= 1
    assert disk.syncs_after_failure == 0
    assert set(acknowledged) <= set(numbers(tmp_path))
    assert len(numbers(tmp_path)) == len(acknowledged)  # what was cut is not seen


def test_a_fenced_writer_waits_before_it_tries_again(tmp_path: Path) -> None:
    disk, clock = PoweredDisk("write", 2), Clock()
    writer = make_writer(tmp_path, disk, clock)
    for _ in range(3):
        with pytest.raises(StorageError):
            writer.append(encode(make_record(1)))
    clock.now += RETRY_AFTER_S
    writer.append(encode(make_record(2)))
    assert numbers(tmp_path) == [2]


def test_a_segment_removed_under_its_writer_is_noticed(tmp_path: Path) -> None:
    clock = Clock()
    writer = make_writer(tmp_path, clock=clock)
    writer.append(encode(make_record(1)))
    list_segments(tmp_path)[0].unlink()
    with pytest.raises(StorageError, match="removed under its writer"):
        writer.append(encode(make_record(2)))
    clock.now += RETRY_AFTER_S
    writer.append(encode(make_record(3)))
    assert numbers(tmp_path) == [3]


@pytest.mark.timeout(36_000)
def test_a_power_loss_at_any_call_keeps_what_was_acknowledged(tmp_path: Path, seen: Seen) -> None:
    """Power goes at the k-th call for every k; unsynced bytes are dropped, torn or holed."""
    for seed, kind in product(range(REPETITIONS), ("write", "sync")):
        for at in range(1, 14):
            directory = tmp_path / f"{seed}{kind}{at}"
            disk = PoweredDisk(kind, at, errno.EIO)
            writer = make_writer(directory, disk, segment_bytes=900)
            acknowledged: list[int] = []
            try:
                for number in range(8):
                    writer.append(encode(make_record(number)))
                    acknowledged.append(number)
            except StorageError:
                pass
            writer.close()
            disk.lose_power(directory, random.Random(100 * seed + at))
            assert set(acknowledged) <= set(numbers(directory)), (kind, at)
            again = make_writer(directory)
            again.append(encode(make_record(100)))
            again.close()
            assert {*acknowledged, 100} <= set(numbers(directory)), (kind, at)
    seen("calls at which power went", 26)
    seen("states after a loss", 26 * REPETITIONS)


def test_async_records_are_durable_after_a_sync(tmp_path: Path) -> None:
    disk = PoweredDisk()
    writer = make_writer(tmp_path, disk)
    writer.append(encode(make_record(1)), sync=False)
    segment = str(list_segments(tmp_path)[0])
    before = disk.synced[segment]
    writer.sync()
    assert disk.synced[segment] > before


def test_threads_may_share_a_writer(tmp_path: Path) -> None:
    writer = make_writer(tmp_path)

    def write(start: int) -> None:
        for number in range(start, start + 50):
            writer.append(encode(make_record(number)), sync=False)

    threads = [threading.Thread(target=write, args=(start,)) for start in (0, 50, 100, 150)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(tmp_path)) == list(range(200))
