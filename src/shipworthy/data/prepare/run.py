"""Prepare: from the sources' frames to the one frame that is validated, step by step, each counted.

The user's functions run in a process of their own. Where sources say when their rows became known, the same steps are
run again on what was known at a time, and must give the same features (`point_in_time`).
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from shipworthy.contract.data_section import Step
from shipworthy.contract.steps import column_kinds, step_scopes
from shipworthy.contract.types import Contract
from shipworthy.data.prepare.child import FAILURE, JOB, RESULT, SOURCES
from shipworthy.data.prepare.counts import StepCount, count_declared, count_made
from shipworthy.data.prepare.point_in_time import Proof, prove
from shipworthy.data.prepare.steps import Stepped, contract_columns, take_step
from shipworthy.data.sources.read import PLACED_SCHEMA, PLACES, SourceRead
from shipworthy.engines.local import run_process
from shipworthy.kernel.errors import DataError, StorageError

LONGEST_S = 6 * 3600.0  # a join that takes longer belongs into the database
TAIL_BYTES = 2000  # of its output, shown when it died

Tables = Mapping[str, pl.DataFrame]


@dataclass(frozen=True, slots=True)
class Prepared:
    """The one frame, and what became of the sources' rows on the way."""

    frame: pl.DataFrame
    steps: tuple[StepCount, ...] = ()
    rejected: Mapping[str, pl.DataFrame] = field(default_factory=dict)  # table -> rows a step could not read, placed
    rows: Mapping[str, pl.Series] = field(default_factory=dict)  # source of all rows -> which of its rows, from 0


@dataclass(frozen=True, slots=True)
class Kitchen:
    """Where steps are run: the project's folder, one for work, and what the user's code may see."""

    root: Path
    work: Path  # empty, one's own
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Taken:
    """A step that was run."""

    step: Step
    before: Tables
    frame: pl.DataFrame
    declared: Stepped | None  # None of SQL and functions


def prepare(
    contract: Contract, reads: Mapping[str, SourceRead], root: Path, *, work: Path, environment: Mapping[str, str]
) -> Prepared:
    """What `data.prepare` makes of the sources; of a single source, its own frame.

    Columns of text files arrive as text.

    Args:
        contract: has `data.prepare`.
        reads: of every source, by name.
        root: of the project.
        work: an empty folder of one's own, for what goes to the user's code and comes back.
        environment: what the user's code may see of this process's.

    Raises:
        DataError: several sources and no `prepare`, a step that fails, or a result that is no frame.
    """
    tables = {name: read.frame for name, read in reads.items()}
    if not contract.data.steps:
        if len(tables) != 1:
            raise DataError(
                f"data.sources names {', '.join(tables)}; with several sources data.prepare must say how they "
                "become one frame: `prepare.py:prepare` or a SQL text"
            )
        ((name, frame),) = tables.items()
        return Prepared(frame, rows={name: pl.int_range(frame.height, eager=True)})
    places = {name: pl.int_range(frame.height, eager=True) for name, frame in tables.items()}
    counts: list[StepCount] = []
    rejected: dict[str, list[pl.DataFrame]] = {}
    key = next(iter(contract.context_by_role("key")), None)
    frame = pl.DataFrame()
    for number, taken in enumerate(_take(contract, tables, Kitchen(root, work, environment)), 1):
        step, frame, table = taken.step, taken.frame, taken.step.table or ""
        if taken.declared is None:
            counts.append(count_made(number, step, taken.before, frame, key))
            places.pop(table, None)
            continue
        counts.append(count_declared(number, step, taken.before[table], taken.declared))
        if taken.declared.rejected.height:
            rejected.setdefault(table, []).append(_placed(taken, places.get(table), reads))
        if table in places:
            places[table] = places[table].gather(taken.declared.rows)
    if not frame.height:
        raise DataError(f"data.prepare ({_shown(contract)}) left no rows; look at its joins and filters")
    last = contract.data.steps[-1].table or ""
    return Prepared(
        frame,
        tuple(counts),
        {table: pl.concat(parts) for table, parts in rejected.items()},
        {last: places[last]} if last in places else {},
    )


def prove_point_in_time(
    contract: Contract,
    reads: Mapping[str, SourceRead],
    frame: pl.DataFrame,
    root: Path,
    *,
    work: Path,
    environment: Mapping[str, str],
) -> Proof | None:
    """Whether the features of `frame`, which `prepare` made, see rows that became known later than their own time.

    None where there is nothing to prove: no steps, no source with a `time`, or no `role: time`. Arguments and errors
    are those of `prepare`.
    """
    if not contract.data.steps:
        return None
    kitchen = Kitchen(root, work, environment)

    def again(tables: Tables) -> pl.DataFrame:
        *_, last = _take(contract, tables, kitchen)
        return last.frame

    return prove(contract, {name: read.frame for name, read in reads.items()}, frame, again)


def _take(contract: Contract, sources: Tables, kitchen: Kitchen) -> Iterator[_Taken]:
    """Run the steps one by one."""
    steps, known = contract.data.steps, contract_columns(contract)
    scopes = step_scopes(steps, column_kinds(contract))
    is_listed = not isinstance(contract.data.prepare, str)
    tables = dict(sources)
    for number, (step, scope) in enumerate(zip(steps, scopes, strict=True)):
        declared, table = None, step.table or ""
        where = f"data.prepare[{number}]" if is_listed else "data.prepare"
        try:
            if step.run is not None:
                frame = _call(step.run, tables, kitchen)
            elif step.sql is not None:
                frame = _query(step.sql, tables)
            else:
                declared = take_step(step, tables[table], scope, known)
                frame = declared.frame
        except DataError as error:
            raise DataError(f"{where}: {error}") from error.__cause__
        yield _Taken(step, dict(tables), frame, declared)
        tables[table] = frame


def _shown(contract: Contract) -> str:
    prepare = contract.data.prepare
    return prepare.strip()[:80] if isinstance(prepare, str) else f"{len(contract.data.steps)} steps"


def _placed(taken: _Taken, places: pl.Series | None, reads: Mapping[str, SourceRead]) -> pl.DataFrame:
    """Rows that a step rejected, with file and line where they are a source's, as the quarantine has malformed ones."""
    table, rejected = taken.step.table or "", taken.declared.rejected if taken.declared else pl.DataFrame()
    rows = rejected["at"]
    texts = taken.before[table][rows].select(pl.struct(pl.all()).struct.json_encode().alias("text"))
    if places is not None and table in reads:
        found = reads[table].places(places.gather(rows))
    else:
        found = pl.DataFrame(schema=PLACES).clear(len(rows))
    return pl.concat([found, texts, rejected.select("reason")], how="horizontal").select(PLACED_SCHEMA.keys())


def _query(text: str, tables: Tables) -> pl.DataFrame:
    try:
        with pl.SQLContext(dict(tables)) as context:
            return context.execute(text, eager=True)
    except pl.exceptions.PolarsError as error:
        known = "; ".join(f"{name}({', '.join(frame.columns[:20])})" for name, frame in tables.items())
        raise DataError(f"the SQL fails: {str(error).splitlines()[0]}; the tables are {known}") from error


def _call(entry: str, tables: Tables, kitchen: Kitchen) -> pl.DataFrame:
    file, _, name = entry.partition(":")
    path = kitchen.root / file
    if not path.is_file():
        raise DataError(f"{path} does not exist; write it, or correct the path")
    work = kitchen.work / f"{name}-{sum(1 for _ in kitchen.work.iterdir())}"
    try:
        (work / SOURCES).mkdir(parents=True)
        for table, frame in tables.items():
            frame.write_ipc(work / SOURCES / f"{table}.arrow")
        (work / JOB).write_text(json.dumps({"path": str(path.resolve()), "name": name, "sources": list(tables)}))
    except OSError as error:
        raise StorageError(f"{work} cannot be written ({error.strerror}); make room, then run this again") from None
    log = work / "prepare.log"
    finished = run_process(
        [sys.executable, "-P", "-m", "shipworthy.data.prepare.child", str(work.resolve())],
        cwd=path.parent,
        env={**kitchen.environment, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout_s=LONGEST_S,
        log=log,
    )
    if (work / FAILURE).exists():
        raise DataError((work / FAILURE).read_text())
    if finished.returncode or not (work / RESULT).exists():
        said = log.read_text(errors="replace")[-TAIL_BYTES:].strip() or "(nothing)"
        raise DataError(f"{path}: {name} ended its process ({finished.returncode}). Its output ends with:\n{said}")
    frame = pl.read_ipc((work / RESULT).read_bytes())
    shutil.rmtree(work)
    return frame
