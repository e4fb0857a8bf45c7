"""Describe: a snapshot for other tools."""

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shipworthy.bundle.deployment import replace_file
from shipworthy.contract.types import Contract
from shipworthy.data.snapshot import Snapshot
from shipworthy.data.sources.table_files import table_files
from shipworthy.governance.croissant import DataFile, Described, Field, to_croissant
from shipworthy.kernel.digest import digest_chunks
from shipworthy.kernel.errors import NotFoundError, UsageError
from shipworthy.ledger.events import Entry
from shipworthy.ledger.store import Ledger
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import read_contract

CHUNK_BYTES = 1 << 20


def find_taken(ledger: Ledger, name: str | None) -> Entry:
    """The event of the snapshot called `name`: its digest or the first 8 digits, or its version; the newest for None.

    Raises:
        NotFoundError: there is none.
    """
    entries = list(ledger.events(verb="snapshot.taken"))
    if not entries:
        raise NotFoundError("there is no snapshot yet; run `shipworthy ship`")
    if name is None:
        return entries[-1]
    short = name.removeprefix("snapshot:").removeprefix("sha256:")
    for entry in reversed(entries):
        digest = str(entry.body["digest"]).removeprefix("sha256:")
        if str(entry.body["version"]) == name or (len(short) >= 8 and digest.startswith(short)):
            return entry
    versions = {entry.body["version"]: entry.body["digest"] for entry in entries}
    known = ", ".join(f"{version} ({digest[7:19]})" for version, digest in sorted(versions.items())[-5:])
    raise NotFoundError(f"there is no snapshot {name!r}; the newest versions are {known}")


def describe_croissant(project: Project, ledger: Ledger, name: str | None, path: Path) -> Described:
    """Write the Croissant description of a snapshot to `path`: of the same snapshot at the same place the same bytes.

    Raises:
        NotFoundError: there is no such snapshot, or its rows are gone.
        UsageError: it is encrypted, or lies in several files that are not below `path`, where alone they are found.
        IntegrityError: its files do not hold its rows.
        StorageError: `path` cannot be written.
    """
    body = find_taken(ledger, name).body
    first = next(entry for entry in ledger.events(verb="snapshot.taken") if entry.body["digest"] == body["digest"])
    contract = read_contract(project)
    table = Snapshot(body["digest"], body["version"], body["rows"], project.tables / str(body["system"]))
    keys = contract.context_by_role("key")
    names = {column["name"] for column in body.get("columns", ())}
    described = Described(
        system=str(body["system"]),
        purpose=contract.purpose,
        owner=contract.owner,
        snapshot=str(body["digest"]),
        version=int(body["version"]),
        taken=first.time,
        rows=int(body["rows"]),
        key=next((key for key in keys if key in names), None),
        fields=tuple(_fields(body, contract)),
        files=tuple(_data_file(file, path) for file in table_files(table)),
    )
    if len(described.files) > 1 and any(file.path.startswith("../") for file in described.files):
        raise UsageError(
            f"{path}: the snapshot lies in {len(described.files)} files, which readers find only below the "
            f"description; write it into {project.root}"
        )
    replace_file(path, (json.dumps(to_croissant(described), indent=2, ensure_ascii=False) + "\n").encode())
    return described


def _fields(body: Mapping[str, Any], contract: Contract) -> Iterator[Field]:
    """The columns as they were taken, with what the contract says of them today."""
    if "columns" not in body:
        raise NotFoundError("an older Shipworthy took this snapshot and kept no columns; name a newer one")
    said = {**contract.context, **contract.features}
    for column in body["columns"]:
        name = str(column["name"])
        known = said.get(name)
        derived = contract.derived.get(name)
        described = known.description if known else derived.description if derived else None
        if described is None and "expression" in column:
            described = f"= {column['expression']}"
        yield Field(name, str(column["type"]), described, known is not None and known.personal)


def _data_file(file: Path, description: Path) -> DataFile:
    with file.open("rb") as stream:
        digest = digest_chunks(iter(lambda: stream.read(CHUNK_BYTES), b""))
    relative = os.path.relpath(file.resolve(), description.resolve().parent)
    return DataFile(Path(relative).as_posix(), digest.removeprefix("sha256:"), file.stat().st_size)
