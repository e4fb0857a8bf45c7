"""Table files: the Parquet files that hold one version of a snapshot's Delta table, for readers of files."""

import urllib.parse
from pathlib import Path

import polars as pl
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from shipworthy.data.snapshot import Snapshot
from shipworthy.data.versions import sealed_folder
from shipworthy.kernel.errors import IntegrityError, NotFoundError, UsageError


def table_files(snapshot: Snapshot) -> list[Path]:
    """The files that together hold the rows of a snapshot and no others, sorted.

    Raises:
        UsageError: the snapshot is encrypted: other readers could not read its files.
        NotFoundError: the table, the version or a file is gone.
        IntegrityError: the files hold another number of rows.
    """
    hexadecimal = snapshot.digest.removeprefix("sha256:")
    if any(path.stem.endswith(hexadecimal) for path in sealed_folder(snapshot.path).glob("*.parquet")):
        raise UsageError(f"snapshot {snapshot.digest} is encrypted; only Shipworthy can read its files")
    try:
        uris = DeltaTable(str(snapshot.path), version=snapshot.version).file_uris()
        files = sorted(Path(urllib.parse.unquote(uri.removeprefix("file://"))) for uri in uris)
        rows = pl.scan_parquet(files, glob=False).select(pl.len()).collect().item() if files else 0
    except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
        said = str(error).splitlines()[0]
        raise NotFoundError(f"snapshot {snapshot.digest}: version {snapshot.version} cannot be read: {said}") from None
    if rows != snapshot.rows:
        raise IntegrityError(f"snapshot {snapshot.digest}: its files hold {rows} rows, not {snapshot.rows}")
    return files
