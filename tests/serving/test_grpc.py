"""The Open Inference Protocol over gRPC, asked by a client that we did not write, and by hand where it is too kind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2

from shipworthy.bundle.format import AccessToken
from shipworthy.kernel.errors import UsageError
from shipworthy.records.read import find_record, read_records
from shipworthy.security.tokens import hash_token
from shipworthy.serving.inference_grpc import METHODS
from shipworthy.serving.inference_messages import FIELDS, MESSAGES, SERVICE
from shipworthy.serving.settings import check_settings
from shipworthy.serving.tensors import DTYPES, write_tensor
from tests.certificates import DAY, NOW, Authority, Pair
from tests.serving.conftest import SYSTEM, Place, Running, good_request, loans_policy, start_server
from tests.serving.faulty_server import LATE, SLOW
from tests.serving.test_server import wait_for
from tests.serving.test_tensors import KINDS

FAULTY = Path(__file__).parent / "faulty_server.py"


@pytest.fixture(scope="module")
def server(shared_place: Place) -> Iterator[Running]:
    """One server with release `loans:1` for the whole file, which speaks gRPC too."""
    running = start_server(shared_place.settings(grpc_port=0, receive_timeout_s=1), shared_place.root / "stderr")
    yield running
    running.stop(signal.SIGKILL)


@pytest.fixture
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(server.grpc)
    yield made
    made.close()


def columns(rows: int = 1, **changes: Any) -> list[Any]:
    inputs = []
    for name, value in good_request(**changes)["inputs"].items():
        datatype = KINDS.get(name, "FP64")
        dtype = object if datatype == "BYTES" else DTYPES[datatype]
        column = np.array(value if isinstance(value, list) else [value] * rows, dtype=dtype)
        inputs.append(triton.InferInput(name, column.shape, datatype))
        inputs[-1].set_data_from_numpy(column)
    return inputs


def typed(rows: int = 1, **changes: Any) -> Any:
    """A request whose values stand in the fields of their types."""
    message = MESSAGES["ModelInferRequest"](model_name=SYSTEM)
    for name, value in good_request(**changes)["inputs"].items():
        datatype = KINDS.get(name, "FP64")
        tensor = message.inputs.add(name=name, datatype=datatype, shape=[rows])
        values = value if isinstance(value, list) else [value] * rows
        field = {"FP64": "fp64", "INT64": "int64", "BOOL": "bool", "BYTES": "bytes"}[datatype]
        encoded = [each.encode() for each in values] if datatype == "BYTES" else values
        getattr(tensor.contents, f"{field}_contents").extend(encoded)
    return message


def ask(
    server: Running, method: str, message: Any = b"", credentials: Any = None, **options: Any
) -> tuple[Any, dict[str, str]]:
    """The answer's message, or the error, and the metadata after it."""
    made = grpc.insecure_channel(server.grpc) if credentials is None else grpc.secure_channel(server.grpc, credentials)
    with made as channel:
        call = channel.unary_unary(f"/{SERVICE}/{method}")
        content = message if isinstance(message, bytes) else message.SerializeToString()
        try:
            answer = call(content, timeout=20, **options)
        except grpc.RpcError as error:
            return error, dict(error.trailing_metadata() or ())  # type: ignore[attr-defined]
    return MESSAGES[f"{method}Response"].FromString(answer), {}


def code_of(found: tuple[Any, dict[str, str]]) -> str:
    return str(found[0].code().name) if isinstance(found[0], grpc.RpcError) else "OK"


# --- what a client sees


def test_tritonclient_reads_health_and_metadata(client: triton.InferenceServerClient, server: Running) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(SYSTEM)
    assert client.is_model_ready(SYSTEM, "1")
    with pytest.raises(triton.InferenceServerException, match="No such model, or no such version"):
        client.is_model_ready(SYSTEM, "9")
    with pytest.raises(triton.InferenceServerException, match="No such model"):
        client.get_model_metadata("nothing")
    assert client.get_server_metadata(as_json=True) == server.call("GET", "/v2")[1]
    found = client.get_model_metadata(SYSTEM, as_json=True)
    by_http = server.call("GET", f"/v2/models/{SYSTEM}")[1]
    assert (found["versions"], found["platform"]) == (["1"], by_http["platform"])
    for side in ("inputs", "outputs"):
        shapes = [{**tensor, "shape": [int(size) for size in tensor["shape"]]} for tensor in found[side]]
        assert shapes == by_http[side]


@pytest.mark.parametrize("rows", [1, 300])
def test_tritonclient_is_answered_as_http_is(
    client: triton.InferenceServerClient, server: Running, shared_place: Place, rows: int
) -> None:
    ids = [f"grpc-{rows}-{row}" for row in range(rows)]
    parameters = {"context": '{"applicant": "a1", "sex": "f"}', "ids": msgspec.json.encode(ids).decode()}
    result = client.infer(SYSTEM, columns(rows), model_version="1", request_id="r-1", parameters=parameters)
    plain = server.predict(good_request())[1]
    assert result.as_numpy("decision").tolist() == [plain["decision"].encode()] * rows
    assert result.as_numpy("probability").tolist() == [list(plain["probability"].values())] * rows
    assert result.as_numpy("confidence").tolist() == [plain["confidence"]] * rows
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("r-1", SYSTEM, "1")
    record = find_record(shared_place.records, result.as_numpy("prediction_id")[-1].decode())
    assert (record.id, record.context) == (ids[-1], {"applicant": "a1", "sex": "f"})


def test_outputs_are_those_that_are_asked_for(client: triton.InferenceServerClient) -> None:
    outputs = [triton.InferRequestedOutput("decision"), triton.InferRequestedOutput("source")]
    answer = client.infer(SYSTEM, columns(2), outputs=outputs).get_response()
    assert [output.name for output in answer.outputs] == ["decision", "source"]
    assert len(answer.raw_output_contents) == 2
    with pytest.raises(triton.InferenceServerException, match=r"Outputs are prediction, .*outputs\.nothing"):
        client.infer(SYSTEM, columns(), outputs=[triton.InferRequestedOutput("nothing")])


def test_values_in_fields_of_their_types_are_answered_so(server: Running) -> None:
    answer, _ = ask(server, "ModelInfer", typed(2))
    plain = server.predict(good_request())[1]
    found = {output.name: output.contents for output in answer.outputs}
    assert not answer.raw_output_contents
    assert list(found["decision"].bytes_contents) == [plain["decision"].encode()] * 2
    assert list(found["probability"].fp64_contents) == [*plain["probability"].values()] * 2


def test_a_missing_number_is_nan_and_a_half_float_comes_raw(client: triton.InferenceServerClient) -> None:
    inputs = columns(2)
    half = np.array([50.0, 60.0], dtype=np.float16)
    inputs[0] = triton.InferInput("income", [2], "FP16")
    inputs[0].set_data_from_numpy(half)
    by_half = client.infer(SYSTEM, inputs).as_numpy("probability").tolist()
    assert by_half == client.infer(SYSTEM, columns(2, income=[50.0, 60.0])).as_numpy("probability").tolist()
    missing = columns(2, income=[50.0, float("nan")])
    with pytest.raises(triton.InferenceServerException, match=r"Row 1: .*inputs\.income.* got null|Row 1: .*income"):
        client.infer(SYSTEM, missing)
    found = client.infer(SYSTEM, missing, parameters={"partial": True})
    assert found.as_numpy("status")[0] == b"ok"
    assert np.isnan(found.as_numpy("confidence")).tolist() == [False, True]


def test_our_messages_are_those_of_the_protocol() -> None:
    """Names, numbers and types of every field are what another implementation has."""
    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    for name in FIELDS:
        outer, _, inner = name.partition(".")
        expected = theirs[outer].nested_types_by_name[inner] if inner else theirs[outer]
        fields = MESSAGES[name].DESCRIPTOR.fields  # type: ignore[attr-defined]
        assert len(fields) == len(FIELDS[name])
        for field in fields:
            other = expected.fields_by_number[field.number]
            assert (field.name, field.type, field.is_repeated) == (other.name, other.type, other.is_repeated)


# --- what is wrong is said, and nothing else


def test_every_field_at_fault_is_named(client: triton.InferenceServerClient) -> None:
    with pytest.raises(triton.InferenceServerException) as caught:
        client.infer(SYSTEM, columns(income=-4.0, purpose="boat", age=5000))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    for words in ("inputs.income: expected a number from 0 to 1000", 'inputs.purpose: expected one of "purchase"'):
        assert words in caught.value.message()


def change(act: Callable[[Any], object]) -> Any:
    message = typed()
    act(message)
    return message


def put_raw(message: Any, *contents: bytes) -> None:
    for tensor in message.inputs:
        tensor.ClearField("contents")
    message.raw_input_contents.extend(contents)


def good_raw() -> list[bytes]:
    return [write_tensor([value], KINDS.get(name, "FP64")) for name, value in good_request()["inputs"].items()]


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        (b"\xff\xff\xff", "INVALID_ARGUMENT", "The message is no ModelInferRequest"),
        (b"", "NOT_FOUND", "No such model"),
        (change(lambda m: m.inputs[0].shape.__setitem__(0, 2)), "INVALID_ARGUMENT", "2 fp64_contents for this shape"),
        (change(lambda m: m.inputs[0].shape.__setitem__(0, -1)), "INVALID_ARGUMENT", "none of them negative"),
        (change(lambda m: m.inputs[0].shape.extend([2**62, 2**62])), "INVALID_ARGUMENT", "no more than 4000000"),
        (change(lambda m: setattr(m.inputs[0], "datatype", "FP16")), "INVALID_ARGUMENT", "FP16 comes in"),
        (change(lambda m: setattr(m.inputs[0], "datatype", "BYTES")), "INVALID_ARGUMENT", "1 bytes_contents"),
        (change(lambda m: m.inputs[2].contents.bytes_contents.__setitem__(0, b"\xff")), "INVALID_ARGUMENT", "UTF-8"),
        (change(lambda m: m.raw_input_contents.append(b"")), "INVALID_ARGUMENT", "one for each of 7 inputs"),
        (change(lambda m: m.raw_input_contents.extend(good_raw())), "INVALID_ARGUMENT", "not both"),
        (change(lambda m: put_raw(m, b"1", *good_raw()[1:])), "INVALID_ARGUMENT", "8 bytes for 1 of FP64, not 1"),
        (change(lambda m: m.ClearField("inputs")), "INVALID_ARGUMENT", "all with the same number of rows"),
        (change(lambda m: setattr(m.parameters["ids"], "string_param", "[")), "INVALID_ARGUMENT", "must be JSON in a"),
        (change(lambda m: setattr(m.parameters["ids"], "bool_param", True)), "INVALID_ARGUMENT", "must be JSON in a"),
        (change(lambda m: setattr(m, "model_version", "7")), "NOT_FOUND", "no such version"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(server: Running, message: Any, code: str, said: str) -> None:
    found = ask(server, "ModelInfer", message)
    assert (code_of(found), said in found[0].details()) == (code, True), found[0].details()


def test_a_long_list_of_faults_still_fits_a_status(server: Running) -> None:
    message = typed()
    for number in range(400):
        message.inputs.add(name=f"nichts-{number}-é", datatype="FP16", shape=[1])
    found = ask(server, "ModelInfer", message)
    assert code_of(found) == "INVALID_ARGUMENT"
    assert found[0].details().endswith("…")
    assert "inputs.nichts-0-é" in found[0].details()


def test_what_is_not_spoken_is_said(server: Running) -> None:
    assert code_of(ask(server, "RepositoryIndex", typed())) == "UNIMPLEMENTED"
    packed = ask(server, "ModelInfer", typed(), compression=grpc.Compression.Gzip)
    assert code_of(packed) == "UNIMPLEMENTED"
    huge = ask(server, "ModelInfer", bytes(16 * 2**20 + 1))
    assert code_of(huge) == "RESOURCE_EXHAUSTED"
    assert code_of(ask(server, "ModelInfer", typed())) == "OK"


def test_a_message_that_does_not_come_is_not_waited_for(server: Running) -> None:
    gone = threading.Event()

    def nothing() -> Iterator[bytes]:
        gone.wait(20)
        yield from ()

    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            call(nothing(), timeout=20)
        gone.set()
        with pytest.raises(grpc.RpcError) as empty:
            call(iter(()), timeout=20)
    assert (caught.value.code().name, caught.value.details()) == (  # type: ignore[attr-defined]
        "DEADLINE_EXCEEDED",
        "The request did not come in time.",
    )
    assert empty.value.details() == "The call has no message."  # type: ignore[attr-defined]


def test_a_fault_of_ours_is_answered_and_names_nothing(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1, policy=loans_policy(timeout_s=5.0)))
    running = start(FAULTY, grpc_port=0)
    (place.live / "deployment").write_bytes(b"garbage")  # health is the truth of what answers, not of what is on disk
    assert ask(running, "ServerReady")[0].ready
    answer, _ = ask(running, "ModelInfer", typed(income=901.0))
    found = {output.name: output.contents.bytes_contents for output in answer.outputs if output.datatype == "BYTES"}
    assert list(found["source"]) == [b"fallback"]


# --- who may


def bearer(word: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {word}"),)


def stored(word: str, scopes: tuple[str, ...] = (f"predict:{SYSTEM}",), **limits: Any) -> AccessToken:
    limits = {"expires": None, "principal": word, **limits}
    return AccessToken(name=word, hash=hash_token(word), scopes=scopes, **limits)


@pytest.fixture
def guarded(place: Place, start: Callable[..., Running]) -> Running:
    place.deploy(place.publish(1))
    place.allow(
        stored("good"),
        stored("other", ("predict:other",)),
        stored("teller", (f"tell:{SYSTEM}",)),
        stored("expired", expires=time.time() - 1),
        stored("slow", per_second=1.0),
        stored("poor", per_day=3),
    )
    return start(open=False, grpc_port=0)


CALLERS = {
    "nobody": (),
    "scheme": (("authorization", "Basic good"),),
    "unknown": bearer("unknown"),
    "expired": bearer("expired"),
    "other": bearer("other"),
    "teller": bearer("teller"),
    "good": bearer("good"),
}


def test_each_method_is_for_whom_http_is(guarded: Running) -> None:
    """The matrix of methods and callers; the two ways in decide alike."""
    routes: dict[str, tuple[str, str, Any]] = {
        "ServerLive": ("GET", "/v2/health/live", None),
        "ServerReady": ("GET", "/v2/health/ready", None),
        "ModelReady": ("GET", f"/v2/models/{SYSTEM}/ready", None),
        "ServerMetadata": ("GET", "/v2", None),
        "ModelMetadata": ("GET", f"/v2/models/{SYSTEM}", None),
        "ModelInfer": ("POST", f"/v2/models/{SYSTEM}/infer", {}),
    }
    assert set(routes) == set(METHODS)
    codes = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 200: "OK", 400: "INVALID_ARGUMENT"}
    for method, (verb, path, body) in routes.items():
        message = MESSAGES[f"{method}Request"]()
        if method != "ServerLive" and message.DESCRIPTOR.fields:
            setattr(message, message.DESCRIPTOR.fields[0].name, SYSTEM)
        for name, metadata in CALLERS.items():
            status = guarded.call(verb, path, body, dict(metadata))[0]
            assert code_of(ask(guarded, method, message, metadata=metadata)) == codes[status], (method, name)


def test_a_refusal_says_what_http_says_and_no_more(guarded: Running) -> None:
    error, _ = ask(guarded, "ModelInfer", typed(), metadata=bearer("unknown"))
    assert error.details() == "Send `Authorization: Bearer TOKEN` with a token that is valid."
    twice = (*bearer("good"), *bearer("unknown"))
    assert code_of(ask(guarded, "ModelInfer", typed(), metadata=twice)) == "INVALID_ARGUMENT"
    page = (*bearer("good"), ("origin", "https://evil.example"))
    assert code_of(ask(guarded, "ModelInfer", typed(), metadata=page)) == "PERMISSION_DENIED"
    metrics = guarded.call("GET", "/metrics")[1].decode()
    assert 'shipworthy_refusals_total{reason="unknown"} 1' in metrics
    assert 'shipworthy_refusals_total{reason="origin"} 1' in metrics


def test_a_refused_call_is_answered_before_its_message_is_read(guarded: Running) -> None:
    def one_byte_for_ever() -> Iterator[bytes]:
        yield b"x"
        time.sleep(0.1)
        yield b"y"

    with grpc.insecure_channel(guarded.grpc) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary(f"/{SERVICE}/ModelInfer")(one_byte_for_ever(), timeout=20)
    assert caught.value.code().name == "UNAUTHENTICATED"  # type: ignore[attr-defined]


def test_rate_and_quota_are_those_of_the_principal_whichever_way_it_comes(guarded: Running) -> None:
    found = [ask(guarded, "ModelInfer", typed(), metadata=bearer("slow")) for _ in range(4)]
    assert [code_of(each) for each in found][:2] == ["OK", "OK"]
    refused = [each for each in found if code_of(each) == "RESOURCE_EXHAUSTED"]
    assert refused
    assert refused[0][1]["retry-after"] == "1"
    assert "1 requests a second" in refused[0][0].details()
    assert guarded.predict([good_request()] * 2, dict(bearer("poor")))[0] == 200
    too_many = ask(guarded, "ModelInfer", typed(2), metadata=bearer("poor"))
    assert code_of(too_many) == "RESOURCE_EXHAUSTED"
    assert 0 < int(too_many[1]["retry-after"]) <= 86400
    assert code_of(ask(guarded, "ModelInfer", typed(1), metadata=bearer("poor"))) == "OK"
    assert guarded.predict(good_request(), dict(bearer("poor")))[0] == 429


def test_a_revoked_token_is_refused_on_the_connection_on_which_it_was_good(place: Place, guarded: Running) -> None:
    with grpc.insecure_channel(guarded.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        assert call(typed().SerializeToString(), timeout=20, metadata=bearer("good"))
        place.allow(stored("slow"))

        def is_refused() -> bool:
            try:
                call(typed().SerializeToString(), timeout=20, metadata=bearer("good"))
            except grpc.RpcError as error:
                return str(error.code().name) == "UNAUTHENTICATED"  # type: ignore[attr-defined]
            return False

        wait_for(is_refused, 2.0)


def test_tritonclient_brings_its_token_in_metadata(guarded: Running) -> None:
    client = triton.InferenceServerClient(guarded.grpc)
    try:
        with pytest.raises(triton.InferenceServerException, match=r"UNAUTHENTICATED"):
            client.infer(SYSTEM, columns())
        found = client.infer(SYSTEM, columns(), headers={"authorization": "Bearer good"})
        assert found.as_numpy("decision").tolist() == [b"approve"]
    finally:
        client.close()


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def trusting(authority: Authority, caller: Pair | None = None) -> Any:
    pair = (None, None) if caller is None else (caller.key.read_bytes(), caller.cert.read_bytes())
    return grpc.ssl_channel_credentials(authority.cert.read_bytes(), *pair)


def test_it_answers_over_tls_alone_where_it_has_a_certificate(
    place: Place, start: Callable[..., Running], authority: Authority
) -> None:
    place.deploy(place.publish(1))
    pair = authority.issue("server")
    running = start(tls_cert=str(pair.cert), tls_key=str(pair.key), grpc_port=0)
    assert code_of(ask(running, "ModelInfer", typed(), trusting(authority))) == "OK"
    assert code_of(ask(running, "ServerLive")) == "UNAVAILABLE"
    ended = authority.issue("other")
    assert code_of(ask(running, "ServerLive", b"", grpc.ssl_channel_credentials(ended.cert.read_bytes()))) == (
        "UNAVAILABLE"
    )


def test_a_caller_without_the_right_certificate_is_refused_under_mutual_tls(
    place: Place, start: Callable[..., Running], authority: Authority, tmp_path: Path
) -> None:
    place.deploy(place.publish(1))
    pair = authority.issue("server")
    running = start(tls_cert=str(pair.cert), tls_key=str(pair.key), tls_client_ca=str(authority.cert), grpc_port=0)
    caller = authority.issue("caller", is_client=True)
    assert code_of(ask(running, "ModelInfer", typed(), trusting(authority, caller))) == "OK"
    stranger = Authority(tmp_path, "stranger").issue("stranger-caller", is_client=True)
    ended = authority.issue("ended", is_client=True, begins=NOW - 9 * DAY, ends=NOW - DAY)
    server_only = authority.issue("server-only")
    for wrong in (None, stranger, ended, server_only):
        assert code_of(ask(running, "ServerLive", b"", trusting(authority, wrong))) == "UNAVAILABLE"


def test_a_renewed_certificate_answers_without_a_restart_and_a_wrong_one_does_not(
    place: Place, start: Callable[..., Running], authority: Authority, tmp_path: Path
) -> None:
    place.deploy(place.publish(1))
    pair = authority.issue("renewed")
    running = start(tls_cert=str(pair.cert), tls_key=str(pair.key), grpc_port=0)
    assert code_of(ask(running, "ServerLive", b"", trusting(authority))) == "OK"
    other = Authority(tmp_path, "other")
    fresh = other.issue("fresh")
    pair.key.write_bytes(fresh.key.read_bytes())
    assert code_of(ask(running, "ServerLive", b"", trusting(authority))) == "OK"  # half of a pair is none
    assert "gRPC: the new certificate is not taken, the old one stands" in running.stderr.read_text()
    pair.cert.write_bytes(fresh.cert.read_bytes())
    assert code_of(ask(running, "ServerLive", b"", trusting(other))) == "OK"
    assert code_of(ask(running, "ServerLive", b"", trusting(authority))) == "UNAVAILABLE"


# --- the process


def test_answers_under_way_are_given_when_it_is_told_to_stop(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1, policy=loans_policy(timeout_s=5.0)))
    running = start(FAULTY, grpc_port=0)
    with grpc.insecure_channel(running.grpc) as channel:
        message = typed(200, income=SLOW).SerializeToString()  # takes about a second
        under_way = channel.unary_unary(f"/{SERVICE}/ModelInfer").future(message, timeout=20)
        wait_for(lambda: len(list(read_records(place.records))) == 0 and not under_way.done())
        time.sleep(0.3)  # it is in the model
        assert running.stop(signal.SIGTERM) == 0
        assert MESSAGES["ModelInferResponse"].FromString(under_way.result()).outputs  # type: ignore[attr-defined]
    assert len(list(read_records(place.records))) == 200
    assert code_of(ask(running, "ServerLive")) == "UNAVAILABLE"


def test_the_deadline_of_the_policy_holds(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1, policy=loans_policy(timeout_s=0.2)))
    running = start(FAULTY, grpc_port=0)
    answer, _ = ask(running, "ModelInfer", typed(income=LATE))
    found = {output.name: output.contents.bytes_contents for output in answer.outputs if output.datatype == "BYTES"}
    assert list(found["source"]) == [b"fallback"]
    assert b"the model was late" in found["warnings"][0]


def test_a_new_deployment_answers(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start(grpc_port=0)
    place.deploy(place.publish(2))
    wait_for(lambda: ask(running, "ModelInfer", typed())[0].model_version == "2")
    assert code_of(ask(running, "ModelMetadata", MESSAGES["ModelMetadataRequest"](name=SYSTEM, version="1"))) == (
        "NOT_FOUND"
    )


def test_workers_share_the_port_and_one_that_is_killed_is_replaced(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start(grpc_port=0, workers=2)
    wait_for(lambda: b"shipworthy_workers 2" in running.call("GET", "/metrics")[1], 20)
    for _ in range(40):
        assert code_of(ask(running, "ModelInfer", typed())) == "OK"
    workers = {record.worker for record in read_records(place.records)}
    assert len(workers) == 2
    before = running.workers
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: len(running.workers) == 2 and running.workers != before, 20)
    assert code_of(ask(running, "ModelInfer", typed(), wait_for_ready=True)) == "OK"


def test_responses_are_counted_by_method_and_code(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start(grpc_port=0)
    for message in (typed(), typed(), typed(income=-1.0)):
        ask(running, "ModelInfer", message)
    ask(running, "RepositoryIndex", b"")  # a name that a caller made up is no label
    metrics = running.call("GET", "/metrics")[1].decode().splitlines()
    counted = [line for line in metrics if line.startswith("shipworthy_grpc_responses_total")]
    assert counted == [
        'shipworthy_grpc_responses_total{method="ModelInfer",code="INVALID_ARGUMENT"} 1',
        'shipworthy_grpc_responses_total{method="ModelInfer",code="OK"} 2',
    ]


def test_a_port_that_another_server_has_is_named(server: Running, place: Place, tmp_path: Path) -> None:
    place.deploy(place.publish(1))
    port = int(server.grpc.rpartition(":")[2])
    with pytest.raises(RuntimeError, match=rf"Port {port} of 127\.0\.0\.1 cannot be listened on for gRPC"):
        start_server(place.settings(grpc_port=port), tmp_path / "log")


def test_the_rules_of_listening_hold_for_both_ports(place: Place) -> None:
    with pytest.raises(UsageError, match="give --tls-cert and --tls-key"):
        check_settings(place.settings(host="0.0.0.0", open=False, grpc_port=8081))  # noqa: S104
    with pytest.raises(UsageError, match="both 8081"):
        check_settings(place.settings(port=8081, grpc_port=8081))
    with pytest.raises(UsageError, match="--grpc-port 70000 is no port"):
        check_settings(place.settings(grpc_port=70000))


def test_nothing_of_grpc_is_loaded_unless_it_is_asked_for_and_its_absence_is_said(place: Place, tmp_path: Path) -> None:
    place.deploy(place.publish(1))
    blocked = tmp_path / "blocked.py"
    blocked.write_text(
        "import sys\n"
        "sys.modules['grpc'] = None\n"
        "from shipworthy.serving import server, worker_process\n"
        "sys.exit(worker_process.main() if '--line' in sys.argv else server.main([__file__]))\n"
    )
    running = start_server(place.settings(), tmp_path / "log", script=blocked)
    assert running.predict(good_request())[0] == 200
    assert running.stop() == 0
    words = ["--settings", msgspec.json.encode(place.settings(grpc_port=0)).decode()]
    done = subprocess.run(
        [sys.executable, str(blocked), *words], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr.strip() == (
        "--grpc-port needs grpcio, which is not installed; run: pip install 'shipworthy[grpc]'"
    )
