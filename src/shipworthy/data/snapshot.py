"""Snapshots: accepted rows at one version of a Delta table, addressed by their content.

The digest covers column names, types and values in row order, not files: the same rows written on another
machine have the same digest. Each version holds all rows; the column `ORDER` keeps their order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError

from shipworthy.contract.types import Contract
from shipworthy.kernel.digest import digest_chunks
from shipworthy.kernel.errors import ConflictError, IntegrityError, NotFoundError, StorageError

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


def take(contract: Contract, accepted: pl.DataFrame, tables: Path) -> Snapshot:
    """Keep `accepted` as a version of `tables/SYSTEM`; content that is there already is found, not written.

    Raises:
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
    known = _versions(path)
    if digest not in known:
        _write(path, accepted, digest)
        known = _versions(path)
    return Snapshot(digest, known[digest], accepted.height, path)


def read(snapshot: Snapshot) -> pl.DataFrame:
    """The rows of a snapshot, in their order.

    Raises:
        NotFoundError: the table or version is gone.
        IntegrityError: the rows are not those that the digest names.
    """
    try:
        table = DeltaTable(str(snapshot.path), version=snapshot.version)
        frame = pl.scan_delta(table).collect().sort(ORDER).drop(ORDER)
    except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
        raise NotFoundError(
            f"snapshot {snapshot.digest}: version {snapshot.version} cannot be read: {error}"
        ) from error
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
