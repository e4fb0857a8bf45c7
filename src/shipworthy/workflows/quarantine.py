"""Quarantine: rows that were not accepted, with their reasons, as CSV; encrypted where the contract says so."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from shipworthy.bundle.deployment import replace_file
from shipworthy.kernel.errors import NotFoundError
from shipworthy.security.access import Principal
from shipworthy.security.vault import SEALED_SUFFIX, Vault
from shipworthy.workflows.gate import permit
from shipworthy.workflows.project import Parts


def keep_rows(folder: Path, name: str, rows: pl.DataFrame, vault: Vault | None) -> Path | None:
    """Write `rows` as `NAME.csv`, or encrypted as `NAME.csv.sealed`; no file, and none of before, where there are none.

    Args:
        folder: of the quarantine; made if missing.
        name: of the file, without its suffix.
        rows: that were not accepted.
        vault: encrypts them; None: they are written as they are.

    Raises:
        AccessError: there is no key to encrypt with.
        StorageError: the disk refused.
    """
    plain = folder / f"{name}.csv"
    sealed = folder / f"{name}.csv{SEALED_SUFFIX}"
    path = plain if vault is None else sealed
    if rows.height:
        buffer = io.BytesIO()
        rows.write_csv(buffer)
        content = buffer.getvalue()
        replace_file(path, content if vault is None else vault.seal(content, quarantine_context(name)))
    for other in (plain, sealed):
        if other != path or not rows.height:
            other.unlink(missing_ok=True)
    return path if rows.height else None


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One file of the quarantine."""

    name: str
    path: Path
    rows: pl.DataFrame  # every column text
    reasons: Mapping[str, int]  # rows for each, most frequent first

    def to_json(self) -> dict[str, Any]:
        """What is said of it, without its rows."""
        return {"name": self.name, "file": str(self.path), "rows": self.rows.height, "reasons": dict(self.reasons)}


def quarantined_files(parts: Parts, principal: Principal, name: str | None = None) -> list[Quarantined]:
    """The files of the quarantine, the newest first, or the one called `name`.

    Raises:
        AccessError: `principal` may not ship, or one is encrypted and its key is not here.
        NotFoundError: there is none of that name.
    """
    permit(parts, principal, "data quarantine")
    folder = parts.project.quarantine
    paths = [path for path in folder.iterdir() if path.is_file() and ".csv" in path.name] if folder.is_dir() else []
    newest = sorted((path for path in paths if not path.name.startswith(".")), key=lambda path: -path.stat().st_mtime)
    chosen = [path for path in newest if name in (None, path.name, _name(path))]
    if name is not None and not chosen:
        raise NotFoundError(f"there is no {name!r} in quarantine; `shipworthy data quarantine` lists what there is")
    return [_read(path, parts.project.vault) for path in chosen]


def _name(path: Path) -> str:
    return path.name.removesuffix(SEALED_SUFFIX).removesuffix(".csv")


def _read(path: Path, vault: Vault) -> Quarantined:
    name, content = _name(path), path.read_bytes()
    if path.name.endswith(SEALED_SUFFIX):
        content = vault.open(content, quarantine_context(name), path)
    rows = pl.read_csv(io.BytesIO(content), infer_schema=False)
    stated = next((column for column in rows.columns if column.rstrip("_") in ("reasons", "reason")), None)
    counts: dict[str, int] = {}
    if stated is not None:
        each = rows[stated].drop_nulls().str.split("; ").explode().value_counts(name="rows")
        counts = dict(each.sort("rows", stated, descending=[True, False]).iter_rows())
    return Quarantined(name, path, rows, counts)


def quarantine_context(name: str) -> str:
    """What a file of the quarantine is sealed as."""
    return f"quarantine/{name}"
