"""Tensors as bytes, sent by hand and by a client that we did not write."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.bundle.format import FeatureField, Schema
from shipworthy.serving.tensors import DTYPES, read_tensor, write_tensor
from tests.serving.conftest import SYSTEM, Place, Running, good_request, linear_model, loans_policy, start_server
from tests.serving.test_server import tensors

PATH = f"/v2/models/{SYSTEM}/infer"
KINDS = {"score": "INT64", "age": "INT64", "owner": "BOOL", "purpose": "BYTES", "region": "BYTES"}


def binary(rows: int = 1, **parameters: Any) -> tuple[dict[str, Any], list[bytes]]:
    """The document and the contents of a good request."""
    contents = []
    inputs = []
    for name, value in good_request()["inputs"].items():
        datatype = KINDS.get(name, "FP64")
        contents.append(write_tensor([value] * rows, datatype))
        size = {"binary_data_size": len(contents[-1])}
        inputs.append({"name": name, "datatype": datatype, "shape": [rows], "parameters": size})
    return {"inputs": inputs, "parameters": parameters}, contents


def send(server: Running, document: dict[str, Any], content: bytes, length: int | None = None) -> tuple[int, Any]:
    head = json.dumps(document).encode()
    header = {"inference-header-content-length": str(len(head) if length is None else length)}
    status, answer, _ = server.call("POST", PATH, head + content, header)
    return status, answer


def test_bytes_are_answered_as_json_is(server: Running) -> None:
    document, contents = binary(3)
    status, answer = send(server, document, b"".join(contents))
    plain = server.call("POST", PATH, tensors(3))[1]
    assert status == 200
    found, expected = [{o["name"]: o["data"] for o in each["outputs"]} for each in (answer, plain)]
    for name in ("prediction", "probability", "decision", "confidence", "source"):
        assert found[name] == expected[name]


def test_outputs_come_as_bytes_where_they_are_asked_for(server: Running) -> None:
    document, contents = binary(2, binary_data_output=True)
    document["outputs"] = [{"name": "confidence"}, {"name": "decision", "parameters": {"binary_data": False}}]
    head = json.dumps(document).encode()
    header = {"inference-header-content-length": str(len(head))}
    status, body, headers = server.call("POST", PATH, head + b"".join(contents), header)
    assert (status, headers["content-type"]) == (200, "application/octet-stream")
    length = int(headers["inference-header-content-length"])
    confidence, decision = json.loads(body[:length])["outputs"]
    assert confidence["parameters"] == {"binary_data_size": 16}
    assert "data" not in confidence
    assert decision["data"] == ["approve", "approve"]
    first, second = struct.unpack("<dd", body[length:])
    assert first == second == server.predict(good_request())[1]["confidence"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d, c: (d, [*c[:-1], c[-1][:-1]]), "a binary_data_size of 0 to 7, the bytes that are left"),
        (lambda d, c: (d, [*c, b"more"]), "no more bytes than the tensors have; 4 follow them"),
        (lambda d, c: (put(d, 0, parameters={"binary_data_size": -1}), c), "a binary_data_size of 0 to"),
        (lambda d, c: (put(d, 0, parameters={"binary_data_size": "8"}), c), "a binary_data_size of 0 to"),
        (lambda d, c: (put(d, 0, parameters={"binary_data_size": 2**62}), c), "a binary_data_size of 0 to"),
        (lambda d, c: (put(d, 0, parameters={}), c), "`data`, or `parameters.binary_data_size`"),
        (lambda d, c: (put(d, 0, data=[1.0]), c), "not both"),
        (lambda d, c: (put(d, 0, shape=[2]), c), "16 bytes for 2 of FP64, not 8"),
        (lambda d, c: (put(d, 0, shape=[-1]), c), "none of them negative"),
        (lambda d, c: (put(d, 0, shape=[2**40, 2**40]), c), "no more than 4000000 elements"),
        (lambda d, c: (put(d, 0, datatype="FP128"), c), "a datatype of BOOL, FP16"),
        (
            lambda d, c: (d, [*c[:2], b"\xff\xff\xff\x7fcar" + b"\0" * (len(c[2]) - 7), *c[3:]]),
            "as many bytes as text 0",
        ),
        (lambda d, c: (d, [*c[:4], b"\x02", *c[5:]]), "0 or 1 for each of BOOL"),
    ],
)
def test_sizes_that_do_not_add_up_are_refused_naming_the_tensor(server: Running, change: Any, said: str) -> None:
    document, contents = change(*binary())
    status, answer = send(server, document, b"".join(contents))
    assert status == 400
    assert any(said in error["expected"] for error in answer["errors"]), answer
    assert all(error["field"].startswith("inputs") for error in answer["errors"])


def put(document: dict[str, Any], place: int, **changes: Any) -> dict[str, Any]:
    document["inputs"][place] |= changes
    return document


@pytest.mark.parametrize("length", [0, 10**6, -1])
def test_a_length_that_is_none_is_refused(server: Running, length: int) -> None:
    document, contents = binary()
    status, answer = send(server, document, b"".join(contents), length)
    assert status == 400
    assert "length of the JSON document" in answer["detail"]


def test_values_are_checked_as_ever(server: Running) -> None:
    document, contents = binary()
    contents[0] = write_tensor([-4.0], "FP64")
    status, answer = send(server, document, b"".join(contents))
    assert status == 400
    assert answer["errors"] == [{"field": "inputs.income", "expected": "a number from 0 to 1000", "got": "-4.0"}]


@given(st.data())
def test_what_is_written_is_read(data: st.DataObject) -> None:
    datatype = data.draw(st.sampled_from([*DTYPES, "BYTES"]))
    if datatype == "BYTES":
        texts = st.text(st.characters(codec="utf-8"), max_size=20)
        values: list[Any] = data.draw(st.lists(texts, max_size=20))
    else:
        dtype = DTYPES[datatype]
        values = np.array(data.draw(st.lists(st.integers(0, 1), max_size=20)), dtype).tolist()
    content = write_tensor(values, datatype)
    assert read_tensor(memoryview(content), datatype, [len(values)]) == values
    with pytest.raises(ValueError, match=r"bytes|texts|BOOL|length|UTF-8"):
        read_tensor(memoryview(content + b"\x02"), datatype, [len(values)])


def test_a_missing_number_is_nan_both_ways() -> None:
    content = write_tensor([1.0, None], "FP64")
    assert read_tensor(memoryview(content), "FP64", [2]) == [1.0, None]


# --- a client that we did not write


@pytest.fixture
def client(server: Running) -> Iterator[triton.InferenceServerClient]:
    made = triton.InferenceServerClient(f"{server.host}:{server.port}")
    yield made
    made.close()


def columns(rows: int, *, is_binary: bool) -> list[Any]:
    inputs = []
    for name, value in good_request()["inputs"].items():
        datatype = KINDS.get(name, "FP64")
        column = np.array([value] * rows, dtype=object if datatype == "BYTES" else DTYPES[datatype])
        inputs.append(triton.InferInput(name, column.shape, datatype))
        inputs[-1].set_data_from_numpy(column, binary_data=is_binary)
    return inputs


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize("rows", [1, 300])
def test_tritonclient_is_answered(
    client: triton.InferenceServerClient, server: Running, rows: int, is_binary: bool
) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("decision", "probability")]
    result = client.infer(SYSTEM, columns(rows, is_binary=is_binary), outputs=outputs, request_id="r-1")
    plain = server.predict(good_request())[1]
    decisions = result.as_numpy("decision").tolist()
    assert [d.decode() if isinstance(d, bytes) else d for d in decisions] == [plain["decision"]] * rows
    assert result.as_numpy("probability").tolist() == [list(plain["probability"].values())] * rows
    assert result.get_response()["id"] == "r-1"
    assert result.get_response()["model_version"] == "1"


def test_tritonclient_reads_health_and_metadata(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(SYSTEM)
    assert client.is_model_ready(SYSTEM, "1")
    assert not client.is_model_ready(SYSTEM, "9")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    metadata = client.get_model_metadata(SYSTEM)
    assert metadata["versions"] == ["1"]
    assert [tensor["name"] for tensor in metadata["inputs"]] == list(good_request()["inputs"])


def test_tritonclient_is_told_what_is_wrong(client: triton.InferenceServerClient) -> None:
    inputs = columns(1, is_binary=True)
    inputs[0].set_data_from_numpy(np.array([-4.0]))
    with pytest.raises(triton.InferenceServerException, match=r"inputs\.income: expected a number from 0 to 1000"):
        client.infer(SYSTEM, inputs)
    with pytest.raises(triton.InferenceServerException, match="No such path"):
        client.infer("nothing", inputs)


def test_one_tensor_of_all_features_is_answered(place: Place, tmp_path: Path) -> None:
    schema = Schema(
        system=SYSTEM,
        features=(FeatureField(name="a", kind="float"), FeatureField(name="b", kind="int", missing="allow")),
        context=(),
        derived=(),
        columns=("a", "b"),
    )
    place.deploy(
        place.publish(1, model=linear_model([1.0, 0.5]), schema=schema, policy=loans_policy(fallback_rules=()))
    )
    running = start_server(place.settings(), tmp_path / "log")
    client = triton.InferenceServerClient(f"{running.host}:{running.port}")
    try:
        matrix = np.array([[1.5, 2], [0.25, np.nan], [-3, 4]], dtype=np.float32)
        tensor = triton.InferInput("features", matrix.shape, "FP32")
        for is_binary in (True, False):
            sent = matrix if is_binary else matrix[[0, 2]]  # JSON has no NaN
            tensor.set_shape(sent.shape)
            tensor.set_data_from_numpy(sent, binary_data=is_binary)
            found = client.infer(SYSTEM, [tensor]).as_numpy("probability")[:, 1]
            logits = np.nan_to_num(sent) @ np.array([1.0, 0.5], dtype=np.float32)
            assert found == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)
        tensor.set_shape([3, 3])
        tensor.set_data_from_numpy(np.zeros((3, 3), dtype=np.float32))
        with pytest.raises(triton.InferenceServerException, match=r"a shape of \[n, 2\]"):
            client.infer(SYSTEM, [tensor])
    finally:
        client.close()
        running.stop()
