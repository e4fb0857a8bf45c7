"""The Open Inference Protocol over HTTP: JSON, and bytes behind it in the binary tensor data extension."""

from collections.abc import Callable, Sequence

import msgspec

from shipworthy.serving.decode import InvalidRequestError, parse_strictly
from shipworthy.serving.inference import InferenceEndpoint, InferRequest, InferResponse, Tensor, flatten
from shipworthy.serving.plain import problem_of
from shipworthy.serving.problem import FieldProblem, Problem
from shipworthy.serving.protocol import Exchange
from shipworthy.serving.servable import Servable
from shipworthy.serving.tensors import read_tensor, write_tensor

LENGTH_HEADER = b"inference-header-content-length"
TENSOR_MEDIA = b"application/octet-stream"

_encode = msgspec.json.Encoder().encode


def infer_by_http(
    endpoint: InferenceEndpoint, servable: Servable, version: str | None, exchange: Exchange, body: bytes
) -> None:
    """Answer `POST /v2/models/NAME[/versions/V]/infer`.

    Args:
        endpoint: answers it.
        servable: whose schema and policy the request is read by.
        version: that was asked for; None: any.
        exchange: with its header.
        body: as it came.
    """
    reply = _ExchangeReply(exchange)
    try:
        request = _read_request(exchange.headers.get(LENGTH_HEADER), body)
    except InvalidRequestError as error:
        reply.refuse(problem_of(error))
        return
    endpoint.infer(servable, version, exchange, request, reply)


class _ExchangeReply:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def answer(self, request: InferRequest, response: InferResponse) -> None:
        binary = _binary_outputs(request)
        contents = [_move_to_bytes(tensor) for tensor in response.outputs if binary(tensor.name)]
        head = _encode(response)
        if not contents:
            self._exchange.respond(200, head)
            return
        length = b"%b: %d\r\n" % (LENGTH_HEADER, len(head))
        self._exchange.respond(200, b"".join([head, *contents]), TENSOR_MEDIA, length)

    def refuse(self, problem: Problem, wait_s: int = 0) -> None:
        """In the protocol's form: `error` beside the fields of RFC 9457; 422 becomes 400."""
        status = 400 if problem.status == 422 else problem.status
        wait_s = wait_s or int(status == 503)
        document = {"error": flatten(problem), **msgspec.to_builtins(problem), "status": status}
        self._exchange.respond(status, _encode(document), extra=b"retry-after: %d\r\n" % wait_s if wait_s else b"")


def _read_request(length: bytes | None, body: bytes) -> InferRequest:
    """The request, with the values of every tensor.

    Args:
        length: of the JSON document at the beginning of the body; None: it is all of it.
        body: as it came.
    """
    head, rest = body, memoryview(b"")
    if length is not None:
        if not length.isdigit() or not 0 < int(length) <= len(body):
            raise InvalidRequestError(
                400, f"The header {LENGTH_HEADER.decode()} must be the length of the JSON document in the body."
            )
        head, rest = body[: int(length)], memoryview(body)[int(length) :]
    try:
        request = msgspec.json.decode(head, type=InferRequest)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(400, f"The body is not an inference request: {error}.") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        parse_strictly(head)
        raise InvalidRequestError(400, "The body is not JSON.") from None
    _fill(request.inputs, rest)
    return request


def _fill(tensors: Sequence[Tensor], rest: memoryview) -> None:
    """Give the tensors their values out of the bytes behind the document, in their order."""
    problems = []
    for tensor in tensors:
        field = f"inputs.{tensor.name}"[:80]
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            if tensor.data is msgspec.UNSET:
                problems.append(FieldProblem(field, "`data`, or `parameters.binary_data_size` and as many bytes"))
        elif tensor.data is not msgspec.UNSET:
            problems.append(FieldProblem(field, "`data` or `parameters.binary_data_size`, not both"))
        elif type(size) is not int or not 0 <= size <= len(rest):
            problems.append(FieldProblem(field, f"a binary_data_size of 0 to {len(rest)}, the bytes that are left"))
        else:
            content, rest = rest[:size], rest[size:]
            try:
                tensor.data = read_tensor(content, tensor.datatype, tensor.shape)
            except ValueError as error:
                problems.append(FieldProblem(field, str(error)))
    if not problems and len(rest):
        problems.append(FieldProblem("inputs", f"no more bytes than the tensors have; {len(rest)} follow them"))
    if problems:
        raise InvalidRequestError(400, "The tensors cannot be read.", problems)


def _binary_outputs(request: InferRequest) -> Callable[[str], bool]:
    """Whether an output is to be answered as bytes: as it says itself, or else as the request says for all."""
    default = request.parameters.get("binary_data_output") is True
    own = {str(output.get("name")): output.get("parameters") or {} for output in request.outputs or ()}
    return lambda name: own.get(name, {}).get("binary_data", default) is True


def _move_to_bytes(tensor: Tensor) -> bytes:
    """The tensor's values, which then are not in the document."""
    content = write_tensor([] if tensor.data is msgspec.UNSET else tensor.data, tensor.datatype)
    tensor.data = msgspec.UNSET
    tensor.parameters = {"binary_data_size": len(content)}
    return content
