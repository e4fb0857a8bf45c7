"""Diff: what became of columns, rows and distributions, with exact numbers."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.data.diff import ColumnChange, Difference, diff

OLD = pl.DataFrame(
    {
        "id": ["a", "b", "c", "d"],
        "n": [1, 2, 3, None],
        "x": [0.5, 0.5, 0.5, 0.5],
        "kind": ["car", "home", "car", "car"],
    }
)


def column(found: Difference, name: str) -> ColumnChange:
    return next(change for change in found.columns if change.column == name)


def test_rows_are_told_apart_by_the_key() -> None:
    new = pl.concat(
        [
            OLD.filter(pl.col("id") != "b").with_columns(n=pl.when(pl.col("id") == "c").then(9).otherwise("n")),
            OLD.head(1).with_columns(id=pl.lit("e")),
        ]
    )
    rows = diff(OLD, new, ["id"]).rows
    assert (rows.before, rows.after, rows.added, rows.removed, rows.changed) == (4, 4, 1, 1, 1)
    assert rows.examples == {"added": ["e"], "removed": ["b"], "changed": ["c"]}
    assert not rows.is_reordered
    assert [(c.column, c.changed) for c in diff(OLD, new, ["id"]).columns] == [
        ("id", None),
        ("n", 1),
        ("x", 0),
        ("kind", 0),
    ]


def test_a_missing_value_that_is_filled_is_a_change_and_one_that_stays_is_none() -> None:
    rows = diff(OLD, OLD.with_columns(pl.col("n").fill_null(7)), ["id"]).rows
    assert (rows.changed, rows.examples["changed"]) == (1, ["d"])
    assert diff(OLD, OLD.clone(), ["id"]).rows.changed == 0


def test_another_order_is_said_and_is_no_change() -> None:
    for key in ([], ["id"]):
        rows = diff(OLD, OLD.reverse(), key).rows
        assert (rows.added, rows.removed, rows.changed or 0, rows.is_reordered) == (0, 0, 0, True)


def test_without_a_key_each_row_counts_as_often_as_it_occurs() -> None:
    doubled = pl.concat([OLD, OLD.head(1), OLD.head(1)])
    rows = diff(OLD, doubled).rows
    assert (rows.added, rows.removed, rows.changed, rows.key) == (2, 0, None, ())
    assert (diff(doubled, OLD).rows.added, diff(doubled, OLD).rows.removed) == (0, 2)


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (pl.concat([OLD, OLD.head(1)]), "the key names several rows of the new version"),
        (OLD.with_columns(id=pl.when(pl.col("n") > 1).then("id")), "the key is missing in rows of the new version"),
        (OLD.drop("id"), "the key id is not in both versions with one type"),
        (OLD.with_columns(id=pl.lit(1)), "the key id is not in both versions with one type"),
    ],
)
def test_a_key_that_does_not_tell_rows_apart_is_said(new: pl.DataFrame, why: str) -> None:
    rows = diff(OLD, new, ["id"]).rows
    assert (rows.key, rows.changed, rows.note) == ((), None, why)


def test_a_key_of_two_columns_is_one_key() -> None:
    old = pl.DataFrame({"a": [1, 1, 2], "b": [1, 2, 1], "v": [0, 0, 0]})
    rows = diff(old, old.with_columns(v=pl.Series([0, 5, 0])).tail(2), ["a", "b"]).rows
    assert (rows.added, rows.removed, rows.changed) == (0, 1, 1)
    assert rows.examples == {"added": [], "removed": ["1 1"], "changed": ["1 2"]}


def test_columns_that_came_went_and_changed_their_type_are_named_and_rows_compared_in_the_others() -> None:
    new = OLD.drop("x").with_columns(pl.col("n").cast(pl.Float64), y=pl.lit(True)).select("kind", "id", "n", "y")
    found = diff(OLD, new, ["id"])
    assert (found.schema.added, found.schema.removed) == ({"y": "Boolean"}, {"x": "Float64"})
    assert found.schema.retyped == {"n": ("Int64", "Float64")}
    assert found.schema.is_reordered
    assert found.rows.changed == 0
    assert column(found, "n").changed is None
    assert column(found, "n").effect == 0.0  # numbers are compared whatever they are stored as
    assert diff(OLD, OLD).schema.is_none


def test_the_effect_is_how_far_two_distributions_lie_apart() -> None:
    old = pl.DataFrame({"x": np.arange(1000.0), "c": ["a", "b"] * 500, "b": [True] * 1000})
    new = old.with_columns(x=pl.col("x") + 500, c=pl.lit("a"), b=pl.Series([True, False] * 500))
    found = diff(old, new)
    assert column(found, "x").effect == pytest.approx(0.5, abs=0.02)
    assert (column(found, "c").effect, column(found, "b").effect) == (0.5, 0.5)
    assert {change.magnitude for change in found.columns} == {"large"}
    assert column(found, "c").typical == ("a (50%)", "a (100%)")
    assert column(found, "x").typical == ("499.5", "999.5")


@pytest.mark.parametrize(("shift", "word"), [(0.0, "none"), (0.3, "small"), (0.6, "medium"), (1.0, "large")])
def test_a_shift_of_so_many_standard_deviations_is_what_cohen_called_it(shift: float, word: str) -> None:
    chance = np.random.default_rng(3)
    old, new = (pl.DataFrame({"x": chance.normal(size=50_000) + by}) for by in (0.0, shift))
    assert diff(old, new).columns[0].magnitude == word


def test_few_rows_that_differ_by_chance_are_told_from_many_that_do_not() -> None:
    few, many = pl.DataFrame({"c": ["a"] * 6 + ["b"] * 4}), pl.DataFrame({"c": ["a"] * 600 + ["b"] * 400})
    for frame, is_chance in ((few, True), (many, False)):
        other = frame.with_columns(c=pl.Series(["a", "b"] * (frame.height // 2)))
        change = diff(frame, other).columns[0]
        assert change.effect == pytest.approx(0.1)
        assert change.p_value is not None
        assert (change.p_value > 0.05) == is_chance


def test_what_names_rows_or_has_no_distribution_has_no_effect() -> None:
    many = pl.DataFrame(
        {"id": [str(n) for n in range(5000)], "word": [f"w{n}" for n in range(5000)], "x": [None] * 5000}
    )
    found = diff(many, many, ["id"])
    assert [(c.effect, c.magnitude) for c in found.columns[:2]] == [(None, None)] * 2
    assert column(found, "word").typical == ("-", "-")
    assert column(found, "x").missing == (1.0, 1.0)


def test_times_are_compared_by_their_order() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    old = pl.DataFrame({"at": [start + timedelta(days=day) for day in range(100)]})
    found = diff(old, old.with_columns(pl.col("at") + timedelta(days=200)))
    assert found.columns[0].effect == 1.0
    assert found.columns[0].typical is not None
    assert found.columns[0].typical[0] == "2026-01-01 00:00:00 to 2026-04-10 00:00:00"


def test_hidden_values_are_not_repeated_anywhere() -> None:
    found = diff(OLD, OLD.head(2).with_columns(kind=pl.lit("boat")), ["id"], frozenset({"id", "kind", "n"}))
    assert found.rows.examples == {}
    assert not {word for word in ("boat", "car", "home", "'a'", "'b'") if word in str(found.to_json())}
    assert column(found, "kind").effect == 1.0


def test_nothing_at_all_can_be_compared() -> None:
    empty = OLD.head(0)
    for old, new in ((empty, OLD), (OLD, empty), (empty, empty)):
        rows = diff(old, new, ["id"]).rows
        assert (rows.added, rows.removed, rows.changed) == (new.height, old.height, 0)


Rows = st.dictionaries(st.integers(0, 20), st.tuples(st.integers(0, 2) | st.none(), st.sampled_from("ab")), max_size=12)


@settings(max_examples=150, deadline=None)
@given(Rows, Rows, st.randoms(use_true_random=False))
def test_it_counts_as_a_comparison_by_hand_does(before: Any, after: Any, chance: Any) -> None:
    def made(rows: Any) -> pl.DataFrame:
        items = list(rows.items())
        chance.shuffle(items)
        cells = [(key, number, letter) for key, (number, letter) in items]
        return pl.DataFrame(cells, schema={"id": pl.Int64, "n": pl.Int64, "c": pl.String}, orient="row")

    rows = diff(made(before), made(after), ["id"]).rows
    assert rows.added == len(after.keys() - before.keys())
    assert rows.removed == len(before.keys() - after.keys())
    assert rows.changed == sum(before[key] != after[key] for key in before.keys() & after.keys())
