"""The messages of the Open Inference Protocol over gRPC, and how they become requests and answers become them.

The classes are made from the table below, whose field numbers are the protocol's, in a pool of their own: another
package's messages of the same names may be in this process too. Needs `protobuf`.

Source: github.com/kserve/open-inference-protocol, specification/protocol/open_inference_grpc.proto.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from shipworthy.serving.decode import InvalidRequestError
from shipworthy.serving.inference import InferRequest, InferResponse, Tensor
from shipworthy.serving.problem import FieldProblem
from shipworthy.serving.tensors import check_shape, read_tensor, write_tensor

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"

_PARAMETERS = "parameters: map of InferParameter = "
_TENSOR = ("name: string = 1", "datatype: string = 2", "shape: int64* = 3")
_TENSOR_WITH_CONTENTS = (*_TENSOR, _PARAMETERS + "4", "contents: InferTensorContents = 5")
FIELDS: Mapping[str, Sequence[str]] = {  # *: repeated; |: one of them
    "ServerLiveRequest": (),
    "ServerLiveResponse": ("live: bool = 1",),
    "ServerReadyRequest": (),
    "ServerReadyResponse": ("ready: bool = 1",),
    "ModelReadyRequest": ("name: string = 1", "version: string = 2"),
    "ModelReadyResponse": ("ready: bool = 1",),
    "ServerMetadataRequest": (),
    "ServerMetadataResponse": ("name: string = 1", "version: string = 2", "extensions: string* = 3"),
    "ModelMetadataRequest": ("name: string = 1", "version: string = 2"),
    "ModelMetadataResponse": (
        "name: string = 1",
        "versions: string* = 2",
        "platform: string = 3",
        "inputs: ModelMetadataResponse.TensorMetadata* = 4",
        "outputs: ModelMetadataResponse.TensorMetadata* = 5",
    ),
    "ModelMetadataResponse.TensorMetadata": _TENSOR,
    "ModelInferRequest": (
        "model_name: string = 1",
        "model_version: string = 2",
        "id: string = 3",
        _PARAMETERS + "4",
        "inputs: ModelInferRequest.InferInputTensor* = 5",
        "outputs: ModelInferRequest.InferRequestedOutputTensor* = 6",
        "raw_input_contents: bytes* = 7",
    ),
    "ModelInferRequest.InferInputTensor": _TENSOR_WITH_CONTENTS,
    "ModelInferRequest.InferRequestedOutputTensor": ("name: string = 1", _PARAMETERS + "2"),
    "ModelInferResponse": (
        "model_name: string = 1",
        "model_version: string = 2",
        "id: string = 3",
        _PARAMETERS + "4",
        "outputs: ModelInferResponse.InferOutputTensor* = 5",
        "raw_output_contents: bytes* = 6",
    ),
    "ModelInferResponse.InferOutputTensor": _TENSOR_WITH_CONTENTS,
    "InferParameter": (
        "bool_param: bool | 1",
        "int64_param: int64 | 2",
        "string_param: string | 3",
        "double_param: double | 4",
        "uint64_param: uint64 | 5",
    ),
    "InferTensorContents": (
        "bool_contents: bool* = 1",
        "int_contents: int32* = 2",
        "int64_contents: int64* = 3",
        "uint_contents: uint32* = 4",
        "uint64_contents: uint64* = 5",
        "fp32_contents: float* = 6",
        "fp64_contents: double* = 7",
        "bytes_contents: bytes* = 8",
    ),
}
_CHOICE = "parameter_choice"
_CONTENTS: Mapping[str, str] = {  # where the values of a datatype stand
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_DOCUMENTS = ("context", "ids")  # parameters that are objects or lists, which gRPC lacks: JSON in a text

Message = Any  # of a class that is made when this is imported

_Field = descriptor_pb2.FieldDescriptorProto


def _make_messages() -> dict[str, Callable[..., Message]]:
    file = descriptor_pb2.FileDescriptorProto(name="shipworthy_inference.proto", package=PACKAGE, syntax="proto3")
    made: dict[str, Any] = {}
    for name, fields in FIELDS.items():
        outer, _, inner = name.rpartition(".")
        made[name] = (made[outer].nested_type if outer else file.message_type).add(name=inner)
        for field in fields:
            _add_field(made[name], name, field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in FIELDS}


def _add_field(message: Any, owner: str, words: str) -> None:
    """Add a field written as in `FIELDS`, which is short for what a .proto file says."""
    name, _, rest = words.partition(": ")
    kind, sign, number = rest.rsplit(" ", 2)
    field = message.field.add(name=name, number=int(number), label=_Field.LABEL_OPTIONAL)
    if sign == "|":
        if not message.oneof_decl:
            message.oneof_decl.add(name=_CHOICE)
        field.oneof_index = 0
    if kind.startswith("map of "):
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        _add_field(entry, f"{owner}.{entry.name}", "key: string = 1")
        _add_field(entry, f"{owner}.{entry.name}", f"value: {kind.removeprefix('map of ')} = 2")
        kind = f"{owner}.{entry.name}*"
    if kind.endswith("*"):
        field.label, kind = _Field.LABEL_REPEATED, kind[:-1]
    scalar = getattr(_Field, f"TYPE_{kind.upper()}", None)
    if scalar is not None:
        field.type = scalar
    else:
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"


MESSAGES = _make_messages()


def parse(name: str, content: bytes) -> Message:
    """The message of this name in `content`.

    Raises:
        InvalidRequestError: it is none.
    """
    message = MESSAGES[name]()
    try:
        message.ParseFromString(content)
    except DecodeError:
        raise InvalidRequestError(400, f"The message is no {name} of the protocol.") from None
    return message


# --- requests


def read_request(message: Message) -> InferRequest:
    """The request, with the values of every tensor.

    Raises:
        InvalidRequestError: the tensors or parameters cannot be read; names all that are wrong.
    """
    raw = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        problem = FieldProblem("raw_input_contents", f"one for each of {len(message.inputs)} inputs, or none at all")
        raise InvalidRequestError(400, "The tensors cannot be read.", [problem])
    inputs, problems = [], []
    for place, tensor in enumerate(message.inputs):
        try:
            data = _read_contents(tensor, raw[place] if raw else None)
        except ValueError as error:
            problems.append(FieldProblem(f"inputs.{tensor.name}"[:80], str(error)))
        else:
            inputs.append(Tensor(name=tensor.name, datatype=tensor.datatype, shape=list(tensor.shape), data=data))
    if problems:
        raise InvalidRequestError(400, "The tensors cannot be read.", problems)
    parameters = _read_parameters(message.parameters)
    parameters.setdefault("binary_data_output", bool(raw))  # answered in the form that it came in
    return InferRequest(
        inputs=inputs,
        id=message.id or None,
        parameters=parameters,
        outputs=[{"name": output.name} for output in message.outputs] or None,
    )


def _read_contents(tensor: Message, raw: bytes | None) -> list[Any]:
    if raw is not None:
        if tensor.HasField("contents"):
            raise ValueError("`contents` or `raw_input_contents`, not both")
        return read_tensor(memoryview(raw), tensor.datatype, tensor.shape)
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        raise ValueError(f"a datatype of {', '.join(_CONTENTS)}; FP16 comes in `raw_input_contents` alone")
    count = check_shape(tensor.shape)
    values: list[Any] = list(getattr(tensor.contents, field))
    if len(values) != count:
        raise ValueError(f"{count} {field} for this shape, not {len(values)}")
    if field == "bytes_contents":
        return [_read_text(value, place) for place, value in enumerate(values)]
    return [None if value != value else value for value in values] if field.startswith("fp") else values


def _read_text(value: bytes, place: int) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"UTF-8; text {place} is not") from None


def _read_parameters(parameters: Mapping[str, Message]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        choice = value.WhichOneof(_CHOICE)
        found[name] = None if choice is None else getattr(value, choice)
    for name in _DOCUMENTS:
        if name in found:
            try:
                found[name] = msgspec.json.decode(found[name])
            except (msgspec.MsgspecError, RecursionError, TypeError):
                raise InvalidRequestError(400, f"`parameters.{name}` must be JSON in a text.") from None
    return found


# --- answers


def write_response(request: InferRequest, response: InferResponse) -> Message:
    """The answer as a message, its values in the form that was asked for.

    Args:
        request: that is answered.
        response: the answer; a number that is missing becomes NaN.
    """
    message = MESSAGES["ModelInferResponse"](
        model_name=response.model_name or "", model_version=response.model_version or "", id=response.id or ""
    )
    is_raw = request.parameters.get("binary_data_output") is True
    for tensor in response.outputs:
        values = [] if tensor.data is msgspec.UNSET else tensor.data
        output = message.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if is_raw:
            message.raw_output_contents.append(write_tensor(values, tensor.datatype))
        else:
            getattr(output.contents, _CONTENTS[tensor.datatype]).extend(_plain(values, tensor.datatype))
    return message


def _plain(values: Sequence[Any], datatype: str) -> Iterator[Any]:
    if datatype == "BYTES":
        return (str(value).encode() for value in values)
    return (math.nan if value is None else value for value in values)
