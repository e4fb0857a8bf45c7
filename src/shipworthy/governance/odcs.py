"""ODCS: a contract as an Open Data Contract Standard document. Pure.

What the standard has a word for stands under that word, and is read from there; the rest travels in `customProperties`
named `shipworthy`, which other tools keep and ignore, so that the way back gives the same contract.

Source: Open Data Contract Standard 3.1.0 (bitol-io.github.io/open-data-contract-standard).
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shipworthy.contract.nodes import compose, plain
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.quantities import parse_duration
from shipworthy.contract.types import Contract
from shipworthy.kernel.digest import digest_json

API_VERSION = "v3.1.0"
OWN = "shipworthy"  # the custom property of what the standard has no word for
PERSONAL = "personal"
LOGICAL = {
    "float": ("number", "double"),
    "int": ("integer", "bigint"),
    "bool": ("boolean", "boolean"),
    "category": ("string", "varchar"),
    "text": ("string", "varchar"),
    "datetime": ("timestamp", "timestamp"),
}
_FORMATS = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".tsv": "csv"}
UNIT_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}  # by the first letter; months and years have no fixed length

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Exported:
    """A document, and the keys of the contract that travel in it as Shipworthy's own."""

    document: Body
    own: tuple[str, ...]


def to_odcs(text: str, file: str) -> Exported:
    """The document of the contract that `text` is; of the same contract the same, comments aside.

    Raises:
        ContractError: it has problems; all are listed, with `file` and line.
    """
    contract = parse_contract(text, file)
    root, _ = compose(text, file)
    raw: Body = {} if root is None else json.loads(json.dumps(plain(root)))
    version = digest_json(raw)[7:19]
    servers = [_server(name, source) for name, source in raw["data"].pop("sources").items()]
    accept = raw["data"].get("accept", {})
    target = raw.pop("target")
    properties = [
        *(_column("context", name, part) for name, part in raw.pop("context", {}).items()),
        *(_column("features", name, part) for name, part in raw.pop("features").items()),
        *(_column("derived", name, part) for name, part in raw.pop("derived", {}).items()),
        _column("target", target.pop("column"), target),
    ]
    table: Body = {
        "name": raw["system"],
        "logicalType": "object",
        "physicalType": "table",
        "properties": properties,
    }
    quality = [*_row_rule(accept), *map(_check, raw.pop("checks", ()))]
    if quality:
        table["quality"] = quality
    document: Body = {
        "apiVersion": API_VERSION,
        "kind": "DataContract",
        "id": raw["system"],
        "name": raw.pop("system"),
        "version": version,
        "status": "active",
        "description": {"purpose": raw.pop("purpose")},
        "team": {"name": raw.pop("owner")},
        "servers": servers,
        "schema": [table],
    }
    age = accept.pop("age", None)
    if age is not None:
        document["slaProperties"] = [_freshness(contract, parse_duration(age["at_most"]))]
    rest = _without_empty(raw)
    document["customProperties"] = [{"property": OWN, "value": rest}]
    columns = {key for part in properties for key in _own(part) if key != "section"}
    return Exported(document, (*_dotted(rest), *(f"{key} of columns" for key in sorted(columns))))


def _server(name: str, source: Body) -> Body:
    source = dict(source)
    path = source.pop("path", None)
    if path is None:
        server: Body = {"server": name, "type": "custom", "location": source.pop("url")}
    else:
        suffix = re.search(r"\.[a-z]+(?=(\.gz)?$)", path.lower())
        kind = _FORMATS.get(suffix[0] if suffix else "", "csv")
        server = {"server": name, "type": "local", "path": path, "format": kind}
    return server | ({"customProperties": [{"property": OWN, "value": source}]} if source else {})


def _column(section: str, name: str, part: Body) -> Body:
    part = dict(part)
    kind = part.pop("type")
    own: Body = {"section": section}
    if section == "target":
        own["type"] = kind
        kind = "float" if kind == "regression" else "category"
    elif kind in ("category", "text") and (kind == "category") != ("values" in part):
        own["type"] = kind
    logical, physical = LOGICAL[kind]
    found: Body = {"name": name, "logicalType": logical, "physicalType": physical}
    is_key = part.get("role") == "key"
    required = {
        "features": part.pop("missing", "reject") == "reject",
        "context": is_key or part.get("request") == "required",
        "derived": False,
        "target": True,
    }
    found["required"] = required[section]
    if is_key:
        found |= {"primaryKey": True, "primaryKeyPosition": 1, "unique": True}
    if "description" in part:
        found["description"] = part.pop("description")
    if part.pop("personal", False):
        found["classification"] = PERSONAL
    if "from" in part:
        found["transformLogic"] = part.pop("from")
    options: Body = {}
    if "range" in part and logical in ("number", "integer"):
        options["minimum"], options["maximum"] = part.pop("range")
    if "zone" in part:
        options["defaultTimezone"] = part.pop("zone")
    if options:
        found["logicalTypeOptions"] = options
    if "values" in part:
        values = {"validValues": part.pop("values")}
        found["quality"] = [{"type": "library", "metric": "invalidValues", "arguments": values, "mustBe": 0}]
    found["customProperties"] = [{"property": OWN, "value": own | part}]
    return found


def _own(part: Mapping[str, Any]) -> Body:
    return dict(next(item["value"] for item in part["customProperties"] if item["property"] == OWN))


def _row_rule(accept: Body) -> Iterator[Body]:
    rows = accept.pop("rows", None)
    if rows is not None:
        yield {"type": "library", "metric": "rowCount", "mustBeGreaterOrEqualTo": rows["at_least"]}


def _check(check: Body) -> Body:
    return {
        "type": "custom",
        "engine": OWN,
        "name": check["name"],
        "description": f"{check['expect']} holds in each row",
        "implementation": {name: value for name, value in check.items() if name != "name"},
    }


def _freshness(contract: Contract, seconds: float) -> Body:
    unit, length = next((unit, length) for unit, length in UNIT_S.items() if seconds % length == 0 or unit == "s")
    value = seconds / length
    found: Body = {"property": "freshness", "value": int(value) if value == int(value) else value, "unit": unit}
    times = contract.context_by_role("time")
    return found | ({"element": f"{contract.system}.{times[0]}"} if times else {})


def _without_empty(raw: Body) -> Body:
    data = {name: value for name, value in raw.pop("data").items() if value != {}}
    return ({"data": data} if data else {}) | raw


def _dotted(rest: Mapping[str, Any]) -> Iterator[str]:
    for name, value in rest.items():
        if name == "data":
            yield from (f"data.{key}" for key in value)
        elif name != "shipworthy":
            yield name
