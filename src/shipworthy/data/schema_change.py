"""Schema changes: what became of a source's columns since the last snapshot, and what of the contract that breaks.

A change is breaking if something that the contract asks for is not there any more or cannot be read as it asks;
otherwise it is compatible.
"""

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from shipworthy.contract.columns import Column, Feature
from shipworthy.contract.expressions import parse_expression
from shipworthy.contract.lookups import needed_columns
from shipworthy.contract.types import Contract
from shipworthy.data.columns import kinds
from shipworthy.data.datetimes import detect_format
from shipworthy.data.values import cleaned, typed
from shipworthy.kernel.digest import Json
from shipworthy.kernel.errors import ExpressionError

Change = Literal["added", "removed", "renamed", "type", "categories"]
Impact = Literal["compatible", "breaking"]
SourceKind = Literal["empty", "true or false", "whole number", "number", "datetime", "text", "nested"]

SAMPLED_ROWS = 20_000  # of which a text column's kind is read: one stray value in a hundred is surely among them
FITTING_SHARE = 0.99  # of the values must be of a kind; the strays are quarantined one by one
MOST_VALUES = 200  # of a category that are kept
ALIKE = 0.6  # similarity of two names that may be one column's, 0 to 1
_WORD = re.compile(r"\w+")
_READABLE: Mapping[str, frozenset[str]] = {  # contract's type -> kinds at the source that it can be read from
    "float": frozenset({"number", "whole number", "empty"}),
    "int": frozenset({"whole number", "empty"}),
    "bool": frozenset({"true or false", "whole number", "empty"}),
    "datetime": frozenset({"datetime", "empty"}),
    "category": frozenset({"true or false", "whole number", "number", "text", "empty"}),
    "text": frozenset({"true or false", "whole number", "number", "datetime", "text", "empty"}),
}
_WIDER = frozenset({("whole number", "number"), ("true or false", "whole number")})


@dataclass(frozen=True, slots=True)
class Schema:
    """The columns of a source as they were read."""

    columns: Mapping[str, SourceKind]
    values: Mapping[str, tuple[str, ...]]  # of the contract's categories, where there are few; never personal ones

    def to_json(self) -> dict[str, Json]:
        """As the ledger keeps it."""
        return {"columns": dict(self.columns), "values": {name: list(found) for name, found in self.values.items()}}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Schema":
        """What `to_json` wrote."""
        return cls(document["columns"], {name: tuple(found) for name, found in document["values"].items()})


@dataclass(frozen=True, slots=True)
class SchemaChange:
    """One difference between a source's columns now and before."""

    source: str
    column: str  # as it was called before; of an added one, as it is
    change: Change
    impact: Impact
    words: str  # what happened, with what was there before and what is now
    breaks: tuple[str, ...] = ()  # keys of the contract, such as `features.income`

    def told(self) -> str:
        """The change as people are told of it."""
        breaks = f"; it breaks {', '.join(self.breaks)}" if self.breaks else ""
        return f"{self.source}: {self.words} ({self.impact}{breaks})"

    def to_json(self) -> dict[str, Json]:
        """A JSON document of this change."""
        return {
            "source": self.source,
            "column": self.column,
            "change": self.change,
            "impact": self.impact,
            "words": self.words,
            "breaks": list(self.breaks),
        }


def read_schema(contract: Contract, frame: pl.DataFrame) -> Schema:
    """The kinds of a source's columns, and the values of those that the contract calls categories."""
    return Schema(column_kinds(frame), category_values(contract, frame))


def column_kinds(frame: pl.DataFrame, rows: int = SAMPLED_ROWS) -> dict[str, SourceKind]:
    """What each column holds, by a sample of about so many rows."""
    return {series.name: _kind(series) for series in frame.gather_every(max(1, frame.height // rows))}


def category_values(contract: Contract, frame: pl.DataFrame) -> dict[str, tuple[str, ...]]:
    """The values of the columns that the contract calls categories, where there are few; never personal ones."""
    values = {}
    for name, column in _declared(contract).items():
        if column.type == "category" and not column.personal and name in frame.columns:
            seen = frame.select(pl.col(name).unique())
            known = seen.select(cleaned(name, column, frame.schema[name]).drop_nulls().unique()).to_series()
            if len(known) <= MOST_VALUES:
                values[name] = tuple(sorted(known.cast(pl.String).to_list()))
    return values


def find_changes(
    contract: Contract, source: str, before: Schema, now: Schema | Sequence[str], code: str = ""
) -> list[SchemaChange]:
    """What changed in a source's columns, the breaking changes first.

    Args:
        contract: says what is needed, and how it is read.
        source: its name.
        before: its columns at an earlier snapshot.
        now: its columns now; where only their names are known, no type is compared.
        code: the text of what `data.prepare` runs: a column that it names is needed.
    """
    wanted = _Needs(contract, source, code)
    there, schema = (list(now.columns), now) if isinstance(now, Schema) else (list(now), None)
    gone = [name for name in before.columns if name not in there]
    new = [name for name in there if name not in before.columns]
    changes = []
    for name in gone:
        heir = _heir(name, new, before, schema)
        if heir is not None:
            new.remove(heir)
        changes.append(_lost(source, name, heir, wanted))
    changes += [SchemaChange(source, name, "added", "compatible", f"{name} is new") for name in new]
    if schema is not None:
        for name in (name for name in there if name in before.columns):
            changes += _retyped(source, name, before.columns[name], schema.columns[name], wanted)
            changes += _recategorised(source, name, before.values.get(name), schema.values.get(name), wanted)
    return sorted(changes, key=lambda change: change.impact != "breaking")


def _declared(contract: Contract) -> dict[str, Column]:
    """What the contract reads from the prepared data, by column."""
    target = contract.target
    kind: Literal["float", "category"] = "float" if target.type == "regression" else "category"
    truth = Column(type=kind, values=target.values if kind == "category" else None)
    return {**contract.context, **contract.features, target.column: truth}


def _kind(series: pl.Series) -> SourceKind:
    kind = series.dtype
    if kind.is_nested() or kind == pl.Object:
        return "nested"
    if not len(series.drop_nulls()):
        return "empty"
    if kind == pl.Boolean:
        return "true or false"
    if kind.is_numeric():
        return "whole number" if kind.is_integer() else "number"
    if kind.is_temporal():
        return "datetime"
    return _text_kind(series.cast(pl.String))


def _text_kind(texts: pl.Series) -> SourceKind:
    """What the texts of a column hold, as far as nearly all of them agree."""
    known = _read(texts, Column(type="category")).drop_nulls()
    if not len(known):
        return "empty"
    if set(known.str.to_lowercase().unique().to_list()) <= {"true", "false"}:
        return "true or false"
    is_code = bool(
        (known.str.starts_with("0") & known.str.contains(r"^\d{2,}$")).any()
    )  # 007, whose zeros mean something
    for kind, column in (("whole number", Column(type="int")), ("number", Column(type="float"))):
        if not is_code and len(_read(known, column).drop_nulls()) >= FITTING_SHARE * len(known):
            return "whole number" if kind == "whole number" else "number"
    written = detect_format(known)
    return "datetime" if written is not None and written.share >= FITTING_SHARE else "text"


def _read(texts: pl.Series, column: Column) -> pl.Series:
    name = texts.name
    known = texts.to_frame().select(cleaned(name, column, texts.dtype))
    return known.select(typed(name, column, known.schema[name])).to_series()


class _Needs:
    """What of a contract needs a column of a source."""

    def __init__(self, contract: Contract, source: str, code: str) -> None:
        self.contract = contract
        self.looked_up = needed_columns(contract, source)
        self.declared = _declared(contract)
        self.prepared = frozenset(_WORD.findall(code))

    def keys(self, name: str) -> tuple[str, ...]:
        """The keys of the contract that cannot do without the column."""
        contract, found = self.contract, list(self.looked_up.get(name, ()))
        if name in self.declared:
            section = "context" if name in contract.context else "features" if name in contract.features else "target"
            found.append(section if section == "target" else f"{section}.{name}")
        elif name in self.prepared and not found:
            return ("data.prepare",)
        lost = {name, *(key.removeprefix("features.") for key in found)}
        for derived, column in contract.derived.items():
            if self._reads(column.from_, lost):
                lost.add(derived)
                found.append(f"derived.{derived}")
        found += [f"checks.{check.name}" for check in contract.checks if self._reads(check.expect, lost)]
        rules = contract.decision.fallback.rules
        found += [f"decision.fallback.rules[{at}]" for at, rule in enumerate(rules) if self._reads(rule.if_, lost)]
        return tuple(dict.fromkeys(found))

    def _reads(self, text: str, names: set[str]) -> bool:
        try:
            return not names.isdisjoint(parse_expression(text, kinds(self.contract)).columns)
        except ExpressionError:  # the contract's own parser reports it
            return False


def _heir(name: str, new: list[str], before: Schema, now: Schema | None) -> str | None:
    """The new column that a lost one may be called now."""
    fitting = [other for other in new if now is None or now.columns[other] == before.columns[name]]
    alike = {_plain(other): other for other in fitting}
    found = difflib.get_close_matches(_plain(name), alike, 1, ALIKE)
    if found:
        return alike[found[0]]
    return None


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _lost(source: str, name: str, heir: str | None, wanted: _Needs) -> SchemaChange:
    breaks = wanted.keys(name)
    impact: Impact = "breaking" if breaks else "compatible"
    if heir is None:
        return SchemaChange(source, name, "removed", impact, f"{name} is not there any more", breaks)
    return SchemaChange(source, name, "renamed", impact, f"{name} is gone; it may be called {heir} now", breaks)


def _retyped(source: str, name: str, before: str, now: str, wanted: _Needs) -> Iterator[SchemaChange]:
    if before == now:
        return
    column, keys = wanted.declared.get(name), wanted.keys(name)
    if column is not None:
        is_sound = now in _READABLE[column.type]
    else:
        is_sound = not keys or (before, now) in _WIDER or before == "empty"
    impact: Impact = "compatible" if is_sound else "breaking"
    yield SchemaChange(source, name, "type", impact, f"{name} was {before}, is {now}", () if is_sound else keys)


def _recategorised(
    source: str, name: str, before: tuple[str, ...] | None, now: tuple[str, ...] | None, wanted: _Needs
) -> Iterator[SchemaChange]:
    if before is None or now is None or set(before) == set(now):
        return
    column = wanted.declared[name]
    added, gone = sorted(set(now) - set(before)), sorted(set(before) - set(now))
    words = [f"{verb} {_listed(values)}" for verb, values in (("has", added), ("lacks", gone)) if values]
    strange = [value for value in added if column.values is not None and value not in column.values]
    is_sound = not strange or (isinstance(column, Feature) and column.unknown != "reject")
    if strange:
        words.append(f"the contract does not list {_listed(strange)}")
    impact: Impact = "compatible" if is_sound else "breaking"
    text = f"{name} now {'; '.join(words)}"
    yield SchemaChange(source, name, "categories", impact, text, () if is_sound else wanted.keys(name)[:1])


def _listed(values: list[str], most: int = 5) -> str:
    shown = ", ".join(repr(value[:40]) for value in values[:most])
    return shown + (f" and {len(values) - most} more" if len(values) > most else "")
