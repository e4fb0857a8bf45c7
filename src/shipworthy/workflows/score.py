"""`score`: a table answered row by row as the server would, with the same policy and the same records.

What a table adds: texts become values as training reads them, a row of an id that was answered before gets the
recorded answer, and no row is lost: one that is refused stands in the answers with its problem.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from shipworthy.data.requests import RequestPlan, make_requests, plan_requests, read_ids
from shipworthy.data.sources import SourceRead, read_file
from shipworthy.kernel.errors import NotFoundError, StorageError
from shipworthy.ledger.events import Event
from shipworthy.records.read import read_as
from shipworthy.records.write import SegmentWriter
from shipworthy.security.access import Principal
from shipworthy.serving.answer import Answer, IdMint, answer_fallback, answer_model, record_answer
from shipworthy.serving.decode import InvalidRequestError, Sample
from shipworthy.serving.job import Job
from shipworthy.serving.live import LiveState, load_live
from shipworthy.serving.pace import MAX_RUN_ROWS
from shipworthy.serving.path import infer
from shipworthy.serving.router import choose_release, unit_of
from shipworthy.serving.runtimes.load import load_patiently
from shipworthy.serving.servable import Servable
from shipworthy.workflows.answers import answer_frame, answer_schema, draft, judge_destination, judge_names
from shipworthy.workflows.gate import permit
from shipworthy.workflows.project import Parts
from shipworthy.workflows.segments import record_closed_segments

WORKER = "score"
CHUNK_ROWS = 16 * MAX_RUN_ROWS  # recorded with one sync, then written out
NOT_RECORDED = "the prediction cannot be recorded, so it is not answered"
OTHER_INPUTS = "answered earlier with other inputs: this is the recorded answer"
SHOWN_REASONS = 10

Tell = Callable[[int, int], None]  # rows done, rows in all


@dataclass(frozen=True, slots=True)
class ScoreReport:
    """What became of the rows of a file."""

    rows: int
    answered: int  # by model or fallback, now or earlier
    fallback: int
    review: int
    refused: int
    recorded_before: int  # answered from the record, and not written again
    dropped: int  # records that the disk refused where the policy lets answers go all the same
    reasons: dict[str, int]  # of refused rows, most frequent first
    releases: dict[str, int]  # answered rows of each
    absent: tuple[str, ...]  # features that the file lacks, taken as missing
    has_ids: bool
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The document that `score --json` prints."""
        document: dict[str, Any] = msgspec.to_builtins(self)
        return document | {"seconds": round(self.seconds, 3)}


class Earlier(msgspec.Struct):
    """What of a record its answer is made of."""

    prediction_id: str
    release: str
    id: str | None = None
    inputs: Any = None
    prediction: str | float | None = None
    probability: dict[str, float] | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    decision: str | float = ""
    source: str = "model"
    handling: str = "automatic"
    warnings: list[str] = []


def score(
    parts: Parts,
    principal: Principal,
    environment: str,
    source: Path,
    destination: Path,
    *,
    key: str | None = None,
    replace: bool = False,
    tell: Tell | None = None,
) -> ScoreReport:
    """Answer each row of `source` with what is deployed in `environment`, record it, and write `destination`.

    Args:
        parts: of the project.
        principal: who asks.
        environment: whose release answers, and among whose records the answers are.
        source: CSV, TSV, JSON lines or Parquet, with the contract's features as columns.
        destination: CSV, JSON lines or Parquet by its suffix; not there before, unless `replace`.
        key: the column whose values are the requests' ids; None for the contract's key, where the file has it.
        replace: whether an existing `destination` is replaced.
        tell: told of each chunk that is done.

    Raises:
        AccessError: `principal` may not score.
        NotFoundError: nothing is deployed.
        IntegrityError: what is deployed does not hold.
        SourceError, DataError, UsageError: the file, its columns or an option cannot be used.
        ConflictError: `destination` exists, or another process scores here.
        StorageError: `destination` cannot be written.
    """
    started = time.monotonic()
    rule = permit(parts, principal, "score", environment=environment)
    suffix = judge_destination(source, destination, replace=replace)
    live = _load(parts, environment)
    read = read_file("rows", source)
    plan = plan_requests(live.primary.schema, read.frame, key and _named(key, read))
    schema = answer_schema([servable.policy for servable in live.servables])
    judge_names(list(read.names.values()), schema, source)
    rows = read.rows
    with _open_writer(parts, environment, live) as writer, draft(destination, suffix) as out:
        scorer = Scorer(parts, environment, live, plan, writer)
        scorer.recall(read.frame)
        for start in range(0, read.frame.height, CHUNK_ROWS):
            chunk = read.frame[start : start + CHUNK_ROWS]
            answers = answer_frame(scorer.answer(chunk), schema)
            out.append(chunk.rename(dict(read.names)).hstack(answers))
            if tell is not None:
                tell(start + chunk.height, rows)
        if read.malformed.height:
            out.append(_malformed(read, schema, scorer))
        if writer is not None:
            writer.sync()
        report = scorer.report(rows, time.monotonic() - started)
        body = {**report.to_json(), "input": read.digest, "output": out.finish()}
        parts.ledger.append(Event("scored.file", f"score:{environment}", principal.actor, body, rule))
    record_closed_segments(parts, environment)
    return report


def _load(parts: Parts, environment: str) -> LiveState:
    try:
        project = parts.project
        return load_live(project.live(environment), project.public_keys, load_patiently, None, project.vault)
    except NotFoundError:
        raise NotFoundError(f"nothing is deployed in {environment}; run `shipworthy ship` first") from None


def _named(key: str, read: SourceRead) -> str:
    """The identifier of a column that may be named as in the file."""
    return next((name for name, original in read.names.items() if key in (name, original)), key)


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


def _malformed(read: SourceRead, schema: dict[str, pl.DataType], scorer: "Scorer") -> pl.DataFrame:
    """The rows that could not be parted in fields, with their line and text as the problem."""
    problems = []
    for line, text, reason in read.malformed.iter_rows():
        scorer.refuse(reason)
        problems.append(f"line {line}: {reason}: {text}")
    empty = pl.DataFrame(schema={read.names[name]: kind for name, kind in read.frame.schema.items()})
    return pl.concat([empty, answer_frame(problems, schema)], how="diagonal")


@dataclass(slots=True)
class _Counts:
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)  # by source and handling
    releases: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    before: int = 0
    dropped: int = 0


class Scorer:
    """Answers the rows of one table, chunk by chunk, each id once.

    Args:
        parts: clock, chance and the project's records.
        environment: names the records.
        live: the releases that share the traffic.
        plan: how the table's rows become requests.
        writer: where records go; None where no policy keeps any.
    """

    def __init__(
        self, parts: Parts, environment: str, live: LiveState, plan: RequestPlan, writer: SegmentWriter | None
    ) -> None:
        self._parts = parts
        self._environment = environment
        self._live = live
        self._plan = plan
        self._writer = writer
        self._shares = [release.share for release in live.deployment.releases]
        self._mint = IdMint(parts.now, parts.entropy)
        self._encode = msgspec.msgpack.Encoder().encode
        self._earlier: dict[str, Earlier] = {}
        self._seen: set[str] = set()
        self._counts = _Counts()
        self._unsticky = 0

    def recall(self, frame: pl.DataFrame) -> None:
        """Find what of `frame` was answered before, by its ids.

        Raises:
            IntegrityError: a record segment is damaged.
        """
        if self._plan.key is None:
            return
        asked = set(read_ids(frame[self._plan.key]))
        project = self._parts.project
        for found in read_as(project.records(self._environment), Earlier, project.vault):
            if found.id is not None and found.id in asked:
                self._earlier.setdefault(found.id, found)

    def answer(self, chunk: pl.DataFrame) -> list[Answer | str]:
        """The answer of each row, recorded; or the problem for which it was refused."""
        outcomes: list[Answer | str | None] = []
        runs: dict[str, list[tuple[int, Job]]] = {}
        arrived = time.monotonic()
        for place, request in enumerate(make_requests(self._plan, chunk)):
            try:
                servable, sample = self._choose(request)
            except InvalidRequestError as error:
                outcomes.append(self._refuse_fields(error))
                continue
            outcomes.append(self._judge_id(sample))
            if outcomes[-1] is None:
                runs.setdefault(servable.digest, []).append((place, Job(servable, sample, arrived, _ignore)))
        for jobs in runs.values():
            answers = self._run([job for _, job in jobs])
            for (place, _), answer in zip(jobs, answers, strict=True):
                outcomes[place] = answer
        return [self._count(outcome) for outcome in outcomes]

    def refuse(self, reason: str) -> None:
        """Count a row that has no answer."""
        self._counts.refused += 1
        self._counts.reasons[reason] += 1

    def report(self, rows: int, seconds: float) -> ScoreReport:
        """What became of the rows."""
        counts = self._counts
        answers = counts.answers
        return ScoreReport(
            rows=rows,
            answered=answers.total(),
            fallback=sum(count for (source, _), count in answers.items() if source == "fallback"),
            review=sum(count for (_, handling), count in answers.items() if handling == "review"),
            refused=counts.refused,
            recorded_before=counts.before,
            dropped=counts.dropped,
            reasons=dict(counts.reasons.most_common(SHOWN_REASONS)),
            releases=dict(sorted(counts.releases.items())),
            absent=self._plan.absent,
            has_ids=self._plan.key is not None,
            seconds=seconds,
        )

    def _choose(self, request: dict[str, Any]) -> tuple[Servable, Sample]:
        """As the server chooses: by subject, key or id, and in the schema of the release that answers."""
        primary = self._live.primary
        sample = primary.decoder.decode_object(request)
        if len(self._live.servables) == 1:
            return primary, sample
        unit = unit_of(primary.schema, sample, self._live.deployment.unit)
        if unit is None:
            self._unsticky += 1
            unit = f"{WORKER}:{self._unsticky}"
        servable = self._live.servables[choose_release(self._shares, self._live.deployment.salt, unit)]
        return servable, sample if servable is primary else servable.decoder.decode_object(request)

    def _judge_id(self, sample: Sample) -> Answer | str | None:
        """The recorded answer, or why there is none, or None if the row is to be answered."""
        if self._plan.key is None:
            return None
        if sample.id is None:
            self.refuse(f"{self._plan.key}: missing")
            return f"{self._plan.key}: missing; each row needs an id"
        if sample.id in self._seen:
            self.refuse(f"{self._plan.key}: repeated")
            return f"{self._plan.key}: {sample.id!r} stands in an earlier row"
        self._seen.add(sample.id)
        earlier = self._earlier.pop(sample.id, None)
        if earlier is None:
            return None
        self._counts.before += 1
        return _recorded(earlier, sample)

    def _run(self, jobs: Sequence[Job]) -> list[Answer | str]:
        servable = jobs[0].servable
        answers: list[Answer] = []
        minted = self._mint.mint(len(jobs))
        for start in range(0, len(jobs), MAX_RUN_ROWS):
            run = jobs[start : start + MAX_RUN_ROWS]
            results = infer(servable, [job.sample for job in run])
            for job, result, prediction_id in zip(run, results, minted[start : start + MAX_RUN_ROWS], strict=True):
                if isinstance(result, str):
                    answers.append(answer_fallback(servable, job.sample, result, prediction_id))
                else:
                    answers.append(answer_model(servable, job.sample, result, prediction_id))
        return self._record(servable, jobs, answers)

    def _record(self, servable: Servable, jobs: Sequence[Job], answers: list[Answer]) -> list[Answer | str]:
        policy = servable.policy
        if policy.durability == "off" or self._writer is None:
            return [*answers]
        now, clock = self._parts.now(), time.monotonic()
        names = (servable.system, self._environment, WORKER)
        contents = [
            self._encode(record_answer(answer, job.sample, *names, now, (clock - job.arrived) * 1000))
            for answer, job in zip(answers, jobs, strict=True)
        ]
        try:
            seal = policy.encryption == "at_rest"
            self._writer.append(contents, sync=policy.durability == "sync", seal=seal)
        except StorageError:
            if policy.when_full != "drop":
                return [self._refused_record() for _ in answers]
            self._counts.dropped += len(answers)
        return [*answers]

    def _refused_record(self) -> str:
        self.refuse(NOT_RECORDED)
        return NOT_RECORDED

    def _refuse_fields(self, error: InvalidRequestError) -> str:
        self._counts.refused += 1
        for problem in error.errors:
            self._counts.reasons[f"{problem.field}: not {problem.expected}"] += 1
        named = [
            f"{problem.field}: expected {problem.expected}" + (f", got {problem.got}" if problem.got else "")
            for problem in error.errors
        ]
        return "; ".join(named) or error.detail

    def _count(self, outcome: Answer | str | None) -> Answer | str:
        if isinstance(outcome, Answer):
            self._counts.answers[outcome.source, outcome.handling] += 1
            self._counts.releases[outcome.release] += 1
            return outcome
        return outcome or ""


def _ignore(outcome: object) -> None:
    """Answers are read where they are made."""


def _recorded(earlier: Earlier, sample: Sample) -> Answer:
    same = msgspec.to_builtins(sample.inputs) == earlier.inputs
    return Answer(
        prediction=earlier.prediction,
        probability=earlier.probability,
        interval=earlier.interval,
        confidence=earlier.confidence,
        decision=earlier.decision,
        prediction_id=earlier.prediction_id,
        source=earlier.source,
        handling=earlier.handling,
        release=earlier.release,
        warnings=earlier.warnings if same else [*earlier.warnings, OTHER_INPUTS],
    )
