"""`outcomes`: a file of what came true joins the predictions that it is about, by id; the rest is kept apart.

Telling a file again, whole or after being stopped, has no effect: what this file said before is known by its digest.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from shipworthy.contract.columns import Column, Target
from shipworthy.contract.types import Contract
from shipworthy.data.columns import is_outside
from shipworthy.data.datetimes import detect_format
from shipworthy.data.names import identifier
from shipworthy.data.sources.read import SourceRead, read_file
from shipworthy.data.values import cleaned, typed
from shipworthy.feedback.labels import LabelReport, Truths, join_labels
from shipworthy.kernel.errors import ConflictError, NotFoundError, SourceError, UsageError
from shipworthy.ledger.events import Event
from shipworthy.records.format import Outcome
from shipworthy.records.read import Tail, list_segments, read_outcomes
from shipworthy.records.write import SegmentWriter
from shipworthy.security.access import Principal
from shipworthy.security.vault import Vault
from shipworthy.workflows.gate import permit
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts, read_contract
from shipworthy.workflows.quarantine import keep_rows

WRITER = "file"  # names the segments; its lock keeps a second telling out
GROUP_ROWS = 5000  # outcomes in one write and sync: under a megabyte
LATEST_UNIX_S = 253_402_300_799.0  # the year 9999; milliseconds taken for seconds lie beyond
SHOWN_COLUMNS = 20
NOT_PREDICTED = "id: nothing was predicted under it"

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a file says what; None: found by its usual name."""

    id: str | None = None
    value: str | None = None
    time: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What became of a file."""

    environment: str
    file: str
    digest: str
    columns: Columns  # as they were found; without `time` the truth is known from now on
    report: LabelReport
    quarantine: Path | None  # rows that joined nothing, with reasons

    def to_json(self) -> dict[str, Any]:
        """The document that `outcomes --json` prints."""
        return {
            "environment": self.environment,
            "file": self.file,
            "digest": self.digest,
            "columns": {name: getattr(self.columns, name) for name in ("id", "value", "time")},
            **self.report.to_json(),
            "quarantine": None if self.quarantine is None else str(self.quarantine),
        }


def tell_outcomes(
    parts: Parts, principal: Principal, environment: str, file: Path, columns: Columns, tell: Tell
) -> Told:
    """Join the rows of `file` with what was predicted in `environment`; durable when this returns.

    Args:
        parts: of the project.
        principal: who tells.
        environment: where the predictions were made.
        file: CSV, JSON lines, Parquet, Arrow or Excel.
        columns: its columns, where they are not called as usual.
        tell: told what is being done.

    Raises:
        AccessError: `principal` may not tell outcomes.
        UsageError: there is no such environment.
        NotFoundError: nothing was predicted there yet.
        SourceError: the file cannot be read, or has other columns.
        ConflictError: another file is being told.
        IntegrityError: records or earlier outcomes are damaged.
        StorageError: the disk refused.
    """
    rule = permit(parts, principal, "outcomes", environment=environment)
    contract = read_contract(parts.project)
    _judge_environment(contract, parts.project, environment)
    tell(f"reading {file.name}")
    read = read_file(file.name, file)
    found = _find_columns(contract, read, columns)
    report = LabelReport()
    rows = _judge_rows(contract, _pick(read, found), file, parts.now())
    outcomes = _outcomes(rows, f"file:{file.name}@{_short(read.digest)}", parts.now())
    wanted = {outcome.id for outcome in outcomes}
    tell(f"looking up {len(wanted):,} ids")
    known = _known_ids(parts.project, environment, wanted)
    with _writer(parts, environment) as writer:
        told_before = read_outcomes(parts.project.outcomes(environment), parts.project.vault)
        before = Truths(one for one in told_before if one.id in wanted)
        is_again = _is_recorded(parts, environment, read.digest)
        fresh, _ = join_labels(outcomes, before, known, report, is_again=is_again)
        vault = parts.project.vault if contract.encryption == "at_rest" else None
        _write(writer, fresh, tell, seal=vault is not None)
        quarantine = _keep_apart(parts.project, read, rows, known, report, vault)
        told = Told(environment, file.name, read.digest, found, report, quarantine)
        if fresh or not is_again:
            body = {key: value for key, value in told.to_json().items() if key != "quarantine"}
            parts.ledger.append(Event("outcomes.told", f"outcomes:{environment}", principal.actor, body, rule))
    return told


def _judge_environment(contract: Contract, project: Project, environment: str) -> None:
    if environment not in contract.environments:
        names = ", ".join(contract.environments)
        raise UsageError(f"there is no environment {environment!r}; the contract has {names} (environments)")
    if not list_segments(project.records(environment)):
        raise NotFoundError(
            f"nothing was predicted in {environment} yet, so no outcome can join; predict first, or name another "
            "environment with --env"
        )


# --- the file's columns


def _find_columns(contract: Contract, read: SourceRead, asked: Columns) -> Columns:
    keys = contract.context_by_role("key")
    target = contract.target.column
    id_ = _find_column(read, asked.id, ("id", *keys), "--id", "which prediction a row is about")
    value = _find_column(read, asked.value, (target, "outcome", "value"), "--value", "what came true")
    time_ = asked.time if asked.time is None else _find_column(read, asked.time, (), "--time", "")
    return Columns(id_, value, "time" if time_ is None and "time" in read.frame.columns else time_)


def _find_column(read: SourceRead, asked: str | None, usual: Sequence[str], option: str, says: str) -> str:
    names = read.frame.columns
    shown = ", ".join(names[:SHOWN_COLUMNS]) + (", …" if len(names) > SHOWN_COLUMNS else "")
    if asked is not None:
        for name in (asked, identifier(asked, 1)):
            if name in names:
                return name
        raise SourceError(f"{read.path}: there is no column {asked!r}; it has {shown}; correct {option}")
    for name in usual:
        if name in names:
            return name
    raise SourceError(
        f"{read.path}: no column is called {' or '.join(dict.fromkeys(usual))}, for {says}; it has {shown}; "
        f"name the one with {option} COL"
    )


def _pick(read: SourceRead, columns: Columns) -> pl.DataFrame:
    """The columns id, value and time (null where there is none), with the number of the row."""
    picked = {"id": columns.id, "value": columns.value, "time": columns.time}
    frame = read.frame.select(
        pl.lit(None).alias(name) if column is None else pl.col(column).alias(name) for name, column in picked.items()
    )
    return frame.with_row_index("row", offset=1)


# --- the file's rows


def _judge_rows(contract: Contract, frame: pl.DataFrame, file: Path, now: float) -> pl.DataFrame:
    """The rows as row, id, value, time (Unix s), reason (null: acceptable) and pending (no value yet)."""
    known, values, wrong = _judge_values(contract.target, frame)
    ids = _typed(frame, "id", Column(type="text"))[1]
    times, has_no_time = _times(frame, file)
    reasons = [
        pl.when(ids.is_null()).then(pl.lit("id: missing")),
        wrong,
        pl.when(times.is_null() & ~has_no_time).then(pl.lit("time: not a time")),
    ]
    judged = pl.DataFrame({"row": frame["row"], "id": ids, "value": values, "time": times})
    return judged.with_columns(
        pl.coalesce(reasons).alias("reason"), known.is_null().alias("pending"), pl.col("time").fill_null(now)
    )


def _judge_values(target: Target, frame: pl.DataFrame) -> tuple[pl.Series, pl.Series, pl.Expr]:
    """The values without the words for missing, as the target's type, and why one is not acceptable."""
    if target.type != "regression":
        known, values = _typed(frame, "value", Column(type="category", values=target.values))
        wrong = ~values.is_in(list(target.values or ())) & known.is_not_null()
        return known, values, pl.when(wrong).then(pl.lit(f"{target.column}: unknown class"))
    known, values = _typed(frame, "value", Column(type="float", range=target.range))
    reasons = [pl.when(values.is_null() & known.is_not_null()).then(pl.lit(f"{target.column}: not a number"))]
    if target.range is not None:
        outside = f"{target.column}: outside [{target.range[0]:g}, {target.range[1]:g}]"
        reasons.append(pl.when(is_outside(pl.col("value"), target.range)).then(pl.lit(outside)))
    return known, values, pl.coalesce(reasons)


def _typed(frame: pl.DataFrame, name: str, column: Column, pattern: str = "") -> tuple[pl.Series, pl.Series]:
    """The column without the words for missing, and with the contract's type."""
    known = frame.select(cleaned(name, column, frame.schema[name]))
    return known[name], known.select(typed(name, column, known.schema[name], pattern))[name]


def _times(frame: pl.DataFrame, file: Path) -> tuple[pl.Series, pl.Series]:
    """Unix seconds, null where there is no time or it cannot be read; and where there is none."""
    column, kind = Column(type="datetime"), frame.schema["time"]
    pattern = ""
    if kind == pl.String:
        found = detect_format(frame["time"].str.strip_chars())
        if found is not None and found.ambiguous:
            raise SourceError(f"{file}: every time reads as month/day and as day/month; write year-month-day")
        pattern = found.pattern if found else ""
    if (kind == pl.String and not pattern) or kind.is_numeric() or kind == pl.Null:
        known, numbers = _typed(frame, "time", Column(type="float"))
        seconds = pl.when(~is_outside(pl.col("time"), (0.0, LATEST_UNIX_S))).then(pl.col("time"))
        return numbers.to_frame().select(seconds)["time"], known.is_null()
    known, moments = _typed(frame, "time", column, pattern)
    return moments.dt.epoch("us").cast(pl.Float64) / 1e6, known.is_null()


def _outcomes(rows: pl.DataFrame, source: str, now: float) -> list[Outcome]:
    good = rows.filter(pl.col("reason").is_null() & ~pl.col("pending"))
    columns = (good[name].to_list() for name in ("id", "value", "time"))
    return [
        Outcome(id=id_, value=value, time=time_, received=now, source=source)
        for id_, value, time_ in zip(*columns, strict=True)
    ]


# --- what was predicted and told before


def _is_recorded(parts: Parts, environment: str, digest: str) -> bool:
    """Whether a file of this digest was told to its end: what it said is kept, or had been said before."""
    entries = parts.ledger.events(verb="outcomes.told", object=f"outcomes:{environment}")
    return any(entry.body.get("digest") == digest for entry in entries)


class _Ids(msgspec.Struct):
    """What of a record tells which prediction it is."""

    prediction_id: str
    id: str | None = None


def _known_ids(project: Project, environment: str, wanted: set[str]) -> set[str]:
    """Those of `wanted` under which something was predicted."""
    known: set[str] = set()
    for record in Tail(project.records(environment), _Ids, project.vault).read_new():
        if record.id is not None and record.id in wanted:
            known.add(record.id)
        if record.prediction_id in wanted:
            known.add(record.prediction_id)
    return known


@contextmanager
def _writer(parts: Parts, environment: str) -> Iterator[SegmentWriter]:
    directory, vault = parts.project.outcomes(environment), parts.project.vault
    try:
        writer = SegmentWriter(directory, environment, WRITER, now=parts.now, monotonic=time.monotonic, vault=vault)
    except ConflictError:
        raise ConflictError(
            f"another file of outcomes is being told for {environment}; wait until it is done, then run this again"
        ) from None
    try:
        yield writer
    finally:
        writer.close()


def _write(writer: SegmentWriter, fresh: Sequence[Outcome], tell: Tell, *, seal: bool) -> None:
    encode = msgspec.msgpack.Encoder().encode
    for start in range(0, len(fresh), GROUP_ROWS):
        writer.append([encode(outcome) for outcome in fresh[start : start + GROUP_ROWS]], seal=seal)
        tell(f"{min(start + GROUP_ROWS, len(fresh)):,} of {len(fresh):,} outcomes are on disk")


# --- what is left


def _keep_apart(
    project: Project,
    read: SourceRead,
    rows: pl.DataFrame,
    known: set[str],
    report: LabelReport,
    vault: Vault | None,
) -> Path | None:
    """Count and write the rows that joined nothing, as CSV; no file where there are none."""
    is_known = pl.col("id").is_in(list(known))
    unknown = pl.when(~pl.col("pending") & ~is_known.fill_null(False)).then(pl.lit(NOT_PREDICTED))
    judged = rows.with_columns(pl.coalesce("reason", unknown).alias("reason"))
    report.pending = judged.filter(pl.col("pending") & pl.col("reason").is_null()).height
    bad = judged.filter(pl.col("reason").is_not_null())
    original = _original(read, bad)
    if read.malformed.height:
        lost = read.malformed.select("reason", pl.format("line {}: {}", "line", "text").alias("malformed"))
        original = pl.concat([original, lost], how="diagonal")
    reasons = original.group_by("reason").len().sort("len", "reason", descending=[True, False]).iter_rows()
    report.invalid = {reason: count for reason, count in reasons if reason != NOT_PREDICTED}
    return keep_rows(project.quarantine, f"outcomes-{_short(read.digest)}", original, vault)


def _original(read: SourceRead, bad: pl.DataFrame) -> pl.DataFrame:
    """The rows as the file has them, behind their number and reason."""
    rows = read.frame[bad["row"].to_numpy() - 1]
    return bad.select("row", "reason").hstack(
        rows.rename(lambda name: f"{name}_" if name in ("row", "reason") else name)
    )


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
