"""Lookups: which features come from which column of which source, and whether a contract says it soundly."""

import zoneinfo
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from shipworthy.contract.columns import Column, ContextColumn, Feature
from shipworthy.contract.data_section import Data
from shipworthy.contract.expressions import did_you_mean
from shipworthy.contract.nodes import Path
from shipworthy.contract.types import Contract

KEY_TYPES = ("text", "int", "category")  # of which one value is written in one way

OWN_COLUMN = (
    "the data has a column {!r} of its own; leave it out of the source or of data.prepare, or remove `lookup`, so that "
    "each value has one origin"
)


class Problem(NamedTuple):
    """What is wrong, and at which key of the contract."""

    path: Path
    message: str
    at_key: bool = False


def main_sources(data: Data) -> tuple[str, ...]:
    """The sources whose rows become the data's rows: all with `prepare`, else those in which nothing is looked up."""
    looked_in = {lookup.source or name for name, lookup in data.lookups.items()}
    return tuple(name for name in data.sources if data.prepare is not None or name not in looked_in)


def place_of(name: str, feature: Feature) -> tuple[str, str] | None:
    """The lookup of a feature, and the column of its source; None of one that a caller sends."""
    if feature.lookup is None:
        return None
    lookup, _, column = feature.lookup.partition(".")
    return lookup, column or name


def columns_of(contract: Contract) -> dict[str, dict[str, str]]:
    """By lookup: each feature that is looked up in it, and the column of its source."""
    found: dict[str, dict[str, str]] = {name: {} for name in contract.data.lookups}
    for name, feature in contract.features.items():
        place = place_of(name, feature)
        if place is not None:
            found[place[0]][name] = place[1]
    return found


def needed_columns(contract: Contract, source: str) -> dict[str, tuple[str, ...]]:
    """By column of the source: the keys of the contract that need it to look something up."""
    found: dict[str, tuple[str, ...]] = {}
    for name, columns in columns_of(contract).items():
        lookup = contract.data.lookups[name]
        if (lookup.source or name) == source:
            for feature, column in columns.items():
                found[column] = (*found.get(column, ()), f"features.{feature}")
            for column in (*lookup.key_columns.values(), *([lookup.time] if lookup.time else [])):
                found[column] = (*found.get(column, ()), f"data.lookups.{name}")
    return found


def find_problems(
    data: Data, features: Mapping[str, Feature], context: Mapping[str, ContextColumn], target: str | None
) -> Iterator[Problem]:
    """What contradicts something else in `data.lookups` and `features.NAME.lookup`.

    Args:
        data: the section.
        features: all of them.
        context: all of it.
        target: the target's column; None where that cannot be said.
    """
    needed: dict[str, str] = {}  # lookup -> a feature of it that must not be missing, else ""
    for name, feature in features.items():
        place = place_of(name, feature)
        if place is not None:
            needed[place[0]] = needed.get(place[0]) or (name if feature.missing == "reject" else "")
            yield from _place_problems(data, ("features", name, "lookup"), *place, target)
    for name, lookup in data.lookups.items():
        yield from _source_problems(data, name)
        if name not in needed:
            told = f"nothing is looked up in it; write lookup: {name} at a feature, or remove it"
            yield Problem(("data", "lookups", name), told, at_key=True)
        yield from _time_problems(data, name, context)
        is_map = isinstance(lookup.key, dict)
        for at, key in enumerate(lookup.key):
            path: Path = ("data", "lookups", name, "key", key if is_map else at)
            if key in list(lookup.key)[:at]:
                yield Problem(path, f"{key!r} is listed twice; remove one")
            elif key not in features and key not in context:
                guess = did_you_mean(key, [*features, *context])
                yield Problem(path, f"no feature or context column is called {key!r}{guess}", is_map)
            else:
                column = features.get(key) or context[key]
                yield from (Problem(path, words, is_map) for words in _key_problems(key, column, needed.get(name, "")))


def _place_problems(data: Data, path: Path, lookup: str, column: str, target: str | None) -> Iterator[Problem]:
    if lookup not in data.lookups:
        guess = did_you_mean(lookup, data.lookups) or "; declare it in data.lookups"
        yield Problem(path, f"no lookup is called {lookup!r}{guess}")
    elif column == target:
        yield Problem(path, f"{target!r} is the target, which is not known when a row arrives")


def _source_problems(data: Data, name: str) -> Iterator[Problem]:
    lookup = data.lookups[name]
    source = lookup.source or name
    if source not in data.sources:
        guess = did_you_mean(source, data.sources) or "; name one: source: NAME"
        path: Path = ("data", "lookups", name) if lookup.source is None else ("data", "lookups", name, "source")
        yield Problem(path, f"no source is called {source!r}{guess}", at_key=lookup.source is None)
    elif data.sources[source].broken == "without":
        told = "a lookup without its source finds nothing; write `last_good` or `refuse`"
        yield Problem(("data", "sources", source, "broken"), told)


def _time_problems(data: Data, name: str, context: Mapping[str, ContextColumn]) -> Iterator[Problem]:
    lookup, path = data.lookups[name], ("data", "lookups", name)
    if lookup.time is None:
        for key in ("zone", "delay", "age"):
            if getattr(lookup, key) is not None:
                yield Problem((*path, key), f"{key} is of a lookup with `time`; add time: COLUMN, or remove it", True)
        return
    if not any(column.role == "time" for column in context.values()):
        yield Problem((*path, "time"), "what was known when needs the row's own time: a context column, role: time")
    known = zoneinfo.available_timezones()
    if lookup.zone is not None and known and lookup.zone not in known:
        yield Problem((*path, "zone"), f"no IANA time zone is called {lookup.zone!r}{did_you_mean(lookup.zone, known)}")
    if lookup.age is not None and lookup.delay is not None and lookup.age.at_most <= lookup.delay:
        yield Problem((*path, "age"), "a row is too old before it is known; age.at_most is more than the delay", True)


def _key_problems(key: str, column: Column, needed: str) -> Iterator[str]:
    if column.type not in KEY_TYPES:
        yield f"a key is {', '.join(KEY_TYPES[:-1])} or {KEY_TYPES[-1]}, and {key!r} is {column.type}"
    if needed and isinstance(column, ContextColumn) and column.request == "optional":
        yield f"a request may lack {key!r}, and {needed!r} must be there; request: required, or {needed} may be missing"
    if not isinstance(column, Feature):
        return
    if needed and column.missing == "allow":
        yield f"{key!r} may be missing, and {needed!r} must be there; both reject, or {needed} allows it too"
    if column.lookup is not None:
        yield f"{key!r} is looked up itself; a key is what a caller sends"
    if column.outside not in ("reject", "review") or column.unknown != "reject":
        yield f"what is sent as {key!r} is not what is taken (outside or unknown); a key is taken as it is: reject"
