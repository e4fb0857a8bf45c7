"""Reasons: on request or always, over every protocol that answers; of many rows in one extra run."""

import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from numpy.typing import NDArray

from shipworthy.bundle.verify import VerifiedPayload, verify_payload
from shipworthy.records.read import find_record
from shipworthy.serving.answer import NO_REASONS, Answer
from shipworthy.serving.decode import Sample
from shipworthy.serving.reasons import explain
from shipworthy.serving.run import infer
from shipworthy.serving.runtimes.load import load_runtime
from shipworthy.serving.runtimes.onnx import OnnxRuntime
from shipworthy.serving.runtimes.runtime import Runtime
from shipworthy.serving.servable import Servable, make_servable
from tests.serving.conftest import SYSTEM, WEIGHTS, Place, Running, good_request, linear_model, loans_policy
from tests.serving.conftest import start_server as start
from tests.serving.test_grpc import columns
from tests.serving.test_path import make_loans, run_jobs
from tests.serving.test_server import tensors

INFER = f"/v2/models/{SYSTEM}/infer"
INCOMES = [50.0, 5.0, 90.0, 1.0, 20.0, 0.5]


@pytest.fixture(scope="module")
def asked(shared_place: Place) -> Iterator[Running]:
    """A server that gives reasons on request."""
    running = start(shared_place.settings(grpc_port=0), shared_place.root / "stderr")
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture
def always(place: Place) -> Iterator[Running]:
    """A server whose answers always carry reasons."""
    place.deploy(place.publish(1, policy=loans_policy(reasons=2, reasons_always=True)))
    running = start(place.settings(grpc_port=0), place.root / "stderr")
    yield running
    running.stop(signal.SIGKILL)


def outputs(document: Any) -> dict[str, Any]:
    return {output["name"]: output["data"] for output in document["outputs"]}


def by_hand(servable: Servable, sample: Sample, decided: Any) -> dict[str, float]:
    """The change of each feature, one run of the model for each."""
    found = {}
    for reference in servable.references:
        floats = servable.decoder.refer(sample, reference)
        if floats is None or sample.floats[reference.place] == reference.value:
            continue
        other: Any = infer(servable, [Sample(None, None, None, False, floats=floats)])[0]
        found[reference.name] = other.probability[1] - decided.probability[1]
    return found


def test_many_rows_have_the_reasons_that_each_has_alone(place: Place) -> None:
    servable = make_loans(place, loans_policy(reasons=50))
    samples = [servable.decoder.decode_object(good_request(income=income, score=None)) for income in INCOMES]
    decided: Any = infer(servable, samples)
    runs = len(servable.runtime.runs)
    together = explain(servable, samples, decided)
    assert len(servable.runtime.runs) == runs + 1
    for sample, one, reasons in zip(samples, decided, together, strict=True):
        expected = by_hand(servable, sample, one)
        found = {change.feature: change.change for change in reasons.changes}
        assert found == pytest.approx(expected, abs=1e-9)
        assert "score" in found  # a missing value is not its reference
        sizes = [abs(change.change) for change in reasons.changes]
        assert sizes == sorted(sizes, reverse=True)
    assert "income" not in {change.feature for change in together[1].changes}  # that row has the reference


def test_a_reference_that_makes_a_row_impossible_gives_no_reason(place: Place) -> None:
    """A derived column that may not leave its range: debt 10 on the reference income 5 is 200 %."""
    schema = make_loans(place).schema
    narrow = schema.derived[0].__class__(**{**_fields(schema.derived[0]), "high": 150, "outside": "reject"})
    changed = schema.__class__(**{**_fields(schema), "derived": (narrow,)})
    place.publish(2, schema=changed, policy=loans_policy(reasons=50))
    directory = max(place.root.glob("payload-2-*"))
    servable = make_servable(verify_payload(directory), "loans:2", "sha256:0", load_runtime)
    sample = servable.decoder.decode_object(good_request())
    found = explain(servable, [sample], infer(servable, [sample]))[0]  # type: ignore[arg-type]
    assert found is not None
    assert [change.feature for change in found.changes] == ["debt", "score"]


def _fields(struct: Any) -> dict[str, Any]:
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


def onnx_of(payload: VerifiedPayload) -> bytes:
    assert isinstance(payload.model, bytes)
    return payload.model


class FussyRuntime(OnnxRuntime):
    """Does not like the reference income of 5, and takes its time."""

    seconds = 0.0

    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        time.sleep(self.seconds)
        if (matrix[:, 1] == 7.0).any() and (matrix[:, 0] == 5.0).any():
            raise RuntimeError("the model does not like a row")
        return super().run(matrix)


def fussy(place: Place, **changes: Any) -> Servable:
    place.publish(1, policy=loans_policy(reasons_always=True, **changes))
    directory = max(place.root.glob("payload-*"))
    return make_servable(
        verify_payload(directory), "loans:1", "sha256:0", lambda payload: FussyRuntime(onnx_of(payload))
    )


def test_a_model_that_fails_on_one_rows_reasons_costs_that_rows_reasons(place: Place) -> None:
    servable = fussy(place)
    samples = [servable.decoder.decode_object(good_request(debt=debt)) for debt in (10, 7, 3)]
    decided: Any = infer(servable, samples)
    assert [reasons is None for reasons in explain(servable, samples, decided)] == [False, True, False]


def test_an_answer_does_not_wait_for_reasons_that_would_come_too_late(place: Place) -> None:
    servable = fussy(place, timeout_s=0.6)
    servable.runtime.seconds = 0.35  # type: ignore[attr-defined]
    outcomes, _ = run_jobs(place, servable, 1)
    (answer,) = outcomes
    assert isinstance(answer, Answer)
    assert (answer.source, answer.reasons, answer.warnings) == ("model", None, [NO_REASONS])


def test_reasons_are_given_on_request_alone(asked: Running) -> None:
    assert "reasons" not in asked.predict(good_request())[1]
    answers = asked.predict([good_request(), {**good_request(), "reasons": True}])[1]
    assert ["reasons" in answer for answer in answers] == [False, True]
    assert "reasons" not in outputs(asked.call("POST", INFER, tensors(2))[1])
    by_parameter = outputs(asked.call("POST", INFER, {**tensors(2), "parameters": {"reasons": True}})[1])
    by_name = outputs(asked.call("POST", INFER, {**tensors(2), "outputs": [{"name": "reasons"}]})[1])
    assert list(by_name) == ["reasons"]
    assert by_parameter["reasons"] == by_name["reasons"]
    assert json.loads(by_name["reasons"][1]) == answers[1]["reasons"]


def test_always_is_over_every_protocol_and_in_the_record(always: Running, place: Place) -> None:
    _, answer = always.predict({**good_request(), "id": "r-1"})
    reasons = answer["reasons"]
    assert (reasons["method"], reasons["score"]) == ("ablation-to-reference", "probability of 1")
    assert [change["feature"] for change in reasons["changes"]] == ["income", "debt"]
    assert all(item["reasons"] == reasons for item in always.predict([good_request()] * 3)[1])
    assert find_record(place.records, answer["prediction_id"]).reasons == reasons
    _, document, _ = always.call("POST", INFER, tensors(2))
    assert [json.loads(text) for text in outputs(document)["reasons"]] == [reasons] * 2
    client = tritonclient.grpc.InferenceServerClient(always.grpc)
    texts = client.infer(SYSTEM, columns(2)).as_numpy("reasons")
    client.close()
    assert [json.loads(text) for text in texts] == [reasons] * 2
    described = always.call("GET", "/openapi.json")[1]["components"]["schemas"]["Answer"]
    assert "reasons" in described["required"]


def test_a_contract_without_reasons_gives_none_and_names_no_such_output(place: Place) -> None:
    place.deploy(place.publish(1, policy=loans_policy(reasons=0)))
    server = start(place.settings(), place.root / "stderr")
    try:
        assert server.predict({**good_request(), "reasons": True})[1]["reasons"] is None
        status, document, _ = server.call("POST", INFER, {**tensors(1), "outputs": [{"name": "reasons"}]})
        assert (status, document["errors"][0]["field"]) == (400, "outputs.reasons")
    finally:
        server.stop(signal.SIGKILL)


def test_a_fallback_has_no_reasons(place: Place) -> None:
    place.publish(1, policy=loans_policy(reasons_always=True), model=linear_model([float("nan"), *WEIGHTS[1:]]))
    directory = max(place.root.glob("payload-*"))
    servable = make_servable(verify_payload(directory), "loans:1", "sha256:0", load_runtime)
    outcomes, _ = run_jobs(place, servable, 1)
    (answer,) = outcomes
    assert isinstance(answer, Answer)
    assert (answer.source, answer.reasons) == ("fallback", None)


def test_room_for_runs_counts_the_reasons_that_are_always_given(place: Place) -> None:
    """The same model, slow enough that its reasons matter: fewer rows fit into a run."""
    slower = loans_policy(timeout_s=0.4, reasons_always=True)
    limits = []
    for version, policy in enumerate((loans_policy(timeout_s=0.4), slower), 1):
        place.publish(version, policy=policy)
        directory = max(place.root.glob(f"payload-{version}-*"))
        limits.append(make_servable(verify_payload(directory), "loans:1", "sha256:0", load_slowly).pace.limit)
    assert limits[1] < limits[0] == 256


class SlowRuntime(OnnxRuntime):
    def run(self, matrix: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        time.sleep(0.03)
        return super().run(matrix)


def load_slowly(payload: VerifiedPayload) -> Runtime:
    return SlowRuntime(onnx_of(payload))
