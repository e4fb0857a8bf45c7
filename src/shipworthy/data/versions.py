"""Versions: what a table holds, which of its files each version needs, and how some are removed for good.

A version's number is that of the Delta table, so that other readers travel to the same one; numbers may skip, for what
rearranges files counts too. Encrypted versions are files of their own, beside the table, numbered after all others.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import polars as pl
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
from deltalake.exceptions import CommitFailedError, DeltaError

from shipworthy.kernel.errors import StorageError
from shipworthy.security.vault import SEALED_SUFFIX

ORDER = "__row"  # Delta promises no order of rows
DIGEST_KEY = "shipworthy.digest"  # in the commit of each version
ROWS_KEY = "shipworthy.rows"
CHAIN_KEY = "shipworthy.chain"  # the digest of its parts that are whole
FIRST_KEY = "shipworthy.first"  # the first row that the version added to the one before
MANY_FILES = 64  # of a version: from here on opening them takes longer than reading them
GRACE_S = 86_400.0  # a file younger than this and of no version may be of somebody who writes at this moment
KEEP_LOG = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)  # the log is every old version


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a table."""

    number: int
    digest: str  # of its content
    written: float  # Unix seconds
    rows: int | None  # None: written before this was noted
    appended: int | None = None  # rows that it added to the version before, the rest being the same; None: rewritten
    is_sealed: bool = False
    is_copy: bool = False  # the content of an earlier version in fewer files
    chain: str | None = None  # the digest of its whole parts; None: it has none, or was written before this was noted


def list_versions(table: Path) -> list[Version]:
    """Every version that was ever written, oldest first; of encrypted ones those that are there.

    Args:
        table: directory of the Delta table; encrypted versions lie beside it.

    Raises:
        StorageError: the table's log cannot be read.
    """
    history = [] if (opened := open_table(table)) is None else opened.history()
    plain = [
        Version(
            number=entry["version"],
            digest=entry[DIGEST_KEY],
            written=entry["timestamp"] / 1000,
            rows=entry.get(ROWS_KEY),
            appended=entry[ROWS_KEY] - entry[FIRST_KEY] if FIRST_KEY in entry else None,
            is_copy=entry["operation"] == "OPTIMIZE",
            chain=entry.get(CHAIN_KEY),
        )
        for entry in history
        if DIGEST_KEY in entry
    ]
    sealed = [
        Version(int(path.name[:6]), f"sha256:{path.name[7:71]}", path.stat().st_mtime, None, is_sealed=True)
        for path in sealed_folder(table).glob("*.parquet")
    ]
    return sorted((*plain, *sealed), key=lambda version: (version.number, version.is_sealed))


def open_table(table: Path, number: int | None = None) -> DeltaTable | None:
    """The Delta table at a version, the newest by default; None if there is no table.

    Raises:
        StorageError: its log cannot be read.
    """
    try:
        return DeltaTable(str(table), version=number) if DeltaTable.is_deltatable(str(table)) else None
    except (DeltaError, OSError) as error:
        raise StorageError(f"{table}: the table's log cannot be read: {error}") from error


def is_whole(table: Path, version: Version) -> bool:
    """Whether every file of the version is there."""
    if version.is_sealed:
        return (sealed_folder(table) / sealed_name(version.number, version.digest)).exists()
    return all((table / name).exists() for name in files_of(_at(table, version.number)))


def files_of(opened: DeltaTable) -> list[str]:
    """The files of one version of a Delta table, relative to it."""
    return [unquote(name) for name in pl.DataFrame(opened.get_add_actions(flatten=True))["path"]]


def columns_of(table: Path, number: int) -> dict[str, str]:
    """Name and type of each column of one version of the Delta table.

    Raises:
        StorageError: there is no such version in its log.
    """
    schema = pl.scan_delta(_at(table, number)).collect_schema()
    return {name: str(kind) for name, kind in schema.items() if name != ORDER}


def _at(table: Path, number: int) -> DeltaTable:
    opened = open_table(table, number)
    if opened is None:
        raise StorageError(f"{table}: there is no table")
    return opened


@dataclass(frozen=True, slots=True)
class Removal:
    """What is removed, or would be."""

    files: tuple[Path, ...]
    size_bytes: int


def plan_removal(table: Path, gone: Iterable[tuple[int, str]], now: float) -> Removal:
    """The files that no version needs once those of `gone` are removed.

    Those are the files of `gone` that no other version shares, and what a writer left that was stopped. The newest
    version of the table stays whatever `gone` says: the next one may build on it.

    Args:
        table: directory of the Delta table.
        gone: number and digest of each version that is to go, or went before.
        now: Unix seconds.
    """
    leaving = set(gone)
    versions = list_versions(table)
    files = [
        sealed_folder(table) / sealed_name(version.number, version.digest)
        for version in versions
        if version.is_sealed and (version.number, version.digest) in leaving
    ]
    if (opened := open_table(table)) is not None:
        plain = [version for version in versions if not version.is_sealed]
        files += _loose_files(table, opened.version(), plain, leaving, now)
    return Removal(tuple(files), sum(path.stat().st_size for path in files))


def _loose_files(
    table: Path, head: int, versions: Sequence[Version], leaving: set[tuple[int, str]], now: float
) -> list[Path]:
    """Files of the Delta table that only versions of `leaving` need, or that are old and of no version at all."""
    staying = {v.digest for v in versions if not v.is_copy and (v.number, v.digest) not in leaving}
    is_leaving = {
        v.number: (v.number, v.digest) in leaving or (v.is_copy and v.digest not in staying) for v in versions
    }
    kept = {head, *(number for number, leaves in is_leaving.items() if not leaves)}
    needed = {name for number in kept for name in files_of(_at(table, number))}
    loose = [path for path in sorted(table.glob("*.parquet")) if path.name not in needed]
    young = [path for path in loose if path.stat().st_mtime >= now - GRACE_S]
    if not young:
        return loose
    freed = {name for number in is_leaving.keys() - kept for name in files_of(_at(table, number))}
    return [path for path in loose if path.name in freed or path not in young]


def remove(removal: Removal) -> None:
    """Remove the files for good; those that are gone already are no fault.

    Raises:
        StorageError: the disk refused.
    """
    for path in removal.files:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{path}: cannot be removed ({error.strerror}); run it again") from None


def merge_files(table: Path, at_least: int = MANY_FILES) -> int:
    """Write the newest version of the Delta table into few files if it has many; how many it had, 0 if it stays.

    The rows stay the same and in their order. The version itself stays too; a copy of it becomes the table's newest.

    Args:
        table: directory of the Delta table.
        at_least: so many are many.

    Raises:
        StorageError: the table cannot be written.
    """
    opened = open_table(table)
    newest = next((version for version in reversed(list_versions(table)) if not version.is_sealed), None)
    if opened is None or newest is None or opened.version() != newest.number:
        return 0
    count = len(files_of(opened))
    if count < at_least:
        return 0
    noted = {DIGEST_KEY: newest.digest, ROWS_KEY: newest.rows, CHAIN_KEY: newest.chain}
    known = {key: value for key, value in noted.items() if value is not None}
    try:
        opened.optimize.compact(
            commit_properties=CommitProperties(custom_metadata=known, max_commit_retries=0),
            post_commithook_properties=KEEP_LOG,
        )
    except CommitFailedError:  # somebody wrote a version meanwhile; the next time will do
        return 0
    except (DeltaError, OSError) as error:
        raise StorageError(f"{table}: its files cannot be merged: {error}") from error
    return count


def sealed_folder(table: Path) -> Path:
    """Where the encrypted versions of a table lie: beside it, so that a reader of Delta tables does not meet them."""
    return table.with_name(table.name + SEALED_SUFFIX)


def sealed_name(number: int, digest: str) -> str:
    """The file of an encrypted version."""
    return f"{number:06d}-{digest.removeprefix('sha256:')}.parquet"
