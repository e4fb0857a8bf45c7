"""Snapshots: accepted rows at one version of a Delta table, addressed by their content.

The digest covers column names, types and values in row order, not files: the same rows written on another
machine have the same digest. It is a chain over parts of `PART_ROWS` rows, so that rows that are added cost their own
part alone. Each version holds all rows; the column `ORDER` keeps their order. A snapshot that goes on where the newest
version ends adds its new rows alone.
"""

import fcntl
import io
import json
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import polars as pl
from deltalake import CommitProperties, DeltaTable, Schema
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction, create_table_with_add_actions

from shipworthy.contract.types import Contract
from shipworthy.data.versions import (
    CHAIN_KEY,
    DIGEST_KEY,
    FIRST_KEY,
    KEEP_LOG,
    ORDER,
    ROWS_KEY,
    Version,
    files_of,
    is_whole,
    list_versions,
    open_table,
    sealed_folder,
    sealed_name,
)
from shipworthy.kernel.digest import digest_chunks, digest_json
from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError, NotFoundError, StorageError
from shipworthy.security.files import replace_durably
from shipworthy.security.vault import Vault

REFUSED_SIGNS = frozenset("[]^|%\\")  # in a path the Delta engine dies of them, or reads them as others
ATTEMPTS = 50  # each lost one is a version that somebody else wrote meanwhile
PART_ROWS = 65_536  # that are digested together; fixed for good, or the same rows would have another digest
FILE_ROWS = 4_194_304  # of one Parquet file: some hundreds of MB
GROUP_ROWS = PART_ROWS  # of a Parquet file that are read together: what comes behind whole parts needs no others


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One version of a system's table."""

    digest: str  # of the content
    version: int  # of the Delta table
    rows: int
    path: Path  # of the Delta table


def content_digest(frame: pl.DataFrame) -> str:
    """Digest of names, types and values of `frame`, in its order of columns and rows.

    That of a part is the digest of its rows; that of several d = h(h(d1, d2), d3) ..., so that what is added needs the
    digest of the whole parts before it, and no row of them.
    """
    return _chained(_part_digests(frame))


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
        ConflictError: others wrote versions all the time.
    """
    path = tables / contract.system
    refused = sorted(REFUSED_SIGNS & set(str(path.absolute())))
    if refused:
        raise StorageError(
            f"{path.absolute()}: tables cannot lie in a folder with {' '.join(refused)} in its name; rename it"
        )
    parts = _part_digests(accepted)
    digest = _chained(parts)
    for _ in range(ATTEMPTS):
        number = _find(path, digest, vault is not None)
        if number is None and vault is not None:
            number = _seal(path, accepted, digest, vault)
        elif number is None:
            number = _write(path, accepted, parts)
        if number is not None:
            return Snapshot(digest, number, accepted.height, path)
    raise ConflictError(f"{path}: others wrote {ATTEMPTS} versions while this one was to be written; run it again")


@dataclass(frozen=True, slots=True, eq=False)
class End:
    """Where a snapshot ends that is a table's newest version."""

    table: DeltaTable
    before: tuple[str, ...]  # the chain of its whole parts; empty if there are none
    rest: pl.DataFrame  # the rows behind them


def end_of(base: Snapshot) -> End | None:
    """What `extend` builds on; None if another version is the newest, or this one is encrypted or has lost something.

    Raises:
        StorageError: the table's log cannot be read.
    """
    table = open_table(base.path)
    if table is None:
        return None
    versions = (v for v in list_versions(base.path) if not v.is_sealed and v.number == table.version())
    version = next((v for v in versions if v.digest == base.digest and v.rows == base.rows > 0), None)
    whole = base.rows // PART_ROWS
    if version is None or (whole and version.chain is None) or not is_whole(base.path, version):
        return None
    rest = _read_from(base.path, table, whole * PART_ROWS)
    before = (version.chain,) if whole and version.chain else ()
    parts = [*before, *(_part_digests(rest) if rest.height else ())]
    return End(table, before, rest) if _chained(parts) == base.digest else None


def extend(base: Snapshot, end: End, added: pl.DataFrame) -> Snapshot | None:
    """Keep the rows of `base` with `added` below them as a version; of those of before only the last part is read.

    Args:
        base: the table's newest version.
        end: of `base`.
        added: with its columns and types.

    Returns:
        None where somebody else wrote a version meanwhile.

    Raises:
        StorageError: the table cannot be written.
    """
    parts = [*end.before, *_part_digests(pl.concat([end.rest, added]))]
    rows = base.rows + added.height
    digest, full = _chained(parts), parts[: len(end.before) + (end.rest.height + added.height) // PART_ROWS]
    number = _find(base.path, digest, is_sealed=False)
    if number is None:
        known = _known(digest, rows, base.rows, _chained(full) if full else None)
        number = _commit(base.path, end.table, added, base.rows, known)
    return None if number is None else Snapshot(digest, number, rows, base.path)


def read_some(snapshot: Snapshot, columns: Sequence[str]) -> pl.DataFrame | None:
    """Some columns of a snapshot that is not encrypted, in any order of rows, unverified; None if it is not there."""
    try:
        table = DeltaTable(str(snapshot.path), version=snapshot.version)
        files = [snapshot.path / name for name in files_of(table)]
        return pl.read_parquet(files, columns=list(columns), glob=False).select(columns)
    except (DeltaError, OSError, pl.exceptions.PolarsError):
        return None


def read(snapshot: Snapshot, vault: Vault | None = None) -> pl.DataFrame:
    """The rows of a snapshot, in their order.

    Its digest names it; its version says where it was. If that one is gone and the same rows lie in another, they are
    read from there.

    Args:
        snapshot: which one.
        vault: opens it if it is encrypted.

    Raises:
        AccessError: it is encrypted, and its key is not here.
        NotFoundError: the table or version is gone.
        IntegrityError: the rows are not those that the digest names.
    """
    sealed = next(iter(sealed_folder(snapshot.path).glob(f"*-{snapshot.digest.removeprefix('sha256:')}.parquet")), None)
    if sealed is not None:
        return _checked(snapshot, _open_sealed(sealed, snapshot.digest, vault))
    try:
        return _checked(snapshot, _read_version(snapshot.path, snapshot.version))
    except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
        number = _find(snapshot.path, snapshot.digest, is_sealed=False)
        if number is None:
            raise NotFoundError(
                f"snapshot {snapshot.digest}: version {snapshot.version} cannot be read: {error}"
            ) from error
        return _checked(snapshot, _read_version(snapshot.path, number))


def sealed_context(digest: str) -> str:
    """What a snapshot is sealed as."""
    return f"snapshot/{digest}"


def _find(path: Path, digest: str, is_sealed: bool) -> int | None:
    """The number of the newest version that holds these rows and has all its files; None if there is none."""
    for version in reversed(list_versions(path)):
        if version.digest == digest and version.is_sealed == is_sealed and is_whole(path, version):
            return version.number
    return None


def _seal(path: Path, frame: pl.DataFrame, digest: str, vault: Vault) -> int:
    """The number of the encrypted version; others that write one here wait."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    sealed = vault.seal(buffer.getvalue(), sealed_context(digest))
    folder = sealed_folder(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if (known := _find(path, digest, is_sealed=True)) is not None:
                return known
            number = max((version.number for version in list_versions(path)), default=-1) + 1
            replace_durably(folder / sealed_name(number, digest), sealed, mode=0o600)
            return number
    except OSError as error:
        raise StorageError(f"{folder}: the snapshot was not written: {error.strerror}") from error


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
    if found != snapshot.digest and digest_chunks(_chunks(frame)) != snapshot.digest:  # as before parts were chained
        raise IntegrityError(f"snapshot {snapshot.digest}: the rows of version {snapshot.version} have digest {found}")
    return frame


def _read_version(path: Path, number: int) -> pl.DataFrame:
    table = DeltaTable(str(path), version=number)
    if not (files := files_of(table)):
        return pl.scan_delta(table).collect().drop(ORDER)
    frame = pl.read_parquet([path / name for name in files], glob=False)  # scan_delta fails below a folder with a space
    return (frame if frame[ORDER].is_sorted() else frame.sort(ORDER)).drop(ORDER)


def _read_from(path: Path, table: DeltaTable, first: int) -> pl.DataFrame:
    """The rows from `first` on."""
    files = [path / name for name in files_of(table)]
    rows = pl.scan_parquet(files, glob=False).filter(pl.col(ORDER) >= first).collect()
    return (rows if rows[ORDER].is_sorted() else rows.sort(ORDER)).drop(ORDER)


def _write(path: Path, frame: pl.DataFrame, parts: list[str]) -> int | None:
    """The number of the version that holds the rows now; None if somebody else took it meanwhile."""
    table = open_table(path)
    first = 0 if table is None else _shared_rows(path, table, frame, parts)
    whole = parts[: frame.height // PART_ROWS]
    known = _known(_chained(parts), frame.height, first, _chained(whole) if whole else None)
    return _commit(path, table, frame[first:], first, known)


def _known(digest: str, rows: int, first: int, chain: str | None) -> dict[str, str | int]:
    """What a commit says of its version."""
    noted: dict[str, str | int | None] = {
        DIGEST_KEY: digest,
        ROWS_KEY: rows,
        FIRST_KEY: first or None,
        CHAIN_KEY: chain,
    }
    return {key: value for key, value in noted.items() if value is not None}


def _commit(
    path: Path, table: DeltaTable | None, rows: pl.DataFrame, first: int, known: dict[str, str | int]
) -> int | None:
    """The number of the version that has `rows` behind the `first` rows of the newest one; None as for `_write`.

    The files are there before the commit that names them: until then no reader sees a row of them.
    """
    number = -1 if table is None else table.version()
    schema = Schema.from_arrow(pl.Schema({**rows.schema, ORDER: pl.Int64()}))
    properties = CommitProperties(custom_metadata=known, max_commit_retries=0)
    files: list[AddAction] = []
    try:
        path.mkdir(parents=True, exist_ok=True)
        files.extend(_write_files(path, rows, first))
        if table is None:
            create_table_with_add_actions(
                str(path),
                schema,
                files,
                configuration={"delta.enableExpiredLogCleanup": "false"},
                commit_properties=properties,
                post_commithook_properties=KEEP_LOG,
            )
        else:
            table.create_write_transaction(
                [*files],
                "append" if first else "overwrite",
                schema,
                commit_properties=properties,
                post_commithook_properties=KEEP_LOG,
            )
    except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
        if isinstance(error, DeltaError) and _newest_number(path) > number:
            for file in files:
                (path / file.path).unlink(missing_ok=True)
            return None
        raise StorageError(f"{path}: the snapshot was not written: {error}") from error
    return number + 1  # a commit that is not retried follows what it was based on


def _write_files(path: Path, rows: pl.DataFrame, first: int) -> Iterator[AddAction]:
    """The Parquet files of rows that stand behind `first` others."""
    for piece in rows.iter_slices(FILE_ROWS) if rows.height else ():
        file = path / f"part-{uuid.uuid4()}.parquet"
        ordered = piece.with_row_index(ORDER, first).with_columns(pl.col(ORDER).cast(pl.Int64))
        ordered.select(*piece.columns, ORDER).write_parquet(file, compression_level=1, row_group_size=GROUP_ROWS)
        bounds = {"minValues": {ORDER: first}, "maxValues": {ORDER: first + piece.height - 1}}
        stats = json.dumps({"numRecords": piece.height, **bounds, "nullCount": {ORDER: 0}})
        status = file.stat()
        yield AddAction(file.name, status.st_size, {}, status.st_mtime_ns // 1_000_000, True, stats)
        first += piece.height


def _newest_number(path: Path) -> int:
    """Of the Delta table; -1 before there is one."""
    return -1 if (table := open_table(path)) is None else table.version()


def _shared_rows(path: Path, table: DeltaTable, frame: pl.DataFrame, parts: list[str]) -> int:
    """How many rows the frame begins with that are the whole newest version, which then needs its new rows only."""
    newest: Version | None = next((v for v in reversed(list_versions(path)) if not v.is_sealed), None)
    if newest is None or not newest.rows or newest.number != table.version() or newest.rows > frame.height:
        return 0
    whole = newest.rows // PART_ROWS
    rest = _part_digests(frame[whole * PART_ROWS : newest.rows]) if newest.rows % PART_ROWS else []
    return newest.rows if _chained([*parts[:whole], *rest]) == newest.digest and is_whole(path, newest) else 0


def _part_digests(frame: pl.DataFrame) -> list[str]:
    parts = frame.iter_slices(PART_ROWS) if frame.height else [frame]
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        return list(pool.map(lambda part: digest_chunks(_chunks(part)), parts))


def _chained(digests: Iterable[str]) -> str:
    return reduce(lambda chain, part: digest_json([chain, part]), digests)


def _chunks(frame: pl.DataFrame) -> Iterator[bytes | memoryview]:
    yield f"{frame.height} rows\n".encode()
    for series in frame:
        yield f"{series.name}: {_type_name(series.dtype)}\n".encode()
        is_full = not series.null_count()
        yield bytes((len(series) + 7) // 8) if is_full else np.packbits(series.is_null().to_numpy()).tobytes()
        if series.dtype == pl.String:
            filled = series if is_full else series.fill_null("")
            yield filled.str.len_bytes().cast(pl.Int64).to_numpy().tobytes()
            yield str(filled.str.join("").item()).encode()
        else:
            physical = series.to_physical()
            zero = False if physical.dtype == pl.Boolean else 0
            yield np.ascontiguousarray((physical if is_full else physical.fill_null(zero)).to_numpy()).data


def _type_name(kind: pl.DataType) -> str:
    """A name that does not change with the table engine's own way of writing it."""
    return f"Datetime {kind.time_unit} {kind.time_zone}" if isinstance(kind, pl.Datetime) else type(kind).__name__
