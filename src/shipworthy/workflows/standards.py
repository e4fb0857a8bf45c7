"""Standards: a project's contract as an Open Data Contract Standard document, and a project from one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from shipworthy.bundle.deployment import replace_file
from shipworthy.contract.nodes import resolve
from shipworthy.contract.parse import parse_contract
from shipworthy.governance.odcs import Exported, to_odcs
from shipworthy.governance.odcs_import import from_odcs, parse_document
from shipworthy.kernel.errors import ConflictError, SourceError, UsageError
from shipworthy.workflows.init import TRAIN_FILE
from shipworthy.workflows.layout import CONTRACT_FILE, Project
from shipworthy.workflows.templates import GITIGNORE, train_text

WIDTH = 110  # columns of a line


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import wrote, and what a person should look at."""

    system: str
    columns: int
    written: tuple[str, ...]  # relative to the project
    kept: tuple[str, ...]  # existed already
    left_out: tuple[str, ...]  # of the document
    assumed: tuple[str, ...]  # in the contract


def export_odcs(project: Project, path: Path) -> Exported:
    """Write the project's contract to `path` as an ODCS document; the same contract gives the same bytes.

    Raises:
        UsageError, SourceError, ContractError: the contract cannot be read, or has problems.
        StorageError: it cannot be written.
    """
    exported = to_odcs(project.contract_text(), CONTRACT_FILE)
    replace_file(path, to_yaml(exported.document).encode())
    return exported


def import_odcs(directory: Path, file: Path, target: str | None = None) -> ImportReport:
    """Write the contract that the ODCS document `file` describes into `directory`, and code that trains.

    Args:
        directory: the project, made if need be; it has no contract yet.
        file: the document, YAML or JSON.
        target: the column that is predicted, where the document does not say.

    Raises:
        ConflictError: the directory has a contract already.
        SourceError, UsageError: the document cannot be read, or is none.
        ContractError: what it describes is no contract; all problems are listed.
        StorageError: the directory cannot be written.
    """
    place = directory / CONTRACT_FILE
    if place.exists():
        raise ConflictError(f"{place} exists; change it by hand, or choose another directory")
    try:
        imported = from_odcs(parse_document(_text(file), file.name), target)
    except UsageError as error:
        raise UsageError(f"{file.name}: {error}") from None
    text = to_yaml(imported.contract)
    contract = parse_contract(text, f"{CONTRACT_FILE} (of {file.name})")
    texts = {
        ".gitignore": GITIGNORE,
        TRAIN_FILE: train_text(contract.target.type, contract.system),
        CONTRACT_FILE: text,  # last: where it is, the rest is
    }
    if contract.training.entry.partition(":")[0] != TRAIN_FILE:
        del texts[TRAIN_FILE]
    kept = tuple(name for name in texts if (directory / name).exists())
    for name in texts:
        if name not in kept:
            replace_file(directory / name, texts[name].encode())
    return ImportReport(
        system=contract.system,
        columns=len(contract.features) + len(contract.context) + len(contract.derived) + 1,
        written=tuple(name for name in texts if name not in kept),
        kept=kept,
        left_out=imported.left_out,
        assumed=imported.assumed,
    )


def to_yaml(document: dict[str, Any]) -> str:
    r"""`document` as YAML in its own order; a text that the contract would read as something else is quoted.

    >>> to_yaml({"a": "no", "b": "1e5", "c": 1})
    'a: "no"\nb: "1e5"\nc: 1\n'
    """
    return yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH, default_flow_style=None
    )


class _Dumper(yaml.SafeDumper):
    """Quotes as the contract reads."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = resolve(text) == (text, None) and text.lower() not in ("y", "n")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{file}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise SourceError(f"{file}: cannot be read ({error.strerror}); correct the path") from None
