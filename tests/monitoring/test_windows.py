"""Windows: each record once, in event time, with the truth as it was known at a moment."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import IntegrityError
from shipworthy.monitoring.windows import Journal, model_rows, summarise
from shipworthy.records.format import Outcome, Record
from tests.monitoring.conftest import build, write_segment

Make = Callable[..., Record]


def told(id: str, value: str | float, *, known: float = 0.0, received: float = 0.0) -> Outcome:
    return Outcome(id=id, value=value, time=known, received=received, source="file:test")


def journal(contract: Contract, folder: Path, **settings: str) -> Journal:
    return Journal(contract, folder / "records", folder / "outcomes", **settings)


def test_only_what_is_new_is_read_and_an_id_counts_once(contract: Contract, record: Make, tmp_path: Path):
    found = journal(contract, tmp_path)
    assert (found.refresh(), found.count, found.last_time()) == (0, 0, None)
    write_segment(tmp_path / "records", "a", [record(id="x", decision="approve"), record(), record()])
    assert found.refresh() == 3
    write_segment(tmp_path / "records", "b", [record(id="x", decision="refer"), record(id="y", time=2000.0)])
    assert found.refresh() == 1
    assert found.refresh() == 0
    assert (found.count, found.last_time()) == (4, 2000.0)
    assert found.frame(0, 1e9).filter(pl.col("id") == "x")["decision"].to_list() == ["approve"]


def test_event_time_is_the_time_column_on_its_clock_and_else_the_records(
    contract: Contract, record: Make, tmp_path: Path
):
    texts = [None, "2013-07-01T12:00:00", "2013-07-01T12:00:00Z", "2013-07-01 12:00", "2013-07-01T12:00:00.5-05:00"]
    sent = [record(context={"asked": text} if text else None) for text in texts]
    write_segment(tmp_path / "records", "a", sent)
    found = journal(contract, tmp_path)
    found.refresh()
    noon = 1372680000.0  # in UTC; in Vienna it is two hours earlier
    times = [1000.0, noon - 7200, noon - 7200, noon, noon + 5 * 3600 + 0.5]
    assert found.frame(0, 2e9)["time"].to_list() == times
    assert found.frame(noon - 7200, noon).height == 2  # the start is in, the end is not


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (7 * 86_400.0, [1_372_636_800.0, 1_373_846_400.0]),  # from the first row's midnight; no row in the second week
        (86_400.0, [1_372_636_800.0, 1_373_932_800.0]),
        (3_600.0, [1_372_680_000.0, 1_372_683_600.0, 1_373_932_800.0]),  # from the first row's hour
    ],
)
def test_windows_begin_with_the_first_day_and_only_those_that_hold_a_row_are_named(
    contract: Contract, record: Make, tmp_path: Path, every: float, expected: list[float]
):
    assert journal(contract, tmp_path).starts(every) == []
    moments = [1_372_681_800.0, 1_372_685_000.0, 1_373_932_800.0]  # 1 July 2013, 12:30 and 13:23; 16 July, 00:00
    write_segment(tmp_path / "records", "a", [record(time=moment) for moment in reversed(moments)])
    found = journal(contract, tmp_path)
    found.refresh()
    assert found.starts(every) == expected


def test_a_truth_counts_from_when_it_was_known_and_the_last_one_received_holds(
    contract: Contract, record: Make, tmp_path: Path
):
    write_segment(tmp_path / "outcomes", "a", [told("x", "1", known=50, received=900), told("never", "1")])
    write_segment(tmp_path / "records", "a", [record(id="x"), record(prediction_id="p_y", decision="refer")])
    found = journal(contract, tmp_path)
    found.refresh()
    write_segment(tmp_path / "outcomes", "b", [told("x", "0", known=60, received=800), told("p_y", "1", known=70)])
    found.refresh()

    def seen(as_of: float | None) -> list[tuple[str | None, float | None]]:
        return list(found.frame(0, 1e9, as_of).select("outcome", "worth").iter_rows())

    assert seen(49.9) == [(None, None), (None, None)]
    assert seen(60) == [("1", 100.0), (None, None)]  # received later than the 0, though known before it
    assert seen(70) == seen(None) == [("1", 100.0), ("1", -10.0)]
    write_segment(tmp_path / "outcomes", "b", [told("x", 0.0, known=60, received=901)])
    found.refresh()
    assert seen(None)[0] == ("0", -400.0)


def test_a_truth_may_be_told_by_either_name_of_a_prediction(contract: Contract, record: Make, tmp_path: Path):
    write_segment(tmp_path / "records", "a", [record(id="x", prediction_id="p_x")])
    write_segment(tmp_path / "outcomes", "a", [told("p_x", "0", received=2), told("x", "1", received=1)])
    found = journal(contract, tmp_path)
    found.refresh()
    assert found.frame(0, 1e9)["outcome"].to_list() == ["0"]


def test_a_row_shows_what_was_sent_and_answered_with_its_types(contract: Contract, record: Make, tmp_path: Path):
    context = {"loan": "l1", "person": 7, "asked": "2013-07-01T12:00:00", "sex": "f"}
    fallback = record(
        prediction=None, probability=None, confidence=None, source="fallback", inputs={"income": 5}, time=1e10
    )
    write_segment(tmp_path / "records", "a", [record(id="x", context=context), fallback])
    found = journal(contract, tmp_path)
    found.refresh()
    first, second = found.frame(0, 2e10).iter_rows(named=True)
    assert first["unit"] == "7"
    assert (first["score"], first["confidence"], first["prediction"], first["latency_ms"]) == (0.75, 0.75, "1", 2.0)
    assert (first["inputs.age"], first["inputs.owner"], first["context.sex"]) == (40.0, True, "f")
    assert second["unit"] == second["prediction_id"]
    assert (second["score"], second["prediction"], second["source"]) == (None, None, "fallback")
    assert (second["inputs.age"], second["inputs.income"], second["context.sex"]) == (None, 5.0, None)
    assert "context.person" not in first  # who it was stands in `unit` alone
    assert set(model_rows(contract, found.frame(0, 2e10)).columns) == {*contract.features, "asked", "sex"}


@pytest.mark.parametrize(("unit", "expected"), [("subject", "7"), ("key", "l1"), ("request", "x")])
def test_the_unit_is_what_a_rollout_keeps_together(
    unit: str, expected: str, contract: Contract, record: Make, tmp_path: Path
):
    write_segment(tmp_path / "records", "a", [record(id="x", context={"loan": "l1", "person": 7})])
    found = journal(contract, tmp_path, unit=unit)
    found.refresh()
    assert found.frame(0, 1e9)["unit"].to_list() == [expected]


def test_a_feature_may_have_any_name_and_a_value_of_an_older_contract_is_missing(record: Make, tmp_path: Path):
    names = ("time", "outcome", "score", "id", "class", "unit")
    contract = build(features={name: {"type": "int"} for name in names}, derived={})
    sent = [dict.fromkeys(names, 5), {"time": "five", "score": 2.0, "class": 1.5}]
    write_segment(tmp_path / "records", "a", [record(inputs=inputs) for inputs in sent])
    found = journal(contract, tmp_path)
    found.refresh()
    rows = model_rows(contract, found.frame(0, 1e9))
    assert rows["time"].to_list() == [5, None]
    assert rows["score"].to_list() == [5, 2]
    assert rows["outcome"].to_list() == [5, None]


def test_numbers_are_told_as_numbers(record: Make, tmp_path: Path):
    contract = build(
        target={"column": "amount", "type": "regression"},
        decision={"fallback": {"otherwise": 0}},
        gates={"performance": {"mae": {"better_than": "baseline"}}},
        value=None,
    )
    sent = [record(id=str(at), prediction=1.5, probability=None, decision=1.5) for at in range(3)]
    write_segment(tmp_path / "records", "a", sent)
    write_segment(tmp_path / "outcomes", "a", [told("0", 2), told("1", "2.5"), told("2", "many")])
    found = journal(contract, tmp_path)
    found.refresh()
    frame = found.frame(0, 1e9)
    assert frame["outcome"].to_list() == [2.0, 2.5, None]
    assert frame["score"].to_list() == [1.5] * 3
    assert frame["worth"].null_count() == 3


def test_several_classes_keep_the_probability_of_each(record: Make, tmp_path: Path):
    contract = build(
        target={"column": "kind", "type": "multiclass", "values": ["a", "b"]},
        decision={"fallback": {"otherwise": "a"}},
        value=None,
    )
    write_segment(tmp_path / "records", "a", [record(prediction="a", probability={"a": 0.9, "b": 0.1}, decision="a")])
    found = journal(contract, tmp_path)
    found.refresh()
    row = found.frame(0, 1e9).row(0, named=True)
    assert (row["probability.a"], row["probability.b"], row["score"]) == (0.9, 0.1, None)


def test_a_summary_tells_the_traffic(contract: Contract, record: Make, tmp_path: Path):
    sent = [record(latency_ms=float(at)) for at in range(99)]
    sent.append(record(source="fallback", handling="review", release="loans:2", prediction=None, probability=None))
    write_segment(tmp_path / "records", "a", sent)
    found = journal(contract, tmp_path)
    found.refresh()
    assert summarise(found.frame(0, 1e9)) == {
        "rows": 100,
        "releases": {"loans:1": 99, "loans:2": 1},
        "source": {"fallback": 1, "model": 99},
        "handling": {"automatic": 99, "review": 1},
        "errors": 0.01,
        "p99_ms": 98.0,
    }
    empty = summarise(found.frame(0, 1))
    assert (empty["rows"], empty["errors"], empty["p99_ms"]) == (0, 0.0, None)


def test_a_damaged_segment_is_told_and_not_passed_over(contract: Contract, record: Make, tmp_path: Path):
    write_segment(tmp_path / "records", "a", [record(), record(), record()])
    segment = tmp_path / "records" / "a-00000001"
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    with pytest.raises(IntegrityError, match="a-00000001"):
        journal(contract, tmp_path).refresh()
