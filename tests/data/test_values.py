"""Values: the quick way of reading a column gives, bit for bit, what the whole way gives."""

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.contract.columns import Column
from shipworthy.data.values import cleaned, read_columns, typed

TEXTS = ["1", " 1", "1 ", "001", "+5", "-0", "1.0", "1.5", "1e3", "1e400", "inf", "-inf", "nan", "NaN", "NA", "", " ", "None"]  # fmt: skip  # noqa: E501
TEXTS += ["9007199254740993", "9223372036854775808", "1,000", "1_000", "0x10", "٣", "a", " a ", "b", "null", "?", "-"]
TEXTS += [
    "2026-01-31",
    "0000-01-01",
    " 2026-01-31",
    "0001-01-01",
    "9999-12-31",
    "2026-02-30",
    "12345-01-01",
    "2026-1-5",
    "x\x00y",
]
COLUMNS = [
    Column(type="float"),
    Column(type="int"),
    Column(type="bool"),
    Column(type="text"),
    Column(type="datetime"),
    Column(type="datetime", zone="Europe/Berlin"),
    Column(type="category", values=("a", "b", "?")),
    Column(type="category", values=(" a ", "b")),
    Column(type="category"),
]


def whole_way(column: Column, frame: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    known = frame.select(cleaned("v", column, frame.schema["v"]))
    values = known.select(typed("v", column, known.schema["v"], "%Y-%m-%d")).to_series()
    if column.values:
        values = values.to_frame().select(pl.when(pl.col("v").is_in(list(column.values))).then(pl.col("v"))).to_series()
    return values, known["v"].is_null()


def same(column: Column, frame: pl.DataFrame) -> None:
    read = read_columns({"v": column}, frame, {"v": "%Y-%m-%d"})["v"]
    values, absent = whole_way(column, frame)
    seen = read.values
    if column.values:  # what is no category is told by its reason
        seen = seen.to_frame().select(pl.when(pl.col("v").is_in(list(column.values))).then(pl.col("v"))).to_series()
    assert seen.dtype == values.dtype
    assert seen.equals(values, null_equal=True)
    held = pl.repeat(False, len(values), eager=True) if read.absent is None else read.absent
    assert held.to_list() == absent.to_list()
    assert read.odd.to_list() == (read.values.is_null() & ~absent).to_list()


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: f"{column.type} {column.values} {column.zone}")
@settings(max_examples=60, deadline=None)
@given(
    few=st.lists(st.sampled_from(TEXTS) | st.text(max_size=4) | st.none(), min_size=1, max_size=12),
    many=st.sampled_from(TEXTS),
)
def test_texts_are_read_as_they_are_the_whole_way(column: Column, few: list[str | None], many: str) -> None:
    for texts in ([*few, *[many] * 200], few):
        same(column, pl.DataFrame({"v": texts}, schema={"v": pl.String}))


TYPED: list[tuple[Any, list[Any]]] = [
    (pl.Float64, [1.0, 1.5, float("nan"), float("inf"), None, 1e300]),
    (pl.Float32, [1.0, 0.1, float("nan"), None]),
    (pl.Int64, [1, -(2**63), 2**63 - 1, 2**53 + 1, None]),
    (pl.UInt64, [1, 2**64 - 1, 2**63, None]),
    (pl.Int8, [1, -128, None]),
    (pl.Boolean, [True, False, None]),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: f"{column.type} {column.values} {column.zone}")
@pytest.mark.parametrize(("kind", "values"), TYPED, ids=lambda value: str(value)[:12])
@pytest.mark.parametrize("padding", [0, 200])
def test_typed_values_too(column: Column, kind: Any, values: list[Any], padding: int) -> None:
    same(column, pl.DataFrame({"v": [*values, *values[:1] * padding]}, schema={"v": kind}))
