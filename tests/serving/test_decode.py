"""Validation: strict types, every problem at once, and the row that the model sees."""

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.bundle.format import CheckField, ContextField, DerivedField, FallbackRule, FeatureField, Schema
from shipworthy.kernel.errors import IntegrityError
from shipworthy.serving.decode import InvalidRequestError, RequestDecoder
from tests.serving.conftest import good_request, loans_policy, loans_schema

DECODER = RequestDecoder(loans_schema(), loans_policy().fallback_rules)


def refuse(document: Any) -> InvalidRequestError:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(InvalidRequestError) as caught:
        DECODER.decode(body)
    return caught.value


def fields(document: Any) -> set[str]:
    return {problem.field for problem in refuse(document).errors}


def test_a_row_has_codes_missing_values_and_derived_columns() -> None:
    sample = DECODER.decode(json.dumps(good_request(score=None, owner=False, region="s")).encode())
    assert list(sample.floats[:3]) == [50.0, 10.0, 0.0]
    assert math.isnan(sample.floats[3])
    assert list(sample.floats[4:]) == [0.0, 1.0, 40.0, 20.0]
    assert sample.review is None
    assert sample.warnings is None


def test_declared_policies_clip_take_as_missing_and_send_to_review() -> None:
    sample = DECODER.decode(json.dumps(good_request(debt=5000, region="west", age=101)).encode())
    assert sample.floats[1] == 1000.0
    assert math.isnan(sample.floats[5])
    assert sample.floats[6] == 101.0
    assert sample.review == ["age is outside 18 to 99"]
    assert sample.warnings is not None
    assert [warning.split(" is ")[0] for warning in sample.warnings] == ["debt", "region", "age", "ratio"]


def test_all_bad_fields_are_named_at_once_with_what_was_expected() -> None:
    request = good_request(income="001", debt=True, purpose="boat", score=2.5, owner=1, extra=3)
    del request["inputs"]["age"]
    request["context"] = {"sex": "x", "applied_at": "yesterday", "shoe": 4}
    problems = {problem.field: problem for problem in refuse({**request, "id": "", "more": 1}).errors}
    assert set(problems) == {
        "more",
        "id",
        *(f"inputs.{name}" for name in ("income", "debt", "purpose", "score", "owner", "extra", "age")),
        *(f"context.{name}" for name in ("sex", "applied_at", "shoe")),
    }
    assert problems["inputs.income"].expected == "a number from 0 to 1000"
    assert problems["inputs.income"].got == '"001"'
    assert problems["inputs.purpose"].expected == 'one of "purchase", "refinance"'
    assert problems["inputs.score"].expected == "a whole number from 1 to 6, or null"
    assert problems["inputs.age"].got == "nothing"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("income", "5"),
        ("income", True),
        ("income", None),
        ("income", [1]),
        ("income", {}),
        ("income", -0.001),
        ("income", 1000.001),
        ("income", 10**400),
        ("debt", 1e39),
        ("debt", -1e39),
        ("score", 1.5),
        ("score", 1e30),
        ("income", "NA"),
        ("purpose", "NA"),
        ("purpose", ""),
        ("score", True),
        ("score", 7),
        ("score", "1"),
        ("score", 10**30),
        ("owner", 0),
        ("owner", "true"),
        ("purpose", "Purchase"),
        ("purpose", None),
        ("purpose", 0),
        ("region", 1),
    ],
)
def test_a_wrong_value_is_refused(name: str, value: Any) -> None:
    assert fields(good_request(**{name: value})) == {f"inputs.{name}"}


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "nan", "1e999", "01", "+1", ".5", "0x10"])
def test_numbers_that_json_does_not_have_are_refused(constant: str) -> None:
    body = json.dumps(good_request(income=12345)).replace("12345", constant).encode()
    assert refuse(body).status in (400, 422)


def test_a_repeated_key_is_refused_and_named() -> None:
    body = json.dumps(good_request())
    assert fields(body.replace('"income": 50.0', '"income": 1, "income": 50.0').encode()) == {"inputs.income"}
    assert fields(body.replace('"sex": "f"', '"sex": "f", "sex": "m"').encode()) == {"context.sex"}
    assert fields(body.replace('{"inputs"', '{"id": "a", "id": "b", "inputs"').encode()) == {"id"}


def test_a_repeated_key_does_not_hide_behind_an_escape_or_a_missing_field() -> None:
    request = good_request()
    request["context"]["applicant"] = "a:b"
    body = json.dumps(request).replace("a:b", "a\\u003ab").replace('"income": 50.0', '"income": 1, "income": 50.0')
    assert fields(body.encode()) == {"inputs.income"}
    body = json.dumps(good_request()).replace('"score": 4', '"inc\\u006fme": 4')
    assert fields(body.encode()) == {"inputs.income"}


def test_colons_in_texts_are_no_repeated_keys() -> None:
    request = good_request()
    request["context"]["applicant"] = "a:b:c"
    request["id"] = "x:1"
    assert DECODER.decode(json.dumps(request).encode()).id == "x:1"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"1", b'"x"', b"{}", b'{"inputs": []}', b"\xff\xfe{}", b'{"inputs": {"a": "\xff"}}'],
)
def test_what_is_no_request_is_refused(body: bytes) -> None:
    assert refuse(body).status in (400, 422)


def test_deep_json_is_refused_without_harm() -> None:
    assert refuse(b'{"inputs":' * 100_000).status == 400
    assert refuse(b"[" * 1_000_000).status == 400


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.integers(0, 100),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["purchase", "refinance", "n", "s", "", "1", "2026-01-31", "x" * 10_001]),
    st.lists(st.integers(), max_size=2),
)


@given(st.dictionaries(st.sampled_from([*good_request()["inputs"], "stranger"]), VALUES))
@settings(max_examples=400, deadline=None)
def test_the_fast_way_and_the_slow_way_refuse_the_same(changes: dict[str, Any]) -> None:
    request = good_request(**changes)
    slow = {problem.field for problem in DECODER._problems(DECODER._mended(request))}
    try:
        DECODER.decode(json.dumps(request).encode())
        fast: set[str] = set()
    except InvalidRequestError as error:
        fast = {problem.field for problem in error.errors} or {"a refusal that names no field"}
    assert fast == slow


@given(st.dictionaries(st.sampled_from(list(good_request()["inputs"])), VALUES))
@settings(max_examples=200, deadline=None)
def test_objects_are_decoded_as_bodies_are(changes: dict[str, Any]) -> None:
    request = good_request(**changes)
    results = []
    for decode, item in ((DECODER.decode, json.dumps(request).encode()), (DECODER.decode_object, request)):
        try:
            results.append(repr(list(decode(item).floats)))  # type: ignore[operator]
        except InvalidRequestError as error:
            results.append(repr(sorted(problem.field for problem in error.errors)))
    assert results[0] == results[1]


def test_the_first_fallback_rule_that_holds_decides() -> None:
    rules = (FallbackRule(condition="ratio > 45", action="refuse"), FallbackRule(condition='sex == "f"', action="ask"))
    decoder = RequestDecoder(loans_schema(), rules)
    assert decoder.fallback_action(decoder.decode(json.dumps(good_request(debt=40)).encode())) == "refuse"
    assert decoder.fallback_action(decoder.decode(json.dumps(good_request()).encode())) == "ask"
    request = good_request()
    request["context"]["sex"] = "m"
    assert decoder.fallback_action(decoder.decode(json.dumps(request).encode())) is None


def test_an_ablated_row_has_its_derived_columns_recomputed() -> None:
    sample = DECODER.decode(json.dumps(good_request()).encode())
    references = DECODER.find_references({"income": 100.0, "purpose": 0.0, "region": 1.0})
    rows = {reference.name: DECODER.refer(sample, reference) for reference in references if reference.is_read}
    assert set(rows) == {"income"}  # nothing is derived from the others
    assert rows["income"] is not None
    assert rows["income"][0] == 100.0
    assert rows["income"][7] == 10.0


def test_names_that_python_keeps_for_itself_work() -> None:
    names = ("class", "self", "__init__", "f1", "id", "inputs")
    schema = Schema(
        system="s",
        features=tuple(FeatureField(name=name, kind="float") for name in names),
        context=(),
        derived=(),
        columns=names,
    )
    decoder = RequestDecoder(schema)
    body = json.dumps({"inputs": {name: place for place, name in enumerate(names)}}).encode()
    assert list(decoder.decode(body).floats) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_schema_whose_columns_are_unknown_is_refused() -> None:
    schema = Schema(system="s", features=(), context=(), derived=(), columns=("x",))
    with pytest.raises(IntegrityError, match="model columns"):
        RequestDecoder(schema)


def test_a_rule_that_does_not_parse_is_refused() -> None:
    with pytest.raises(IntegrityError, match="cannot be used"):
        RequestDecoder(loans_schema(), (FallbackRule(condition="nonsense >", action="x"),))


def test_a_derived_column_outside_its_range_is_refused_where_declared() -> None:
    schema = loans_schema()
    derived = (msgspec.structs.replace(schema.derived[0], outside="reject"),)
    decoder = RequestDecoder(msgspec.structs.replace(schema, derived=derived))
    with pytest.raises(InvalidRequestError) as caught:
        decoder.decode(json.dumps(good_request(income=1, debt=900)).encode())
    assert [problem.field for problem in caught.value.errors] == ["derived.ratio"]


def test_a_derived_category_has_codes_and_does_with_others_what_is_declared() -> None:
    schema = loans_schema()
    bands = {"kind": "category", "values": ("low", "middle", "high")}
    banded = DerivedField(name="band", expression="bucket(income, 10, 20)", unknown="reject", **bands)
    worded = DerivedField(name="word", expression="lower(owner_name)", unknown="missing", **bands)

    def floats_of(unknown: str, **inputs: Any) -> Any:
        derived = (banded, msgspec.structs.replace(worded, unknown=unknown))
        name = FeatureField(name="owner_name", kind="text", missing="allow")
        changed = msgspec.structs.replace(
            schema, features=(*schema.features, name), derived=derived, columns=("band", "word")
        )
        sample = RequestDecoder(changed).decode(json.dumps(good_request(**inputs)).encode())
        return [*sample.floats], sample.warnings, sample.review

    assert floats_of("reject", income=5, owner_name="HIGH") == ([0.0, 2.0], None, None)
    assert floats_of("reject", income=20, owner_name="low")[0] == [2.0, 0.0]
    taken = "word is not one of the declared values: taken as missing"
    codes, warnings, review = floats_of("missing", income=10, owner_name="none")
    assert (codes[0], math.isnan(codes[1]), warnings, review) == (1.0, True, [taken], None)
    assert floats_of("review", owner_name="none")[2] == [taken]
    with pytest.raises(InvalidRequestError) as caught:
        floats_of("reject", owner_name="none")
    [problem] = caught.value.errors
    assert (problem.field, problem.expected, problem.got) == (
        "derived.word",
        'one of "low", "middle", "high"',
        '"none"',
    )


@pytest.mark.parametrize(
    "changes", [{"kind": "float", "expression": "purpose"}, {"kind": "category"}, {"values": ("a", "b")}]
)
def test_a_derived_column_that_is_not_what_it_says_is_refused(changes: Any) -> None:
    schema = loans_schema()
    derived = (msgspec.structs.replace(schema.derived[0], **changes),)
    with pytest.raises(IntegrityError, match="derives 'ratio' as"):
        RequestDecoder(msgspec.structs.replace(schema, derived=derived))


def test_dates_feed_derived_columns_and_a_bad_one_is_named_with_the_rest() -> None:
    schema = Schema(
        system="s",
        features=(FeatureField(name="at", kind="datetime"), FeatureField(name="x", kind="float", low=0)),
        context=(),
        derived=(DerivedField(name="hour", kind="int", expression="hour(at)"),),
        columns=("x", "hour"),
    )
    decoder = RequestDecoder(schema)
    assert list(decoder.decode(b'{"inputs": {"at": "2026-01-31T17:30:00", "x": 1}}').floats) == [1.0, 17.0]
    with pytest.raises(InvalidRequestError) as caught:
        decoder.decode(b'{"inputs": {"at": "soon", "x": -1}}')
    assert {problem.field for problem in caught.value.errors} == {"inputs.at", "inputs.x"}


def parcels(**changes: Any) -> RequestDecoder:
    """A decoder whose derived columns read a feature and a context column on their clocks."""
    fields: dict[str, Any] = {
        "system": "s",
        "features": (
            FeatureField(name="due", kind="datetime", zone="Europe/Vienna"),
            FeatureField(name="legs", kind="int", low=0, high=9),
            FeatureField(name="note", kind="text", missing="allow"),
        ),
        "context": (
            ContextField(name="sent", kind="datetime", role="time", zone="America/New_York"),
            ContextField(name="load", kind="float", role="slice", low=0, high=10),
        ),
        "derived": (
            DerivedField(name="due_hour", kind="int", expression="hour(due)"),
            DerivedField(name="sent_hour", kind="int", expression="hour(sent)"),
        ),
        "columns": ("legs", "due_hour", "sent_hour"),
        "checks": (CheckField(name="not lost", condition='note != "lost"'),),
    }
    return RequestDecoder(Schema(**{**fields, **changes}))


def parcel(context: dict[str, Any] | None = None, **changes: Any) -> bytes:
    inputs = {"due": "2026-07-01T09:30:00", "legs": 2, **changes}
    return json.dumps({"inputs": inputs, "context": context}).encode()


def test_parts_of_dates_are_read_on_the_clock_of_their_column() -> None:
    sample = parcels().decode(parcel({"sent": "2026-07-01T00:30:00Z"}))
    assert list(sample.floats) == [2.0, 9.0, 20.0]
    assert list(parcels().decode(parcel(due="2026-07-01T07:30:00Z")).floats[:2]) == [2.0, 9.0]
    assert sample.warnings is None


@pytest.mark.parametrize("context", [None, {}, {"sent": None}])
def test_a_derived_column_whose_context_is_missing_is_missing_and_said(context: Any) -> None:
    sample = parcels().decode(parcel(context))
    assert math.isnan(sample.floats[2])
    assert sample.warnings == ["sent_hour is computed from context.sent, which is missing: taken as missing"]


def test_a_whole_number_may_be_written_with_a_point_and_a_word_for_missing_is_missing() -> None:
    sample = parcels().decode(parcel(legs=5.0, note=""))
    assert sample.floats[0] == 5.0
    assert sample.inputs.f1 == 5
    assert type(sample.inputs.f1) is int
    assert sample.inputs.f2 is None


def test_a_row_that_a_check_refuses_is_refused_by_its_name() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parcels().decode(parcel(note="lost"))
    assert [(problem.field, problem.expected) for problem in caught.value.errors] == [
        ("check not lost", 'note != "lost"')
    ]


def test_context_is_held_to_its_range() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parcels().decode(parcel({"load": 11, "sent": "2026-03-08T02:30:00"}))
    assert {problem.field for problem in caught.value.errors} == {"context.load", "context.sent"}


def test_half_a_character_is_refused() -> None:
    assert refuse(json.dumps(good_request()).replace('"a1"', '"\\ud800"').encode()).status == 400


def test_a_row_without_its_reference_value_where_that_would_be_refused() -> None:
    derived = (msgspec.structs.replace(parcels().schema.derived[0], expression="legs * 2", high=10, outside="reject"),)
    decoder = parcels(derived=derived, columns=("legs", "due_hour"))
    (reference,) = decoder.find_references({"legs": 9.0})
    assert decoder.refer(decoder.decode(parcel()), reference) is None


def test_a_zone_that_this_machine_lacks_is_refused_at_once() -> None:
    with pytest.raises(IntegrityError, match="Mars/Base"):
        parcels(features=(FeatureField(name="due", kind="datetime", zone="Mars/Base"),), columns=("due_hour",))
