"""`check`: contract, code and data are there and agree; seconds, for CI and editors. Changes nothing."""

import ast
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipworthy.contract.data_section import Source
from shipworthy.contract.expressions import did_you_mean
from shipworthy.contract.lookups import OWN_COLUMN, main_sources, needed_columns
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.steps import column_kinds, columns_read, step_scopes
from shipworthy.contract.types import Contract
from shipworthy.data.sources.attempts import run_together
from shipworthy.kernel.errors import DataError, ShipworthyError, SourceError, TrainingError, UsageError
from shipworthy.workflows.layout import CONTRACT_FILE, Project

if TYPE_CHECKING:
    from shipworthy.data.findings.find import Finding


SKEW = "skew"  # in a report's lines: training would see other values than the server
QUESTIONS = ("leak", "constant", "duplicate", "sentinel", "proxy", "contamination", "label noise", SKEW)  # not yet well

LOOKED_AT = 100_000  # rows at most, for a second's worth of questions

BROKEN = "broken source"  # in a report's lines: one that the contract goes on without


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was looked at, and what was found."""

    system: str
    lines: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """The document that `check --json` prints."""
        return {"system": self.system, "checked": [{"name": name, "found": words} for name, words in self.lines]}


def check(project: Project) -> CheckReport:
    """Parse the contract against the data's columns, and find the code that it names.

    Raises:
        ContractError, SourceError, TrainingError: what is missing or does not agree.
    """
    text = project.contract_text()
    contract = parse_contract(text, CONTRACT_FILE)
    looks = look_at_sources(project, contract)
    columns = {name: look.columns for name, look in looks.items() if look.columns is not None}
    main = {name: columns[name] for name in main_sources(contract.data) if name in columns}
    if contract.data.prepare is None and len(main) == len(main_sources(contract.data)):
        parse_contract(text, CONTRACT_FILE, columns={name for names in main.values() for name in names})
        _judge_lookups(contract, {name for names in main.values() for name in names})
    _judge_keys(contract, columns)
    lines = [("contract", f"{contract.system}, {len(contract.features)} features, target {contract.target.column}")]
    lines += [(f"{'source' if look.is_there else BROKEN} {name}", look.words) for name, look in looks.items()]
    lines.append(("training", _find_function(project, contract.training.entry, "training.entry")))
    lines += _prepare_lines(project, contract, columns)
    lines += [(found.kind, found.words) for found in find_questions(project, contract)]
    return CheckReport(contract.system, tuple(lines))


def _prepare_lines(
    project: Project, contract: Contract, columns: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, str]]:
    """The code of `prepare`, what training would see otherwise than the server, and which sources are watched."""
    steps, scopes = contract.data.steps, step_scopes(contract.data.steps, column_kinds(contract))
    there = {name: set(names) for name, names in columns.items()}  # of tables whose columns are known
    for number, (step, scope) in enumerate(zip(steps, scopes, strict=True)):
        place = f"data.prepare[{number}]" if isinstance(contract.data.prepare, tuple) else "data.prepare"
        if step.run is not None:
            yield "prepare", _find_function(project, step.run, place)
        if step.run is not None or step.sql is not None:
            there.pop(step.table or "", None)
        elif step.table in there:
            _judge_there(place, step.table, columns_read(step, scope), there[step.table])
            there[step.table] |= set(step.set_ or ())
        for name in (name for name in step.set_ or () if name in contract.features and not step.by_caller):
            words = "the server takes what callers send: compute it in `derived`, or say by_caller: true if they do so"
            yield SKEW, f"{place} sets the feature {name} for training, and {words}"
    yield from _watched_lines(contract, columns)


def _watched_lines(contract: Contract, columns: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[str, str]]:
    watched = {name: source.time for name, source in contract.data.sources.items() if source.time is not None}
    for name, column in watched.items():
        if name in columns:
            _judge_there(f"data.sources.{name}.time", name, (column,), columns[name])
    if watched and contract.data.steps:
        whole = ", ".join(name for name in contract.data.sources if name not in watched)
        words = ", ".join(f"{name} by {column}" for name, column in watched.items())
        yield "future", f"no feature may see later rows of {words}" + (f"; taken whole: {whole}" if whole else "")


def _judge_there(place: str, table: str, names: Sequence[str], columns: Collection[str]) -> None:
    for name in names:
        if name not in columns:
            raise DataError(f"{place}: {table} has no column {name!r}{did_you_mean(name, columns)}")


def _judge_keys(contract: Contract, columns: Mapping[str, tuple[str, ...]]) -> None:
    for number, rule in enumerate(contract.data.keys):
        for key, place in (("from", rule.from_), ("to", rule.to)):
            source, _, name = place.partition(".")
            if source in columns and name not in columns[source]:
                guess = did_you_mean(name, columns[source])
                raise DataError(f"data.keys[{number}].{key}: {source} has no column {name!r}{guess}")
    for source, there in columns.items():
        for name, keys in needed_columns(contract, source).items():
            if name not in there:
                raise DataError(f"{keys[0]}: source {source} has no column {name!r}{did_you_mean(name, there)}")


def _judge_lookups(contract: Contract, main: Collection[str]) -> None:
    for name, feature in contract.features.items():
        if feature.lookup is not None and name in main:
            raise DataError(f"features.{name}.lookup: {OWN_COLUMN.format(name)}")


def find_questions(project: Project, contract: Contract) -> "list[Finding]":
    """What a person should be asked about the rows of a contract.

    Only a single file that is used as it stands is looked at: what `data.prepare` makes is known only by running it.

    Raises:
        SourceError: the file cannot be read.
    """
    from shipworthy.data.findings.find import find_all
    from shipworthy.data.sources.dialect import number_columns  # as below
    from shipworthy.data.sources.read import read_source
    from shipworthy.data.split import split
    from shipworthy.data.validate import validate

    sources = [(name, source) for name, source in contract.data.sources.items() if source.path is not None]
    if contract.data.prepare is not None or len(sources) != 1:
        return []
    try:
        frame = read_source(*sources[0], project.root, numbers=number_columns(contract)).frame
        frame = frame.gather_every(max(1, -(-frame.height // LOOKED_AT)))
        accepted = validate(contract, frame).accepted
        places = split(contract, accepted, contract.training.seed) if accepted.height else None
    except DataError:  # a batch that `ship` refuses, and says why
        return []
    return find_all(contract, accepted, places, is_quick=True)


@dataclass(frozen=True, slots=True)
class Look:
    """How a source stands, without its rows."""

    words: str
    columns: tuple[str, ...] | None  # None: they are known only by reading it
    is_there: bool = True


def look_at_sources(project: Project, contract: Contract) -> dict[str, Look]:
    """Whether each source can be reached: all at the same time, files by their head alone, with no second try.

    Raises:
        SourceError: sources are missing or cannot be reached, and the contract does not go on without; all are named.
        UsageError: a secret is not set, or an address cannot be used.
    """
    results = run_together(
        {name: partial(_look, project, name, source) for name, source in contract.data.sources.items()}
    )
    refused = {
        name: result
        for name, result in results.items()
        if isinstance(result, ShipworthyError)
        and (contract.data.sources[name].broken == "refuse" or isinstance(result, UsageError))
    }
    if refused:
        kind = UsageError if any(isinstance(error, UsageError) for error in refused.values()) else SourceError
        raise kind("\n".join(f"source {name}: {error}" for name, error in refused.items()))
    return {
        name: Look(f"{result} (broken: {contract.data.sources[name].broken})", None, False)
        if isinstance(result, ShipworthyError)
        else result
        for name, result in results.items()
    }


def source_columns(project: Project, contract: Contract) -> dict[str, tuple[str, ...]]:
    """The column names of each source that is made of files, from their heads alone.

    Raises:
        SourceError: a file is missing or its head cannot be read.
    """
    from shipworthy.data.sources.read import read_columns  # the data engine is not needed to find a contract's problems

    files = {name: source for name, source in contract.data.sources.items() if source.path is not None}
    return {name: read_columns(name, source, project.root) for name, source in files.items()}


def _look(project: Project, name: str, source: Source) -> Look:
    if source.path is None:
        from shipworthy.data.sources.remote import look_at  # databases and stores, which most projects do not have

        return Look(*look_at(name, source, os.environ, time.monotonic))
    from shipworthy.data.sources.read import read_columns  # the data engine is not needed to find a contract's problems

    columns = read_columns(name, source, project.root)
    return Look(f"{len(columns)} columns", columns)


def _find_function(project: Project, entry: str, key: str) -> str:
    file, _, function = entry.partition(":")
    path: Path = project.root / file
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TrainingError(f"{file}: cannot be read ({error.strerror}); {key} names it") from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        raise TrainingError(f"{file}:{line}: is not valid Python ({getattr(error, 'msg', error)})") from None
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if function not in names:
        raise TrainingError(f"{file}: has no function `{function}` ({key}); it has: {', '.join(names) or 'none'}")
    return entry
