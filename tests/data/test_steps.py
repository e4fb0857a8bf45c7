"""Declared steps: what stays, what changes and what goes to quarantine, each row counted once."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.data.prepare.run import Prepared, prepare
from shipworthy.data.sources.read import read_file
from shipworthy.kernel.errors import DataError
from tests.data.conftest import build

FLIGHTS = """\
id,dep,cancelled,at
1,2400,0,2026-01-01
2,0530,0,2026-01-02
3,,1,2026-01-03
4,soon,0,2026-01-04
2,0540,0,2026-01-05
5,0700,,2026-01-06
"""
WEATHER = "at,temp\n2026-01-01,3\n2026-01-02,4\n2026-01-02,5\n"


def done(tmp_path: Path, *steps: dict[str, Any], flights: str = FLIGHTS, **sections: Any) -> Prepared:
    """What the steps make of flights and weather; the contract knows `id` as its key."""
    (tmp_path / "flights.csv").write_text(flights)
    (tmp_path / "weather.csv").write_text(WEATHER)
    paths = {name: {"path": f"{name}.csv"} for name in ("flights", "weather")}
    contract = build(
        data={"sources": paths, "prepare": list(steps)},
        context={"id": {"role": "key", "type": "text"}},
        **sections,
    )
    reads = {name: read_file(name, tmp_path / f"{name}.csv") for name in paths}
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    return prepare(contract, reads, tmp_path, work=work, environment=os.environ)


def test_rows_stay_where_the_condition_is_true(tmp_path: Path) -> None:
    made = done(tmp_path, {"table": "flights", "keep": "cancelled == 0", "types": {"cancelled": "int"}, "because": "x"})
    assert made.frame["id"].to_list() == ["1", "2", "4", "2"]
    assert made.frame["cancelled"].to_list() == ["0"] * 4, "what a step only reads stays as it stands"
    (count,) = made.steps
    assert (count.dropped, count.rows_in, count.rows_out, count.quarantined) == (2, {"flights": 6}, 4, 0)
    assert count.missing == 1, "of the flight that does not say whether it was cancelled"
    assert count.words == "flights 6 -> 4 rows: 2 dropped (1 for a missing value) (x)"


def test_a_set_column_counts_the_rows_with_another_value_and_rejects_what_it_cannot_read(tmp_path: Path) -> None:
    step = {"table": "flights", "set": {"dep": "where(dep == 2400, 0, dep)"}, "types": {"dep": "int"}}
    made = done(tmp_path, step)
    assert made.frame["dep"].to_list() == [0, 530, None, 540, 700]
    assert made.frame["id"].dtype == pl.String
    (count,) = made.steps
    assert count.changed == {"dep": 1}
    assert (count.dropped, count.quarantined, count.rows_out) == (0, 1, 5)
    (row,) = made.rejected["flights"].to_dicts()
    assert row["line"] == 5
    assert row["file"] == "flights.csv"
    assert row["reason"] == "flights.dep: not a whole number that arithmetic holds exactly"
    assert '"dep":"soon"' in row["text"]


def test_rejected_rows_are_placed_after_rows_before_them_were_dropped(tmp_path: Path) -> None:
    first = {"table": "flights", "keep": "cancelled == 0", "types": {"cancelled": "int", "dep": "int"}}
    made = done(tmp_path, first, {"keep": "dep < 600"})
    assert made.rejected["flights"]["line"].to_list() == [5]
    assert made.frame["id"].to_list() == ["2", "2"]
    assert [count.table for count in made.steps] == ["flights", "flights"]


def test_a_new_column_has_the_kind_of_its_expression_for_later_steps(tmp_path: Path) -> None:
    step = {"table": "flights", "set": {"early": "coalesce(dep, 0) < 600"}, "types": {"dep": "float"}}
    made = done(tmp_path, step, {"keep": "early"}, flights=FLIGHTS.replace("soon", ""))
    assert made.frame["early"].dtype == pl.Boolean
    assert made.frame["id"].to_list() == ["2", "3", "4", "2"]


def test_settings_of_one_step_read_the_row_as_it_was(tmp_path: Path) -> None:
    step = {"table": "weather", "set": {"temp": "temp + 1", "twice": "temp * 2"}, "types": {"temp": "float"}}
    assert done(tmp_path, step).frame.select("temp", "twice").rows() == [(4, 6), (5, 8), (6, 10)]


def test_the_latest_row_of_each_stays_in_the_order_of_the_table(tmp_path: Path) -> None:
    step = {"table": "flights", "distinct": ["id"], "latest": "at", "types": {"at": "datetime"}}
    made = done(tmp_path, step)
    assert made.frame.select("id", "dep").rows() == [
        ("1", "2400"), ("3", None), ("4", "soon"), ("2", "0540"), ("5", "0700"),
    ]  # fmt: skip
    assert made.steps[0].dropped == 1


def test_without_latest_the_first_stays_and_a_missing_key_names_nothing(tmp_path: Path) -> None:
    flights = FLIGHTS + ",0800,0,2026-01-07\n,0900,0,2026-01-08\n"
    made = done(tmp_path, {"table": "flights", "distinct": ["id"]}, flights=flights)
    assert made.frame["dep"].to_list() == ["2400", "0530", None, "soon", "0700", "0800", "0900"]


def test_codes_are_told_apart_as_they_are_written(tmp_path: Path) -> None:
    flights = "id,dep,cancelled,at\n1,a,0,2026-01-01\n01,b,0,2026-01-01\n001,c,0,2026-01-01\n"
    assert done(tmp_path, {"table": "flights", "distinct": ["id"]}, flights=flights).frame.height == 3


def test_a_number_that_arithmetic_would_round_goes_to_quarantine(tmp_path: Path) -> None:
    flights = "id,dep,cancelled,at\n1,9007199254740993,0,x\n2,5,0,x\n"
    made = done(tmp_path, {"table": "flights", "set": {"dep": "dep"}, "types": {"dep": "int"}}, flights=flights)
    assert made.frame["dep"].to_list() == [5]
    assert made.steps[0].quarantined == 1


def test_infinity_and_the_word_none_are_no_numbers(tmp_path: Path) -> None:
    flights = "id,dep,cancelled,at\n1,1e400,0,x\n2,None,0,x\n3,inf,0,x\n4,5,0,x\n"
    made = done(tmp_path, {"table": "flights", "keep": "dep > 0", "types": {"dep": "float"}}, flights=flights)
    assert made.frame["id"].to_list() == ["4"]
    assert made.steps[0].quarantined == 3


def test_a_join_that_finds_several_rows_is_told(tmp_path: Path) -> None:
    join = "select flights.*, temp from flights left join weather using (at)"
    made = done(tmp_path, {"table": "flights", "distinct": ["id"]}, {"table": "joined", "sql": join})
    count = made.steps[1]
    assert (count.base, count.dropped, count.added, count.multiplied) == ("flights", 0, 0, 1)
    assert count.words == "flights 5 -> joined 6 rows: the join with weather found several rows for 1, new: temp"


def test_rows_that_sql_drops_adds_and_changes_are_counted_by_key(tmp_path: Path) -> None:
    text = (
        "select id, case when dep = '2400' then '0000' else dep end as dep from flights where id <> '3' "
        "union all select 'new' as id, 'x' as dep from flights where id = '1'"
    )
    count = done(tmp_path, {"table": "flights", "sql": text}).steps[0]
    assert (count.dropped, count.added, count.multiplied, count.changed) == (1, 1, 0, {"dep": 1})


def test_rows_in_another_order_are_the_same_rows(tmp_path: Path) -> None:
    text = (
        "select id, dep, case when cancelled = '1' then '2' else cancelled end as cancelled "
        "from flights order by id desc"
    )
    first = {"table": "flights", "distinct": ["id"]}
    count = done(tmp_path, first, {"sql": text}).steps[1]
    assert (count.dropped, count.added, count.multiplied, count.changed) == (0, 0, 0, {"cancelled": 1})
    kept = done(tmp_path, first, {"sql": text.replace(" order by id desc", "")}).steps[1]
    assert replace(kept, rows_in=count.rows_in) == count


def test_without_a_key_at_both_ends_only_rows_are_counted(tmp_path: Path) -> None:
    count = done(
        tmp_path, {"table": "by_day", "sql": "select at, avg(cast(temp as int)) as t from weather group by at"}
    )
    assert count.steps[0].to_json() | {"words": ""} == {
        "step": 1, "does": "sql", "table": "by_day", "rows_in": {"weather": 3}, "rows_out": 2, "base": None,
        "dropped": None, "missing": 0, "added": None, "multiplied": None, "changed": {}, "quarantined": 0, "new": [],
        "because": None, "words": "",
    }  # fmt: skip
    assert count.steps[0].words == "weather 3 -> by_day 2 rows"


def test_functions_and_declared_steps_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "prepare.py").write_text(
        "import polars as pl\n"
        "def add(tables):\n"
        "    warm = tables['weather'].group_by('at').agg(pl.col('temp').max())\n"
        "    return tables['flights'].join(warm, on='at', how='left', maintain_order='left')\n"
    )
    made = done(
        tmp_path,
        {"table": "flights", "distinct": ["id"]},
        {"run": "prepare.py:add"},
        {"keep": "temp > 3", "types": {"temp": "int"}},
    )
    assert made.frame["temp"].to_list() == ["5"]
    assert [count.verb for count in made.steps] == ["distinct", "run", "keep"]
    assert not list((tmp_path / "work").iterdir()), "tables that a function got are not kept"


FAULTY: list[tuple[dict[str, Any], str]] = [
    (
        {"keep": "x > 1", "types": {"x": "int"}},
        r"data\.prepare\[0\]: the table flights has no column x; it has id, dep",
    ),
    ({"distinct": ["ids"]}, r"no column ids; .*did you mean id\?"),
    ({"sql": "select nothing from flights"}, r"data\.prepare\[0\]: the SQL fails: .*weather\(at, temp\)"),
    ({"keep": "cancelled > 5", "types": {"cancelled": "int"}}, r"data\.prepare \(1 steps\) left no rows"),
]


@pytest.mark.parametrize(("step", "message"), FAULTY)
def test_a_faulty_step_is_named_with_its_place(tmp_path: Path, step: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        done(tmp_path, {"table": "flights", **step})


def test_dates_that_read_both_ways_are_refused(tmp_path: Path) -> None:
    flights = FLIGHTS.replace("2026-01-0", "01/01/202")
    with pytest.raises(DataError, match=r"flights\.at: every date reads as month/day and as day/month"):
        done(
            tmp_path,
            {"table": "flights", "distinct": ["id"], "latest": "at", "types": {"at": "datetime"}},
            flights=flights,
        )


@given(st.lists(st.sampled_from(["1", "2", "-7", "", "x", "1e3", "001", "NaN"]), min_size=1, max_size=30))
def test_every_row_stays_is_dropped_or_is_in_quarantine(values: list[str]) -> None:
    from shipworthy.contract.data_section import Step
    from shipworthy.data.prepare.steps import take_step

    frame = pl.DataFrame({"x": values, "at": range(len(values))})
    kept = take_step(Step(table="t", keep="x > 1"), frame, {"x": "float"}, {})
    assert kept.rejected.height == values.count("x")
    assert kept.frame.equals(frame[kept.rows])
    assert kept.frame["x"].to_list() == [value for value in values if value in ("2", "1e3")]
    made = take_step(Step(table="t", set={"x": "x"}), frame, {"x": "float"}, {})
    assert made.frame.height == len(values) - values.count("x")
    assert made.changed == {"x": 0}
