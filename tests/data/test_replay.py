"""Replay: rows join once, known by what the contract has once, else by all that they hold."""

from typing import Any

import polars as pl

from shipworthy.data.replay import join_replayed
from shipworthy.data.validate import validate


def rows(**columns: Any) -> pl.DataFrame:
    count = len(next(iter(columns.values())))
    return pl.DataFrame({"repaid": (["0", "1"] * count)[:count], **columns})


def test_a_row_whose_key_is_there_is_not_doubled_and_one_that_lacks_is_added(make: Any) -> None:
    contract = make(context={"id": {"role": "key", "type": "text"}})
    validated = validate(contract, rows(id=["a", "b", "c"], income=["1", "-1", "3"]))
    fixed = validate(contract, rows(id=["b", "c", "d"], income=["2", "9", "4"])).accepted
    joined, known = join_replayed(contract, validated, fixed)
    assert joined.accepted.select("id", "income").rows() == [("a", 1.0), ("c", 3.0), ("b", 2.0), ("d", 4.0)]
    assert known == 1
    assert joined.quarantined.equals(validated.quarantined)


def test_a_row_that_shares_a_unique_value_or_columns_together_is_known(make: Any) -> None:
    contract = make(
        data={"sources": {"a": {"path": "a.csv"}}, "unique": [["day", "flight"]]},
        context={
            "mail": {"role": "slice", "type": "text", "unique": True},
            "day": {"role": "slice", "type": "int"},
            "flight": {"role": "slice", "type": "text"},
        },
    )
    held = validate(contract, rows(mail=["x", None], day=["1", "1"], flight=["A", None], income=["1", "1"]))
    fixed = rows(mail=["x", "y", None, "z"], day=["9", "1", "1", None], flight=["Z", "A", None, "A"], income=["2"] * 4)
    joined, known = join_replayed(contract, held, validate(contract, fixed).accepted)
    assert known == 2
    assert joined.accepted["mail"].to_list() == ["x", None, None, "z"]


def test_without_anything_unique_only_a_row_equal_in_all_is_known(make: Any) -> None:
    contract = make(features={"income": {"type": "float"}, "debt": {"type": "float", "missing": "allow"}})
    held = validate(contract, rows(income=["1", "2"], debt=[None, "5"]))
    fixed = validate(contract, rows(income=["1", "2", "1"], debt=[None, "6", "7"])).accepted
    joined, known = join_replayed(contract, held, fixed)
    assert known == 1
    assert joined.accepted["debt"].to_list() == [None, 5.0, 6.0, 7.0]
