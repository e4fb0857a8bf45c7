"""Columnar: Parquet and Arrow files; columns keep the types that they carry."""

import io
from collections.abc import Callable
from pathlib import Path

import polars as pl

from shipworthy.data.sources.files import first_line, read_head
from shipworthy.kernel.errors import SourceError

_STREAM = b"\xff\xff\xff\xff"  # begins an Arrow stream; a file begins with ARROW1
_STREAM_END = _STREAM + bytes(4)  # may be left out by the format, but without it nobody can tell a stream that was cut


def read_parquet(content: bytes, path: Path) -> pl.DataFrame:
    """The rows of a Parquet file.

    Raises:
        SourceError: it is damaged or cut short.
    """
    return _read(lambda: pl.read_parquet(io.BytesIO(content)), "Parquet", path)


def read_arrow(content: bytes, path: Path) -> pl.DataFrame:
    """The rows of an Arrow file or stream.

    Raises:
        SourceError: it is damaged or cut short.
    """
    if content.startswith(_STREAM):
        if not content.endswith(_STREAM_END):
            raise SourceError(f"{path}: the Arrow file is damaged or cut short (it has no end mark); write it again")
        return _read(lambda: pl.read_ipc_stream(io.BytesIO(content)), "Arrow", path)
    return _read(lambda: pl.read_ipc(io.BytesIO(content)), "Arrow", path)


def parquet_columns(path: Path) -> list[str]:
    """The columns of a Parquet file, from its foot.

    Raises:
        SourceError: it is damaged or cut short.
    """
    return list(_read(lambda: pl.DataFrame(schema=pl.read_parquet_schema(path)), "Parquet", path).columns)


def arrow_columns(path: Path) -> list[str] | None:
    """The columns of an Arrow file, from its foot; None of a stream, which has none.

    Raises:
        SourceError: it is damaged or cut short.
    """
    if read_head(path, 4) == _STREAM:
        return None
    return list(_read(lambda: pl.DataFrame(schema=pl.read_ipc_schema(path)), "Arrow", path).columns)


def _read(read: Callable[[], pl.DataFrame], kind: str, path: Path) -> pl.DataFrame:
    try:
        return read()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise SourceError(
            f"{path}: the {kind} file is damaged or cut short ({first_line(error)}); write it again"
        ) from error
