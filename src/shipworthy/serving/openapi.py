"""The OpenAPI document of the data plane, generated from what is served."""

from typing import Any

from msgspec import UNSET

from shipworthy.bundle.format import ContextField, FeatureField, Policy, Schema

_PROBLEM = {"$ref": "#/components/responses/Problem"}


def describe_api(schema: Schema, policy: Policy, release: str, *, outcomes: bool = True) -> dict[str, Any]:
    """The document for one system; what it promises is what the decoder accepts and the policy answers.

    Args:
        schema: what requests hold.
        policy: what answers hold.
        release: the one that answers.
        outcomes: whether the server takes them.
    """
    system = schema.system
    told: dict[str, Any] = {f"/v1/systems/{system}/outcomes": {"post": _outcomes_operation()}} if outcomes else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"Predictions of {system}", "version": release},
        "paths": {
            f"/v1/systems/{system}/predict": {"post": _predict_operation()},
            **told,
            f"/v2/models/{system}/infer": {"post": _infer_operation()},
            f"/v2/models/{system}": {"get": _get("The model's inputs and outputs.", guarded=True)},
            f"/v2/models/{system}/ready": {"get": _get("Whether the model answers.")},
            "/v2": {"get": _get("The server's name and version.")},
            "/v2/health/live": {"get": _get("Whether the process answers.")},
            "/v2/health/ready": {"get": _get("Whether predictions are answered by the model.")},
            "/metrics": {
                "get": {
                    "summary": "Counts for Prometheus.",
                    "responses": {"200": _content("text/plain", {}), "403": _PROBLEM, "421": _PROBLEM},
                }
            },
            "/openapi.json": {"get": _get("This document.", guarded=True)},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {"Problem": _content("application/problem+json", {"$ref": "#/components/schemas/Problem"})},
            "schemas": {
                "Request": _request_schema(schema),
                "Answer": _answer_schema(policy),
                "Outcome": _outcome_schema(policy),
                "OutcomeAnswer": _outcome_answer_schema(),
                "Problem": _problem_schema(),
            },
        },
    }


def _content(media: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "", "content": {media: {"schema": schema}}}


def _get(summary: str, *, guarded: bool = False) -> dict[str, Any]:
    responses = {"200": _content("application/json", {"type": "object"}), "403": _PROBLEM, "421": _PROBLEM}
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if guarded:
        operation["security"] = [{"token": []}]
        responses |= {"401": _PROBLEM, "429": _PROBLEM}
    return operation


def _predict_operation() -> dict[str, Any]:
    request, answer = {"$ref": "#/components/schemas/Request"}, {"$ref": "#/components/schemas/Answer"}
    problem = {"$ref": "#/components/schemas/Problem"}
    body = {"oneOf": [request, {"type": "array", "items": request, "maxItems": 10_000}]}
    answers = {"oneOf": [answer, {"type": "array", "items": {"oneOf": [answer, problem]}}]}
    refusals = ("400", "401", "403", "408", "413", "415", "421", "422", "429", "431", "503")
    return {
        "summary": "Predict for one request, or for a list of up to 10,000.",
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": _content("application/json", answers)} | dict.fromkeys(refusals, _PROBLEM),
    }


def _outcomes_operation() -> dict[str, Any]:
    outcome = {"$ref": "#/components/schemas/Outcome"}
    body = {"oneOf": [outcome, {"type": "array", "items": outcome, "maxItems": 10_000}]}
    refusals = ("400", "401", "403", "408", "413", "415", "421", "422", "429", "431", "503")
    return {
        "summary": "Tell what came true of one earlier prediction, or of up to 10,000. Telling it again has no effect.",
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {"200": _content("application/json", {"$ref": "#/components/schemas/OutcomeAnswer"})}
        | dict.fromkeys(refusals, _PROBLEM),
    }


def _outcome_schema(policy: Policy) -> dict[str, Any]:
    value = {"type": "number"} if policy.task == "regression" else {"type": "string", "enum": list(policy.classes)}
    known = "when it was known: RFC 3339 or Unix seconds; without it, now"
    time = {"type": ["string", "number", "null"], "description": known}
    whose = "the request's id, or the prediction's"
    identity = {"type": "string", "minLength": 1, "maxLength": 256, "description": whose}
    return _object([("id", identity, True), ("value", value, True), ("time", time, False)])


def _outcome_answer_schema() -> dict[str, Any]:
    text = {"type": "string"}
    problem = _object(
        [("index", {"type": "integer"}, True), ("field", text, True), ("expected", text, True), ("got", text, False)]
    )
    problems = {"type": "array", "items": problem}
    return _object([("accepted", {"type": "integer"}, True), ("problems", problems, True)])


_INFER: dict[str, Any] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["name", "shape", "datatype", "data"],
                "properties": {
                    "name": {"type": "string"},
                    "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                    "datatype": {"type": "string"},
                    "data": {"type": "array"},
                },
            },
        },
    },
}


def _infer_operation() -> dict[str, Any]:
    return {
        "summary": "Predict with tensors, Open Inference Protocol version 2.",
        "security": [{"token": []}],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _INFER}}},
        "responses": {
            "200": _content("application/json", {"type": "object"}),
            "400": _content("application/json", {"type": "object", "required": ["error"]}),
        }
        | dict.fromkeys(("401", "403", "408", "413", "415", "421", "429", "431", "503"), _PROBLEM),
    }


def _request_schema(schema: Schema) -> dict[str, Any]:
    inputs = _object([(field.name, _feature(field), field.missing == "reject") for field in schema.asked])
    context = _object([(field.name, _context(field), field.required) for field in schema.context])
    needs_context = any(field.required for field in schema.context)
    key = {"type": ["string", "null"], "minLength": 1, "maxLength": 256}
    return _object(
        [
            ("id", key, False),
            ("inputs", inputs, True),
            ("context", context if needs_context else {"oneOf": [context, {"type": "null"}]}, needs_context),
            ("reasons", {"type": "boolean", "default": False}, False),
        ]
    )


def _object(members: list[tuple[str, dict[str, Any], bool]]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: member for name, member, _ in members},
        "required": [name for name, _, required in members if required],
        "additionalProperties": False,
    }


_TYPES = {
    "float": "number",
    "int": "integer",
    "bool": "boolean",
    "category": "string",
    "text": "string",
    "datetime": "string",
}


def _typed(field: FeatureField | ContextField, *, nullable: bool, strict: bool) -> dict[str, Any]:
    kind = _TYPES[field.kind]
    member: dict[str, Any] = {"type": [kind, "null"] if nullable else kind}
    if field.kind == "category" and field.values is not None and strict:
        member["enum"] = [*field.values, None] if nullable else list(field.values)
    if field.pattern is not UNSET:
        member["pattern"] = f"^(?:{field.pattern})$"
    if field.kind == "datetime":
        member["format"] = "date-time"
    return member


def _feature(field: FeatureField) -> dict[str, Any]:
    member = _typed(field, nullable=field.missing == "allow", strict=field.unknown == "reject")
    if field.outside == "reject" and field.kind in ("float", "int"):
        bounds = {"minimum": field.low, "maximum": field.high}
        member |= {key: value for key, value in bounds.items() if value is not None}
    if field.unit is not None:
        member["description"] = f"in {field.unit}"
    return member


def _context(field: ContextField) -> dict[str, Any]:
    return _typed(field, nullable=not field.required, strict=True)


def _answer_schema(policy: Policy) -> dict[str, Any]:
    text = {"type": "string"}
    number = policy.task == "regression"
    pair = {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    shares = {"type": ["object", "null"], "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}}
    return _object(
        [
            ("prediction", {"type": ["number" if number else "string", "null"]}, True),
            ("probability", {"type": "null"} if number else shares, True),
            ("interval", pair if number else {"type": "null"}, True),
            ("confidence", {"type": ["number", "null"]}, True),
            ("decision", {"type": ["string", "number"]}, True),
            ("prediction_id", text, True),
            ("source", {"enum": ["model", "fallback"]}, True),
            ("handling", {"enum": ["automatic", "review"]}, True),
            ("release", text, True),
            ("warnings", {"type": "array", "items": text}, True),
            ("reasons", _reasons_schema(), policy.reasons_always),
        ]
    )


def _reasons_schema() -> dict[str, Any]:
    text = {"type": "string"}
    change = _object([("feature", text, True), ("change", {"type": "number"}, True)])
    reasons = _object(
        [("method", text, True), ("score", text, True), ("changes", {"type": "array", "items": change}, True)]
    )
    return {"oneOf": [reasons, {"type": "null"}]}


def _problem_schema() -> dict[str, Any]:
    text = {"type": "string"}
    error = _object([("field", text, True), ("expected", text, True), ("got", text, False)])
    members: list[tuple[str, dict[str, Any], bool]] = [
        ("type", text, True),
        ("title", text, True),
        ("status", {"type": "integer"}, True),
        ("detail", text, True),
        ("errors", {"type": "array", "items": error}, False),
    ]
    return _object(members)
