"""Changes of a source's columns: compatible or breaking, and what of the contract breaks."""

from typing import Any

import polars as pl
import pytest

from shipworthy.data.schema_change import Schema, SchemaChange, find_changes, read_schema

FEATURES: dict[str, dict[str, Any]] = {
    "income": {"type": "float"},
    "rooms": {"type": "int", "missing": "allow"},
    "kind": {"type": "category", "values": ["a", "b"]},
    "owner": {"type": "category", "values": ["Ada"], "personal": True},
}
FRAME = pl.DataFrame(
    {
        "income": ["1.5", "2", "", "NA"],
        "rooms": ["1", "2", "3", ""],
        "kind": ["a", "b", "a", "a"],
        "owner": ["Ada", "Ada", "Ada", "Ada"],
        "repaid": ["0", "1", "0", "1"],
        "note": ["x", "y", "", ""],
        "sold_at": ["2026-01-01", "2026-01-02", "2026-01-03", ""],
        "code": ["007", "012", "013", "099"],
        "is_new": ["true", "false", "True", ""],
    }
)


@pytest.fixture
def contract(make: Any) -> Any:
    return make(
        features=FEATURES,
        derived={"double": {"from": "2 * income", "type": "float"}, "more": {"from": "double + 1", "type": "float"}},
        checks=[{"name": "few rooms", "expect": "rooms < 100"}],
        decision={"fallback": {"rules": [{"if": "more > 3", "then": "1"}], "otherwise": "0"}},
    )


def changed(contract: Any, now: pl.DataFrame, code: str = "") -> list[SchemaChange]:
    return find_changes(contract, "loans", read_schema(contract, FRAME), read_schema(contract, now), code)


def only(contract: Any, now: pl.DataFrame, code: str = "") -> SchemaChange:
    found = changed(contract, now, code)
    assert len(found) == 1, found
    return found[0]


def test_a_schema_by_example(contract: Any) -> None:
    found = read_schema(contract, FRAME)
    assert found.columns == {
        "income": "number", "rooms": "whole number", "kind": "text", "owner": "text", "repaid": "whole number",
        "note": "text", "sold_at": "datetime", "code": "text", "is_new": "true or false",
    }  # fmt: skip
    assert found.values == {"kind": ("a", "b"), "repaid": ("0", "1")}
    assert Schema.from_json(found.to_json()) == found


def test_typed_columns_have_the_kinds_of_their_types(contract: Any) -> None:
    frame = pl.DataFrame({"a": [1], "b": [1.5], "c": [True], "d": [None], "e": [[1]]})
    kinds = list(read_schema(contract, frame).columns.values())
    assert kinds == ["whole number", "number", "true or false", "empty", "nested"]


def test_nothing_changed_is_no_change(contract: Any) -> None:
    assert changed(contract, FRAME) == []


def test_a_column_more_is_compatible(contract: Any) -> None:
    found = only(contract, FRAME.with_columns(extra=pl.lit("x")))
    assert (found.change, found.impact, found.breaks) == ("added", "compatible", ())


def test_a_column_that_is_gone_breaks_whatever_is_made_of_it(contract: Any) -> None:
    found = only(contract, FRAME.drop("income"))
    assert (found.change, found.impact) == ("removed", "breaking")
    assert found.breaks == ("features.income", "derived.double", "derived.more", "decision.fallback.rules[0]")
    assert only(contract, FRAME.drop("rooms")).breaks == ("features.rooms", "checks.few rooms")
    assert only(contract, FRAME.drop("repaid")).breaks == ("target",)


def test_a_column_that_nobody_reads_may_go_unless_prepare_names_it(contract: Any) -> None:
    assert only(contract, FRAME.drop("note")).impact == "compatible"
    found = only(contract, FRAME.drop("note"), "select note, income from loans")
    assert (found.impact, found.breaks) == ("breaking", ("data.prepare",))


def test_a_new_name_is_guessed_from_name_and_kind(contract: Any) -> None:
    found = only(contract, FRAME.rename({"income": "Income_EUR"}))
    assert (found.change, found.impact, found.words) == (
        "renamed", "breaking", "income is gone; it may be called Income_EUR now",
    )  # fmt: skip
    other = changed(contract, FRAME.rename({"income": "incomes"}).with_columns(incomes=pl.lit("text")))
    assert {change.change for change in other} == {"removed", "added"}


@pytest.mark.parametrize(
    ("column", "values", "impact"),
    [
        ("income", ["1", "2", "3", "4"], "compatible"),
        ("income", ["1 EUR", "2 EUR", "3 EUR", "4 EUR"], "breaking"),
        ("income", ["1,5", "2,5", "3,5", "4,5"], "breaking"),
        ("rooms", ["1.5", "2", "3", "4"], "breaking"),
        ("rooms", ["", "", "", ""], "compatible"),
        ("note", ["1", "2", "3", "4"], "compatible"),
    ],
)
def test_another_kind_breaks_what_cannot_be_read_from_it(
    contract: Any, column: str, values: list[str], impact: str
) -> None:
    found = only(contract, FRAME.with_columns(pl.Series(column, values)))
    assert (found.change, found.impact) == ("type", impact)
    assert bool(found.breaks) == (impact == "breaking")


def test_a_category_that_the_contract_rejects_is_breaking(contract: Any, make: Any) -> None:
    now = FRAME.with_columns(kind=pl.Series(["a", "c", "a", "a"]))
    found = only(contract, now)
    assert (found.change, found.impact, found.breaks) == ("categories", "breaking", ("features.kind",))
    assert found.words == "kind now has 'c'; lacks 'b'; the contract does not list 'c'"
    lenient = make(features={**FEATURES, "kind": {**FEATURES["kind"], "unknown": "review"}})
    assert only(lenient, now).impact == "compatible"
    assert only(contract, FRAME.with_columns(kind=pl.lit("a"))).impact == "compatible"


def test_where_only_names_are_known_no_kind_is_compared(contract: Any) -> None:
    before = read_schema(contract, FRAME)
    assert find_changes(contract, "loans", before, FRAME.columns) == []
    assert [each.column for each in find_changes(contract, "loans", before, FRAME.columns[1:])] == ["income"]


def test_the_breaking_changes_come_first(contract: Any) -> None:
    found = changed(contract, FRAME.drop("note", "income").with_columns(zzz=pl.lit(1.0)))
    assert [change.impact for change in found] == ["breaking", "compatible", "compatible"]
