"""The spool: what the records' disk refuses waits elsewhere and comes back, in order and once, whatever happens."""

import errno
import os
import random
from contextlib import suppress
from pathlib import Path

import pytest

from shipworthy.kernel.errors import IntegrityError, StorageError, UsageError
from shipworthy.records.format import Record
from shipworthy.records.read import Tail, list_segments, read_records, verify_seal
from shipworthy.records.spool import MARKER, open_spool
from shipworthy.records.write import MAX_RETRY_S, RETRY_AFTER_S, SegmentWriter
from shipworthy.security.vault import Vault
from tests.conftest import Seen
from tests.records.disks import Killed, Machine, let_go
from tests.records.test_records import Clock, encode, make_record
from tests.vaults import make_vault

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "1"))
ROOM = 10**6


class Place:
    """Records on one volume, a spool on another, and the machine that both are in."""

    def __init__(self, root: Path, die_at: int = 0, vault: Vault | None = None) -> None:
        self.root = root
        self.records = root / "state" / "records" / "local"
        self.records.mkdir(parents=True, exist_ok=True)
        self.spool = open_spool(root / "elsewhere", self.records)
        self.machine = Machine(die_at=die_at)
        self.clock = Clock()
        self.vault = vault
        self.acknowledged: list[int] = []

    def open(self, worker: str = "w0", **changes: int) -> SegmentWriter:
        names = {"now": self.clock, "monotonic": self.clock, "vault": self.vault}
        return SegmentWriter(self.records, "local", worker, disk=self.machine, spool=self.spool, **names, **changes)

    def tell(self, writer: SegmentWriter, *numbers: int) -> list[bool]:
        """Append each; whether it was spooled."""
        spooled = []
        for number in numbers:
            is_sealed = self.vault is not None
            spooled.append(writer.append(encode(make_record(number)), spool=ROOM, seal=is_sealed))
            self.acknowledged.append(number)
        return spooled

    def wait(self) -> None:
        self.clock.now += MAX_RETRY_S

    def read(self, directory: Path | None = None) -> list[int]:
        found = read_records(directory or self.records, self.vault)
        return [int(record.prediction_id[2:]) for record in found]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def live(place: Place) -> None:
    """A life in which the disk is full, then has room, then fails, then is mended."""
    machine = place.machine
    writer = place.open(segment_bytes=700)
    place.tell(writer, 0, 1)
    machine.full = place.records
    place.tell(writer, 2, 3, 4, 5, 6)
    machine.full = None
    place.wait()
    place.tell(writer, 7)
    writer.drain()
    place.tell(writer, 8)
    machine.failing = place.records
    place.tell(writer, 9, 10)
    machine.failing = None
    place.wait()
    writer.drain()
    place.tell(writer, 11)
    writer.close()


def calls_of_a_life(root: Path) -> int:
    place = Place(root)
    live(place)
    return place.machine.calls


def test_what_the_disk_refuses_waits_in_the_spool_and_comes_back_in_order(place: Place) -> None:
    writer = place.open()
    assert place.tell(writer, 1, 2) == [False, False]
    place.machine.full = place.records
    assert place.tell(writer, 3, 4) == [True, True]
    assert place.read() == [1, 2]
    assert place.read(place.spool) == [3, 4]
    assert writer.spool_bytes == sum(path.stat().st_size for path in list_segments(place.spool))
    with pytest.raises(StorageError, match="a moment ago"):
        writer.drain()
    place.wait()
    with pytest.raises(StorageError, match="No space left"):
        writer.drain()
    place.machine.full = None
    place.wait()
    assert writer.is_fenced
    writer.drain()
    assert writer.spool_bytes == 0
    assert list_segments(place.spool) == []
    assert place.tell(writer, 5) == [False]
    assert place.read() == [1, 2, 3, 4, 5]
    assert all(verify_seal(segment) for segment in list_segments(place.records)[:-1])


def test_whoever_may_not_spool_is_refused_while_others_do(place: Place) -> None:
    writer = place.open()
    place.machine.full = place.records
    place.tell(writer, 1)
    with pytest.raises(StorageError, match="refused a record"):
        writer.append(encode(make_record(2)))
    assert place.read(place.spool) == [1]


def test_a_full_spool_refuses_and_takes_again_once_it_was_drained(place: Place) -> None:
    writer = place.open()
    place.machine.full = place.records
    taken = 0
    while writer.spool_bytes < 1500:
        writer.append(encode(make_record(taken)), spool=1500)
        taken += 1
    with pytest.raises(StorageError, match="is full too"):
        writer.append(encode(make_record(taken)), spool=1500)
    assert 3 < taken < 20
    place.machine.full = None
    place.wait()
    writer.drain()
    assert place.read() == list(range(taken))
    place.machine.full = place.records
    assert place.tell(writer, 100) == [True]


def test_a_spool_that_refuses_too_is_said_and_tried_again(place: Place) -> None:
    writer = place.open()
    place.machine.full = place.root
    with pytest.raises(StorageError, match="refuses too: No space left"):
        place.tell(writer, 1)
    with pytest.raises(StorageError, match=r"spool .* refused a record a moment ago"):
        place.tell(writer, 1)
    place.machine.full = place.records
    place.clock.now += RETRY_AFTER_S
    assert place.tell(writer, 2) == [True]
    place.machine.full, place.machine.failing = None, place.root  # the spool's segment fails under way
    place.clock.now += RETRY_AFTER_S
    with pytest.raises(StorageError):
        place.tell(writer, 3)
    place.machine.failing = None
    place.wait()
    place.tell(writer, 4)
    writer.drain()
    assert place.read() == [2, 3, 4]  # 3 was refused, and its file could not be cut


def test_a_disk_that_takes_a_header_and_no_more_is_left_in_peace(place: Place) -> None:
    """Else each half second would leave two small segments behind."""
    writer = place.open()
    machine = place.machine

    class Nearly(Machine):
        def write(self, descriptor: int, content: bytes | memoryview) -> int:
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if b"prediction_id" in content and path.is_relative_to(place.records):
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(descriptor, content)

    machine.__class__ = Nearly
    for number in range(120):  # a minute
        place.tell(writer, number)
        place.clock.now += RETRY_AFTER_S
    assert len(list_segments(place.records)) < 15
    machine.__class__ = Machine
    place.wait()
    writer.drain()
    assert place.read() == list(range(120))


def test_a_life_reads_once_and_in_order(place: Place) -> None:
    live(place)
    assert place.read() == list(range(12))
    assert list_segments(place.spool) == []


@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_killed_at_any_call_nothing_is_lost_and_nothing_is_there_twice(
    tmp_path: Path, sealed: bool, seen: Seen
) -> None:
    vault = make_vault(tmp_path) if sealed else None
    total = calls_of_a_life(tmp_path / "whole")
    for at in range(1, total + 1):
        place = Place(tmp_path / str(at), at, vault)
        with suppress(Killed):
            live(place)
        let_go(place.root)
        found = place.read()
        assert len(found) == len(set(found)), at
        assert set(place.acknowledged) <= {*found, *place.read(place.spool)}, at
        judge_after_restart(place, at)
    seen("calls at which it was killed", total)


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("sealed", [False, True], ids=["plain", "sealed"])
def test_a_power_loss_at_any_call_loses_and_doubles_nothing(tmp_path: Path, sealed: bool, seen: Seen) -> None:
    vault = make_vault(tmp_path) if sealed else None
    total = calls_of_a_life(tmp_path / "whole")
    for seed in range(REPETITIONS):
        for at in range(1, total + 1):
            place = Place(tmp_path / f"{seed}-{at}", at, vault)
            with suppress(Killed):
                live(place)
            let_go(place.root)
            place.machine.lose_power(random.Random(1000 * seed + at))
            judge_after_restart(place, at)
    seen("calls at which power went", total)
    seen("states after a loss", total * REPETITIONS)


def judge_after_restart(place: Place, at: int) -> None:
    place.machine = Machine()
    place.wait()
    writer = place.open(segment_bytes=700)
    assert list_segments(place.spool) == [], at
    place.tell(writer, 100)
    writer.close()
    found = place.read()
    assert found == sorted(set(found)), at
    assert set(place.acknowledged) <= set(found), at
    assert len(found) <= len(place.acknowledged) + 1, at  # what was written and not acknowledged any more


def test_a_tail_reads_what_comes_back_once(place: Place) -> None:
    tail, found = Tail(place.records, Record), []
    writer = place.open()
    place.tell(writer, 1)
    found += tail.read_new()
    place.machine.failing = place.records  # what was refused stays in the file
    place.tell(writer, 2)
    place.machine.failing = None
    place.wait()
    place.tell(writer, 3)
    found += tail.read_new()
    writer.drain()
    found += tail.read_new()
    assert [record.prediction_id for record in found] == ["p_000001", "p_000003", "p_000002"]


def test_an_encrypted_record_is_so_in_the_spool(tmp_path: Path) -> None:
    place = Place(tmp_path, vault=make_vault(tmp_path))
    writer = place.open()
    place.machine.full = place.records
    place.tell(writer, 1)
    assert b"p_000001" not in list_segments(place.spool)[0].read_bytes()
    place.machine.full = None
    writer.close()
    place.open().close()
    assert place.read() == [1]


def test_what_a_worker_left_that_nobody_succeeds_is_moved_by_another(place: Place) -> None:
    other, living = place.open("w1"), place.open("w2")
    place.machine.full = place.records
    place.tell(other, 1)
    place.tell(living, 2)
    other.close()
    place.machine.full = None
    place.open("w0").close()
    assert place.read() == [1]
    assert place.read(place.spool) == [2]  # its writer lives
    living.close()


def test_a_writer_starts_on_a_disk_that_refuses_if_there_is_a_spool(place: Place) -> None:
    writer = place.open()
    place.machine.full = place.records
    place.tell(writer, 1)
    writer.close()
    again = place.open()
    assert again.is_fenced
    assert place.tell(again, 2) == [True]
    place.machine.full = None
    place.wait()
    again.drain()
    assert place.read() == [1, 2]


def test_another_segment_of_the_same_name_is_not_overwritten(place: Place) -> None:
    writer = place.open()
    place.machine.full = place.records
    place.tell(writer, 1)
    writer.close()
    place.machine.full = None
    waiting = list_segments(place.spool)[0]
    before = waiting.read_bytes()
    writer = SegmentWriter(place.records, "local", "w0", now=place.clock, monotonic=place.clock)
    writer.append(encode(make_record(9)))
    writer.close()
    there = list_segments(place.records)[0]
    there.rename(there.with_name(waiting.name))
    again = place.open()
    with pytest.raises(IntegrityError, match="is not the segment of that name in the spool"):
        again.drain()
    assert waiting.read_bytes() == before
    assert place.tell(again, 2) == [False]


def test_two_projects_do_not_share_a_spool(tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    first, second = tmp_path / "a" / "records" / "local", tmp_path / "b" / "records" / "local"
    assert open_spool(spool, first) == open_spool(spool, first) == spool / "records" / "local"
    with pytest.raises(UsageError, match=r"is the spool of .*a/records; give each project its own, or remove"):
        open_spool(spool, second)
    (spool / MARKER).unlink()
    open_spool(spool, second)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written: Not a directory"):
        open_spool(tmp_path / "file", first)


def test_async_records_in_the_spool_are_durable_after_a_sync(place: Place) -> None:
    writer = place.open()
    place.machine.full = place.records
    assert writer.append(encode(make_record(1)), sync=False, spool=ROOM)
    writer.sync()
    place.machine.lose_power(random.Random(1))
    assert place.read(place.spool) == [1]
