"""Reading in instalments: each record once, whatever its writer was doing, and real damage told."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.kernel.errors import IntegrityError, StorageError
from shipworthy.records.disk import LocalDisk
from shipworthy.records.format import MAGIC, Outcome, Record
from shipworthy.records.read import Tail, list_segments, read_outcomes
from shipworthy.records.write import SegmentWriter
from tests.conftest import Seen

KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "3"))


def make_outcome(number: int) -> Outcome:
    return Outcome(id=f"{number:06d}", value="1", time=1.0, received=2.0, source="test")


def open_writer(directory: Path, worker: str = "w0", disk: LocalDisk | None = None, size: int = 2**20) -> SegmentWriter:
    clock = time.monotonic
    return SegmentWriter(directory, "local", worker, now=clock, monotonic=clock, disk=disk, segment_bytes=size)


def append(writer: SegmentWriter, *numbers: int) -> None:
    writer.append([msgspec.msgpack.encode(make_outcome(number)) for number in numbers])


def write(directory: Path, *numbers: int, worker: str = "w0") -> Path:
    """The segment that holds `numbers`, and what was there before, with nobody writing any more."""
    writer = open_writer(directory, worker)
    append(writer, *numbers)
    writer.close()
    return list_segments(directory)[-1]


def numbers(outcomes: list[Outcome]) -> list[int]:
    return [int(outcome.id) for outcome in outcomes]


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_number_of_instalments_gives_the_same_as_reading_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    """Two writers, segments that rotate, and files that grow by any number of bytes between two looks."""
    source, copy = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("copy")
    for worker in ("a", "b"):
        writer = open_writer(source, worker, size=data.draw(st.integers(150, 600)))
        for group in data.draw(st.lists(st.lists(st.integers(0, 99), max_size=5), max_size=6)):
            append(writer, *group)
        writer.close()
    whole = {segment.name: segment.read_bytes() for segment in list_segments(source)}
    tail, found = Tail(copy, Outcome), []
    shown = dict.fromkeys(whole, 0)
    while any(shown[name] < len(content) for name, content in whole.items()):
        for name, content in whole.items():
            shown[name] = min(len(content), shown[name] + data.draw(st.integers(0, 400)))
            if shown[name]:
                (copy / name).write_bytes(content[: shown[name]])
        found += tail.read_new()
    found += tail.read_new()
    assert sorted(numbers(found)) == sorted(numbers(list(read_outcomes(source))))
    assert tail.read_new() == []


def test_a_directory_that_does_not_exist_yet_is_empty_until_it_does(tmp_path: Path):
    tail = Tail(tmp_path / "later", Record)
    assert tail.read_new() == []
    writer = open_writer(tmp_path / "later")
    record = Record(prediction_id="p_1", time=1.0, system="s", release="s:1", environment="local", worker="w0")
    writer.append([msgspec.msgpack.encode(record)])
    writer.close()
    assert tail.read_new() == [record]


def test_a_torn_tail_is_not_there_yet(tmp_path: Path):
    segment = write(tmp_path, 1, 2)
    content = segment.read_bytes()
    segment.write_bytes(content[:-3])
    tail = Tail(tmp_path, Outcome)
    assert numbers(tail.read_new()) == [1]
    assert tail.read_new() == []
    write(tmp_path, 3)  # its writer comes again, cuts what is torn and carries on
    assert numbers(tail.read_new()) == [3]


def test_what_was_read_is_not_read_again(tmp_path: Path):
    """Only `verify` looks at old bytes: a tail neither pays for them nor notices what became of them."""
    segment = write(tmp_path, 1, 2)
    tail = Tail(tmp_path, Outcome)
    assert numbers(tail.read_new()) == [1, 2]
    writer = open_writer(tmp_path)
    content = bytearray(segment.read_bytes())
    content[content.index(b"000001")] ^= 1
    segment.write_bytes(content)
    append(writer, 3)
    writer.close()
    assert numbers(tail.read_new()) == [3]


def test_damage_before_a_whole_record_is_told(tmp_path: Path):
    segment = write(tmp_path, 1, 2, 3)
    tail = Tail(tmp_path, Outcome)
    content = bytearray(segment.read_bytes())
    content[content.index(b"000002")] ^= 1
    segment.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"w0-00000001 is damaged at byte \d+; restore it from a copy"):
        tail.read_new()


def test_a_file_that_is_no_segment_is_told(tmp_path: Path):
    (tmp_path / "w0-00000001").write_bytes(b"prediction_id,value\n")
    with pytest.raises(IntegrityError, match="w0-00000001 is not a record segment: its magic is missing"):
        Tail(tmp_path, Outcome).read_new()


def test_a_segment_that_was_read_and_is_gone_is_told(tmp_path: Path):
    segment = write(tmp_path, 1)
    tail = Tail(tmp_path, Outcome)
    tail.read_new()
    segment.unlink()
    with pytest.raises(IntegrityError, match="w0-00000001 is missing; restore it from a copy"):
        tail.read_new()


def test_a_segment_that_vanished_before_it_held_a_record_is_no_loss(tmp_path: Path):
    tail = Tail(tmp_path, Outcome)
    (tmp_path / "w0-00000001").write_bytes(MAGIC[:5])
    assert tail.read_new() == []
    write(tmp_path, 7)  # its writer unmakes it and begins again under the same name
    assert numbers(tail.read_new()) == [7]


class RefusingDisk(LocalDisk):
    """A disk whose sync can be told to fail; what was written is cut away again by the writer."""

    def __init__(self) -> None:
        self.refuses = False
        self.before_refusal: Callable[[], object] = lambda: None

    def sync(self, descriptor: int) -> None:
        if self.refuses:
            self.before_refusal()
            raise OSError(5, "Input/output error")
        super().sync(descriptor)


def test_what_a_disk_refused_is_cut_away_and_all_that_follows_is_read(tmp_path: Path):
    """Seen before it was durable, refused, cut; then the next process writes as many bytes in its place."""
    disk = RefusingDisk()
    writer, tail, early = open_writer(tmp_path, disk=disk), Tail(tmp_path, Outcome), []
    append(writer, 1)
    assert numbers(tail.read_new()) == [1]
    disk.refuses, disk.before_refusal = True, lambda: early.extend(tail.read_new())
    with pytest.raises(StorageError, match="refused a record"):
        append(writer, 2, 3)
    writer.close()
    assert numbers(early) == [2, 3]
    write(tmp_path, 4, 5)
    write(tmp_path, 6)
    assert numbers(tail.read_new()) == [4, 5, 6]
    assert numbers(list(read_outcomes(tmp_path))) == [1, 4, 5, 6]


def test_a_segment_cut_within_a_record_that_was_read_is_told(tmp_path: Path):
    """No writer does that: it cuts whole groups away, or what is torn."""
    segment = write(tmp_path, 1, 2)
    tail = Tail(tmp_path, Outcome)
    tail.read_new()
    os.truncate(segment, segment.stat().st_size - 5)
    with pytest.raises(IntegrityError, match=r"was cut or changed behind byte \d+; restore it from a copy"):
        tail.read_new()


def test_a_sealed_segment_that_was_cut_is_told(tmp_path: Path):
    writer = open_writer(tmp_path, size=100)
    append(writer, 1)
    size = list_segments(tmp_path)[0].stat().st_size
    writer.close()
    tail = Tail(tmp_path, Outcome)
    assert numbers(tail.read_new()) == [1]
    frame = size - 8 - len(msgspec.msgpack.encode(make_outcome(1)))
    os.truncate(tmp_path / "w0-00000001", frame)  # at the end of a whole frame
    with pytest.raises(IntegrityError, match="w0-00000001 was cut or changed behind byte"):
        tail.read_new()


WRITES = """
import sys, time
from itertools import count
from pathlib import Path
import msgspec
from shipworthy.records.format import Outcome
from shipworthy.records.write import SegmentWriter
start = int(sys.argv[2])
writer = SegmentWriter(Path(sys.argv[1]), "local", "w0", now=time.time, monotonic=time.monotonic, segment_bytes=20_000)
for first in count(start, 7):
    group = [Outcome(id=f"{n:06d}", value="1", time=1.0, received=2.0, source="t") for n in range(first, first + 7)]
    writer.append([msgspec.msgpack.encode(outcome) for outcome in group])
    print(first + 6, flush=True)
"""


@pytest.mark.timeout(36_000)
def test_everything_acknowledged_by_a_killed_writer_is_read_once(tmp_path: Path, seen: Seen):
    """A writer killed at any moment and started again, while a tail reads along."""
    chance = random.Random(11)
    tail, found, acknowledged, start = Tail(tmp_path, Outcome), [], set(), 0
    for _ in range(KILLS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITES, str(tmp_path), str(start)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        end = None
        for line in writer.stdout:
            acknowledged |= set(range(int(line) - 6, int(line) + 1))
            found += numbers(tail.read_new())
            end = end or time.monotonic() + chance.uniform(0.02, 0.2)
            if time.monotonic() > end:
                writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        start = max(acknowledged) + 1000
    found += numbers(tail.read_new())
    assert len(found) == len(set(found))
    assert acknowledged <= set(found)
    assert found == numbers(list(read_outcomes(tmp_path)))
    assert len(list_segments(tmp_path)) > 1
    seen("writers killed while a tail read along", KILLS)
