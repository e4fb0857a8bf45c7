"""The JSON Schema of a contract, for editors and for CI in other languages."""

from typing import Any

from shipworthy.contract.outline import FREE, as_written, keys_of, section_of, whole
from shipworthy.contract.sections import Section
from shipworthy.contract.types import VERSION, Contract

DIALECT = "https://json-schema.org/draft/2020-12/schema"
IGNORED = "^x-"  # keys that are kept and ignored


def json_schema() -> dict[str, Any]:
    """What one file can say by itself: keys, types, units, options, defaults.

    What only makes sense between two keys (an action for each class, say) is found by `parse_contract`.
    """
    schema = Contract.model_json_schema(by_alias=True)
    definitions = schema.pop("$defs")
    for section in _sections(Contract, {}).values():
        _open(schema if section is Contract else definitions[section.__name__], section)
    return {
        "$schema": DIALECT,
        "$id": f"https://shipworthy.dev/contract/v{VERSION}.json",
        **_without_titles(schema),
        "$defs": {name: _without_titles(definition) for name, definition in sorted(definitions.items())},
    }


def _sections(section: type[Section], found: dict[str, type[Section]]) -> dict[str, type[Section]]:
    """Every section that is reachable from `section`, by name."""
    found[section.__name__] = section
    for annotation in keys_of(section).values():
        for inner in _nested(annotation):
            if inner.__name__ not in found:
                _sections(inner, found)
    return found


def _nested(annotation: Any) -> list[type[Section]]:
    section = section_of(annotation)
    if section is not None:
        return [section]
    return [found for part in getattr(annotation, "__args__", ()) for found in _nested(part)]


def _open(definition: dict[str, Any], section: type[Section]) -> None:
    """Let `x-…` keys and a section's free names in, and write defaults as a contract would."""
    definition["patternProperties"] = {IGNORED: True}
    for name, info in section.model_fields.items():
        stated = definition["properties"][info.alias or name]
        if info.is_required():
            continue
        default = as_written(info.get_default(call_default_factory=False), whole(info))
        if default in (None, {}, []):
            stated.pop("default", None)
        else:
            stated["default"] = default
    free = FREE.get(section)
    if free is not None:
        stated = definition["properties"].pop(free)
        definition["required"].remove(free)
        names = stated.get("propertyNames")
        if names is None:
            definition["additionalProperties"] = stated["additionalProperties"]
        else:
            definition["properties"] |= dict.fromkeys(names["enum"], stated["additionalProperties"])


def _without_titles(node: Any) -> Any:
    """The schema without generated titles, and with mappings of named things closed to other names."""
    if isinstance(node, list):
        return [_without_titles(part) for part in node]
    if not isinstance(node, dict):
        return node
    closed = {
        "anyOf" if key == "oneOf" else key: _without_titles(part)  # what differs by its kind needs no count
        for key, part in node.items()
        if key != "title" or not isinstance(part, str)
    }
    if "patternProperties" in closed and "additionalProperties" not in closed:
        closed["additionalProperties"] = False
    return closed
