"""Delta: tables of the open format, at one version."""

from collections.abc import Iterator
from pathlib import Path

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from shipworthy.data.sources.files import first_line
from shipworthy.data.versions import ORDER
from shipworthy.kernel.errors import SourceError


def open_delta(path: Path, version: int | None = None) -> DeltaTable:
    """The table at `path`, at a version, or the newest.

    Raises:
        SourceError: there is no such version, or the table is damaged.
    """
    newest = None
    try:
        newest = DeltaTable(str(path))
        if version is None:
            return newest
        return DeltaTable(str(path), version=version)
    except (DeltaError, OSError) as error:
        if newest is not None and (version or 0) > newest.version():
            raise SourceError(
                f"{path}: the Delta table has no version {version}; its newest is {newest.version()}"
            ) from None
        raise _unreadable(path, error) from error


def delta_digest(path: Path, version: int | None = None) -> str:
    """What names a version of a table: its id and number.

    Raises:
        SourceError: as for `open_delta`.
    """
    table = open_delta(path, version)
    return f"delta:{table.metadata().id}:{table.version()}"


def delta_batches(table: DeltaTable, path: Path, rows: int) -> Iterator[pl.DataFrame]:
    """The rows of a table, about `rows` at a time; in their order where the table keeps it.

    Raises:
        SourceError: a file of the table is gone or damaged.
    """
    try:
        frame = pl.scan_delta(table)
        if ORDER in frame.collect_schema().names():
            frame = frame.sort(ORDER).drop(ORDER)
        yield from frame.collect_batches(chunk_size=rows, lazy=True)
    except (DeltaError, pl.exceptions.PolarsError, OSError) as error:
        raise _unreadable(path, error) from error


def delta_columns(table: DeltaTable) -> list[str]:
    """The table's columns, without the one that keeps the order."""
    return [field.name for field in table.schema().fields if field.name != ORDER]


def _unreadable(path: Path, error: Exception) -> SourceError:
    return SourceError(f"{path}: the Delta table cannot be read ({first_line(error)}); restore its files")
