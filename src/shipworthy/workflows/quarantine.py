"""Quarantine: rows that were not accepted, with their reasons, as CSV; encrypted where the contract says so."""

import io
from pathlib import Path

import polars as pl

from shipworthy.bundle.deployment import replace_file
from shipworthy.security.vault import SEALED_SUFFIX, Vault


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


def quarantine_context(name: str) -> str:
    """What a file of the quarantine is sealed as."""
    return f"quarantine/{name}"
