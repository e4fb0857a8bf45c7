"""Snapshots: accepted rows at one version of a Delta table, addressed by their content.

The digest covers column names, types and values in row order, not files: the same rows written on another
machine have the same digest. Each version holds all rows; the column `ORDER` keeps their order.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from shipworthy.contract.types import Contract
from shipworthy.kernel.digest import digest_chunks
from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError, NotFoundError, StorageError
from shipworthy.security.files import replace_durably
from shipworthy.security.vault import SEALED_SUFFIX, Vault

REFUSED_SIGNS = frozenset("[]^|%\\")  # in a path the Delta engine dies of them, or reads them as others
ORDER = "__row"  # Delta promises no order of rows
DIGEST_KEY = "shipworthy.digest"  # in the commit of each version


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a system's table."""

    digest: str  # of the content
    version: int  # of the Delta table
    rows: int
    path: Path  # of the Delta table


def content_digest(frame: pl.DataFrame) -> str:
    """Digest of names, types and values of `frame`, in its order of columns and rows."""
    return digest_chunks(_chunks(frame))


def take(contract: Contract, accepted: pl.DataFrame, tables: Path, vault: Vault | None = None) -> Snapshot:
    """Keep `accepted` as a version of `tables/SYSTEM`; content that is there already is found, not written.

    Args:
        contract: names the system.
        accepted: the rows.
        tables: directory of all tables.
        vault: encrypts them, as a Parquet file in `tables/SYSTEM.sealed`: a Delta table cannot be. None: it is one.

    Raises:
        AccessError: there is no key to encrypt with.
        StorageError: the table cannot be written, or not in a folder of this name.
        ConflictError: somebody else wrote a version at the same time.
    """
    path = tables / contract.system
    refused = sorted(REFUSED_SIGNS & set(str(path.absolute())))
    if refused:
        raise StorageError(
            f"{path.absolute()}: tables cannot lie in a folder with {' '.join(refused)} in its name; rename it"
        )
    digest = content_digest(accepted)
    if vault is not None:
        return Snapshot(digest, _keep_sealed(sealed_folder(path), accepted, digest, vault), accepted.height, path)
    known = _versions(path)
    if digest not in known:
        _write(path, accepted, digest)
        known = _versions(path)
    return Snapshot(digest, known[digest], accepted.height, path)


def read(snapshot: Snapshot, vault: Vault | None = None) -> pl.DataFrame:
    """The rows of a snapshot, in their order.

    Args:
        snapshot: which one.
        vault: opens it if it is encrypted.

    Raises:
        AccessError: it is encrypted, and its key is not here.
        NotFoundError: the table or version is gone.
        IntegrityError: the rows are not those that the digest names.
    """
    sealed = sealed_folder(snapshot.path) / _sealed_name(snapshot.version, snapshot.digest)
    if sealed.exists():
        return _checked(snapshot, _open_sealed(sealed, snapshot.digest, vault))
    try:
        table = DeltaTable(str(snapshot.path), version=snapshot.version)
        frame = pl.scan_delta(table).collect().sort(ORDER).drop(ORDER)
    except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
        raise NotFoundError(
            f"snapshot {snapshot.digest}: version {snapshot.version} cannot be read: {error}"
        ) from error
    return _checked(snapshot, frame)


def sealed_folder(table: Path) -> Path:
    """Where the encrypted versions of a table lie: beside it, so that a reader of Delta tables does not meet them."""
    return table.with_name(table.name + SEALED_SUFFIX)


def sealed_context(digest: str) -> str:
    """What a snapshot is sealed as."""
    return f"snapshot/{digest}"


def _sealed_name(version: int, digest: str) -> str:
    return f"{version:06d}-{digest.removeprefix('sha256:')}.parquet"


def _keep_sealed(folder: Path, frame: pl.DataFrame, digest: str, vault: Vault) -> int:
    """The version under which the rows lie there, now or from before."""
    held = sorted(path.name for path in folder.glob("*.parquet"))
    for name in held:
        if name.endswith(_sealed_name(0, digest)[6:]):
            return int(name[:6])
    version = int(held[-1][:6]) + 1 if held else 0
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    path = folder / _sealed_name(version, digest)
    sealed = vault.seal(buffer.getvalue(), sealed_context(digest))
    try:
        replace_durably(path, sealed, mode=0o600)
    except OSError as error:
        raise StorageError(f"{path}: the snapshot was not written: {error.strerror}") from error
    return version


def _open_sealed(path: Path, digest: str, vault: Vault | None) -> pl.DataFrame:
    if vault is None:
        raise AccessError(f"{path} is encrypted, and this process was given no key for it.")
    content = vault.open(path.read_bytes(), sealed_context(digest), path)
    try:
        return pl.read_parquet(io.BytesIO(content))
    except pl.exceptions.PolarsError as error:
        raise IntegrityError(f"{path} does not hold a table: {error}") from None


def _checked(snapshot: Snapshot, frame: pl.DataFrame) -> pl.DataFrame:
    found = content_digest(frame)
    if found != snapshot.digest:
        raise IntegrityError(f"snapshot {snapshot.digest}: the rows of version {snapshot.version} have digest {found}")
    return frame


def _versions(path: Path) -> dict[str, int]:
    """The newest version of each digest in the table."""
    if not DeltaTable.is_deltatable(str(path)):
        return {}
    history = DeltaTable(str(path)).history()
    return {entry[DIGEST_KEY]: entry["version"] for entry in reversed(history) if DIGEST_KEY in entry}


def _write(path: Path, frame: pl.DataFrame, digest: str) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_deltalake(
            str(path),
            frame.with_row_index(ORDER).with_columns(pl.col(ORDER).cast(pl.Int64)),
            mode="overwrite",
            schema_mode="overwrite",
            commit_properties=CommitProperties(custom_metadata={DIGEST_KEY: digest}),
        )
    except DeltaError as error:
        raise ConflictError(f"{path}: the snapshot was not written: {error}; run it again") from error
    except OSError as error:
        raise StorageError(f"{path}: the snapshot was not written: {error}") from error


def _chunks(frame: pl.DataFrame) -> Iterator[bytes]:
    yield f"{frame.height} rows\n".encode()
    for series in frame:
        yield f"{series.name}: {_type_name(series.dtype)}\n".encode()
        yield np.packbits(series.is_null().to_numpy()).tobytes()
        if series.dtype == pl.String:
            filled = series.fill_null("")
            yield filled.str.len_bytes().cast(pl.Int64).to_numpy().tobytes()
            yield str(filled.str.join("").item()).encode()
        else:
            physical = series.to_physical()
            zero = False if physical.dtype == pl.Boolean else 0
            yield np.ascontiguousarray(physical.fill_null(zero).to_numpy()).tobytes()


def _type_name(kind: pl.DataType) -> str:
    """A name that does not change with the table engine's own way of writing it."""
    return f"Datetime {kind.time_unit} {kind.time_zone}" if isinstance(kind, pl.Datetime) else type(kind).__name__
