"""The real server, over HTTP."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from shipworthy.evaluation.processes import usage
from shipworthy.kernel.errors import UsageError
from shipworthy.records.read import find_record, read_records
from shipworthy.serving.settings import check_settings
from tests.serving.conftest import (
    SYSTEM,
    WEIGHTS,
    Place,
    Running,
    good_request,
    linear_model,
    loans_policy,
    start_server,
)

HEAVY = {
    "pandas",
    "polars",
    "pyarrow",
    "sklearn",
    "scipy",
    "sqlalchemy",
    "pydantic",
    "yaml",
    "onnx",
    "lightgbm",
    "click",
}


def test_an_answer_has_every_field_and_is_the_models(server: Running) -> None:
    status, answer = server.predict(good_request())
    assert status == 200
    row = np.array([[50, 10, 0, 4, 1, 0, 40, 20]], dtype=np.float32)
    expected = onnxruntime.InferenceSession(linear_model(WEIGHTS)).run(None, {"features": row})[0][0]
    assert answer["probability"] == {"0": pytest.approx(expected[0]), "1": pytest.approx(expected[1])}
    assert {**answer, "probability": None, "confidence": None, "prediction_id": None} == {
        "prediction": "1",
        "probability": None,
        "interval": None,
        "confidence": None,
        "decision": "approve",
        "prediction_id": None,
        "source": "model",
        "handling": "automatic",
        "release": "loans:1",
        "warnings": [],
    }


def test_an_answered_prediction_is_on_disk(server: Running, shared_place: Place) -> None:
    request = {**good_request(), "id": "application-1"}
    _, answer = server.predict(request)
    record = find_record(shared_place.records, answer["prediction_id"])
    assert record.id == "application-1"
    assert record.inputs == request["inputs"]
    assert record.context == request["context"]
    assert record.decision == answer["decision"]
    assert record.probability == answer["probability"]
    assert abs(record.time - time.time()) < 60
    assert 0 < record.latency_ms < 10_000


def test_a_bad_request_is_answered_with_every_field_at_fault(server: Running) -> None:
    status, problem = server.predict(good_request(income="001", purpose="boat"))
    assert status == 422
    assert problem["title"] == "The request is not valid"
    assert {error["field"] for error in problem["errors"]} == {"inputs.income", "inputs.purpose"}


def test_a_list_is_answered_item_by_item(server: Running) -> None:
    items = [good_request(income=10 + i % 900, age="x" if i % 10 == 3 else 30) for i in range(1000)]
    status, answers = server.predict(items)
    assert status == 200
    assert [answer.get("status") for answer in answers[:5]] == [None, None, None, 422, None]
    assert sum("status" in answer for answer in answers) == 100
    alone = server.predict(items[0])[1]
    assert {**alone, "prediction_id": ""} == {**answers[0], "prediction_id": ""}
    assert len({answer["prediction_id"] for answer in answers if "prediction_id" in answer}) == 900


def test_a_list_has_an_end(server: Running) -> None:
    assert server.predict([]) == (200, [])
    status, answers = server.predict([good_request()] * 10_000)
    assert (status, len(answers)) == (200, 10_000)
    assert server.predict([{}] * 10_001)[0] == 413


def test_reasons_name_what_moved_the_score(server: Running) -> None:
    _, answer = server.predict({**good_request(), "reasons": True})
    reasons = answer["reasons"]
    assert reasons["method"] == "ablation-to-reference"
    assert [change["feature"] for change in reasons["changes"]] == ["income", "debt", "score"]
    ablated = server.predict(good_request(income=5.0))[1]
    expected = ablated["probability"]["1"] - answer["probability"]["1"]
    assert reasons["changes"][0]["change"] == pytest.approx(expected, abs=1e-6)


def test_paths_and_methods_that_do_not_exist_are_refused(server: Running) -> None:
    assert server.call("GET", "/nothing")[0] == 404
    assert server.call("POST", "/v1/systems/other/predict", {})[0] == 404
    assert server.call("GET", "/v1/systems/../../etc/passwd")[0] == 404
    status, _, headers = server.call("GET", f"/v1/systems/{SYSTEM}/predict")
    assert (status, headers["allow"]) == (405, "POST")
    status, _, _ = server.call("POST", f"/v1/systems/{SYSTEM}/predict", b"x", {"content-type": "text/csv"})
    assert status == 415
    status, _, _ = server.call("POST", f"/v1/systems/{SYSTEM}/predict", b"x", {"content-encoding": "gzip"})
    assert status == 415
    header = {"inference-header-content-length": "2"}
    status, document, _ = server.call("POST", f"/v1/systems/{SYSTEM}/predict", b"{}", header)
    assert status == 400
    assert "for inference requests alone" in document["detail"]


def test_health_and_metrics_tell_what_is_served(server: Running) -> None:
    server.predict(good_request())
    assert server.call("GET", "/v2/health/live")[0] == 200
    status, ready, _ = server.call("GET", "/v2/health/ready")
    assert (status, ready["ready"], ready["releases"]) == (200, True, ["loans:1"])
    status, metrics, headers = server.call("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert b'shipworthy_answers_total{source="model",handling="automatic"}' in metrics
    assert b'shipworthy_release_info{release="loans:1"} 1' in metrics


def test_the_openapi_document_promises_what_the_decoder_checks(server: Running) -> None:
    status, document, _ = server.call("GET", "/openapi.json")
    assert status == 200
    inputs = document["components"]["schemas"]["Request"]["properties"]["inputs"]
    assert inputs["properties"]["income"] == {"type": "number", "minimum": 0.0, "maximum": 1000.0}
    assert inputs["properties"]["purpose"]["enum"] == ["purchase", "refinance"]
    assert set(inputs["required"]) == {"income", "debt", "purpose", "age"}


# --- Open Inference Protocol


def tensors(rows: int = 1, **changes: Any) -> dict[str, Any]:
    kinds = {"score": "INT64", "age": "INT64", "owner": "BOOL", "purpose": "BYTES", "region": "BYTES"}
    inputs = good_request(**changes)["inputs"]
    return {
        "id": "call-1",
        "inputs": [
            {
                "name": name,
                "datatype": kinds.get(name, "FP64"),
                "shape": [rows, 1],
                "data": value if isinstance(value, list) else [value] * rows,
            }
            for name, value in inputs.items()
        ],
    }


def test_tensors_are_answered_as_plain_requests_are(server: Running, shared_place: Place) -> None:
    request = {**tensors(), "parameters": {"id": "oip-1", "context": {"applicant": "a1", "sex": "f"}}}
    status, document, _ = server.call("POST", f"/v2/models/{SYSTEM}/infer", request)
    assert status == 200
    outputs = {output["name"]: output for output in document["outputs"]}
    plain = server.predict(good_request())[1]
    assert (document["model_name"], document["model_version"], document["id"]) == (SYSTEM, "1", "call-1")
    assert outputs["probability"]["shape"] == [1, 2]
    assert outputs["probability"]["data"] == list(plain["probability"].values())
    assert outputs["decision"]["data"] == ["approve"]
    record = find_record(shared_place.records, outputs["prediction_id"]["data"][0])
    assert (record.id, record.context) == ("oip-1", {"applicant": "a1", "sex": "f"})


def test_a_bad_row_refuses_a_batch_of_tensors_unless_partial(server: Running) -> None:
    request = tensors(3, income=[10.0, -1.0, 20.0])
    status, document, _ = server.call("POST", f"/v2/models/{SYSTEM}/infer", request)
    assert status == 400
    assert document["error"].startswith("Row 1: 1 field cannot be accepted: inputs.income")
    status, document, _ = server.call(
        "POST", f"/v2/models/{SYSTEM}/infer", {**request, "parameters": {"partial": True}}
    )
    outputs = {output["name"]: output["data"] for output in document["outputs"]}
    assert status == 200
    assert [text.partition(" ")[0] for text in outputs["status"]] == ["ok", "1", "ok"]
    assert outputs["confidence"][1] is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shape": [2]}, "shape [n]"),
        ({"datatype": "FP64x"}, "datatype FP64"),
        ({"data": [[1, 2]]}, "data of shape"),
        ({"name": "debt"}, "each input once"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(server: Running, change: dict[str, Any], said: str) -> None:
    request = tensors()
    request["inputs"][0].update(change)
    status, document, _ = server.call("POST", f"/v2/models/{SYSTEM}/infer", request)
    assert status == 400
    assert said in document["error"]


def test_metadata_describes_the_model(server: Running) -> None:
    status, document, _ = server.call("GET", f"/v2/models/{SYSTEM}/versions/1")
    assert status == 200
    assert document["versions"] == ["1"]
    assert {"name": "score", "datatype": "INT64", "shape": [-1]} in document["inputs"]
    assert {"name": "probability", "datatype": "FP64", "shape": [-1, 2]} in document["outputs"]
    assert server.call("GET", f"/v2/models/{SYSTEM}/ready")[0] == 200
    assert server.call("GET", f"/v2/models/{SYSTEM}/versions/2/ready")[0] == 404
    assert server.call("GET", "/v2")[1]["name"] == "shipworthy"


# --- access


def test_only_a_valid_token_may_predict(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start(open=False)
    for header in ({}, {"authorization": "Bearer nonsense"}, {"authorization": "Basic abc"}):
        status, _, headers = running.call("POST", f"/v1/systems/{SYSTEM}/predict", good_request(), header)
        assert (status, headers["www-authenticate"]) == (401, 'Bearer realm="shipworthy"')
    token = place.mint()
    time.sleep(0.3)
    assert running.predict(good_request(), {"authorization": f"Bearer {token}"})[0] == 200
    for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/v2", f"/v2/models/{SYSTEM}/ready"):
        assert running.call("GET", path)[0] == 200
    for path in ("/openapi.json", f"/v2/models/{SYSTEM}", f"/v2/models/{SYSTEM}/versions/1"):
        assert running.call("GET", path)[0] == 401
    other = place.mint(scopes=("predict:other",))
    expired = place.mint(expires=time.time() - 1)
    time.sleep(0.3)
    assert running.predict(good_request(), {"authorization": f"Bearer {token}"})[0] == 401  # revoked
    assert running.predict(good_request(), {"authorization": f"Bearer {other}"})[0] == 401  # revoked too
    assert running.predict(good_request(), {"authorization": f"Bearer {expired}"})[0] == 401
    wrong = place.mint(scopes=("predict:other",))
    time.sleep(0.3)
    assert running.predict(good_request(), {"authorization": f"Bearer {wrong}"})[0] == 403


def test_an_open_server_answers_no_web_page(server: Running) -> None:
    assert server.predict(good_request(), {"origin": "https://evil.example"})[0] == 403
    assert server.predict(good_request(), {"origin": "null"})[0] == 403
    assert server.predict(good_request(), {"host": "evil.example"})[0] == 421
    assert server.predict(good_request(), {"host": "localhost:8080"})[0] == 200


def test_an_open_or_plain_server_is_never_offered_to_others(place: Place) -> None:
    with pytest.raises(UsageError, match="not loopback"):
        check_settings(place.settings(host="0.0.0.0"))  # noqa: S104
    with pytest.raises(UsageError, match="tls-terminated-upstream"):
        check_settings(place.settings(host="10.0.0.1", open=False))
    check_settings(place.settings(host="10.0.0.1", open=False, tls_terminated_upstream=True))
    with pytest.raises(UsageError, match="0 workers"):
        check_settings(place.settings(workers=0))
    with pytest.raises(UsageError, match="given 10 bytes"):
        check_settings(place.settings(worker_memory_bytes=10))


# --- the process


def test_it_starts_fast_small_and_without_heavy_libraries(place: Place, tmp_path: Path) -> None:
    place.deploy(place.publish(1))
    probe = tmp_path / "probe.py"
    probe.write_text(
        "import sys\nfrom shipworthy.serving import server\n"
        "if '--line' not in sys.argv:\n"
        "    code = server.main([__file__])\n"
        "else:\n"
        "    from shipworthy.serving import worker_process\n"
        "    code = worker_process.main()\n"
        "roots = sorted({name.partition('.')[0] for name in sys.modules})\n"
        "sys.stderr.write('modules ' + ' '.join(roots) + '\\n')\n"
        "sys.stderr.write('ours ' + ' '.join(n for n in sys.modules if n.startswith('shipworthy')) + '\\n')\n"
        "sys.exit(code)\n"
    )
    log = tmp_path / "log"
    started = time.perf_counter()
    running = start_server(place.settings(), log, script=probe)
    assert running.predict(good_request())[0] == 200
    took = time.perf_counter() - started
    assert usage(running.workers[0]).memory_bytes < 100 * 2**20
    assert usage(running.process.pid).memory_bytes - usage(running.workers[0]).memory_bytes < 30 * 2**20
    assert running.stop() == 0
    told = [line.split() for line in log.read_text().splitlines()]
    of_worker, of_supervisor = [words[1:] for words in told if words[0] == "modules"]
    assert HEAVY.isdisjoint(of_worker)
    assert {"numpy", "onnxruntime", "cryptography", "uvloop"}.isdisjoint(of_supervisor)
    for ours in [words[1:] for words in told if words[0] == "ours"]:
        assert {"shipworthy.ledger", "shipworthy.contract.sections", "shipworthy.contract.types"}.isdisjoint(ours)
    assert took < 3  # goal 0.6 s alone on the machine: bench/serving.py prints it


def test_a_taken_port_is_named(server: Running, place: Place, tmp_path: Path) -> None:
    place.deploy(place.publish(1))
    with pytest.raises(RuntimeError, match=rf"Port {server.port} of 127\.0\.0\.1 cannot be listened on"):
        start_server(place.settings(port=server.port), tmp_path / "log")


def test_nothing_deployed_is_said(place: Place, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="nothing is deployed"):
        start_server(place.settings(), tmp_path / "log")


def test_a_tampered_bundle_is_not_served(place: Place, tmp_path: Path) -> None:
    release = place.publish(1)
    place.deploy(release)
    model = place.live / "bundles" / release.digest.removeprefix("sha256:") / "payload" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"\x00")
    with pytest.raises(RuntimeError, match=r"model\.onnx has digest"):
        start_server(place.settings(), tmp_path / "log")


def test_sigterm_drains(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start()
    assert running.predict(good_request())[0] == 200
    assert running.stop(signal.SIGTERM) == 0
    assert len(list(read_records(place.records))) == 1


# --- switching


def wait_for(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_new_deployment_answers_and_a_bad_one_does_not(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start()
    second = place.publish(2, policy=loans_policy(threshold=0.9))
    place.deploy(second)
    wait_for(lambda: running.predict(good_request())[1]["release"] == "loans:2")
    assert running.predict(good_request())[1]["decision"] == "refer"  # the threshold travelled
    (place.live / "deployment").write_bytes(b"garbage")
    wait_for(lambda: running.call("GET", "/v2/health/ready")[1]["refused"] is not None)
    assert running.predict(good_request())[1]["release"] == "loans:2"
    assert b"shipworthy_deployments_refused_total 1" in running.call("GET", "/metrics")[1]
    place.deploy(second, generation=1)  # an old generation, validly signed
    wait_for(lambda: b"refused_total 2" in running.call("GET", "/metrics")[1])
    assert running.predict(good_request())[1]["release"] == "loans:2"
    place.deploy(place.publish(3), generation=9)
    wait_for(lambda: running.predict(good_request())[1]["release"] == "loans:3")
    assert running.call("GET", "/v2/health/ready")[1]["refused"] is None


def test_two_releases_share_the_traffic_by_subject(place: Place, start: Callable[..., Running]) -> None:
    first, second = place.publish(1), place.publish(2)
    halves = [
        type(first)(release=each.release, digest=each.digest, payload=each.payload, share=0.5)
        for each in (first, second)
    ]
    place.deploy(*halves)
    running = start()
    seen: dict[str, set[str]] = {}
    requests = []
    for subject in range(200):
        request = good_request()
        request["context"]["applicant"] = str(subject)
        requests += [request, request]
    for request, answer in zip(requests, running.predict(requests)[1], strict=True):
        seen.setdefault(request["context"]["applicant"], set()).add(answer["release"])
    assert all(len(releases) == 1 for releases in seen.values())
    assert 60 < sum(releases == {"loans:1"} for releases in seen.values()) < 140
    status, document, _ = running.call("POST", f"/v2/models/{SYSTEM}/versions/2/infer", tensors())
    assert (status, document["model_version"]) == (200, "2")


def test_the_server_needs_only_local_files(place: Place, start: Callable[..., Running], tmp_path: Path) -> None:
    """What it serves lies below live/, keys/ and records/; there is no ledger in this folder at all."""
    place.deploy(place.publish(1))
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("payload")) == ["keys", "live"]
    assert start().predict(good_request())[0] == 200


def test_json_settings_are_read_strictly() -> None:
    command = [
        sys.executable,
        "-m",
        "shipworthy.serving.server",
        "--settings",
        json.dumps({"live": "x", "nonsense": 1}),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert "nonsense" in done.stderr or "records" in done.stderr
