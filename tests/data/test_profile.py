"""Profiles: exact where they say so, mergeable, JSON, and silent about what is personal."""

import json
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.data.profile import (
    KEPT_VALUES,
    SMALLEST_HASHES,
    edges_of,
    merge_profiles,
    pack_profile,
    profile_batches,
    profile_frame,
    profile_json,
    unpack_profile,
)
from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.profile import histogram

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
FRAME = pl.DataFrame(
    {
        "income": [1.0, 2.0, None, float("nan"), 3.0],
        "rooms": [1, 1, 2, None, 8],
        "kind": ["a", "b", "a", None, "a"],
        "owner": [True, False, True, True, None],
        "at": [NOON, None, NOON.replace(day=3), NOON.replace(day=2), NOON],
        "nothing": [None] * 5,
    }
)


def shown(frame: pl.DataFrame, **options: object) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads(
        json.dumps(profile_json(profile_frame(frame, **options)), allow_nan=False)
    )
    return found


def test_a_profile_by_example() -> None:
    found = shown(FRAME)
    income = found["income"]
    assert {name: income[name] for name in ("rows", "missing", "distinct", "distinct_exact")} == {
        "rows": 5, "missing": 2, "distinct": 3, "distinct_exact": True,
    }  # fmt: skip
    assert (income["mean"], income["least"], income["median"], income["most"]) == (2.0, 1.0, 2.0, 3.0)
    assert income["sd"] == pytest.approx(np.std([1.0, 2.0, 3.0]))
    assert (income["edges"], income["counts"]) == ([1.0, 2.0, 3.0], [0, 1, 1, 1])
    assert (found["rooms"]["edges"], found["rooms"]["counts"]) == ([1.0, 2.0, 8.0], [0, 2, 1, 1])
    assert (found["kind"]["most_frequent"], found["kind"]["all_values"]) == ({"a": 3, "b": 1}, True)
    assert found["owner"]["most_frequent"] == {"true": 3, "false": 1}
    assert (found["at"]["first"], found["at"]["last"]) == (
        "2026-01-01 12:00:00.000000+00:00",
        "2026-01-03 12:00:00.000000+00:00",
    )
    assert (found["nothing"]["missing"], found["nothing"]["distinct"]) == (5, 0)


def test_a_table_without_a_row_or_a_column_has_a_profile() -> None:
    assert shown(FRAME.clear())["income"]["rows"] == 0
    assert shown(pl.DataFrame()) == {}


def test_numbers_that_are_not_finite_are_null_and_break_nothing() -> None:
    found = shown(pl.DataFrame({"x": [1.0, float("inf")]}))["x"]
    assert (found["mean"], found["most"], found["least"]) == (None, None, 1.0)


def test_columns_with_strange_names_are_not_mixed_up() -> None:
    found = shown(pl.DataFrame({"a:missing": [1, 2], "a": [None, 3], "0:least": ["x", "y"]}))
    assert [found[name]["missing"] for name in ("a:missing", "a", "0:least")] == [0, 1, 0]


@given(
    st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9), st.integers(0, 5).map(float)), max_size=60), st.integers(1, 7)
)
def test_batches_give_the_profile_of_the_whole(values: list[float | None], size: int) -> None:
    texts = [None if value is None else f"{value:.0f}" for value in values]
    frame = pl.DataFrame({"x": values, "t": texts}, schema={"x": pl.Float64, "t": pl.String})
    edges = {"x": (-1.0, 0.0, 2.0)}
    whole = profile_frame(frame, edges)
    parts = profile_batches(frame.iter_slices(size) if values else [frame], edges)
    assert parts["x"].counts == whole["x"].counts == histogram(frame["x"].drop_nulls().to_numpy(), edges["x"])
    assert (parts["x"].missing, parts["x"].distinct) == (whole["x"].missing, whole["x"].distinct)
    assert parts["x"].moments.mean == pytest.approx(whole["x"].moments.mean, rel=1e-9, abs=1e-3)
    assert (parts["x"].moments.least, parts["x"].moments.most) == (whole["x"].moments.least, whole["x"].moments.most)
    assert (parts["t"].values, parts["t"].distinct) == (whole["t"].values, whole["t"].distinct)


def test_edges_stay_those_of_the_first_batch_so_that_histories_compare() -> None:
    first, second = FRAME, FRAME.with_columns(pl.col("income") * 10)
    found = profile_batches([first, second])
    assert found["income"].edges == profile_frame(first)["income"].edges
    assert sum(found["income"].counts) == 6
    with pytest.raises(EvidenceError, match="cannot be merged"):
        merge_profiles([profile_frame(first), profile_frame(second)])


def test_many_rows_are_estimated_within_what_the_sketches_promise() -> None:
    random = np.random.default_rng(3)
    frame = pl.DataFrame({"x": random.normal(size=60_000), "key": [f"id-{at}" for at in range(60_000)]})
    whole, parts = profile_frame(frame), profile_batches(frame.iter_slices(7_000))
    for found in (whole, parts):
        assert found["key"].distinct == pytest.approx(60_000, rel=4 / np.sqrt(SMALLEST_HASHES))
        assert not found["key"].is_distinct_exact
        assert not found["key"].are_all_values
        for share, value in found["x"].quantiles().items():
            assert float((frame["x"] <= value).mean()) == pytest.approx(float(share), abs=0.02)
    assert whole["key"].distinct == parts["key"].distinct


def test_more_values_than_are_kept_are_said_to_be_more() -> None:
    values = [f"v{at % (2 * KEPT_VALUES)}" for at in range(10 * KEPT_VALUES)] + ["often"] * 50
    found = profile_frame(pl.DataFrame({"t": values}))["t"]
    assert not found.are_all_values
    assert next(iter(found.values.items())) == ("often", 50)
    assert len(found.values) == KEPT_VALUES


def test_a_packed_profile_merges_like_the_one_it_was() -> None:
    edges = edges_of(profile_frame(FRAME))
    one, other = profile_frame(FRAME, edges), profile_frame(FRAME.head(2), edges)
    kept = unpack_profile(json.loads(json.dumps(pack_profile(one), allow_nan=False)))
    assert profile_json(merge_profiles([kept, other])) == profile_json(merge_profiles([one, other]))


def test_a_personal_column_shows_counts_alone() -> None:
    frame = pl.DataFrame({"name": ["Ada", "Bob", None], "income": [7_654_321.0, 1.0, None]})
    found = profile_frame(frame, personal=("name", "income"))
    assert profile_json(found)["income"] == {
        "type": "Float64", "rows": 3, "missing": 1, "distinct": 2, "distinct_exact": True, "personal": True,
    }  # fmt: skip
    for text in (json.dumps(profile_json(found)), json.dumps(pack_profile(found))):
        assert "Ada" not in text
        assert "7654321" not in text
        assert "hashes" not in text
