"""The process that runs the user's `prepare` function: `python -m shipworthy.data.prepare.child WORK`.

It hands the function the folder's tables as lazy frames over memory-mapped files, and writes the one frame back.
"""

import importlib.util
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import polars as pl

from shipworthy.kernel.errors import DataError

JOB, SOURCES, RESULT, FAILURE = "job.json", "sources", "result.arrow", "failure.txt"


def main(work: Path) -> int:
    """Run the job of the folder; what the user's code did wrong stands there in words."""
    job = json.loads((work / JOB).read_text())
    frames = {name: pl.scan_ipc(work / SOURCES / f"{name}.arrow", glob=False) for name in job["sources"]}
    try:
        frame = _call(Path(job["path"]), job["name"], frames)
    except DataError as error:
        (work / FAILURE).write_text(str(error))
        return 1
    draft = work / f".{RESULT}"
    frame.write_ipc(draft)
    draft.rename(work / RESULT)
    return 0


def _call(path: Path, name: str, frames: dict[str, pl.LazyFrame]) -> pl.DataFrame:
    function = _function(path, name)
    try:
        frame = function(frames)
        if isinstance(frame, pl.LazyFrame):
            frame = frame.collect()  # not by the streaming engine: it keeps no order of rows
    except Exception as error:  # user code may raise anything; named with its line
        place = _place(error, path)
        words = str(error).partition("\n")[0]  # the engine says its whole plan
        raise DataError(f"{place}: {name} raised {type(error).__name__}: {words}{_lazy(error)}") from error
    if not isinstance(frame, pl.DataFrame):
        raise DataError(
            f"{path}: {name} returned {type(frame).__name__}; it must return a polars LazyFrame or DataFrame"
        )
    return frame


def _lazy(error: Exception) -> str:
    """What to do about code that takes a lazy frame for one with rows."""
    is_about = isinstance(error, AttributeError | TypeError) and "LazyFrame" in str(error)
    return "; the frames are lazy (polars LazyFrame): call .collect()" if is_about else ""


def _function(path: Path, name: str) -> Callable[[dict[str, pl.LazyFrame]], object]:
    function = getattr(_module(path), name, None)
    if not callable(function):
        raise DataError(f"{path} has no function {name}; data.prepare names it")
    loaded: Callable[[dict[str, pl.LazyFrame]], object] = function
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


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
