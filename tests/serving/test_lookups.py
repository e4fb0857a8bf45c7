"""Lookups in the server: one row of a table for each request, its values recorded, and what is missing said."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from shipworthy.bundle.format import ContextField, DerivedField, FeatureField, LookupField, LookupTable, Schema
from shipworthy.kernel.errors import IntegrityError
from shipworthy.serving.decode import InvalidRequestError, RequestDecoder
from shipworthy.serving.inference import describe_model
from shipworthy.serving.openapi import describe_api
from shipworthy.serving.stand_in import restate
from tests.serving.conftest import loans_policy

HOUR = 3_600_000_000
NOON = int(datetime(2026, 1, 1, 12, tzinfo=UTC).timestamp()) * 10**6
SCHEMA = Schema(
    system="flights",
    features=(
        FeatureField(name="seats", kind="int", low=1, high=900, lookup="planes"),
        FeatureField(name="tail", kind="text"),
        FeatureField(name="wind", kind="float", low=0, high=99, outside="clip", missing="allow", lookup="weather"),
        FeatureField(name="sky", kind="category", values=("clear", "fog"), missing="allow", unknown="missing",
                     lookup="weather"),
        FeatureField(name="bags", kind="int"),
    ),
    context=(
        ContextField(name="origin", kind="category", role="slice", values=("JFK", "LGA")),
        ContextField(name="due", kind="datetime", role="time"),
    ),
    derived=(DerivedField(name="load", kind="float", expression="bags / seats"),),
    columns=("seats", "wind", "sky", "bags", "load"),
    lookups=(
        LookupField(name="planes", key=("tail",)),
        LookupField(name="weather", key=("origin", "tail"), is_timed=True, delay_us=HOUR, max_age_us=3 * HOUR),
    ),
)  # fmt: skip
TABLES = {
    "planes": LookupTable(key=(["N1", "N2", "01"],), columns={"seats": [10, None, 4]}),
    "weather": LookupTable(
        key=(["JFK", "LGA", "JFK"], ["N1", "N1", "01"]),
        times=[NOON, NOON, NOON],
        columns={"wind": [120.5, None, 7.0], "sky": ["fog", "hail", None]},
    ),
}


def decoder_of(tables: dict[str, LookupTable] = TABLES, now: float = 0.0) -> RequestDecoder:
    return RequestDecoder(SCHEMA, (), tables, now=lambda: now)


def request(tail: Any = "N1", origin: Any = "JFK", due: Any = "2026-01-01T14:00:00Z", **inputs: Any) -> bytes:
    context = {"origin": origin, "due": due}
    return json.dumps({"inputs": {"tail": tail, "bags": 5, **inputs}, "context": context}).encode()


def test_what_is_looked_up_is_taken_as_if_it_had_been_sent():
    sample = decoder_of().decode(request())
    assert list(sample.floats) == [10, 99, 1, 5, 0.5]
    assert sample.warnings == ["wind is outside 0 to 99: clipped"]
    # the record has what was found, before it was clipped
    assert sample.inputs == {"tail": "N1", "bags": 5, "seats": 10, "wind": 120.5, "sky": "fog"}
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sample.inputs)) == sample.inputs


def test_a_record_is_decoded_again_without_any_table():
    live = decoder_of()
    first = live.decode(request())
    context = msgspec.to_builtins(first.context)
    again = RequestDecoder(SCHEMA.as_recorded()).decode_object({"inputs": first.inputs, "context": context})
    assert again.floats == pytest.approx(first.floats, abs=0)
    assert again.warnings == first.warnings


NO_WEATHER = "wind, sky: the lookup weather has no row for this origin, tail"
ASKED = {
    "too early": ("2026-01-01T12:59:59Z", f"{NO_WEATHER} that was known at the request's time: taken as missing"),
    "just known": ("2026-01-01T13:00:00Z", None),
    "just young enough": ("2026-01-01T15:00:00Z", None),
    "too old": ("2026-01-01T15:00:00.000001Z", f"{NO_WEATHER} that is young enough: taken as missing"),
}


@pytest.mark.parametrize("case", ASKED)
def test_a_row_is_used_from_when_it_is_known_until_it_is_too_old(case: str):
    due, words = ASKED[case]
    sample = decoder_of().decode(request(due=due))
    assert ("wind" in sample.inputs) == (words is None)
    assert sample.warnings == [words or "wind is outside 0 to 99: clipped"]


def test_a_request_without_a_time_is_asked_now():
    assert "wind" in decoder_of(now=NOON / 1e6 + 3600).decode(request(due=None)).inputs
    assert "wind" not in decoder_of(now=NOON / 1e6 + 3599).decode(request(due=None)).inputs


def test_a_key_that_is_not_there_is_missing_where_that_is_allowed():
    for origin in ("LGA", None):
        sample = decoder_of().decode(request("01", origin))
        assert sample.warnings == [f"{NO_WEATHER}: taken as missing"]
        assert sample.inputs == {"tail": "01", "bags": 5, "seats": 4}
    # a row that is there and has no value, or one that nobody lists, is as such a value is anywhere
    sample = decoder_of().decode(request("N1", "LGA"))
    assert sample.warnings == ["sky is not one of the declared values: taken as missing"]
    assert sample.inputs["sky"] == "hail"


REFUSED = {
    "unknown key": (request("N9"), "inputs.seats", "a row of the lookup planes for this tail", '"N9"'),
    "another text": (request("1"), "inputs.seats", "a row of the lookup planes for this tail", '"1"'),
    "no value": (request("N2"), "inputs.seats", "a row of the lookup planes for this tail that has the value", '"N2"'),
    "sent all the same": (request(seats=10), "inputs.seats", "no such field: the server looks it up", None),
    "no key": (request(None), "inputs.tail", "text of up to 10000 characters", "null"),
    "a number as key": (request(1), "inputs.tail", "text of up to 10000 characters", "1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_must_be_there_and_is_not_is_named(case: str):
    body, field, expected, got = REFUSED[case]
    with pytest.raises(InvalidRequestError) as refusal:
        decoder_of().decode(body)
    (problem,) = refusal.value.errors
    assert (problem.field, problem.expected, problem.got) == (field, expected, got)
    assert refusal.value.status == 422


def test_repeated_keys_are_still_found():
    body = b'{"inputs": {"tail": "N1", "bags": 5, "bags": 6}, "context": {"due": "2026-01-01T14:00:00Z"}}'
    with pytest.raises(InvalidRequestError) as refusal:
        decoder_of().decode(body)
    assert [problem.field for problem in refusal.value.errors] == ["inputs.bags"]


def test_nobody_is_asked_for_what_is_looked_up():
    document = describe_api(SCHEMA, loans_policy(), "flights:1")
    inputs = document["components"]["schemas"]["Request"]["properties"]["inputs"]
    assert list(inputs["properties"]) == inputs["required"] == ["tail", "bags"]

    class Known:
        schema, policy, system = SCHEMA, loans_policy(), "flights"

    metadata = describe_model(Known, ["1"])  # type: ignore[arg-type]
    assert [item["name"] for item in metadata["inputs"]] == ["tail", "bags", "origin"]  # the key is needed


def test_whoever_stands_in_looks_up_in_its_own_table():
    older = TABLES | {"planes": LookupTable(key=(["N1"],), columns={"seats": [20]})}

    class Asked:
        schema, decoder = SCHEMA, decoder_of()

    class Other:
        schema, decoder = SCHEMA, decoder_of(older)

    sample = Asked.decoder.decode(request())
    theirs = restate(sample, Asked, Other)  # type: ignore[arg-type]
    assert theirs is not None
    assert theirs.inputs["seats"] == 20
    assert restate(Asked.decoder.decode(request("01")), Asked, Other) is None  # type: ignore[arg-type]

    class Sent:  # a release from before, which callers sent the value
        schema, decoder = SCHEMA.as_recorded(), RequestDecoder(SCHEMA.as_recorded())

    known = restate(sample, Asked, Sent)  # type: ignore[arg-type]
    assert known is not None
    assert list(known.floats) == list(sample.floats)


def changed(**columns: list[Any]) -> dict[str, LookupTable]:
    table = TABLES["planes"]
    return TABLES | {"planes": msgspec.structs.replace(table, columns={**table.columns, **columns})}


UNFIT = {
    "none": ({}, r"has the lookups \[\]; its schema names \['planes', 'weather'\]"),
    "one too many": (TABLES | {"x": TABLES["planes"]}, "has the lookups"),
    "a text for a number": (changed(seats=[10, "4", 4]), "lookup planes has no column of int for seats"),
    "a truth for a number": (changed(seats=[10, True, 4]), "lookup planes has no column of int for seats"),
    "columns of different length": (changed(seats=[10]), "lookup planes has columns of different length"),
    "no such column": (changed() | {"planes": LookupTable(key=(["N1"],), columns={})}, "no column of int for seats"),
    "a key twice": (
        TABLES | {"planes": LookupTable(key=(["N1", "N1"],), columns={"seats": [1, 2]})}, "planes has a key twice",
    ),
    "no times": (
        TABLES | {"weather": msgspec.structs.replace(TABLES["weather"], times=None)}, "a table with other keys",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNFIT)
def test_a_table_that_is_not_the_schemas_is_never_answered_from(case: str):
    tables, words = UNFIT[case]
    with pytest.raises(IntegrityError, match=words):
        decoder_of(tables)


def test_a_schema_without_lookups_is_written_as_ever():
    plain = Schema(system="s", features=(FeatureField(name="x", kind="float"),), context=(), derived=(), columns=("x",))
    assert b"lookup" not in msgspec.json.encode(plain)
    assert plain.asked == plain.features
    assert msgspec.json.decode(msgspec.json.encode(SCHEMA), type=Schema) == SCHEMA
