"""Lookups in a contract: what contradicts something else is named at its key, with the cure."""

import json
from typing import Any

import pytest

from shipworthy.contract.lookups import columns_of, main_sources, needed_columns
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import ContractError
from tests.data.conftest import BASE

SOURCES = {name: {"path": f"{name}.csv"} for name in ("loans", "planes", "weather")}
LOOKUPS: dict[str, Any] = {
    "planes": {"key": {"tail": "tailnum"}},
    "sky": {
        "source": "weather",
        "key": ["origin", "tail"],
        "time": "seen_at",
        "delay": "10min",
        "age": {"at_most": "3h"},
    },
}
FEATURES: dict[str, Any] = {
    "tail": {"type": "text"},
    "bags": {"type": "int"},
    "seats": {"type": "int", "lookup": "planes.number_of_seats"},
    "wind": {"type": "float", "missing": "allow", "lookup": "sky"},
}
CONTEXT: dict[str, Any] = {
    "origin": {"role": "slice", "type": "category", "values": ["JFK", "LGA"]},
    "due": {"role": "time", "type": "datetime"},
}


def parse(**changes: Any) -> Contract:
    """The contract with parts of it in place of its own, by path: `lookups__planes={...}`."""
    data: dict[str, Any] = {"sources": SOURCES, "lookups": LOOKUPS}
    document: dict[str, Any] = {**BASE, "data": data, "features": FEATURES, "context": CONTEXT}
    document = json.loads(json.dumps(document))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = document
        for name in parents:
            place = place[name]
        place[last] = value
        if value is None:
            del place[last]
    return parse_contract(json.dumps(document))


def test_what_is_looked_up_where_is_told():
    contract = parse()
    assert columns_of(contract) == {"planes": {"seats": "number_of_seats"}, "sky": {"wind": "wind"}}
    assert main_sources(contract.data) == ("loans",)  # one other source needs no prepare
    assert needed_columns(contract, "planes") == {
        "number_of_seats": ("features.seats",),
        "tailnum": ("data.lookups.planes",),
    }
    assert needed_columns(contract, "weather") == {
        "wind": ("features.wind",),
        "origin": ("data.lookups.sky",),
        "tail": ("data.lookups.sky",),
        "seen_at": ("data.lookups.sky",),
    }
    prepared = parse(data__prepare="prepare.py:prepare")
    assert main_sources(prepared.data) == ("loans", "planes", "weather")


def test_a_contract_without_lookups_is_told_as_ever():
    plain = parse_contract(json.dumps(BASE)).model_dump(mode="json", by_alias=True)
    assert "lookups" not in plain["data"]
    assert "lookup" not in plain["features"]["income"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no such lookup": (
        {"features__seats__lookup": "plane"}, r"seats\.lookup: no lookup is called 'plane'; did you mean planes",
    ),
    "no such source": (
        {"data__lookups__sky__source": "wether"}, r"sky\.source: no source is called 'wether'; did you mean weather",
    ),
    "no source of the name": (
        {"data__lookups__sky__source": None}, r"data\.lookups\.sky: no source is called 'sky'; name one: source: NAME",
    ),
    "nothing looked up": ({"features__seats": None}, r"planes: nothing is looked up in it; write lookup: planes at"),
    "no such key": (
        {"data__lookups__planes__key": ["tails"]}, r"planes\.key\[0\]: no feature or context column is called 'tails'",
    ),
    "no such key in a mapping": (
        {"data__lookups__planes__key": {"tails": "tail"}}, r"planes\.key\.tails: no feature or context column",
    ),
    "a key twice": ({"data__lookups__planes__key": ["tail", "tail"]}, r"planes\.key\[1\]: 'tail' is listed twice"),
    "a key that is a number": ({"features__tail__type": "float"}, "a key is text, int or category, and 'tail' is"),
    "a key that is looked up": (
        {"features__tail__lookup": "sky"}, r"'tail' is looked up itself; a key is what a caller sends",
    ),
    "a key that is clipped": (
        {"features__tail": {"type": "int", "range": [0, 9], "outside": "clip"}},
        r"what is sent as 'tail' is not what is taken \(outside or unknown\)",
    ),
    "a key that may be missing": (
        {"features__tail__missing": "allow"}, r"'tail' may be missing, and 'seats' must be there",
    ),
    "a key that a request may lack": (
        {"features__wind__missing": "reject"}, "a request may lack 'origin', and 'wind' must be there; request:",
    ),
    "no time of the row": (
        {"context__due": None}, r"sky\.time: what was known when needs the row's own time: a context column",
    ),
    "an age of no time": (
        {"data__lookups__planes__age": {"at_most": "1h"}}, r"planes\.age: age is of a lookup with `time`",
    ),
    "no such zone": ({"data__lookups__sky__zone": "Europe/Berlni"}, "no IANA time zone is called 'Europe/Berlni'"),
    "too old before it is known": (
        {"data__lookups__sky__delay": "4h"}, "a row is too old before it is known; age.at_most is more than the delay",
    ),
    "the target": ({"features__wind__lookup": "sky.repaid"}, "'repaid' is the target, which is not known when a row"),
    "a source that may be gone": (
        {"data__sources__planes__broken": "without"}, "a lookup without its source finds nothing; write `last_good`",
    ),
    "nothing but lookups": (
        {"data__sources__loans": None}, r"data\.lookups: every source is a lookup; one more has the rows to learn from",
    ),
    "two sources with rows": (
        {"data__sources__more": {"path": "more.csv"}}, r"data: 2 sources need prepare, which makes one frame of them",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_contradicts_something_is_named(case: str):
    changes, words = WRONG[case]
    with pytest.raises(ContractError, match=words):
        parse(**changes)
