"""Skew: table and server make the same of a row, and where they do not, the release is told why it cannot be."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from shipworthy.bundle.format import Schema
from shipworthy.contract.types import Contract
from shipworthy.data.columns import derive, encode
from shipworthy.data.validate import validate
from shipworthy.evaluation.skew import ROWS, Skew, measure_skew, prove_no_skew
from shipworthy.kernel.errors import ConversionError
from shipworthy.release.schema import compile_schema

DERIVED: dict[str, dict[str, Any]] = {
    "ratio": {"from": "100 * children / income", "type": "float", "range": (0, 50), "outside": "clip"},
    "size": {"from": "bucket(income, 2, 5)", "type": "category", "values": ("low", "middle", "high")},
    "home": {"from": 'lower(note) + "!"', "type": "category", "values": ("é!", "straße!"), "unknown": "review"},
    "many": {"from": "children > 1", "type": "bool"},
}
FEATURES: dict[str, dict[str, Any]] = {
    "income": {"type": "float", "range": (0, 1000), "outside": "missing"},
    "children": {"type": "int", "missing": "allow"},
    "note": {"type": "text", "missing": "allow"},
}


@pytest.fixture
def contract(changed: Callable[..., Contract]) -> Contract:
    return changed(features=FEATURES, derived=DERIVED, checks=(), context={"id": {"role": "key", "type": "text"}})


def accepted(contract: Contract, count: int) -> pl.DataFrame:
    chance = np.random.default_rng(3)
    target = contract.target
    texts = {
        "id": [f"row-{at}" for at in range(count)],
        "income": [f"{value:.17g}" for value in chance.uniform(0, 12, count)],
        "children": [None if value == 4 else str(value) for value in chance.integers(0, 5, count)],
        "note": chance.choice(["É", "é", "STRASSE", "straße", "\U0001f600", "אב", " x "], count).tolist(),
        target.column: chance.choice([*(target.values or ["1"])], count).tolist(),
    }
    return validate(contract, pl.DataFrame(texts, schema_overrides=dict.fromkeys(texts, pl.String))).accepted


def compared(contract: Contract, frame: pl.DataFrame, schema: Schema | None = None) -> Skew:
    return measure_skew(schema or compile_schema(contract), (), frame, encode(contract, frame))


def with_expression(contract: Contract, name: str, **changes: Any) -> Schema:
    schema = compile_schema(contract)
    fields = [msgspec.structs.replace(one, **changes) if one.name == name else one for one in schema.derived]
    return msgspec.structs.replace(schema, derived=tuple(fields))


def test_rows_are_the_same_in_the_table_and_in_the_server(contract: Contract) -> None:
    skew = compared(contract, accepted(contract, 500))
    assert skew.to_json() == {"rows": 500, "columns": 6, "different": 0, "unsent": 0}
    assert str(skew) == "500 rows x 6 model columns are the same in the table and in the server"


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (
            "ratio",
            {"expression": "100 * (children / income)"},
            r"derived.ratio: row \d+ of the snapshot has",
        ),
        ("ratio", {"high": 49.0}, "has 50.0 and the server computes 49.0 of the same row"),
        ("size", {"expression": "bucket(income, 2, 5.5)"}, 'has "high" and the server computes "middle"'),
        ("many", {"expression": "children >= 1"}, "has false and the server computes true"),
        ("home", {"expression": "note + '!'"}, "and the server computes null of the same row"),
        ("size", {"values": ("high", "low", "middle")}, 'has "low" and the server computes "high"'),
        (
            "home",
            {"unknown": "reject", "values": ("é!",)},
            'has null and the server computes "strasse!", which it refuses,',
        ),
    ],
)
def test_a_difference_names_the_column_and_both_results(
    contract: Contract, name: str, changes: Any, words: str
) -> None:
    frame = accepted(contract, 300)
    skew = compared(contract, frame, with_expression(contract, name, **changes))
    assert 0 < skew.different <= skew.rows == 300
    with pytest.raises(ConversionError, match=words):
        prove_no_skew(with_expression(contract, name, **changes), (), frame, encode(contract, frame))
    assert "Compute the column in data.prepare" in str(skew)
    assert set(skew.to_json()) == {"rows", "columns", "different", "unsent"}  # no value of a row


def test_a_plain_feature_that_differs_is_named_too(contract: Contract) -> None:
    frame = accepted(contract, 50)
    matrix = encode(contract, frame)
    matrix[20, 0] = np.nextafter(matrix[20, 0], np.float32(9))
    skew = measure_skew(compile_schema(contract), (), frame, matrix)
    assert (skew.different, skew.first and (skew.first.row, skew.first.column)) == (1, (21, "income"))


def test_a_row_of_which_the_request_is_not_known_is_counted_apart(contract: Contract) -> None:
    frame = accepted(contract, 10).with_columns(
        income=pl.when(pl.int_range(pl.len()) == 3).then(None).otherwise("income")  # beyond its range, once
    )
    frame = derive(contract, frame)
    assert compared(contract, frame).to_json() == {"rows": 9, "columns": 6, "different": 0, "unsent": 1}


def test_where_every_feature_may_be_missing_every_row_is_compared(changed: Callable[..., Contract]) -> None:
    features = {name: {**feature, "missing": "allow"} for name, feature in FEATURES.items()}
    contract = changed(features=features, derived={}, context={"id": {"role": "key", "type": "text"}})
    assert compared(contract, accepted(contract, 20)).rows == 20
    assert compared(contract, accepted(contract, 20).head(0)).rows == 0


def test_of_many_rows_the_strangest_are_compared(contract: Contract) -> None:
    frame = accepted(contract, 3 * ROWS)
    strange = {"income": 999.5, "children": 7_000_000, "note": "ŉ" * 40}
    for at, (name, value) in enumerate(strange.items()):
        frame = frame.with_columns(
            pl.when(pl.int_range(pl.len()) == 7_001 + at).then(pl.lit(value)).otherwise(name).alias(name)
        )
    frame = derive(contract, frame)
    assert compared(contract, frame).different == 0
    unlike = {"many": "children > 1 and children < 7000000", "size": "bucket(where(income > 999, 0, income), 2, 5)"}
    for name, condition in unlike.items():
        skew = compared(contract, frame, with_expression(contract, name, expression=condition))
        assert (skew.different, skew.first and skew.first.column) == (1, f"derived.{name}")
    assert skew.rows == ROWS
