"""A pattern means the same to the table, to the server and to a table that is scored, whatever the text."""

import json
import random
from typing import Any

import msgspec
import polars as pl
import pytest

from shipworthy.bundle.format import Schema
from shipworthy.data.requests import plan_requests
from shipworthy.data.validate import validate
from shipworthy.kernel.errors import IntegrityError
from shipworthy.release.schema import compile_schema
from shipworthy.serving.decode import InvalidRequestError, RequestDecoder
from shipworthy.serving.openapi import describe_api
from shipworthy.workflows.columnar import judge_rows
from tests.data.conftest import build
from tests.serving.conftest import loans_policy

PATTERNS = [r"[A-Z]{2}\d{3,5}", r"(\w+\s?)+", ".*[^a-z]", r"(a|aa)+b?", r"\S+@[a-z.]+\.(com|org)", "é?[0-9]*"]
LETTERS = "ABab09 @.é_\n\t٣🐦comrg"


def contract_of(pattern: str) -> Any:
    return build(
        features={
            "income": {"type": "float"},
            "code": {"type": "text", "pattern": pattern, "missing": "allow"},
        },
        context={"tag": {"role": "slice", "type": "text", "pattern": pattern}},
    )


def accepts(decoder: RequestDecoder, code: str | None, tag: str | None) -> bool:
    body = {"inputs": {"income": 1.0, "code": code}, "context": {"tag": tag}}
    try:
        decoder.decode(json.dumps(body, ensure_ascii=False).encode())
    except InvalidRequestError as refusal:
        if any(not error.expected.startswith("text of the pattern ") for error in refusal.errors):
            raise
        return False
    return True


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_table_the_server_and_the_scorer_accept_the_same_texts(pattern: str) -> None:
    draw = random.Random(pattern)
    texts = ["".join(draw.choices(LETTERS, k=draw.randrange(0, 8))) for _ in range(400)]
    texts += ["AB123", "ab cd", "a@b.com", "aaab", "é12", "", "AB12345 "]
    rows = [(code, tag) for text in texts for code, tag in ((text, None), (None, text))]
    frame = pl.DataFrame(rows, schema=["code", "tag"], orient="row").with_columns(
        income=pl.lit("1"), repaid=pl.lit("0")
    )
    contract = contract_of(pattern)
    schema = compile_schema(contract)
    quarantined = set(validate(contract, frame).quarantined["row"])
    in_table = [number not in quarantined for number in range(1, len(rows) + 1)]
    decoder = RequestDecoder(schema)
    assert in_table == [accepts(decoder, code, tag) for code, tag in rows]
    assert in_table == judge_rows(decoder, plan_requests(schema, frame), frame).plain.tolist()
    assert 10 < sum(in_table) < len(rows) - 10


def test_a_payload_without_patterns_is_written_as_before_and_one_with_them_says_so() -> None:
    plain, told = (
        build(context={"tag": {"role": "slice", "type": "text"} | more}) for more in ({}, {"pattern": "[a-c]+"})
    )
    assert b"pattern" not in msgspec.json.encode(compile_schema(plain))
    written = msgspec.json.encode(compile_schema(told))
    assert msgspec.json.decode(written, type=Schema) == compile_schema(told)
    page = json.dumps(describe_api(compile_schema(told), loans_policy(), "loans:1"))
    assert '"pattern": "^(?:[a-c]+)$"' in page


def test_a_contract_that_uses_no_later_key_has_the_digest_that_it_had() -> None:
    written = json.dumps(
        build(context={"tag": {"role": "slice", "type": "text"}}).model_dump(mode="json", by_alias=True)
    )
    assert not [key for key in ('"pattern"', '"unique"', '"growth"', '"keys"') if key in written]


def test_a_payload_with_a_broken_pattern_is_not_served() -> None:
    schema = compile_schema(contract_of("a+"))
    broken = msgspec.structs.replace(schema.context[0], pattern="a(")
    with pytest.raises(IntegrityError, match=r"pattern 'a\(' cannot be used"):
        RequestDecoder(msgspec.structs.replace(schema, context=(broken,)))
