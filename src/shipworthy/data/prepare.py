"""Prepare: from the sources' frames to the one frame that is validated."""

import importlib.util
import re
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import polars as pl

from shipworthy.contract.types import Contract
from shipworthy.data.sources import SourceRead
from shipworthy.kernel.errors import DataError

_ENTRY = re.compile(r"([\w./-]+\.py):([A-Za-z_]\w*)")


def prepare(contract: Contract, reads: Mapping[str, SourceRead], root: Path) -> pl.DataFrame:
    """The frame that `data.prepare` makes of the sources; of a single source, its own frame.

    Columns of text files arrive as text. `file.py:function` is called with a dict of frames by source name;
    anything else is SQL over tables of those names.

    Raises:
        DataError: several sources and no `prepare`, user code or SQL that fails, or a result that is no frame.
    """
    frames = {name: read.frame for name, read in reads.items()}
    text = contract.data.prepare
    if text is None:
        if len(frames) != 1:
            raise DataError(
                f"data.sources names {', '.join(frames)}; with several sources data.prepare must say how they "
                "become one frame: `prepare.py:prepare` or a SQL text"
            )
        return next(iter(frames.values()))
    entry = _ENTRY.fullmatch(text.strip())
    frame = _call(root / entry[1], entry[2], frames) if entry else _query(text, frames)
    if not frame.height:
        raise DataError(f"data.prepare ({text.strip()[:80]}) left no rows; look at its joins and filters")
    return frame


def _query(text: str, frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
    try:
        with pl.SQLContext(frames) as context:
            return context.execute(text, eager=True)
    except pl.exceptions.PolarsError as error:
        known = "; ".join(f"{name}({', '.join(frame.columns[:20])})" for name, frame in frames.items())
        raise DataError(f"data.prepare: the SQL fails: {str(error).splitlines()[0]}; the tables are {known}") from error


def _call(path: Path, name: str, frames: dict[str, pl.DataFrame]) -> pl.DataFrame:
    function = _function(path, name)
    try:
        frame = function(frames)
    except Exception as error:  # user code may raise anything; named with its line
        raise DataError(f"{_place(error, path)}: {name} raised {type(error).__name__}: {error}") from error
    if isinstance(frame, pl.LazyFrame):
        frame = frame.collect()
    if not isinstance(frame, pl.DataFrame):
        raise DataError(f"{path}: {name} returned {type(frame).__name__}; it must return a polars DataFrame")
    return frame


def _function(path: Path, name: str) -> Callable[[dict[str, pl.DataFrame]], object]:
    if not path.is_file():
        raise DataError(f"data.prepare: {path} does not exist; write it, or correct the path")
    function = getattr(_module(path), name, None)
    if not callable(function):
        raise DataError(f"{path} has no function {name}; data.prepare names it")
    loaded: Callable[[dict[str, pl.DataFrame]], object] = function
    return loaded


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"shipworthy_user_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise DataError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # user code may raise anything; named with its line
        raise DataError(f"{_place(error, path)}: importing raised {type(error).__name__}: {error}") from error
    return module


def _place(error: Exception, path: Path) -> str:
    """File and line of the user's own code in which `error` arose."""
    if isinstance(error, SyntaxError):
        return f"{path} line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    return f"{path} line {lines[-1]}" if lines else str(path)
