"""Columns: an expression means the same over a table as over one row."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shipworthy.contract.expression_nodes import DATE_PARTS
from shipworthy.contract.expressions import Kind, compile_row, parse_derived, parse_expression
from shipworthy.data.columns import evaluate
from shipworthy.kernel.errors import ExpressionError

KINDS: dict[str, Kind] = {
    "x": "float",
    "y": "float",
    "n": "int",
    "b": "bool",
    "c": "category",
    "s": "text",
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
    "s": pl.String,
    "t": pl.Datetime("us", "UTC"),
    "u": pl.Datetime("us", "UTC"),
}

EXAMPLES = int(os.environ.get("SHIPWORTHY_SOAK", "250"))
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
        st.builds("{}({})".format, st.sampled_from(DATE_PARTS), times),
        st.builds("{}({}, {})".format, st.sampled_from(["days_between", "hours_between"]), times, times),
        st.builds("bucket({}, {})".format, numbers, st.sampled_from(["0", "-1.5, 0, 0.1, 2.5", "-1e300, 1e300"])),
        st.builds("length({})".format, texts),
    )
)
atoms: st.SearchStrategy[str] = st.sampled_from(["x", "y", "n", "2"])
times: st.SearchStrategy[str] = st.sampled_from(["t", "u", "where(b, t, u)", "coalesce(t, u)"])
texts: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["c", "s", "'Ä '", '""']),
        st.builds("{}({})".format, st.sampled_from(["lower", "upper", "strip"]), texts),
        st.builds("{}({}, {})".format, st.sampled_from(["left", "right"]), texts, st.integers(1, 4)),
        st.builds("({} + {})".format, texts, texts),
        st.builds("concat({}, {}, s)".format, texts, texts),
        st.builds("replace({}, {}, {})".format, texts, written, st.sampled_from(["''", "'$1'", "'ab'"])),
        st.builds("where({}, {}, {})".format, bools, texts, texts),
        st.builds("coalesce({}, {})".format, texts, texts),
    )
)
written: st.SearchStrategy[str] = st.sampled_from(["'e'", "'.'", "'a'", "'\u0301'", "'r'", "'é'", "' '"])
bools: st.SearchStrategy[str] = st.deferred(
    lambda: st.one_of(
        st.sampled_from(["b", "true", "false", 'c == "red"', 'c not in ["red", "blue"]', "t < u", "t == u"]),
        st.builds("({} {} {})".format, numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers),
        st.builds("({} {} {})".format, bools, st.sampled_from(["and", "or"]), bools),
        st.builds("(not {})".format, bools),
        st.builds("missing({})".format, st.one_of(numbers, texts, times)),
        st.builds("{}({}, {})".format, st.sampled_from(["contains", "starts_with", "ends_with"]), texts, written),
        st.builds("({} {} {})".format, texts, st.sampled_from(["==", "!="]), texts),
        st.builds("({} in ['red', 'é', ''])".format, texts),
        st.builds("({} in [0, 1, 2.5, -1])".format, numbers),
    )
)
CLOCK_CHANGES = [
    datetime(2026, 3, 8, 7),
    datetime(2026, 11, 1, 5),
    datetime(2026, 11, 1, 6),
    datetime(2026, 12, 31, 23),
]
instants = st.one_of(
    st.datetimes(datetime(1000, 1, 2), datetime(2090, 1, 1)),
    st.sampled_from(CLOCK_CHANGES).flatmap(
        lambda change: st.integers(-(10**10), 10**10).map(lambda shift: change + timedelta(microseconds=shift))
    ),
).map(lambda moment: moment.replace(tzinfo=UTC))
ODD = [
    "",
    " ",
    "\xa0x\u2003",
    "\x1cx",
    "ΑΣ",
    "İ",
    "ß",
    "ŉ",
    "e\u0301é",
    "\u200fאב",
    "👩\u200d👧",
    "\U0010ffff\0",
    "\u019b",
    "$1.*(",
    "A",
]
rows = st.fixed_dictionaries(
    {
        "x": st.none() | st.floats(),
        "y": st.none() | st.sampled_from([0.0, -0.0, 1.0, -1.5, 0.5, 2.5, 1e308, 0.1]),
        "n": st.none() | st.integers(-(2**62), 2**62) | st.integers(-3, 3),
        "b": st.none() | st.booleans(),
        "c": st.none() | st.sampled_from(["red", "blue", "green"]),
        "s": st.none() | st.sampled_from(ODD) | st.text(max_size=6),
        "t": st.none() | instants,
        "u": st.none() | instants,
    }
)


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.one_of(numbers, texts, bools), st.lists(rows, min_size=1, max_size=5))
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
    assert list(map(exactly, in_table)) == [exactly(by_row(row)) for row in local]


def exactly(value: Any) -> Any:
    """A number with all of its bits: -0.0 is not 0.0."""
    return value.hex() if isinstance(value, float) else value


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


ALL_OF_UNICODE = [chr(code) for code in range(0x110000) if not 0xD800 <= code <= 0xDFFF]


@pytest.mark.parametrize("text", ["lower(s)", "upper(s)", "strip(s + 'x' + s)"])
def test_every_character_of_unicode_means_the_same(text: str) -> None:
    expression = parse_expression(text, KINDS)
    by_row = compile_row(expression)
    assert evaluate(expression, pl.DataFrame({"s": ALL_OF_UNICODE})).to_list() == [
        by_row({"s": one}) for one in ALL_OF_UNICODE
    ]


def test_labels_of_buckets_are_the_same_in_a_table() -> None:
    expression = parse_derived("bucket(x, -1, 0, 10)", KINDS, ["a", "b", "c", "d"])
    values = [None, -2.0, -1.0, -0.0, 0.0, 9.999, 10.0, 1e308, float("nan"), float("inf")]
    by_row = compile_row(expression)
    in_table = evaluate(expression, pl.DataFrame({"x": values})).to_list()
    assert in_table == [by_row({"x": value}) for value in values]
    assert in_table == [None, "a", "b", "c", "c", "c", "d", "d", None, None]


def test_a_text_that_grows_too_long_is_missing_in_a_table_too() -> None:
    frame = pl.DataFrame({"s": ["x" * 5000, "x" * 5001, None]})
    for text in ("s + s", "replace(s, 'x', 'xx')", "concat(s, s)"):
        expression = parse_expression(text, KINDS)
        assert evaluate(expression, frame).to_list() == ["x" * 10_000, None, None]
    assert evaluate(parse_expression("upper(s)", KINDS), pl.DataFrame({"s": ["ß" * 5001]})).to_list() == [None]


def test_days_are_counted_between_instants_whatever_the_clock_did() -> None:
    frame = pl.DataFrame({"t": [datetime(2026, 3, 8, 5, tzinfo=UTC)], "u": [datetime(2026, 3, 9, 4, tzinfo=UTC)]})
    frame = frame.cast({"t": pl.Datetime("us", "UTC"), "u": pl.Datetime("us", "UTC")})
    assert evaluate(parse_expression("hours_between(t, u)", KINDS), frame, ZONES).to_list() == [23.0]
    assert evaluate(parse_expression("days_between(u, t)", KINDS), frame, ZONES).to_list() == [-23 / 24]
