"""An ODCS document, ours or another tool's, as a contract; what has no place in one is named. Pure.

Source: Open Data Contract Standard 3.1.0 (bitol-io.github.io/open-data-contract-standard).
"""

import copy
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from shipworthy.contract.nodes import resolve
from shipworthy.contract.quantities import format_duration
from shipworthy.data.names import identifier
from shipworthy.governance.odcs import OWN, UNIT_S, Body
from shipworthy.kernel.errors import SourceError, UsageError

MAX_CHARACTERS = 5_000_000
MAX_NODES = 500_000  # aliases can make a short text a long document
_KINDS = {"number": "float", "integer": "int", "boolean": "bool", "string": "text", "timestamp": "datetime"}
_KINDS |= {"date": "datetime"}
_PERSONAL = re.compile(r"(?i)personal|pii")


@dataclass(frozen=True, slots=True)
class Imported:
    """A contract as the mapping that is written, and what of the document it has no place for."""

    contract: Body
    left_out: tuple[str, ...]
    assumed: tuple[str, ...]  # keys of the contract that the document does not tell


def parse_document(text: str, name: str) -> Body:
    """A YAML or JSON document as it is written: only numbers, true, false and null are more than text.

    Raises:
        SourceError: it cannot be read, or is no mapping.
    """
    if len(text) > MAX_CHARACTERS:
        raise SourceError(f"{name}: has {len(text):,} characters; at most {MAX_CHARACTERS:,} are read")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" line {mark.line + 1}" if mark else ""
        raise SourceError(f"{name}{place}: is not YAML ({getattr(error, 'problem', None) or error})") from None
    except RecursionError:
        raise SourceError(f"{name}: is nested too deep") from None
    if not isinstance(root, yaml.MappingNode):
        raise SourceError(f"{name}: is no mapping; an ODCS document begins with apiVersion and kind")
    return dict(_Plain(name).value(root, 0))


class _Plain:
    """Nodes of YAML as values; counts them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._count = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        self._count += 1
        if self._count > MAX_NODES or depth > 60:
            raise SourceError(f"{self._name}: is too large once its aliases are written out")
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.MappingNode):
            found: Body = {}
            for key, value in node.value:
                if not isinstance(key, yaml.ScalarNode) or key.value in found:
                    line = key.start_mark.line + 1
                    raise SourceError(f"{self._name} line {line}: the key {key.value!r} stands twice, or is no text")
                found[key.value] = self.value(value, depth + 1)
            return found
        text = str(node.value)
        is_plain = isinstance(node, yaml.ScalarNode) and node.style is None
        return resolve(text)[0] if is_plain else text


def from_odcs(document: Mapping[str, Any], target: str | None = None) -> Imported:
    """The contract that `document` describes: one of ours as it was, one of others with what it does not tell assumed.

    Args:
        document: as `parse_document` reads it.
        target: the column that is predicted, where the document does not say.

    Raises:
        UsageError: it is no data contract, or of which column is predicted nothing is known.
    """
    if document.get("kind") != "DataContract" or not str(document.get("apiVersion", "")).startswith("v3."):
        raise UsageError(
            f"kind is {document.get('kind')!r} and apiVersion {document.get('apiVersion')!r}; "
            "an ODCS document has kind: DataContract and apiVersion: v3.…"
        )
    return _Import(copy.deepcopy(dict(document)), target).contract()


class _Import:
    """One document on its way; what is taken is removed, so that the rest can be named."""

    def __init__(self, document: Body, target: str | None) -> None:
        self._document = document
        self._target = target
        self._assumed: list[str] = []
        self._left: list[str] = []
        self._physical = 0  # columns whose physical type has no place

    def contract(self) -> Imported:
        document = self._document
        rest: Body = _take_own(document) or {}
        ours = bool(rest)
        for name in ("kind", "apiVersion", *(("version", "status") if ours else ())):
            document.pop(name, None)
        identity, title = str(document.pop("id", "")), str(document.pop("name", ""))
        table = self._table()
        found: Body = {"shipworthy": 1, "system": _system(title or identity or str(table.get("name", "")))}
        found["purpose"] = self._purpose() or self._assume("purpose", f"Predict {self._target or 'the target'}")
        found["owner"] = self._owner() or self._assume("owner", "unassigned")
        found["risk"] = rest.pop("risk", None) or self._assume("risk", "minimal")
        data: Body = rest.pop("data", {})
        found["data"] = {"sources": self._sources(found["system"]), **data}
        age, element = self._age()
        columns = self._columns(table, element)
        accept = dict(data.get("accept", {}))
        if age is not None and self._has_time(columns, age):
            accept["age"] = {"at_most": age}
        checks = self._table_quality(table, accept)
        if accept:
            found["data"]["accept"] = accept
        for section in ("context", "features", "derived"):
            if columns[section]:
                found[section] = columns[section]
        if checks:
            found["checks"] = checks
        found["target"] = self._target_section(columns["target"])
        found |= self._decided(found["target"], rest)
        table.pop("name", None)
        self._left += _paths(table, str(found["system"]))
        if self._physical:
            self._left.append(f"physicalType of {self._physical} column{'s' if self._physical > 1 else ''}")
        self._left += _paths(document, "")
        return Imported(found, tuple(self._left), tuple(self._assumed))

    def _assume(self, key: str, value: Any) -> Any:
        self._assumed.append(f"{key}: {value if isinstance(value, str) else json.dumps(value)}")
        return value

    def _table(self) -> Body:
        tables = _mappings(self._document.pop("schema", None), "schema")
        if not tables or not tables[0].get("properties"):
            raise UsageError("schema names no table with properties; a contract is made of its columns")
        self._left += [f"schema {other.get('name', '?')}: one table is taken, the first" for other in tables[1:]]
        table: Body = tables[0]
        for name in ("logicalType", "physicalType", "id"):
            table.pop(name, None)
        return table

    def _purpose(self) -> str:
        described = self._document.get("description")
        return str(described.pop("purpose", "") or "") if isinstance(described, dict) else ""

    def _owner(self) -> str:
        team = self._document.get("team")
        if isinstance(team, dict):
            return str(team.pop("name", "") or "")
        members = _mappings(team, "team")
        owners = [member for member in members if str(member.get("role", "")).lower() == "owner"] or members
        return str(owners[0].get("username", "")) if owners else ""

    def _sources(self, system: str) -> Body:
        found: Body = {}
        for server in _mappings(self._document.pop("servers", None), "servers"):
            name = identifier(str(server.pop("server", "")), len(found) + 1)
            own = _take_own(server) or {}
            kind = server.pop("type", None)
            path = str(server.pop("path", "")).removeprefix("./")
            if kind == "local" and path and not path.startswith(("/", "~")) and ".." not in path and "*" not in path:
                server.pop("format", None)
                found[name] = {"path": path, **own}
            elif kind == "custom" and "location" in server and own:
                found[name] = {"url": server.pop("location"), **own}
            else:
                self._left.append(f"servers {name}: of type {kind}; name the rows in data.sources")
                continue
            self._left += _paths(server, f"servers {name}")
        if not found:
            name = identifier(system, 1)
            found[name] = {"path": self._assume("data.sources", f"data/{name}.csv")}
        return found

    def _age(self) -> tuple[str | None, str | None]:
        """How old the newest row may be, and the column that tells."""
        age, element = None, None
        for item in _mappings(self._document.pop("slaProperties", None), "slaProperties"):
            length = UNIT_S.get(str(item.get("unit", "")).lower()[:1])
            unclear = str(item.get("unit", "")).lower().startswith(("mo", "y"))
            value = item.get("value")
            if (
                item.get("property") in ("freshness", "latency")
                and age is None
                and length is not None
                and not unclear
                and isinstance(value, int | float)
                and value > 0
            ):
                age = format_duration(value * length)
                element = str(item["element"]).rpartition(".")[2] if "element" in item else None
            else:
                self._left.append(f"slaProperties {item.get('property', '?')}: {value} {item.get('unit', '')}".rstrip())
        return age, element

    def _has_time(self, columns: Mapping[str, Body], age: str) -> bool:
        if any(part.get("role") == "time" for part in columns["context"].values()):
            return True
        self._left.append(f"slaProperties freshness: {age}; no column is known to be the row's time")
        return False

    def _columns(self, table: Body, time: str | None) -> dict[str, Body]:
        found: dict[str, Body] = {"context": {}, "features": {}, "derived": {}, "target": {}}
        for position, item in enumerate(_mappings(table.pop("properties"), "schema.properties"), 1):
            written = str(item.pop("name", ""))
            name = identifier(written, position)
            own = _take_own(item) or {}
            section = own.pop("section", None)
            if section is None and self._target in (name, written):
                section = "target"
            column = self._column(item, written, own, section)
            if section is None and column is not None:
                section = self._placed(item, name, time, column)
            if column is None or section is None:
                continue
            if section == "features" and not item.get("required", False):
                column["missing"] = "allow"
            for taken in ("required", "primaryKey", "primaryKeyPosition"):
                item.pop(taken, None)
            if column.get("role") == "key":
                item.pop("unique", None)
            if section not in found:
                raise UsageError(f"{written}: its section is {str(section)[:40]!r}; it is {', '.join(found)}")
            if name in found[section]:
                raise UsageError(f"schema: two columns become {name}; rename one")
            found[section][name] = column
            self._left += _paths({key: value for key, value in item.items() if value is not False}, written)
        return found

    def _placed(self, item: Body, name: str, time: str | None, column: Body) -> str:
        """The section of a column that only others described."""
        if item.get("primaryKey"):
            column["role"] = "key"
            column["type"] = {"float": "text"}.get(column["type"], column["type"])
            return "context"
        if name == time and column["type"] == "datetime":
            column["role"] = "time"
            return "context"
        return "features"

    def _column(self, item: Body, name: str, own: Body, section: str | None) -> Body | None:
        logical = item.pop("logicalType", None)
        physical = item.pop("physicalType", None)
        stated = own.pop("type", None)
        kind = stated or _KINDS.get(str(logical)) or _physical_kind(physical)
        if kind is None:
            self._left.append(f"{name}: of type {logical or physical}, which no column of a contract has")
            item.clear()
            return None
        if physical is not None and logical is not None and section is None:
            self._physical += 1
        column: Body = {"type": kind}
        if section == "derived":
            column = {"from": str(item.pop("transformLogic", "")), **column}
        values = self._values(item, name)
        if values is not None:
            column["values"] = values
            column["type"] = stated or ("category" if kind in ("text", "int", "bool") else kind)
        options = _mapping(item.pop("logicalTypeOptions", None), f"{name}.logicalTypeOptions")
        if "minimum" in options and "maximum" in options and kind in ("float", "int", "regression"):
            column["range"] = [options.pop("minimum"), options.pop("maximum")]
        if "defaultTimezone" in options:
            column["zone"] = options.pop("defaultTimezone")
        self._left += _paths(options, f"{name}.logicalTypeOptions")
        if "description" in item:
            column["description"] = str(item.pop("description"))
        if _PERSONAL.search(str(item.get("classification", ""))):
            item.pop("classification")
            column["personal"] = True
        return column | own

    def _values(self, item: Body, name: str) -> list[str] | None:
        """The only values that a column may have."""
        values, others = None, []
        for rule in _mappings(item.pop("quality", None), f"{name}.quality"):
            valid = _mapping(rule.get("arguments"), f"{name}.quality.arguments").get("validValues")
            metric = rule.get("metric", rule.get("rule"))
            is_zero = rule.get("mustBe") == 0
            if metric == "invalidValues" and is_zero and valid and isinstance(valid, list) and values is None:
                values = [str(value) for value in valid]
            elif metric in ("nullValues", "missingValues") and is_zero and "arguments" not in rule:
                item["required"] = True
            else:
                others.append(f"{name}.quality: {rule.get('name') or metric or rule.get('type')}")
        allowed = _mappings(item.pop("enum", None), f"{name}.enum")
        if allowed and values is None:
            values = [str(entry.get("value")) for entry in allowed]
        self._left += others
        return values

    def _table_quality(self, table: Body, accept: Body) -> list[Body]:
        checks = []
        for rule in _mappings(table.pop("quality", None), "schema.quality"):
            above = rule.get("mustBeGreaterThan")
            least = above + 1 if isinstance(above, int) else rule.get("mustBeGreaterOrEqualTo")
            if rule.get("metric") == "rowCount" and isinstance(least, int) and least > 0:
                accept["rows"] = {"at_least": least}
            elif rule.get("engine") == OWN and "name" in rule:
                checks.append({"name": rule["name"], **_mapping(rule.get("implementation"), "schema.quality")})
            else:
                self._left.append(f"quality: {rule.get('name') or rule.get('metric') or rule.get('type')}")
        return checks

    def _target_section(self, columns: Body) -> Body:
        if not columns:
            raise UsageError("which column is predicted? The document does not say; name it with --target COLUMN")
        if len(columns) > 1:
            raise UsageError(f"{' and '.join(columns)} are both predicted; one column is")
        [(name, column)] = columns.items()
        if column["type"] in ("binary", "multiclass", "regression"):
            return {"column": name, **column}
        values = column.get("values") or (["false", "true"] if column["type"] == "bool" else None)
        kept = {key: column[key] for key in ("range",) if key in column}
        if values is None and column["type"] in ("float", "int"):
            return {"column": name, "type": self._assume("target.type", "regression"), **kept}
        if values is None or len(values) < 2:
            raise UsageError(f"{name}: the document tells no two values that it has (quality: invalidValues)")
        if len(values) == 2:
            positive = self._assume("target.positive", values[1])
            return {"column": name, "type": "binary", "values": values, "positive": positive}
        return {"column": name, "type": "multiclass", "values": values}

    def _decided(self, target: Body, rest: Body) -> Body:
        """The sections that a data contract has no words for."""
        rest.pop("shipworthy", None)
        is_number = target["type"] == "regression"
        sections: dict[str, Callable[[], Any]] = {
            "training": lambda: {"entry": "train.py:train"},
            "decision": lambda: {"fallback": {"otherwise": 0 if is_number else target["values"][0]}},
            "gates": lambda: {"performance": {"mae" if is_number else "log_loss": {"better_than": "baseline"}}},
        }
        missing = {name: self._assume(name, make()) for name, make in sections.items() if name not in rest}
        return {**missing, **rest}


def _take_own(part: Body) -> Body | None:
    """Shipworthy's own property, taken out of the custom ones."""
    properties = _mappings(part.get("customProperties"), "customProperties")
    found = next((item for item in properties if item.get("property") == OWN), None)
    others = [item for item in properties if item is not found]
    if found is not None:
        part["customProperties"] = others
    return None if found is None else _mapping(found.get("value"), f"customProperties.{OWN}")


def _mapping(part: Any, where: str) -> Body:
    """`part`, if it is a mapping or nothing."""
    if part is None or isinstance(part, dict):
        return dict(part or {})
    raise UsageError(f"{where} is {str(part)[:60]!r}; it must be a mapping")


def _mappings(part: Any, where: str) -> list[Body]:
    """`part`, if it is a list of mappings or nothing."""
    if part is None or isinstance(part, list):
        return [_mapping(item, where) for item in part or ()]
    raise UsageError(f"{where} is {str(part)[:60]!r}; it must be a list")


def _paths(part: Any, place: str) -> Iterator[str]:
    """Where something is left, at the first key that names it."""
    for name, value in part.items():
        if value not in (None, "", [], {}):
            dotted = f"{place}.{name}" if place else str(name)
            if isinstance(value, dict):
                yield from _paths(value, dotted)
            else:
                yield dotted


def _system(name: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return (words if words[:1].isalpha() else f"system-{words}".strip("-"))[:63]


def _physical_kind(physical: object) -> str | None:
    """The kind of column of a database's type.

    >>> _physical_kind("VARCHAR(2)"), _physical_kind("decimal(10,2)"), _physical_kind("geometry")
    ('text', 'float', None)
    """
    word = re.match(r"[a-z]+", str(physical or "").lower())
    families = {
        "float": ("double", "float", "decimal", "numeric", "number", "real"),
        "int": ("int", "integer", "bigint", "smallint", "tinyint", "long"),
        "bool": ("bool", "boolean", "bit"),
        "text": ("varchar", "char", "text", "string", "uuid", "nvarchar"),
        "datetime": ("timestamp", "timestamptz", "datetime", "date"),
    }
    return next((kind for kind, words in families.items() if word and word[0] in words), None)
