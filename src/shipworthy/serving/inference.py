"""The Open Inference Protocol, version 2, over HTTP: a tensor for each feature, shape [n] or [n, 1], as JSON or bytes.

Where all features are numbers, one tensor of shape [n, features] in the schema's order will do, under any other name.
Context may come as tensors of its columns' names, or in `parameters.context`; `parameters.id` (one row) or
`parameters.ids` are idempotency keys; `parameters.partial` lets good rows be answered when others are bad.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from shipworthy.bundle.format import Kind, Policy, Schema
from shipworthy.serving.answer import Answer
from shipworthy.serving.decode import InvalidRequestError, Sample, parse_strictly
from shipworthy.serving.job import Job, Outcome
from shipworthy.serving.path import PredictionPath
from shipworthy.serving.plain import MAX_ROWS, SLICE_ROWS, Charge, problem_of
from shipworthy.serving.problem import FieldProblem, Problem, make_problem
from shipworthy.serving.protocol import Exchange
from shipworthy.serving.servable import Servable
from shipworthy.serving.tensors import read_tensor, write_tensor

PLATFORM = "onnxruntime_onnx"
LENGTH_HEADER = b"inference-header-content-length"
TENSOR_MEDIA = b"application/octet-stream"
DATATYPES: Mapping[Kind, str] = {
    "float": "FP64",
    "int": "INT64",
    "bool": "BOOL",
    "category": "BYTES",
    "text": "BYTES",
    "datetime": "BYTES",
}
_WHOLE = frozenset(f"{sign}INT{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
_ACCEPTED: Mapping[str, frozenset[str]] = {
    "FP64": frozenset({"FP16", "FP32", "FP64"}) | _WHOLE,
    "INT64": _WHOLE,
    "BOOL": frozenset({"BOOL"}),
    "BYTES": frozenset({"BYTES"}),
}

ChooseObject = Callable[[Any, str | None], tuple[Servable, Sample]]

_encode = msgspec.json.Encoder().encode


class Tensor(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A named array."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET  # not of tensors whose values come as bytes
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct, kw_only=True):
    """The body of an inference request."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[dict[str, Any]] | None = None


def describe_model(servable: Servable, versions: Sequence[str]) -> bytes:
    """The model's metadata document."""
    document = {
        "name": servable.system,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [
            {"name": field.name, "datatype": DATATYPES[field.kind], "shape": [-1]} for field in servable.schema.features
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1, *shape]}
            for name, (datatype, shape) in output_types(servable.policy).items()
        ],
    }
    return _encode(document)


def output_types(policy: Policy) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Datatype and shape after the rows of each output."""
    number = policy.task == "regression"
    types: dict[str, tuple[str, tuple[int, ...]]] = {"prediction": ("FP64" if number else "BYTES", ())}
    if number and policy.intervals is not None:
        types["interval"] = ("FP64", (2,))
    if not number:
        types["probability"] = ("FP64", (len(policy.classes),))
    texts = dict.fromkeys(("decision", "prediction_id", "source", "handling", "warnings"), ("BYTES", ()))
    return {**types, "confidence": ("FP64", ()), **texts}


class InferenceEndpoint:
    """Answers `POST /v2/models/NAME[/versions/V]/infer`.

    Args:
        path: where jobs go.
        choose: makes a sample of a request object for the release that answers it, or for the version named.
        call_soon: the loop's.
        charge: counts rows against the caller's day.
    """

    def __init__(
        self,
        path: PredictionPath,
        choose: ChooseObject,
        call_soon: Callable[[Callable[[], None]], object],
        charge: Charge,
    ) -> None:
        self._path = path
        self._choose = choose
        self._call_soon = call_soon
        self._charge = charge

    def infer(self, policy: Policy, schema: Schema, version: str | None, exchange: Exchange, body: bytes) -> None:
        """Answer one request of tensors."""
        try:
            request = _read_request(exchange.headers.get(LENGTH_HEADER), body)
            wanted = _wanted_outputs(request, policy)
            items = _rows(request, schema)
        except InvalidRequestError as error:
            refuse_inference(exchange, problem_of(error))
            return
        if not self._path.admit(len(items), is_list=len(items) > 1):
            refuse_inference(exchange, make_problem(503, "Too many predictions are waiting; try again later."))
            return
        if (refused := self._charge(exchange, len(items))) is not None:
            self._path.give_back(len(items), is_list=len(items) > 1)
            refuse_inference(exchange, make_problem(refused.status, refused.detail), refused.headers)
            return
        choose = partial(self._choose, version=version)  # type: ignore[call-arg]
        _InferenceRequest(self._path, choose, self._call_soon, exchange, request, items, wanted, policy).step()


class _InferenceRequest:
    def __init__(
        self,
        path: PredictionPath,
        choose: Callable[[Any], tuple[Servable, Sample]],
        call_soon: Callable[[Callable[[], None]], object],
        exchange: Exchange,
        request: InferRequest,
        items: list[dict[str, Any]],
        wanted: Sequence[str],
        policy: Policy,
    ) -> None:
        self._path = path
        self._choose = choose
        self._call_soon = call_soon
        self._exchange = exchange
        self._request = request
        self._items = items
        self._is_list = len(items) > 1
        self._wanted = wanted
        self._policy = policy
        self._servable: Servable | None = None
        self._partial = request.parameters.get("partial") is True
        self._samples: list[tuple[int, Servable, Sample]] = []
        self._outcomes: list[Outcome | None] = [None] * len(items)
        self._left = len(items)
        self._next = 0

    def step(self) -> None:
        """Decode a slice; submit once all are decoded, as one bad row refuses the rest unless `partial`."""
        start, self._next = self._next, min(self._next + SLICE_ROWS, len(self._items))
        for place in range(start, self._next):
            try:
                servable, sample = self._choose(self._items[place])
            except InvalidRequestError as error:
                if not self._partial:
                    self._path.give_back(self._left, is_list=self._is_list)
                    refuse_inference(self._exchange, _at_row(problem_of(error), place, len(self._items)))
                    return
                self._path.give_back(1, is_list=self._is_list)
                self._outcomes[place] = problem_of(error)
                self._left -= 1
                continue
            self._servable = servable
            self._samples.append((place, servable, sample))
        if self._next < len(self._items):
            self._call_soon(self.step)
            return
        if self._left == 0:
            self._finish()
        for place, servable, sample in self._samples:
            self._path.submit(
                Job(servable, sample, self._exchange.arrived, partial(self._take, place), is_list=self._is_list)
            )

    def _take(self, place: int, outcome: Outcome) -> None:
        self._outcomes[place] = outcome
        self._left -= 1
        if self._left == 0:
            self._finish()

    def _finish(self) -> None:
        outcomes = [outcome for outcome in self._outcomes if outcome is not None]
        failed = next((outcome for outcome in outcomes if isinstance(outcome, Problem)), None)
        if failed is not None and not self._partial:
            refuse_inference(self._exchange, failed)
            return
        outputs = [_output(name, self._policy, outcomes) for name in self._wanted]
        if self._partial:
            statuses = ["ok" if isinstance(outcome, Answer) else _flat(outcome) for outcome in outcomes]
            outputs.append(Tensor(name="status", datatype="BYTES", shape=[len(outcomes)], data=statuses))
        binary = _binary_outputs(self._request)
        contents = [_move_to_bytes(tensor) for tensor in outputs if binary(tensor.name)]
        document: dict[str, Any] = {"outputs": outputs}
        if self._servable is not None:
            document |= {"model_name": self._servable.system, "model_version": self._servable.version}
        if self._request.id is not None:
            document["id"] = self._request.id
        head = _encode(document)
        if not contents:
            self._exchange.respond(200, head)
            return
        length = b"%b: %d\r\n" % (LENGTH_HEADER, len(head))
        self._exchange.respond(200, b"".join([head, *contents]), TENSOR_MEDIA, length)


def refuse_inference(exchange: Exchange, problem: Problem, extra: bytes = b"") -> None:
    """Answer with the problem in the protocol's form: `error` beside the fields of RFC 9457; 422 becomes 400."""
    status = 400 if problem.status == 422 else problem.status
    document = {"error": _flat(problem), **msgspec.to_builtins(problem), "status": status}
    exchange.respond(status, _encode(document), extra=extra or (b"retry-after: 1\r\n" if status == 503 else b""))


def _flat(problem: Problem) -> str:
    fields = [f"{error.field}: expected {error.expected}" for error in problem.errors]
    return "; ".join([problem.detail, *fields])


def _at_row(problem: Problem, place: int, rows: int) -> Problem:
    if rows == 1:
        return problem
    return msgspec.structs.replace(problem, detail=f"Row {place}: {problem.detail}")


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


def _wanted_outputs(request: InferRequest, policy: Policy) -> Sequence[str]:
    known = output_types(policy)
    if request.outputs is None:
        return tuple(known)
    wanted = [str(output.get("name")) for output in request.outputs]
    strangers = [FieldProblem(f"outputs.{name}"[:80], "no such output") for name in wanted if name not in known]
    if strangers:
        raise InvalidRequestError(400, f"Outputs are {', '.join(known)}.", strangers)
    return wanted


def _rows(request: InferRequest, schema: Schema) -> list[dict[str, Any]]:
    """The request's rows as plain request objects."""
    kinds: dict[str, Kind] = {field.name: field.kind for field in schema.features}
    contexts: dict[str, Kind] = {field.name: field.kind for field in schema.context}
    request.inputs = _parted(request.inputs, schema)
    names = [tensor.name for tensor in request.inputs]
    problems = [FieldProblem(f"inputs.{name}"[:80], "each input once") for name in {*names} if names.count(name) > 1]
    columns: dict[str, list[Any]] = {}
    for tensor in request.inputs:
        try:
            columns[tensor.name] = _column(tensor, {**contexts, **kinds}.get(tensor.name))
        except ValueError as error:
            problems.append(FieldProblem(f"inputs.{tensor.name}"[:80], str(error)))
    lengths = {len(column) for column in columns.values()}
    if not problems and len(lengths) != 1:
        problems.append(FieldProblem("inputs", "tensors, all with the same number of rows"))
    if problems:
        raise InvalidRequestError(400, "The tensors cannot be read.", problems)
    rows = lengths.pop()
    if not 1 <= rows <= MAX_ROWS:
        raise InvalidRequestError(400, f"A request has 1 to {MAX_ROWS} rows; this one has {rows}.")
    given = {name: columns.pop(name) for name in contexts if name in columns and name not in kinds}
    given |= _context_columns(request.parameters.get("context"), rows)
    keys = _keys(request.parameters, rows)
    return [
        {
            "inputs": {name: column[row] for name, column in columns.items()},
            "context": {name: column[row] for name, column in given.items()},
            "id": keys[row],
        }
        for row in range(rows)
    ]


def _parted(tensors: list[Tensor], schema: Schema) -> list[Tensor]:
    """One tensor for each feature, where all come in a single one of numbers."""
    names = [field.name for field in schema.features]
    if len(tensors) != 1 or tensors[0].name in names or any(f.kind not in ("float", "int") for f in schema.features):
        return tensors
    (tensor,) = tensors
    data = tensor.data or []
    if data and isinstance(data[0], list):
        data = [value for row in data for value in row] if all(isinstance(row, list) for row in data) else data
    if len(tensor.shape) != 2 or tensor.shape[1] != len(names) or len(data) != tensor.shape[0] * len(names):
        shape = f"a shape of [n, {len(names)}], or one tensor for each of {', '.join(names)}"
        raise InvalidRequestError(
            400, "The tensors cannot be read.", [FieldProblem(f"inputs.{tensor.name}"[:80], shape[:1000])]
        )
    columns = [data[place :: len(names)] for place in range(len(names))]
    return [
        Tensor(name=field.name, datatype=DATATYPES[field.kind], shape=[len(column)], data=column)
        for field, column in zip(schema.features, columns, strict=True)
    ]


def _column(tensor: Tensor, kind: Kind | None) -> list[Any]:
    data = tensor.data or []
    if data and isinstance(data[0], list):
        if any(not isinstance(item, list) or len(item) != 1 for item in data):
            raise ValueError("data of shape [n] or [n, 1]")
        data = [item[0] for item in data]
    if tensor.shape not in ([len(data)], [len(data), 1]):
        raise ValueError(f"shape [n] or [n, 1] with n = {len(data)} as the data has")
    if kind is not None and tensor.datatype not in _ACCEPTED[DATATYPES[kind]]:
        raise ValueError(f"datatype {DATATYPES[kind]}")
    return data


def _context_columns(context: Any, rows: int) -> dict[str, list[Any]]:
    if context is None:
        return {}
    if not isinstance(context, dict):
        raise InvalidRequestError(400, "`parameters.context` must be an object of named values or lists.")
    columns = {name: value if isinstance(value, list) else [value] * rows for name, value in context.items()}
    if any(len(column) != rows for column in columns.values()):
        raise InvalidRequestError(400, f"A list in `parameters.context` must have {rows} values, one for each row.")
    return columns


def _keys(parameters: Mapping[str, Any], rows: int) -> list[Any]:
    if "ids" in parameters:
        keys = parameters["ids"]
        if not isinstance(keys, list) or len(keys) != rows:
            raise InvalidRequestError(400, f"`parameters.ids` must be a list of {rows} keys, one for each row.")
        return keys
    if parameters.get("id") is not None and rows != 1:
        raise InvalidRequestError(400, "`parameters.id` is for one row; send `parameters.ids` for more.")
    return [parameters.get("id")] * rows


def _output(name: str, policy: Policy, outcomes: Sequence[Outcome]) -> Tensor:
    datatype, shape = output_types(policy)[name]
    data: list[Any] = []
    for outcome in outcomes:
        value = getattr(outcome, name) if isinstance(outcome, Answer) else None
        data.extend(_cells(name, value, datatype, shape, policy))
    return Tensor(name=name, datatype=datatype, shape=[len(outcomes), *shape], data=data)


def _cells(name: str, value: Any, datatype: str, shape: tuple[int, ...], policy: Policy) -> list[Any]:
    if shape:
        width = shape[0]
        if value is None:
            return [None] * width
        return [value[class_] for class_ in policy.classes] if name == "probability" else list(value)
    if datatype == "FP64":
        return [value]
    if name == "warnings":
        return ["; ".join(value or ())]
    return ["" if value is None else str(value)]
