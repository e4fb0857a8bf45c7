"""Prepare: from the sources' frames to the one frame that is validated; the user's code in a process of its own."""

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from shipworthy.contract.types import Contract
from shipworthy.data.prepare_child import FAILURE, JOB, RESULT, SOURCES
from shipworthy.data.sources import SourceRead
from shipworthy.engines.local import run_process
from shipworthy.kernel.errors import DataError, StorageError

LONGEST_S = 6 * 3600.0  # a join that takes longer belongs into the database
TAIL_BYTES = 2000  # of its output, shown when it died

_ENTRY = re.compile(r"([\w./-]+\.py):([A-Za-z_]\w*)")


def prepare(
    contract: Contract, reads: Mapping[str, SourceRead], root: Path, *, work: Path, environment: Mapping[str, str]
) -> pl.DataFrame:
    """The frame that `data.prepare` makes of the sources; of a single source, its own frame.

    Columns of text files arrive as text. `file.py:function` is called with a dict of frames by source name;
    anything else is SQL over tables of those names.

    Args:
        contract: has `data.prepare`.
        reads: of every source, by name.
        root: of the project.
        work: an empty folder of one's own, for what goes to the user's code and comes back.
        environment: what the user's code may see of this process's.

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
    frame = _call(root / entry[1], entry[2], frames, work, environment) if entry else _query(text, frames)
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


def _call(
    path: Path, name: str, frames: Mapping[str, pl.DataFrame], work: Path, environment: Mapping[str, str]
) -> pl.DataFrame:
    if not path.is_file():
        raise DataError(f"data.prepare: {path} does not exist; write it, or correct the path")
    log = work / "prepare.log"
    try:
        (work / SOURCES).mkdir(parents=True)
        for source, frame in frames.items():
            frame.write_ipc(work / SOURCES / f"{source}.arrow")
        (work / JOB).write_text(json.dumps({"path": str(path.resolve()), "name": name, "sources": list(frames)}))
    except OSError as error:
        raise StorageError(f"{work} cannot be written ({error.strerror}); make room, then run this again") from None
    finished = run_process(
        [sys.executable, "-P", "-m", "shipworthy.data.prepare_child", str(work.resolve())],
        cwd=path.parent,
        env={**environment, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout_s=LONGEST_S,
        log=log,
    )
    if (work / FAILURE).exists():
        raise DataError((work / FAILURE).read_text())
    if finished.returncode or not (work / RESULT).exists():
        said = log.read_text(errors="replace")[-TAIL_BYTES:].strip() or "(nothing)"
        raise DataError(f"{path}: {name} ended its process ({finished.returncode}). Its output ends with:\n{said}")
    return pl.read_ipc((work / RESULT).read_bytes())
