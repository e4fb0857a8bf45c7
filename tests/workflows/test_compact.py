"""Compaction: Parquet that others read, the same records to us, the digest still proven; killed anywhere, no harm."""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import AccessError, IntegrityError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.store import open_ledger
from shipworthy.records.disk import Disk
from shipworthy.records.format import Record, seal_of
from shipworthy.records.parquet import HEADER
from shipworthy.records.read import (
    Tail,
    find_record,
    list_segments,
    load_segment,
    read_header,
    read_records,
    read_segment,
    verify_seal,
)
from shipworthy.records.write import SegmentWriter
from shipworthy.security.access import Principal
from shipworthy.security.keys import SigningKey
from shipworthy.workflows.compact import Compaction, compact_records
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts
from shipworthy.workflows.verify import verify_records
from tests.conftest import Seen
from tests.records.disks import Killed, Machine
from tests.vaults import make_vault

NOW = 1_800_000_000.0
DAY_S = 86_400.0
ANN = Principal("ann", frozenset({"platform"}))
SEGMENT_BYTES = 2500


def make_parts(root: Path) -> Iterator[Parts]:
    project = Project(root)
    project.state.mkdir(parents=True)
    key = SigningKey.from_seed("test", bytes(range(32)))
    with open_ledger(project.ledger_url({}), project.log, key, lambda: NOW) as ledger:
        yield Parts(project, ledger, ArtefactStore(project.blobs), key, "user:ann", lambda: NOW, os.urandom)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    yield from make_parts(tmp_path / "project")


def make_record(number: int, **changes: Any) -> Record:
    fields: dict[str, Any] = {
        "prediction_id": f"p_{number:06d}",
        "time": NOW - 30 * DAY_S + number,
        "system": "loans",
        "release": "loans:1",
        "environment": "local",
        "worker": "w0",
        "id": f"a{number}" if number % 3 else None,
        "inputs": {"income": number * 1.5, "purpose": "car", "owner": True, "score": number},
        "context": {"sex": "f"},
        "prediction": "1",
        "probability": {"0": 0.25, "1": 0.75},
        "decision": "approve",
        "confidence": 0.75,
        "warnings": ("clipped",) if number == 2 else (),
        "latency_ms": 1.5,
    }
    return Record(**{**fields, **changes})


def write(parts: Parts, *records: Record, disk: Disk | None = None, **changes: Any) -> None:
    place = parts.project.records("local")
    clock = {"now": lambda: NOW - 31 * DAY_S, "monotonic": lambda: 1.0}
    writer = SegmentWriter(place, "local", "w0", disk=disk, **{"segment_bytes": SEGMENT_BYTES, **clock, **changes})
    for record in records:
        writer.append([msgspec.msgpack.encode(record)])
    writer.close()


def compact(parts: Parts, older_than_s: float = 7 * DAY_S, disk: Disk | None = None) -> Compaction:
    return compact_records(parts, ANN, "local", older_than_s, disk)


def read(parts: Parts) -> list[Record]:
    return list(read_records(parts.project.records("local")))


def proof(parts: Parts) -> str:
    (found,) = verify_records(parts.project, parts.ledger)
    return str(found)


def test_closed_segments_become_parquet_that_is_read_as_before(parts: Parts) -> None:
    write(parts, *(make_record(number) for number in range(40)))
    place = parts.project.records("local")
    before, bytes_before = read(parts), [load_segment(segment) for segment in list_segments(place)]
    done = compact(parts)
    names = [path.name for path in list_segments(place)]
    assert names[0] == "w0-00000001.parquet"
    assert names[-1] == f"w0-{len(names):08d}"  # the open one
    assert (done.segments, done.open_or_young, done.encrypted) == (len(names) - 1, 1, 0)
    assert done.records == 40 - len(list(read_segment(list_segments(place)[-1])))
    assert read(parts) == before
    assert [load_segment(segment) for segment in list_segments(place)] == bytes_before
    assert read_header(list_segments(place)[0]).worker == "w0"
    assert find_record(place, "p_000003") == make_record(3)
    assert "40 predictions" in proof(parts)
    assert compact(parts).segments == 0


def test_others_read_typed_columns(parts: Parts) -> None:
    write(parts, *(make_record(number) for number in range(12)), make_record(12, inputs={"income": 1, "odd": 2}))
    compact(parts, 0.0)
    table = pl.read_parquet(list_segments(parts.project.records("local"))[0])
    assert table["time"].dtype == pl.Datetime("us", "UTC")
    assert table.select("inputs_income", "inputs_score", "inputs_owner", "inputs_purpose").dtypes == [
        pl.Float64,
        pl.Float64,
        pl.Boolean,
        pl.String,
    ]
    assert table.row(2, named=True) | {"record": b"", "time": None} == {
        "prediction_id": "p_000002",
        "time": None,
        "system": "loans",
        "release": "loans:1",
        "environment": "local",
        "worker": "w0",
        "id": "a2",
        "source": "model",
        "handling": "automatic",
        "prediction": "1",
        "decision": "approve",
        "confidence": 0.75,
        "interval_low": None,
        "interval_high": None,
        "latency_ms": 1.5,
        "warnings": ["clipped"],
        "reasons": None,
        "probability_0": 0.25,
        "probability_1": 0.75,
        "inputs_income": 3.0,
        "inputs_purpose": "car",
        "inputs_owner": True,
        "inputs_score": 2.0,
        "context_sex": "f",
        "record": b"",
    }


VALUES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=5)
RECORDS = st.builds(
    Record,
    prediction_id=st.text(min_size=1, max_size=8),
    time=st.floats(1.0, NOW - 8 * DAY_S),
    system=st.just("loans"),
    release=st.just("loans:1"),
    environment=st.just("local"),
    worker=st.just("w0"),
    id=st.none() | st.text(max_size=3),
    inputs=st.none() | st.dictionaries(st.sampled_from(["a", "b", "é"]), VALUES) | st.lists(VALUES, max_size=2),
    context=st.none() | st.dictionaries(st.text(max_size=2), VALUES, max_size=2),
    prediction=st.none() | st.text(max_size=3) | st.floats(allow_nan=False),
    probability=st.none() | st.dictionaries(st.sampled_from(["0", "1"]), st.floats(0, 1)),
    interval=st.none() | st.tuples(st.floats(0, 1), st.floats(0, 1)),
    decision=st.none() | st.text(max_size=3) | st.floats(allow_nan=False),
    warnings=st.lists(st.text(max_size=3), max_size=2).map(tuple),
    reasons=st.none() | st.lists(st.dictionaries(st.text(max_size=2), VALUES, max_size=2), max_size=2),
)


@given(records=st.lists(RECORDS, min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_whatever_was_recorded_is_read_the_same_in_both_forms(
    records: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> None:
    for parts in make_parts(tmp_path_factory.mktemp("any") / "project"):
        place = parts.project.records("local")
        write(parts, *records, segment_bytes=1)
        tail, both = Tail(place, Record), Tail(place, Record)
        before = read(parts), tail.read_new(), [load_segment(segment) for segment in list_segments(place)]
        both.read_new()
        assert compact(parts).segments == len(records)
        after = read(parts), Tail(place, Record).read_new(), [load_segment(segment) for segment in list_segments(place)]
        assert after == before
        assert both.read_new() == []


def test_a_tail_that_was_half_way_goes_on_in_the_compacted_form(parts: Parts) -> None:
    place = parts.project.records("local")
    write(parts, *(make_record(number) for number in range(3)))
    tail = Tail(place, Record)
    assert len(tail.read_new()) == 3
    write(parts, *(make_record(number) for number in range(3, 20)))
    compact(parts, 0.0)
    assert [record.prediction_id for record in tail.read_new()] == [f"p_{number:06d}" for number in range(3, 20)]
    assert tail.read_new() == []


def test_killed_at_any_call_the_records_are_there_once_and_the_next_run_ends_it(tmp_path: Path, seen: Seen) -> None:
    at, is_over = 0, False
    while not is_over:
        at += 1
        for parts in make_parts(tmp_path / str(at)):
            write(parts, *(make_record(number) for number in range(20)))
            before = read(parts)
            try:
                compact(parts, disk=Machine(die_at=at))
                is_over = True
            except Killed:
                pass
            assert read(parts) == before
            assert "20 predictions" in proof(parts)
            compact(parts)
            assert read(parts) == before
            assert "20 predictions" in proof(parts)
            left = [path.name for path in list_segments(parts.project.records("local"))]
            assert len([name for name in left if not name.endswith(".parquet")]) == 1
            names = [entry.object for entry in parts.ledger.events(verb="segment.compacted")]
            assert len(names) == len(set(names)) == len(left) - 1
    assert at > 20
    seen("calls at which it was killed", at - 1)


def test_a_run_that_died_between_event_and_removal_is_carried_on(parts: Parts) -> None:
    write(parts, *(make_record(number) for number in range(20)))

    class Dying(Machine):
        def remove(self, path: Path) -> None:
            raise Killed

    with suppress(Killed):
        compact(parts, disk=Dying())
    place = parts.project.records("local")
    assert (place / "w0-00000001").exists()
    assert (place / "w0-00000001.parquet").exists()
    assert len(read(parts)) == 20
    compact(parts)
    assert not (place / "w0-00000001").exists()
    assert len(list(parts.ledger.events(verb="segment.compacted"))) == len(list_segments(place)) - 1


@pytest.mark.parametrize("at", [0, 5, 500, -9, -1])
def test_damage_to_a_compacted_segment_is_named(parts: Parts, at: int) -> None:
    write(parts, *(make_record(number) for number in range(20)))
    compact(parts)
    path = list_segments(parts.project.records("local"))[0]
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    for reader in (verify_seal, load_segment):
        with pytest.raises(IntegrityError, match=r"w0-00000001\.parquet is not what was compacted"):
            reader(path)
    with pytest.raises(IntegrityError):
        read(parts)
    assert "not what was compacted" in proof(parts)


def test_a_file_whose_columns_somebody_changed_is_found_even_if_its_seal_fits(parts: Parts) -> None:
    write(parts, *(make_record(number) for number in range(20)))
    compact(parts)
    path = list_segments(parts.project.records("local"))[0]
    metadata = {HEADER: pl.read_parquet_metadata(path)[HEADER]}
    pl.read_parquet(path).with_columns(decision=pl.lit("refuse")).write_parquet(path, metadata=metadata)
    seal = seal_of(path)
    seal.write_text(json.dumps(json.loads(seal.read_text()) | {"compacted": digest_bytes(path.read_bytes())}))
    assert len(read(parts)) == 20  # to us nothing has changed
    assert "w0-00000001.parquet is not the file whose digest the ledger has" in proof(parts)


def test_a_compacted_segment_that_is_gone_is_missed(parts: Parts) -> None:
    write(parts, *(make_record(number) for number in range(20)))
    compact(parts)
    list_segments(parts.project.records("local"))[0].unlink()
    assert "is in the ledger, its file is missing" in proof(parts)


def test_what_is_young_stays(parts: Parts) -> None:
    write(parts, *(make_record(number, time=NOW - DAY_S) for number in range(20)))
    done = compact(parts)
    assert done.segments == 0
    assert done.open_or_young == len(list_segments(parts.project.records("local")))
    assert compact(parts, DAY_S + 60).segments == 0
    assert compact(parts, DAY_S).segments > 0


def test_encrypted_segments_stay_encrypted(parts: Parts, tmp_path: Path) -> None:
    place, vault = parts.project.records("local"), make_vault(tmp_path)
    writer = SegmentWriter(place, "local", "w0", now=lambda: 1.0, monotonic=lambda: 1.0, vault=vault, segment_bytes=1)
    writer.append([msgspec.msgpack.encode(make_record(1))], seal=True)
    writer.close()
    done = compact(parts)
    assert (done.segments, done.encrypted) == (0, 1)
    assert not list(place.glob("*.parquet"))
    assert list(read_records(place, vault)) == [make_record(1)]


def test_numbers_go_on_after_all_was_compacted(parts: Parts) -> None:
    write(parts, make_record(1), segment_bytes=1)
    compact(parts)
    write(parts, make_record(2), segment_bytes=1)
    assert [path.name for path in list_segments(parts.project.records("local"))] == [
        "w0-00000001.parquet",
        "w0-00000002",
    ]
    assert [record.prediction_id for record in read(parts)] == ["p_000001", "p_000002"]


def test_only_who_operates_may_compact(parts: Parts) -> None:
    with pytest.raises(AccessError):
        compact_records(parts, Principal("eve", frozenset({"auditor"})), "local", 0.0)
