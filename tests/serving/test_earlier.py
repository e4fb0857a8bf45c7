"""Answers given earlier are found again in the records, and requests that end their process by what they leave."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy.records.format import Record
from shipworthy.records.read import read_newest
from shipworthy.records.write import SegmentWriter
from shipworthy.serving.answer import Answer, Change, Reasons, record_answer
from shipworthy.serving.decode import RequestDecoder
from shipworthy.serving.earlier import digest_inputs, give, recall
from shipworthy.serving.messages.suspects import ALONE_AFTER, GIVEN_UP_AFTER, MAX_SUSPECTS, Suspects
from tests.serving.conftest import good_request, loans_schema
from tests.vaults import make_vault

Write = Callable[..., None]


def record(number: int, name: str | None = None, **fields: Any) -> bytes:
    values = {"time": 1.0, "system": "loans", "release": "loans:1", "environment": "local", "worker": "consume"}
    return msgspec.msgpack.encode(Record(prediction_id=f"p{number}", id=name, **values, **fields))


def write(directory: Path, numbers: range, *, worker: str = "consume", segment_bytes: int = 2**20, **options: Any):
    writer = SegmentWriter(
        directory,
        "local",
        worker,
        now=lambda: 1.0,
        monotonic=lambda: 1.0,
        segment_bytes=segment_bytes,
        vault=options.get("vault"),
    )
    for number in numbers:
        writer.append([record(number, f"r{number}")], seal=options.get("vault") is not None)
    writer.close()


@pytest.mark.parametrize("segment_bytes", [2**20, 1])
@pytest.mark.parametrize("is_sealed", [False, True])
def test_the_newest_of_a_writer_are_read_across_its_segments(tmp_path: Path, segment_bytes: int, is_sealed: bool):
    vault = make_vault(tmp_path / "keys") if is_sealed else None
    records = tmp_path / "records"
    write(records, range(9), segment_bytes=segment_bytes, vault=vault)
    write(records, range(100, 105), worker="consume-2", vault=vault)
    for count, expected in ((3, [6, 7, 8]), (9, [*range(9)]), (50, [*range(9)])):
        found = read_newest(records, "consume", count, Record, vault)
        assert [one.prediction_id for one in found] == [f"p{number}" for number in expected]
    assert read_newest(tmp_path / "nothing", "consume", 3, Record) == []


def test_an_answer_is_recalled_from_its_record_as_it_was_published(tmp_path: Path):
    sample = RequestDecoder(loans_schema()).decode_object({"id": "a", **good_request()})
    answer = Answer(
        prediction="1",
        probability={"0": 0.1, "1": 0.9},
        interval=None,
        confidence=0.9,
        decision="approve",
        prediction_id="p1",
        source="model",
        handling="review",
        release="loans:1",
        warnings=["one"],
        reasons=Reasons("ablation-to-reference", "probability of approve", (Change("income", 0.25),)),
    )
    for number, one in enumerate((answer, msgspec.structs.replace(answer, reasons=msgspec.UNSET))):
        directory = tmp_path / str(number)
        writer = SegmentWriter(directory, "local", "consume", now=lambda: 1.0, monotonic=lambda: 1.0)
        writer.append([msgspec.msgpack.encode(record_answer(one, sample, "loans", "local", "consume", 1.0, 2.0))])
        writer.close()
        assert recall(directory, "consume", 10).find("a") == give(one, sample.inputs)
    other = RequestDecoder(loans_schema()).decode_object({"id": "a", **good_request(income=51.0)})
    assert digest_inputs(other.inputs) != give(answer, sample.inputs).inputs


def test_of_records_with_one_id_the_first_is_recalled_and_no_more_than_the_window(tmp_path: Path):
    writer = SegmentWriter(tmp_path, "local", "consume", now=lambda: 1.0, monotonic=lambda: 1.0)
    writer.append([record(1, "a"), record(2, "b"), record(3, "b"), record(4)])
    writer.close()
    earlier = recall(tmp_path, "consume", 10)
    assert len(earlier) == 2
    assert earlier.find("b").prediction_id == "p2"  # type: ignore[union-attr]
    assert len(recall(tmp_path, "consume", 1)) == 0  # the newest has no id


def test_who_was_running_when_processes_ended_is_run_alone_then_given_up(tmp_path: Path):
    path = tmp_path / "running"
    for end in range(1, GIVEN_UP_AFTER + 1):
        suspects = Suspects(path)
        suspects.begin(["a", "b"] if end == 1 else ["a"])
        suspects = Suspects(path)
        suspects.begin([])  # it ends in no run
        assert suspects.is_alone("a") == (end >= ALONE_AFTER)
        assert suspects.is_given_up("a") == (end >= GIVEN_UP_AFTER)
        assert not suspects.is_alone("b")
    suspects = Suspects(path)
    suspects.end(["a"])
    assert Suspects(path).names == ["b"]


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x81\xa7running\x01", b"\x00" * 100])
def test_a_damaged_page_of_suspects_tells_nothing(tmp_path: Path, content: bytes):
    path = tmp_path / "running"
    path.write_bytes(content)
    assert len(Suspects(path)) == 0


def test_suspects_are_bounded(tmp_path: Path):
    path = tmp_path / "running"
    for start in (0, MAX_SUSPECTS):
        Suspects(path).begin([str(number) for number in range(start, start + MAX_SUSPECTS)])
    names = Suspects(path).names
    assert (len(names), names[-1]) == (MAX_SUSPECTS, str(2 * MAX_SUSPECTS - 1))
