"""`score`: a table answered row by row as the server would, with the same policy and the same records.

What a table adds: texts become values as training reads them, a row of an id that was answered before gets the
recorded answer, and no row is lost: one that is refused stands in the answers with its problem.
"""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from shipworthy.bundle.format import ContextField, FeatureField
from shipworthy.data.requests import plan_requests, read_ids
from shipworthy.data.sources.block import BATCH_ROWS
from shipworthy.data.sources.databases import Query, is_database
from shipworthy.data.tables import Table, open_table
from shipworthy.kernel.digest import digest_json
from shipworthy.kernel.errors import NotFoundError, UsageError
from shipworthy.ledger.events import Event
from shipworthy.records.write import SegmentWriter
from shipworthy.security.access import Principal
from shipworthy.serving.live import LiveState, load_live
from shipworthy.serving.runtimes.load import load_patiently
from shipworthy.workflows.answers import answer_frame, answer_schema, judge_names
from shipworthy.workflows.drafts import COPY, Draft, Plan, discard_if_empty, hold_draft, read_plan
from shipworthy.workflows.explain import TableReasons, open_table_reasons
from shipworthy.workflows.gate import permit
from shipworthy.workflows.outputs import Output, judge_free, judge_output
from shipworthy.workflows.project import Parts
from shipworthy.workflows.recall import Recall
from shipworthy.workflows.scorer import WORKER, Ran, Ready, Scorer, ScoreReport
from shipworthy.workflows.segments import record_closed_segments

AHEAD = 2  # chunks that are read before the one that is recorded
SAMPLE_ROWS = 2000  # of dates that are text
SWITCH_S = 0.0005  # a run takes some milliseconds

Tell = Callable[[int, int], None]  # rows done, rows in all; 0 while a copy is read and nobody knows


def score(
    parts: Parts,
    principal: Principal,
    environment: str,
    source: Path | str,
    destination: Path | str,
    *,
    key: str | None = None,
    query: str | None = None,
    table: str | None = None,
    replace: bool = False,
    environ: Mapping[str, str] | None = None,
    exact: bool = False,
    tell: Tell | None = None,
) -> ScoreReport:
    """Answer each row of `source` with what is deployed in `environment`, record it, and write `destination`.

    A run that was killed is carried on by the next one of the same source and destination: no row is answered or
    recorded twice.

    Args:
        parts: of the project.
        principal: who asks.
        environment: whose release answers, and among whose records the answers are.
        source: a file, a directory or pattern of files, a Delta table's folder, or the URL of a database, with the
            contract's features as columns.
        destination: CSV, JSON lines, Parquet or Delta by its suffix, or the URL of a database; not there before,
            unless `replace`.
        key: the column whose values are the requests' ids; None for the contract's key, where the table has it.
        query: what is asked of a database that is the source.
        table: what is made in a database that is the destination.
        replace: whether an existing `destination` is replaced.
        environ: where the `${NAME}` of URLs are looked up.
        exact: whether each answer gets exact reasons beside it (workflows.explain).
        tell: told of each chunk that is done.

    Raises:
        AccessError: `principal` may not score.
        NotFoundError: nothing is deployed.
        IntegrityError: what is deployed does not hold.
        SourceError, DataError, UsageError: the table, its columns or an option cannot be used.
        ConflictError: `destination` exists, or another process scores here.
        StorageError: `destination` cannot be written.
    """
    started = time.monotonic()
    rule = permit(parts, principal, "score", environment=environment)
    place, environ = str(source), environ or {}
    origin = _origin(place, query, environ)
    output = judge_output(place, str(destination), table, environ)
    live = _load(parts, environment)
    folder = _draft_folder(parts, output)
    if not replace and not folder.exists():
        judge_free(output)
    with hold_draft(folder, output.name):
        try:
            read = open_table(origin, folder / COPY, lambda rows: tell(rows, 0) if tell is not None else None)
            story = _Story(parts, principal, environment, rule, live, read, output, replace, exact, started)
            report = story.tell_all(folder, place, key, tell)
        finally:
            discard_if_empty(folder)
    record_closed_segments(parts, environment)
    return report


def _origin(place: str, query: str | None, environ: Mapping[str, str]) -> Path | Query:
    if is_database(place):
        if query is None:
            raise UsageError(f"{place}: say which rows with --query 'SELECT …'")
        return Query(place, query, environ)
    if query is not None:
        raise UsageError("--query is asked of a database; IN is a file")
    return Path(place)


def _whole_name(place: str) -> str:
    """A file with its folders; a database as it was named, without secrets."""
    return place if is_database(place) else str(Path(place).absolute())


def _draft_folder(parts: Parts, output: Output) -> Path:
    """Beside the output; in the project where that is a database."""
    if output.target is None:
        return output.path.with_name(f".{output.path.name}.draft")
    parts.project.work.mkdir(parents=True, exist_ok=True)
    return parts.project.work / f"score-{digest_json(output.name)[7:23]}"


@dataclass(frozen=True, slots=True)
class _Story:
    """One table, from its first row to its place."""

    parts: Parts
    principal: Principal
    environment: str
    rule: str
    live: LiveState
    table: Table
    output: Output
    replace: bool
    exact: bool  # whether exact reasons are given
    started: float

    def tell_all(self, folder: Path, place: str, key: str | None, tell: Tell | None) -> ScoreReport:
        """Plan, answer what is not yet answered, put it in place."""
        table = self.table
        named = key and next((name for name, original in table.names.items() if key in (name, original)), key)
        plan = plan_requests(self.live.primary.schema, self._sample(), named)
        schema = answer_schema([servable.policy for servable in self.live.servables])
        explained = open_table_reasons(self.parts, plan, self.live.servables) if self.exact else None
        also = {} if explained is None else explained.schema
        judge_names(list(table.names.values()), schema | also, place)
        columns = {name: str(kind) for name, kind in (schema | also).items()}
        releases = sorted(servable.digest for servable in self.live.servables)
        mark = digest_json([table.digest, *releases]).removeprefix("sha256:")[:20]
        run = self.parts.entropy(10).hex()
        wanted = Plan(table.digest, self.output.name, plan.key, columns, run, mark)
        finished = self._find_finished(folder, wanted)
        if finished is not None:
            Draft(folder, wanted).remove()
            return finished
        if not self.replace:
            judge_free(self.output)
        draft = Draft(folder, wanted)
        names = _Names(table, plan.key, draft.plan.mark)
        project = self.parts.project
        recall = Recall(names.all(), project.records(self.environment), project.vault, unique=plan.key is None)
        with _open_writer(self.parts, self.environment, self.live) as writer:
            scorer = Scorer(self.parts, self.environment, self.live, plan, writer, recall)
            for part in draft.parts:
                scorer.carry_on(part.state)
            self._answer(scorer, names, draft, explained, tell)
            self._answer_malformed(scorer, draft, schema, also)
            if writer is not None:
                writer.sync()
        report = scorer.report(table.rows + table.malformed_rows, time.monotonic() - self.started)
        self._put_in_place(draft, report, schema | also, place)
        return report

    def _sample(self) -> pl.DataFrame:
        """The table's columns, with enough of its texts to tell how dates are written."""
        step = max(1, self.table.rows // SAMPLE_ROWS)
        schema = self.live.primary.schema
        fields: tuple[FeatureField | ContextField, ...] = (*schema.features, *schema.context)
        moments = [field.name for field in fields if field.kind == "datetime"]
        dates = [name for name in moments if self.table.schema.get(name) == pl.String]
        empty = pl.DataFrame(schema=dict(self.table.schema))
        if not dates:
            return empty
        found = [batch.gather_every(step) for batch in self.table.batches(columns=dates)]
        return pl.concat([empty, *found], how="diagonal")

    def _answer(
        self, scorer: "Scorer", names: "_Names", draft: Draft, explained: TableReasons | None, tell: Tell | None
    ) -> None:
        """Read, model and record at a time, each in a thread and in the order of rows."""
        table, start = self.table, draft.rows
        waiting: deque[Future[None]] = deque()

        def finish(rows: pl.DataFrame, ready: Ready, ran: Future[Ran]) -> None:
            answers = scorer.finish(ready, ran.result())
            if explained is not None:
                answers = answers.hstack(explained.explain(rows, answers))
            self._append(draft, rows.rename(dict(table.names)).hstack(answers), rows.height, 0, scorer.state(ready))
            if tell is not None:
                tell(draft.rows, table.rows)

        with _quick_switches(), ThreadPoolExecutor(1) as model, ThreadPoolExecutor(1) as disk:
            for rows in table.batches(start):
                ready = scorer.make_ready(rows, names.of(rows, start))
                start += rows.height
                waiting.append(disk.submit(finish, rows, ready, model.submit(scorer.run, ready)))
                if len(waiting) > AHEAD:
                    waiting.popleft().result()
            for future in waiting:
                future.result()

    def _answer_malformed(
        self, scorer: "Scorer", draft: Draft, schema: Mapping[str, pl.DataType], also: Mapping[str, pl.DataType]
    ) -> None:
        """The rows that could not be parted in fields, with their line and text as the problem."""
        done = sum(part.malformed for part in draft.parts)
        names = self.table.names
        empty = pl.DataFrame(schema={names[name]: kind for name, kind in self.table.schema.items()})
        for malformed in self.table.malformed():
            if done >= malformed.height:
                done -= malformed.height
                continue
            problems = [f"line {line}: {reason}: {text}" for line, text, reason in malformed.iter_rows()]
            scorer.refuse_malformed(malformed["reason"].to_list())
            frames = [empty, answer_frame(problems, schema), pl.DataFrame(schema=dict(also))]
            frame = pl.concat(frames, how="diagonal")
            self._append(draft, frame, 0, malformed.height, scorer.state(None))

    def _append(self, draft: Draft, frame: pl.DataFrame, rows: int, malformed: int, state: dict[str, Any]) -> None:
        output = self.output
        content = output.encode(output.suited(frame), is_first=not draft.parts)
        draft.append(content, output.part_name(draft), rows, malformed, state)

    def _find_finished(self, folder: Path, plan: Plan) -> ScoreReport | None:
        """The report of the run that was killed when its answers stood in place already."""
        draft = read_plan(folder)
        event = None if draft is None or not draft.is_same(plan) else self._event(draft.run)
        if draft is None or event is None:
            return None
        body = event.body
        if not self.output.is_there(draft.run, body["rows"], body["output"]):
            return None
        return msgspec.convert({name: body[name] for name in ScoreReport.__dataclass_fields__}, ScoreReport)

    def _event(self, run: str) -> Any:
        events = self.parts.ledger.events(verb="scored.file")
        return next((event for event in events if event.body.get("run") == run), None)

    def _put_in_place(self, draft: Draft, report: ScoreReport, schema: Mapping[str, pl.DataType], place: str) -> None:
        body = {**report.to_json(), "input": self.table.digest, "output": self.output.make_whole(draft)}
        body["run"] = draft.plan.run
        body |= {"from": _whole_name(place), "to": _whole_name(self.output.name)}
        if self._event(draft.plan.run) is None:
            said = Event("scored.file", f"score:{self.environment}", self.principal.actor, body, self.rule)
            self.parts.ledger.append(said)
        whole = {self.table.names[name]: kind for name, kind in self.table.schema.items()} | dict(schema)
        self.output.put_in_place(draft, whole, replace=self.replace)
        draft.remove()


@dataclass(frozen=True, slots=True)
class _Names:
    """The ids of a table's rows: of its key, or of the table and the row's number."""

    table: Table
    key: str | None
    mark: str

    def of(self, rows: pl.DataFrame, start: int) -> pl.Series:
        """The ids of `rows`, the first of which is row `start`."""
        if self.key is not None:
            return pl.Series(read_ids(rows[self.key]), dtype=pl.String)
        return self._numbered(start, rows.height)

    def all(self) -> Iterator[pl.Series]:
        """Of all rows, in pieces."""
        if self.key is not None:
            for rows in self.table.batches(columns=[self.key]):
                yield self.of(rows, 0)
            return
        for start in range(0, self.table.rows, BATCH_ROWS):
            yield self._numbered(start, min(BATCH_ROWS, self.table.rows - start))

    def _numbered(self, start: int, count: int) -> pl.Series:
        numbers = pl.int_range(start, start + count, eager=True).cast(pl.String).str.zfill(12)
        return pl.select(pl.lit(f"{self.mark}:") + numbers).to_series()


@contextmanager
def _quick_switches() -> Iterator[None]:
    """The thread of the model waits less for the others' Python between two runs."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _load(parts: Parts, environment: str) -> LiveState:
    try:
        project = parts.project
        return load_live(project.live(environment), project.public_keys, load_patiently, None, project.vault)
    except NotFoundError:
        raise NotFoundError(f"nothing is deployed in {environment}; run `shipworthy ship` first") from None


@contextmanager
def _open_writer(parts: Parts, environment: str, live: LiveState) -> Iterator[SegmentWriter | None]:
    if all(servable.policy.durability == "off" for servable in live.servables):
        yield None
        return
    directory, vault = parts.project.records(environment), parts.project.vault
    writer = SegmentWriter(directory, environment, WORKER, now=parts.now, monotonic=time.monotonic, vault=vault)
    try:
        yield writer
    finally:
        writer.close()
