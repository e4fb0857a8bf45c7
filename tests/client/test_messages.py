"""Requests become JSON or name what JSON does not have; answers become values or typed errors."""

import copy
import json
import math
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.client.messages import (
    MAX_LIST_BYTES,
    judge_attempt,
    plan_parts,
    read_health,
    read_prediction,
    read_predictions,
    read_report,
    write_outcomes,
    write_prediction_request,
)
from shipworthy.client.retries import Failure
from shipworthy.client.wire import Answer
from shipworthy.kernel.errors import (
    AccessError,
    DeadlineError,
    FieldProblem,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    UnavailableError,
)

PREDICTION = {
    "prediction": "1",
    "probability": {"1": 0.9, "0": 0.1},
    "interval": None,
    "confidence": 0.9,
    "decision": "approve",
    "prediction_id": "p_1",
    "source": "model",
    "handling": "automatic",
    "release": "loans:1",
    "warnings": ["a"],
    "a field of a later version": 1,
}


def answer(status: int, document: Any, **headers: str) -> Answer:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, content, True)


def failure(status: int, document: Any, **headers: str) -> Failure:
    found = judge_attempt(answer(status, document, **headers), 0.0)
    assert isinstance(found, Failure)
    return found


def test_a_request_says_only_what_it_was_given() -> None:
    assert json.loads(write_prediction_request({"a": 1}, None, None, False)) == {"inputs": {"a": 1}}
    full = write_prediction_request(MappingProxyType({"a": 1}), MappingProxyType({"b": None}), "i", True)
    assert json.loads(full) == {"inputs": {"a": 1}, "context": {"b": None}, "id": "i", "reasons": True}


def test_every_value_that_json_does_not_have_is_named() -> None:
    inputs = {"ok": 1.5, "nan": math.nan, "whole": np.int64(5), "list": [1, {2}], "float": np.float64(1)}
    with pytest.raises(InvalidRequestError, match=r"inputs\.whole: expected a text, .*, got int64 5") as caught:
        write_prediction_request(inputs, {"when": object}, None, False)
    assert [problem.field for problem in caught.value.problems] == [
        "inputs.nan",
        "inputs.whole",
        "inputs.list[1]",
        "context.when",
    ]
    with pytest.raises(InvalidRequestError, match=r"\[1\]\.value: expected"):
        write_outcomes([{"id": "a", "value": "1"}, {"id": "b", "value": math.inf}])


def test_what_refers_to_itself_is_refused_and_not_followed() -> None:
    inputs: dict[str, Any] = {}
    inputs["again"] = inputs
    with pytest.raises(InvalidRequestError, match="expected fewer levels"):
        write_prediction_request(inputs, None, None, False)


@given(kinds=st.lists(st.sampled_from(["id", "no id", "bad"]), max_size=12), rows=st.integers(1, 4))
def test_parts_hold_every_request_once_in_order_or_it_is_refused(kinds: list[str], rows: int) -> None:
    requests = [
        {"inputs": {"n": place if kind != "bad" else math.nan}, **({"id": str(place)} if kind == "id" else {})}
        for place, kind in enumerate(kinds)
    ]
    parts, refused = plan_parts(requests, rows)
    assert sorted([*refused, *(place for part in parts for place in part.places)]) == list(range(len(kinds)))
    for part in parts:
        assert 0 < len(part.places) <= rows
        assert json.loads(part.content) == [requests[place] for place in part.places]
        assert part.has_ids == all(kinds[place] == "id" for place in part.places)


def test_a_list_is_cut_at_ten_thousand_and_before_the_server_finds_it_too_large() -> None:
    parts, _ = plan_parts([{"inputs": {}}] * 25_001)
    assert [len(part.places) for part in parts] == [10_000, 10_000, 5_001]
    parts, _ = plan_parts([{"inputs": {"text": "x" * 10**6}}] * 40)
    assert [len(part.places) for part in parts] == [15, 15, 10]
    assert max(len(part.content) for part in parts) <= MAX_LIST_BYTES + 2


def test_a_prediction_ignores_what_a_later_version_adds() -> None:
    found = read_prediction(answer(200, PREDICTION))
    assert (found.decision, found.warnings, found.reasons, found.interval) == ("approve", ("a",), None, None)
    assert read_prediction(answer(200, {**PREDICTION, "interval": [1, 2]})).interval == (1, 2)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[" * 100_000,
        b"\xff",
        [],
        1,
        {"prediction": "1"},
        {**PREDICTION, "warnings": 1},
        {**PREDICTION, "interval": 1},
        {**PREDICTION, "interval": [1, 2, 3]},
    ],
)
def test_what_is_no_prediction_is_said_to_be_none(document: Any) -> None:
    with pytest.raises(UnavailableError, match=r"The answer is not .*; is this the address") as caught:
        read_prediction(answer(200, document))
    assert caught.value.may_have_answered
    for read in (lambda: read_predictions(answer(200, [document]), 1), lambda: read_report(answer(200, {"x": 1}))):
        if isinstance(document, bytes):
            continue
        with pytest.raises(UnavailableError, match="The answer is not"):
            read()


def test_a_list_has_an_answer_or_an_error_for_each_and_no_other_length() -> None:
    bad = {"status": 422, "detail": "1 field", "errors": [{"field": "inputs.a", "expected": "a number", "got": "x"}]}
    full = {"status": 503, "detail": "The disk is full."}
    first, second, third = read_predictions(answer(200, [PREDICTION, bad, full]), 3)
    assert first == read_prediction(answer(200, PREDICTION))
    assert isinstance(second, InvalidRequestError)
    assert second.problems == (FieldProblem("inputs.a", "a number", "x"),)
    assert str(second) == "1 field\ninputs.a: expected a number, got x"
    assert isinstance(third, UnavailableError)
    with pytest.raises(UnavailableError, match="not a list of 2 predictions"):
        read_predictions(answer(200, [PREDICTION]), 2)


@pytest.mark.parametrize(
    ("status", "headers", "error", "repeat"),
    [
        (301, {"location": "https://evil.example"}, UnavailableError, "never"),
        (400, {}, InvalidRequestError, "never"),
        (401, {}, AccessError, "never"),
        (403, {}, AccessError, "never"),
        (404, {}, NotFoundError, "never"),
        (408, {}, UnavailableError, "never"),
        (413, {}, InvalidRequestError, "never"),
        (422, {}, InvalidRequestError, "never"),
        (429, {}, RateLimitedError, "with id"),
        (429, {"retry_after": "3"}, RateLimitedError, "always"),
        (500, {"retry_after": "3"}, UnavailableError, "never"),
        (502, {"retry_after": "3"}, UnavailableError, "with id"),
        (503, {}, UnavailableError, "with id"),
        (503, {"retry_after": "3"}, UnavailableError, "always"),
        (503, {"retry_after": "soon"}, UnavailableError, "with id"),
        (504, {}, UnavailableError, "with id"),
    ],
)
def test_a_status_has_its_error_and_says_whether_to_try_again(
    status: int, headers: dict[str, str], error: type[Exception], repeat: str
) -> None:
    for document in ({"detail": "because"}, [1], b"<html>", {"detail": ["odd"], "errors": {"odd": 1}}):
        found = failure(status, document, **headers)
        assert (type(found.error), found.repeat) == (error, repeat)
        assert found.wait_s == (3.0 if repeat == "always" else None)
        assert getattr(found.error, "wait_s", None) == found.wait_s
    assert getattr(found.error, "may_have_answered", False) == (status in (502, 504))


def test_a_200_and_a_failure_pass_as_they_are() -> None:
    good, bad = answer(200, {}), Failure(UnavailableError("x"), "never")
    assert judge_attempt(good, 0.0) is good
    assert judge_attempt(bad, 0.0) is bad


def test_a_servers_words_are_repeated_to_a_bound() -> None:
    assert len(str(failure(500, {"detail": "x" * 10**6}).error)) < 3_000


def test_health_is_told_also_when_it_is_not_well() -> None:
    assert read_health(answer(503, {"ready": False}))["ready"] is False
    with pytest.raises(UnavailableError, match="not a report on its health"):
        read_health(answer(200, {}))
    with pytest.raises(NotFoundError):
        read_health(answer(404, {}))


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequestError("a", (FieldProblem("inputs.a", "b", "c"),)),
        RateLimitedError("a", wait_s=3.0),
        UnavailableError("a", wait_s=1.0, may_have_answered=True),
        DeadlineError("a", may_have_answered=True),
    ],
)
def test_errors_can_be_copied_whole_as_on_their_way_to_another_process(error: Exception) -> None:
    for other in (copy.copy(error), copy.deepcopy(error)):
        assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
