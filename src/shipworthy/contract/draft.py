"""A contract as far as it could be read, and whom problems are told: what the rules of `sense` work on."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from shipworthy.contract.columns import Check, Column, ContextColumn, Derived, Feature, Target
from shipworthy.contract.data_section import Data
from shipworthy.contract.expressions import Kind
from shipworthy.contract.gates_section import Gates
from shipworthy.contract.nodes import Path
from shipworthy.contract.types import (
    Decision,
    Environment,
    Lineage,
    Records,
    Retrain,
    Serving,
    Training,
    Value,
)


class Report(Protocol):
    """Takes one problem at a path."""

    def __call__(self, path: Path, message: str, *, at_key: bool = False, offset: int | None = None) -> None:
        """Report `message` at the value (or key) of `path`, `offset` characters into its text."""


@dataclass(slots=True)
class Draft:
    """The sections of a contract that could be read, and the paths of what could not."""

    data: Data | None = None
    context: dict[str, ContextColumn] = field(default_factory=dict)
    features: dict[str, Feature] = field(default_factory=dict)
    derived: dict[str, Derived] = field(default_factory=dict)
    checks: dict[int, Check] = field(default_factory=dict)  # by place in the list
    target: Target | None = None
    training: Training | None = None
    decision: Decision | None = None
    value: Value | None = None
    gates: Gates | None = None
    serving: Serving | None = None
    records: Records | None = None
    environments: dict[str, Environment] = field(default_factory=dict)
    retrain: Retrain | None = None
    lineage: Lineage | None = None
    broken: set[Path] = field(default_factory=set)

    def is_sound(self, *path: str | int) -> bool:
        """Whether nothing at, above or below `path` is broken."""
        return not any(path[: len(bad)] == bad or bad[: len(path)] == path for bad in self.broken)

    def inputs(self) -> Iterator[tuple[str, str, Column]]:
        """Section, name and column of every feature and context column."""
        for name, feature in self.features.items():
            yield "features", name, feature
        for name, column in self.context.items():
            yield "context", name, column

    def with_role(self, role: str) -> list[str]:
        """Names of the context columns with `role`."""
        return [name for name, column in self.context.items() if column.role == role]

    def kinds(self) -> dict[str, Kind]:
        """The kind of each feature, context and derived column."""
        inputs: dict[str, Kind] = {name: column.type for _, name, column in self.inputs()}
        return inputs | {name: column.type for name, column in self.derived.items()}

    def categories(self) -> dict[str, tuple[str, ...]]:
        """The values of each category column."""
        inputs = {name: column.values for _, name, column in self.inputs() if column.values is not None}
        derived = {name: column.values for name, column in self.derived.items() if column.type == "category"}
        return inputs | {name: values for name, values in derived.items() if values is not None}

    def actions(self) -> tuple[str, ...] | None:
        """Every action that a decision can name; None where it cannot be said."""
        known = self.is_sound("decision", "actions") and self.is_sound("decision", "bands")
        if self.decision is None or self.target is None or not (known and self.is_sound("target", "values")):
            return None
        if self.decision.actions is not None:
            return tuple(dict.fromkeys(self.decision.actions.values()))
        if self.decision.bands is not None:
            return tuple(dict.fromkeys(band.action for band in self.decision.bands))
        return self.target.values or ()
