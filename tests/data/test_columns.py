"""Columns: an expression means the same over a table as over one row."""

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipworthy.contract.expressions import Kind, compile_row, parse_expression
from shipworthy.data.columns import evaluate
from shipworthy.kernel.errors import ExpressionError

KINDS: dict[str, Kind] = {
    "x": "float",
    "y": "float",
    "n": "int",
    "b": "bool",
    "c": "category",
    "t": "datetime",
    "u": "datetime",
}
ZONES = {"t": "America/New_York"}
SCHEMA: dict[str, Any] = {
    "x": pl.Float64,
    "y": pl.Float64,
    "n": pl.Int64,
    "b": pl.Boolean,
    "c": pl.String,
    "t": pl.Datetime("us", "UTC"),
    "u": pl.Datetime("us", "UTC"),
}

literals = st.sampled_from(["0", "1", "2", "0.5", "3.7", "1e300", "100"])
numbers: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["x", "y", "n"]),
        literals,
        st.builds("-{}".format, atoms),
        st.builds("({} {} {})".format, numbers, st.sampled_from(["+", "-", "*", "/", "//", "%"]), numbers),
        st.builds("({}) ** {}".format, numbers, st.integers(0, 8)),
        st.builds(
            "{}({})".format, st.sampled_from(["abs", "floor", "ceil", "round", "log", "log1p", "exp", "sqrt"]), numbers
        ),
        st.builds("{}({}, {}, {})".format, st.sampled_from(["min", "max"]), numbers, numbers, numbers),
        st.builds("clip({}, x, y)".format, numbers),
        st.builds("where({}, {}, {})".format, bools, numbers, numbers),
        st.builds("coalesce({}, {})".format, numbers, numbers),
        st.builds("{}({})".format, st.sampled_from(["year", "month", "day", "hour", "minute", "weekday"]), times),
    )
)
atoms: st.SearchStrategy[str] = st.sampled_from(["x", "y", "n", "2"])
times: st.SearchStrategy[str] = st.sampled_from(["t", "u", "where(b, t, u)", "coalesce(t, u)"])
bools: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["b", "true", "false", 'c == "red"', 'c not in ["red", "blue"]', "t < u", "t == u"]),
        st.builds("({} {} {})".format, numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers),
        st.builds("({} {} {})".format, bools, st.sampled_from(["and", "or"]), bools),
        st.builds("(not {})".format, bools),
        st.builds("missing({})".format, numbers),
        st.builds("({} in [0, 1, 2.5, -1])".format, numbers),
    )
)
instants = st.datetimes(datetime(1950, 1, 1), datetime(2090, 1, 1)).map(lambda moment: moment.replace(tzinfo=UTC))
rows = st.fixed_dictionaries(
    {
        "x": st.none() | st.floats(),
        "y": st.none() | st.sampled_from([0.0, -0.0, 1.0, -1.5, 0.5, 2.5, 1e308, 0.1]),
        "n": st.none() | st.integers(-(2**62), 2**62) | st.integers(-3, 3),
        "b": st.none() | st.booleans(),
        "c": st.none() | st.sampled_from(["red", "blue", "green"]),
        "t": st.none() | instants,
        "u": st.none() | instants,
    }
)


@settings(max_examples=250, deadline=None)
@given(st.one_of(numbers, bools), st.lists(rows, min_size=1, max_size=5))
@example("2 * 3 + 1", [dict.fromkeys(KINDS)])
@example("round(y)", [{**dict.fromkeys(KINDS), "y": half} for half in (0.5, 1.5, 2.5, -2.5)])
@example("x % y", [{**dict.fromkeys(KINDS), "x": x, "y": y} for x in (7.0, -7.0, 0.1) for y in (3.0, -3.0, 0.0)])
def test_a_table_and_a_row_give_the_same_value(text: Any, table: Any) -> None:
    try:
        expression = parse_expression(text, KINDS)
    except ExpressionError:  # deeper or longer than an expression may be
        return
    in_table = evaluate(expression, pl.DataFrame(table, schema=SCHEMA), ZONES).to_list()
    by_row = compile_row(expression)
    zone = ZoneInfo(ZONES["t"])
    local = [{**row, "t": row["t"].astimezone(zone) if row["t"] else None} for row in table]
    assert in_table == [by_row(row) for row in local]


def test_a_deep_expression_takes_no_longer_than_its_length() -> None:
    text = "x"
    for _ in range(30):
        text = f"abs({text}) / 2"
    frame = pl.DataFrame({"x": [2.0**30, None]})
    assert evaluate(parse_expression(text, KINDS), frame).to_list() == [1.0, None]


@pytest.mark.parametrize(("text", "expected"), [("hour(t)", [23.0]), ("hour(u)", [4.0]), ("t == u", [True])])
def test_parts_of_a_datetime_are_read_in_its_column_zone(text: Any, expected: Any) -> None:
    moment = datetime(2026, 7, 2, 4, 30, tzinfo=UTC) - timedelta(hours=1)
    frame = pl.DataFrame({"t": [moment], "u": [moment + timedelta(hours=1)]}, schema_overrides=SCHEMA)
    if text == "t == u":
        frame = frame.with_columns(u=pl.col("t"))
    assert evaluate(parse_expression(text, KINDS), frame, ZONES).to_list() == expected
