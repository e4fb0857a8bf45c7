"""The JSON Schema accepts what the parser accepts, and refuses what an editor can see."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from shipworthy.contract.nodes import compose, plain
from shipworthy.contract.schema import json_schema
from shipworthy.contract.types import RESERVED

MORTGAGE = (Path(__file__).parent / "mortgage.yaml").read_text()
SCHEMA = json_schema()
TYPES: dict[str, Any] = {"object": dict, "array": tuple, "string": str, "boolean": bool, "null": type(None)}


def is_of_type(value: Any, name: str) -> bool:
    if name in ("number", "integer"):
        return isinstance(value, int if name == "integer" else int | float) and not isinstance(value, bool)
    return isinstance(value, TYPES[name])


def faults(value: Any, schema: Any, path: str = "") -> list[str]:
    """What the used part of draft 2020-12 says against `value`; unknown keywords are an error of the test."""
    if schema is True:
        return []
    if schema is False:
        return [f"{path}: not allowed"]
    known = {"$schema", "$id", "$defs", "description", "default", "examples", "$ref", "anyOf", "type", "const", "enum"}
    known |= {"pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    known |= {"items", "prefixItems", "minItems", "maxItems", "properties", "patternProperties", "required"}
    known |= {"additionalProperties", "propertyNames", "minProperties"}
    assert set(schema) <= known, set(schema) - known
    found: list[str] = []
    if "$ref" in schema:
        found += faults(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], path)
    choices = [faults(value, choice, path) for choice in schema.get("anyOf", [])]
    if choices and all(choices):
        found += [fault for choice in choices for fault in choice]
    if "type" in schema and not is_of_type(value, schema["type"]):
        return [*found, f"{path}: not {schema['type']}"]
    if "const" in schema and value != schema["const"]:
        found.append(f"{path}: not {schema['const']}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{path}: not among {schema['enum']}")
    if isinstance(value, str):
        found += [f"{path}: pattern"] if "pattern" in schema and not re.search(schema["pattern"], value) else []
        found += [f"{path}: short"] if len(value) < schema.get("minLength", 0) else []
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum", -1e300), schema.get("maximum", 1e300)
        found += [f"{path}: range"] if not low <= value <= high else []
    if isinstance(value, tuple):
        found += (
            [f"{path}: length"] if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", 999) else []
        )
        ahead = schema.get("prefixItems", [])
        for number, item in enumerate(value):
            part = ahead[number] if number < len(ahead) else schema.get("items", True)
            found += faults(item, part, f"{path}[{number}]")
    if isinstance(value, dict):
        found += object_faults(value, schema, path)
    return found


def object_faults(value: dict[str, Any], schema: dict[str, Any], path: str) -> list[str]:
    found = [f"{path}.{key}: missing" for key in schema.get("required", []) if key not in value]
    found += [f"{path}: few"] if len(value) < schema.get("minProperties", 0) else []
    for key, part in value.items():
        found += faults(key, schema.get("propertyNames", True), f"{path}.{key}")
        fitting = [schema["properties"][key]] if key in schema.get("properties", {}) else []
        fitting += [one for pattern, one in schema.get("patternProperties", {}).items() if re.search(pattern, key)]
        for one in fitting or [schema.get("additionalProperties", True)]:
            found += faults(part, one, f"{path}.{key}")
    return found


def told(text: str) -> list[str]:
    root, problems = compose(text, "example")
    assert root is not None
    assert not problems
    return faults(plain(root), SCHEMA)


def test_the_example_fits_the_schema() -> None:
    assert told(MORTGAGE) == []
    assert told(MORTGAGE + "x-team: {a: 1}\n") == []
    assert told(MORTGAGE.replace("value: {unit", "value: {x-a: 3, unit")) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("risk: high", "risk: hgh", ".risk: not among"),
        ("risk: high", "rsk: high", ".rsk: not allowed"),
        ("owner: lending\n", "", ".owner: missing"),
        ("timeout: 200ms", "timeout: 200", ".serving.timeout: not string"),
        ("timeout: 200ms", "timeout: 200m", ".serving.timeout: pattern"),
        ('values: ["0", "1"]', "values: [0, 1]", ".target.values[0]: not string"),
        ("from: ", "form: ", ".derived.debt_ratio.from: missing"),
        ("if: ", "when: ", ".decision.fallback.rules[0].if: missing"),
        ('approve: {"1": 900', 'approve: {"1": lots', ".value.approve.1: not number"),
        ("roc_auc: {at_least: 0.65}", "roc_acu: {at_least: 0.65}", ".gates.slices.roc_acu: not allowed"),
        ("  income: {", "  in come: {", ".features.in come: not allowed"),
    ],
)
def test_an_editor_sees_the_fault(old: str, new: str, fault: str) -> None:
    text = MORTGAGE.replace(old, new, 1)
    assert text != MORTGAGE
    assert any(one.startswith(fault) for one in told(text)), told(text)


def test_the_schema_is_json_and_describes_every_key() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert not set(RESERVED) & set(SCHEMA["properties"])
    for name, definition in {"Contract": SCHEMA, **SCHEMA["$defs"]}.items():
        assert definition["description"], name
        for key, part in definition["properties"].items():
            assert "description" in part or "$ref" in part, f"{name}.{key}"


def test_defaults_are_written_as_a_contract_writes_them() -> None:
    assert SCHEMA["$defs"]["Training"]["properties"]["timeout"]["default"] == "1h"
    assert SCHEMA["$defs"]["Check"]["properties"]["failing"]["default"] == {"at_most": "0%"}
    assert SCHEMA["properties"]["environments"]["default"] == {"local": {}}
