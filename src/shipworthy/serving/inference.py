"""The Open Inference Protocol, version 2, as HTTP and gRPC have it in common: tensors in, rows answered, tensors out.

A tensor for each feature, shape [n] or [n, 1]. Where all features are numbers, one tensor of shape [n, features] in the
schema's order will do, under any other name. Reasons are an output, JSON in text: where it is asked for by name or by
`parameters.reasons`, or where answers always carry them.
Context may come as tensors of its columns' names, or in `parameters.context`; `parameters.id` (one row) or
`parameters.ids` are idempotency keys; `parameters.partial` lets good rows be answered when others are bad.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec

from shipworthy import __version__
from shipworthy.bundle.format import ContextField, FeatureField, Kind, Policy, Schema
from shipworthy.serving.answer import Answer, Reasons
from shipworthy.serving.caller import Call
from shipworthy.serving.decode import InvalidRequestError, Sample
from shipworthy.serving.gate import Refusal
from shipworthy.serving.job import Job, Outcome
from shipworthy.serving.path import PredictionPath
from shipworthy.serving.plain import MAX_ROWS, SLICE_ROWS, problem_of
from shipworthy.serving.problem import FieldProblem, Problem, make_problem
from shipworthy.serving.servable import Servable

PLATFORM = "onnxruntime_onnx"
SERVER: Mapping[str, Any] = {"name": "shipworthy", "version": __version__, "extensions": ["binary_tensor_data"]}
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
Charge = Callable[[Call, int], Refusal | None]


class Tensor(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A named array."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET  # not of tensors whose values come as bytes
    parameters: dict[str, Any] = {}


class InferRequest(msgspec.Struct, kw_only=True):
    """An inference request."""

    inputs: list[Tensor]
    id: str | None = None
    parameters: dict[str, Any] = {}
    outputs: list[dict[str, Any]] | None = None


class InferResponse(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The answer to an inference request."""

    outputs: list[Tensor]
    model_name: str | None = None  # of none of its rows was a release asked
    model_version: str | None = None
    id: str | None = None


class Reply(Protocol):
    """How the one who asked is answered, once."""

    def answer(self, request: InferRequest, response: InferResponse) -> None:
        """With outputs."""

    def refuse(self, problem: Problem, wait_s: int = 0) -> None:
        """With a problem, and the seconds after which it may be tried again; 0: not said."""


def describe_model(servable: Servable, versions: Sequence[str]) -> dict[str, Any]:
    """The model's metadata document."""
    return {
        "name": servable.system,
        "versions": list(versions),
        "platform": PLATFORM,
        "inputs": [
            {"name": field.name, "datatype": DATATYPES[field.kind], "shape": [-1]}
            for field in _expected(servable.schema)
        ],
        "outputs": [
            {"name": name, "datatype": datatype, "shape": [-1, *shape]}
            for name, (datatype, shape) in output_types(servable.policy).items()
        ],
    }


def _expected(schema: Schema) -> list[FeatureField | ContextField]:
    """The features that a caller sends, and the context without which others cannot be looked up."""
    keys = {name for lookup in schema.looked_up for name in lookup.key}
    return [*schema.asked, *(field for field in schema.context if field.name in keys)]


def output_types(policy: Policy) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Datatype and shape after the rows of each output."""
    number = policy.task == "regression"
    types: dict[str, tuple[str, tuple[int, ...]]] = {"prediction": ("FP64" if number else "BYTES", ())}
    if number and policy.intervals is not None:
        types["interval"] = ("FP64", (2,))
    if not number:
        types["probability"] = ("FP64", (len(policy.classes),))
    texts = dict.fromkeys(("decision", "prediction_id", "source", "handling", "warnings"), ("BYTES", ()))
    reasons: dict[str, tuple[str, tuple[int, ...]]] = {"reasons": ("BYTES", ())} if policy.reasons else {}
    return {**types, "confidence": ("FP64", ()), **texts, **reasons}


class InferenceEndpoint:
    """Answers inference requests.

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

    def infer(self, servable: Servable, version: str | None, call: Call, request: InferRequest, reply: Reply) -> None:
        """Answer one request.

        Args:
            servable: whose schema and policy the request is read by.
            version: that was asked for; None: any.
            call: who asks, and when it came.
            request: with the values of every tensor.
            reply: takes the answer, now or later.
        """
        try:
            wanted = _wanted_outputs(request, servable.policy)
            items = _rows(request, servable.schema, reasons="reasons" in wanted)
        except InvalidRequestError as error:
            reply.refuse(problem_of(error))
            return
        if not self._path.admit(len(items), is_list=len(items) > 1):
            reply.refuse(make_problem(503, "Too many predictions are waiting; try again later."))
            return
        if (refused := self._charge(call, len(items))) is not None:
            self._path.give_back(len(items), is_list=len(items) > 1)
            reply.refuse(make_problem(refused.status, refused.detail), refused.wait_s)
            return
        choose = partial(self._choose, version=version)  # type: ignore[call-arg]
        _Inference(self._path, choose, self._call_soon, call, request, reply, items, wanted, servable.policy).step()


class _Inference:
    def __init__(
        self,
        path: PredictionPath,
        choose: Callable[[Any], tuple[Servable, Sample]],
        call_soon: Callable[[Callable[[], None]], object],
        call: Call,
        request: InferRequest,
        reply: Reply,
        items: list[dict[str, Any]],
        wanted: Sequence[str],
        policy: Policy,
    ) -> None:
        self._path = path
        self._choose = choose
        self._call_soon = call_soon
        self._arrived = call.arrived
        self._request = request
        self._reply = reply
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
                    self._reply.refuse(_at_row(problem_of(error), place, len(self._items)))
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
            self._path.submit(Job(servable, sample, self._arrived, partial(self._take, place), is_list=self._is_list))

    def _take(self, place: int, outcome: Outcome) -> None:
        self._outcomes[place] = outcome
        self._left -= 1
        if self._left == 0:
            self._finish()

    def _finish(self) -> None:
        outcomes = [outcome for outcome in self._outcomes if outcome is not None]
        failed = next((outcome for outcome in outcomes if isinstance(outcome, Problem)), None)
        if failed is not None and not self._partial:
            self._reply.refuse(failed)
            return
        outputs = [_output(name, self._policy, outcomes) for name in self._wanted]
        if self._partial:
            statuses = ["ok" if isinstance(outcome, Answer) else flatten(outcome) for outcome in outcomes]
            outputs.append(Tensor(name="status", datatype="BYTES", shape=[len(outcomes)], data=statuses))
        response = InferResponse(outputs=outputs, id=self._request.id)
        if self._servable is not None:
            response.model_name, response.model_version = self._servable.system, self._servable.version
        self._reply.answer(self._request, response)


def flatten(problem: Problem) -> str:
    """The problem in one line, with all that is wrong."""
    fields = [f"{error.field}: expected {error.expected}" for error in problem.errors]
    return "; ".join([problem.detail, *fields])


def _at_row(problem: Problem, place: int, rows: int) -> Problem:
    if rows == 1:
        return problem
    return msgspec.structs.replace(problem, detail=f"Row {place}: {problem.detail}")


def _wanted_outputs(request: InferRequest, policy: Policy) -> Sequence[str]:
    known = output_types(policy)
    if request.outputs is None:
        given = policy.reasons_always or request.parameters.get("reasons") is True
        return tuple(name for name in known if given or name != "reasons")
    wanted = [str(output.get("name")) for output in request.outputs]
    strangers = [FieldProblem(f"outputs.{name}"[:80], "no such output") for name in wanted if name not in known]
    if strangers:
        raise InvalidRequestError(400, f"Outputs are {', '.join(known)}.", strangers)
    return wanted


def _rows(request: InferRequest, schema: Schema, *, reasons: bool) -> list[dict[str, Any]]:
    """The request's rows as plain request objects."""
    kinds: dict[str, Kind] = {field.name: field.kind for field in schema.asked}
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
            "reasons": reasons,
        }
        for row in range(rows)
    ]


def _parted(tensors: list[Tensor], schema: Schema) -> list[Tensor]:
    """One tensor for each feature, where all come in a single one of numbers."""
    names = [field.name for field in schema.asked]
    is_one = len(tensors) == 1 and bool(names) and tensors[0].name not in names
    if not is_one or any(field.kind not in ("float", "int") for field in schema.asked):
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
        for field, column in zip(schema.asked, columns, strict=True)
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
    if name == "reasons":
        return [msgspec.json.encode(value).decode() if isinstance(value, Reasons) else ""]
    return ["" if value is None else str(value)]
