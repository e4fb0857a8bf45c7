"""`check`: contract, code and data are there and agree; seconds, for CI and editors. Changes nothing."""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipworthy.contract.expressions import did_you_mean
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import DataError, SourceError, TrainingError
from shipworthy.workflows.layout import CONTRACT_FILE, Project

if TYPE_CHECKING:
    from shipworthy.data.findings import Finding


QUESTIONS = ("leak", "constant", "duplicate", "sentinel", "proxy", "contamination", "label noise")  # kinds of findings

LOOKED_AT = 100_000  # rows at most, for a second's worth of questions


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
    columns = source_columns(project, contract)
    if contract.data.prepare is None:
        parse_contract(text, CONTRACT_FILE, columns={name for names in columns.values() for name in names})
    _judge_keys(contract, columns)
    lines = [("contract", f"{contract.system}, {len(contract.features)} features, target {contract.target.column}")]
    lines += [(f"source {name}", f"{len(names)} columns") for name, names in columns.items()]
    lines.append(("training", _find_function(project, contract.training.entry, "training.entry")))
    if contract.data.prepare and ".py:" in contract.data.prepare:
        lines.append(("prepare", _find_function(project, contract.data.prepare, "data.prepare")))
    lines += [(found.kind, found.words) for found in find_questions(project, contract)]
    return CheckReport(contract.system, tuple(lines))


def _judge_keys(contract: Contract, columns: Mapping[str, tuple[str, ...]]) -> None:
    for number, rule in enumerate(contract.data.keys):
        for key, place in (("from", rule.from_), ("to", rule.to)):
            source, _, name = place.partition(".")
            if source in columns and name not in columns[source]:
                guess = did_you_mean(name, columns[source])
                raise DataError(f"data.keys[{number}].{key}: {source} has no column {name!r}{guess}")


def find_questions(project: Project, contract: Contract) -> "list[Finding]":
    """What a person should be asked about the rows of a contract.

    Only a single file that is used as it stands is looked at: what `data.prepare` makes is known only by running it.

    Raises:
        SourceError: the file cannot be read.
    """
    from shipworthy.data.findings import find_all  # as below
    from shipworthy.data.sources import read_source
    from shipworthy.data.split import split
    from shipworthy.data.validate import validate

    sources = [(name, source) for name, source in contract.data.sources.items() if source.path is not None]
    if contract.data.prepare is not None or len(sources) != 1:
        return []
    try:
        frame = read_source(*sources[0], project.root).frame
        frame = frame.gather_every(max(1, -(-frame.height // LOOKED_AT)))
        accepted = validate(contract, frame).accepted
        places = split(contract, accepted, contract.training.seed) if accepted.height else None
    except DataError:  # a batch that `ship` refuses, and says why
        return []
    return find_all(contract, accepted, places)


def source_columns(project: Project, contract: Contract) -> dict[str, tuple[str, ...]]:
    """The column names of each file source, from its head alone.

    Raises:
        SourceError: a file is missing or its head cannot be read.
    """
    from shipworthy.data.sources import read_columns  # the data engine is not needed to find a contract's problems

    found: dict[str, tuple[str, ...]] = {}
    for name, source in contract.data.sources.items():
        if source.path is None:
            continue
        file = project.root / source.path
        if not file.is_file():
            raise SourceError(f"{source.path}: there is no such file (data.sources.{name}.path)")
        found[name] = read_columns(name, source, project.root)
    return found


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
