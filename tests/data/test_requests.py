"""A row of a table becomes the request that gives the model the row that training would have given it."""

import random

import numpy as np
import polars as pl
import pytest

from shipworthy.bundle.format import ContextField, FeatureField, Schema
from shipworthy.contract.parse import parse_contract
from shipworthy.data.columns import encode
from shipworthy.data.requests import make_requests, plan_requests
from shipworthy.kernel.errors import DataError, UsageError
from shipworthy.release.schema import compile_schema
from shipworthy.serving.decode import InvalidRequestError, RequestDecoder
from tests.stories.test_skew import CONTRACT, as_text, draw_rows, judged

SCHEMA = Schema(
    system="loans",
    features=(
        FeatureField(name="branch", kind="category", values=("001", "1")),
        FeatureField(name="income", kind="float", low=0, high=1000),
        FeatureField(name="terms", kind="int", missing="allow"),
        FeatureField(name="secured", kind="bool", missing="allow"),
    ),
    context=(
        ContextField(name="loan", kind="text", role="key"),
        ContextField(name="asked", kind="datetime", role="time", zone="Europe/Vienna"),
    ),
    derived=(),
    columns=("branch", "income", "terms", "secured"),
)


def texts(**columns: list[str | None]) -> pl.DataFrame:
    return pl.DataFrame({name: pl.Series(values, dtype=pl.String) for name, values in columns.items()})


@pytest.mark.parametrize("seed", range(3))
def test_every_row_gives_the_model_what_training_would_or_is_refused_by_both(seed: int) -> None:
    chance = random.Random(seed)
    contract = parse_contract(CONTRACT)
    rows = draw_rows(chance)
    validated, reasons = judged(rows, contract)
    matrix = encode(contract, validated.accepted)
    schema = compile_schema(contract)
    frame = texts(**{name: [as_text(row[name]) for row in rows] for name in rows[0]})
    decoder, plan = RequestDecoder(schema), plan_requests(schema, frame)
    place = differing = 0
    for number, request in enumerate(make_requests(plan, frame)):
        try:
            served = np.array(decoder.decode_object(request).floats, dtype=np.float32)
        except InvalidRequestError:
            differing += number not in reasons
        else:
            differing += number in reasons or not np.array_equal(served, matrix[place], equal_nan=True)
        place += number not in reasons
    assert place > 400
    assert differing == 0


def test_texts_become_what_the_schema_says_and_a_code_keeps_its_zeros() -> None:
    frame = texts(
        branch=["001", " 1 "], income=["4.50", "7"], terms=["5.0", "NA"], secured=["yes", "F"], loan=["a", "b"],
        asked=["2026-07-01 12:00", ""],
    )  # fmt: skip
    first, second = make_requests(plan_requests(SCHEMA, frame), frame)
    assert first == {
        "inputs": {"branch": "001", "income": 4.5, "terms": 5, "secured": True},
        "context": {"loan": "a", "asked": "2026-07-01 12:00"},
        "id": "a",
    }
    assert second == {"inputs": {"branch": "1", "income": 7.0, "secured": False}, "context": {"loan": "b"}, "id": "b"}


def test_what_is_not_of_its_type_is_handed_on_as_it_was_read() -> None:
    frame = texts(branch=["2"], income=["much"], terms=["5.5"], secured=["perhaps"])
    (request,) = make_requests(plan_requests(SCHEMA, frame), frame)
    assert request["inputs"] == {"branch": "2", "income": "much", "terms": "5.5", "secured": "perhaps"}
    with pytest.raises(InvalidRequestError) as refusal:
        RequestDecoder(SCHEMA).decode_object(request)
    assert [problem.got for problem in refusal.value.errors] == ['"2"', '"much"', '"5.5"', '"perhaps"']


def test_typed_columns_keep_their_types_and_other_columns_are_passed_over() -> None:
    frame = pl.DataFrame({"branch": ["1"], "income": [3.0], "terms": [7], "loan": [12.0], "repaid": [1]})
    plan = plan_requests(SCHEMA, frame)
    assert make_requests(plan, frame) == [
        {"inputs": {"branch": "1", "income": 3.0, "terms": 7}, "context": {"loan": "12"}, "id": "12"}
    ]
    assert plan.absent == ("secured",)


def test_another_column_can_name_the_rows() -> None:
    frame = texts(branch=["1"], income=["2"], loan=["a"], ticket=["t-1"])
    assert make_requests(plan_requests(SCHEMA, frame, "ticket"), frame)[0]["id"] == "t-1"
    with pytest.raises(UsageError, match=r"no column 'tiket' for --id; it has branch, .*did you mean ticket"):
        plan_requests(SCHEMA, frame, "tiket")


def test_a_column_that_every_request_must_carry_is_missed_before_any_row_is_answered() -> None:
    with pytest.raises(DataError, match="no column branch, income; it has incom, terms"):
        plan_requests(SCHEMA, texts(incom=["1"], terms=["2"]))


def test_a_datetime_of_another_order_is_sent_as_the_moment_that_it_is() -> None:
    frame = texts(branch=["1", "1"], income=["1", "2"], asked=["31.07.2026 12:00", "soon"])
    first, second = make_requests(plan_requests(SCHEMA, frame), frame)
    assert first["context"] == {"asked": "2026-07-31T10:00:00.000000Z"}
    assert second["context"] == {"asked": "soon"}


def test_dates_that_read_two_ways_are_refused() -> None:
    frame = texts(branch=["1"], income=["1"], asked=["03/04/2026"])
    with pytest.raises(DataError, match="asked: every date reads as month/day and as day/month"):
        plan_requests(SCHEMA, frame)
