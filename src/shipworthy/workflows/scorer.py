"""The scorer: answers the rows of a table chunk by chunk, each id once, as the server would.

Rows that need nothing special go by columns; the row decoder takes all others, and those that a model fails on.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.data.requests import RequestPlan, make_requests
from shipworthy.kernel.errors import StorageError
from shipworthy.records.bulk import frame_contents
from shipworthy.records.format import Framed, count_records
from shipworthy.records.write import SegmentWriter
from shipworthy.serving.answer import Answer, IdMint, Reasons, add_reasons, answer_fallback, answer_model, record_answer
from shipworthy.serving.decode import MAX_ID, InvalidRequestError, Sample
from shipworthy.serving.earlier import with_other_inputs
from shipworthy.serving.live import LiveState
from shipworthy.serving.pace import MAX_RUN_ROWS
from shipworthy.serving.policy import Decided, Decisions, decide
from shipworthy.serving.reasons import explain
from shipworthy.serving.router import STICKY, choose_release, unit_of
from shipworthy.serving.run import infer
from shipworthy.serving.servable import Servable
from shipworthy.workflows.answers import answer_frame, answer_schema, decided_frame
from shipworthy.workflows.columnar import Judged, judge_rows
from shipworthy.workflows.project import Parts
from shipworthy.workflows.recall import Earlier, Recall, hash_ids
from shipworthy.workflows.recording import Occasion, record_rows

WORKER = "score"
RUN_ROWS = 4096  # no quicker than 256, but the model's thread waits less often for the others' Python
NOT_RECORDED = "the prediction cannot be recorded, so it is not answered"
SHOWN_REASONS = 10


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


class Counts(msgspec.Struct):
    """What became of rows so far."""

    rows: int = 0
    answers: dict[str, int] = {}  # by source
    review: int = 0
    releases: dict[str, int] = {}
    reasons: dict[str, int] = {}
    refused: int = 0
    before: int = 0
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows of a chunk that need nothing special and that one release answers."""

    servable: Servable
    places: NDArray[np.intp]
    matrix: NDArray[np.float32]
    sent: Mapping[str, pl.Series]  # of all rows of the chunk


@dataclass(frozen=True, slots=True)
class Ready:
    """A chunk that was read and judged."""

    rows: pl.DataFrame
    names: pl.Series  # the id of each row
    arrived: float  # monotonic seconds
    groups: list[_Group]
    single: list[tuple[int, Servable, Sample]]  # rows that the row decoder took
    settled: dict[int, Answer | str]  # recorded answers and refusals
    counts: Counts  # of what is settled
    seen: list[str]  # ids that may come again


@dataclass(frozen=True, slots=True)
class Ran:
    """What the model and the policy say of a chunk."""

    groups: list[tuple[_Group, NDArray[np.intp], Decisions]]  # with the places that have a usable output
    single: list[tuple[int, Servable, Sample, Decided | str, Reasons | None]]


class Scorer:
    """Answers the rows of one table, chunk by chunk, each id once.

    A chunk is made ready, then run, then finished; the three may be done by three threads, each in the order of chunks.

    Args:
        parts: clock, chance and the project's records.
        environment: names the records.
        live: the releases that share the traffic.
        plan: how the table's rows become requests.
        writer: where records go; None where no policy keeps any.
        recall: what of the table is on record.
    """

    def __init__(
        self,
        parts: Parts,
        environment: str,
        live: LiveState,
        plan: RequestPlan,
        writer: SegmentWriter | None,
        recall: Recall,
    ) -> None:
        self._parts = parts
        self._environment = environment
        self._live = live
        self._plan = plan
        self._writer = writer
        self._recall = recall
        self._shares = [release.share for release in live.deployment.releases]
        self._schema = answer_schema([servable.policy for servable in live.servables])
        self._mint = IdMint(parts.now, parts.entropy)
        self._encode = msgspec.msgpack.Encoder().encode
        self._seen: set[str] = set()  # of the ids that stand in several rows
        self.counts = Counts()

    def make_ready(self, rows: pl.DataFrame, names: pl.Series) -> Ready:
        """Judge a chunk, and find what of it is on record.

        Args:
            rows: of the table, by identifiers.
            names: the id of each row; null where it has none.
        """
        arrived = time.monotonic()
        hashes = hash_ids(names)
        earlier = self._recall.find(names, hashes)
        nameable = names.str.len_chars().is_between(1, MAX_ID).fill_null(False).to_numpy()
        simple = nameable & ~self._recall.may_repeat(hashes)
        if earlier:
            simple &= ~names.is_in(list(earlier)).fill_null(False).to_numpy()
        groups = self._group(rows, names, simple)
        plain = np.zeros(rows.height, dtype=np.bool_)
        for group in groups:
            plain[group.places] = True
        ready = Ready(rows, names, arrived, groups, [], {}, Counts(), [])
        self._take_singly(ready, np.flatnonzero(~plain), hashes, earlier)
        return ready

    def run(self, ready: Ready) -> Ran:
        """Ask the model and the policy."""
        ran = Ran([], [])
        single = list(ready.single)
        for group in ready.groups:
            places, decided = _run_group(group)
            if len(places):
                ran.groups.append((group, places, decided))
            if len(places) < len(group.places):  # the row decoder has what a fallback reads
                failed = np.setdiff1d(group.places, places)
                samples = map(group.servable.decoder.decode_object, self._requests(ready.rows, ready.names, failed))
                single += zip(failed.tolist(), [group.servable] * len(failed), samples, strict=True)
        by_release: dict[Servable, list[tuple[int, Servable, Sample]]] = {}
        for row in single:
            by_release.setdefault(row[1], []).append(row)
        for servable, taken in by_release.items():
            for start in range(0, len(taken), MAX_RUN_ROWS):
                run = taken[start : start + MAX_RUN_ROWS]
                results = infer(servable, [sample for _, _, sample in run])
                reasons = _explain(servable, [sample for _, _, sample in run], results)
                ran.single.extend((*row, result, why) for row, result, why in zip(run, results, reasons, strict=True))
        return ran

    def finish(self, ready: Ready, ran: Ran) -> pl.DataFrame:
        """Record the answers of a chunk, and give them: one row for each of its."""
        settled = dict(ready.settled)
        frames: list[tuple[NDArray[np.intp], pl.DataFrame]] = []
        for servable in self._live.servables:
            contents: list[Framed] = []
            answered: list[tuple[NDArray[np.intp], pl.DataFrame]] = []
            latency_ms = (time.monotonic() - ready.arrived) * 1000
            occasion = Occasion(self._environment, WORKER, self._parts.now(), latency_ms)
            keeps = servable.policy.durability != "off" and self._writer is not None
            for group, places, decided in ran.groups:
                if group.servable is not servable:
                    continue
                minted = self._mint.mint(len(places))
                if keeps:
                    sent = _rows_of(group.sent, places)
                    contents += record_rows(
                        servable, decided, sent, minted, ready.names.gather(places).to_list(), occasion
                    )
                answered.append((places, decided_frame(servable, decided, minted, self._schema)))
            singles = self._answer_singly([row for row in ran.single if row[1] is servable])
            if keeps:
                names = (servable.system, self._environment, WORKER, occasion.time, latency_ms)
                records = [self._encode(record_answer(answer, sample, *names)) for _, sample, answer in singles]
                contents += frame_contents(records)
            if not contents or self._record(servable, contents):
                frames += answered
                settled |= {place: answer for place, _, answer in singles}
            else:
                refused = [place for places, _ in answered for place in places.tolist()]
                refused += [place for place, _, _ in singles]
                settled |= dict.fromkeys(refused, NOT_RECORDED)
                _refuse(self.counts, NOT_RECORDED, len(refused))
        self.counts.refused += ready.counts.refused
        self.counts.before += ready.counts.before
        for reason, rows in ready.counts.reasons.items():
            _add(self.counts.reasons, reason, rows)
        return self._count(ready.rows.height, frames, settled)

    def report(self, rows: int, seconds: float) -> ScoreReport:
        """What became of the rows."""
        counts = self.counts
        return ScoreReport(
            rows=rows,
            answered=sum(counts.answers.values()),
            fallback=counts.answers.get("fallback", 0),
            review=counts.review,
            refused=counts.refused,
            recorded_before=counts.before,
            dropped=counts.dropped,
            reasons=dict(Counter(counts.reasons).most_common(SHOWN_REASONS)),
            releases=dict(sorted(counts.releases.items())),
            absent=self._plan.absent,
            has_ids=self._plan.key is not None,
            seconds=seconds,
        )

    def state(self, ready: Ready | None) -> dict[str, Any]:
        """What `carry_on` needs: counts so far, and the ids of this chunk that may come again."""
        return {"counts": msgspec.to_builtins(self.counts), "seen": [] if ready is None else ready.seen}

    def carry_on(self, state: Mapping[str, Any]) -> None:
        """As if the chunk with this state had been answered here."""
        self.counts = msgspec.convert(state["counts"], Counts)
        self._seen.update(state["seen"])

    def refuse_malformed(self, reasons: Sequence[str]) -> None:
        """Count rows that could not be parted in fields."""
        self.counts.rows += len(reasons)
        for reason in reasons:
            _refuse(self.counts, reason)

    # --- making ready

    def _group(self, rows: pl.DataFrame, names: pl.Series, simple: NDArray[np.bool_]) -> list[_Group]:
        """The rows that need nothing special, by the release that answers them."""
        primary = self._live.primary
        first = judge_rows(primary.decoder, self._plan, rows)
        simple = simple & first.plain
        if len(self._live.servables) == 1:
            return _grouped(primary, simple, first)
        units = self._units(names, first)
        chosen = np.full(rows.height, -1)
        for place in np.flatnonzero(simple).tolist():
            chosen[place] = choose_release(self._shares, self._live.deployment.salt, units[place])
        groups: list[_Group] = []
        for number, servable in enumerate(self._live.servables):
            judged = first if servable is primary else judge_rows(servable.decoder, self._plan, rows)
            groups += _grouped(servable, (chosen == number) & judged.plain, judged)
        return groups

    def _units(self, names: pl.Series, judged: Judged) -> list[str]:
        """As `serving.router.unit_of` has them, of rows that need nothing special."""
        units: list[Any] = [None] * len(names)
        for role in STICKY[self._live.deployment.unit]:
            for field in self._live.primary.schema.context:
                if field.role == role:
                    given = judged.sent[field.name].to_list()
                    units = [there if there is not None else value for there, value in zip(units, given, strict=True)]
        return [str(name if unit is None else unit) for unit, name in zip(units, names.to_list(), strict=True)]

    def _take_singly(
        self, ready: Ready, places: NDArray[np.intp], hashes: NDArray[np.uint64], earlier: Mapping[str, Earlier]
    ) -> None:
        """What the row decoder says of each of these rows: a sample, or how the row is settled."""
        repeats = self._recall.may_repeat(hashes[places]).tolist()
        requests = self._requests(ready.rows, ready.names, places)
        for place, request, may_repeat in zip(places.tolist(), requests, repeats, strict=True):
            try:
                servable, sample = self._choose(request)
            except InvalidRequestError as error:
                ready.settled[place] = _refuse_fields(ready.counts, error)
                continue
            settled = self._judge_id(ready, sample, may_repeat, earlier)
            if settled is None:
                ready.single.append((place, servable, sample))
            else:
                ready.settled[place] = settled

    def _requests(self, rows: pl.DataFrame, names: pl.Series, places: NDArray[np.intp]) -> list[dict[str, Any]]:
        requests = make_requests(self._plan, rows[places])
        for request, name in zip(requests, names.gather(places).to_list(), strict=True):
            if name is not None:
                request["id"] = name
        return requests

    def _choose(self, request: dict[str, Any]) -> tuple[Servable, Sample]:
        """As the server chooses: by subject, key or id, and in the schema of the release that answers."""
        primary = self._live.primary
        sample = primary.decoder.decode_object(request)
        if len(self._live.servables) == 1:
            return primary, sample
        unit = unit_of(primary.schema, sample, self._live.deployment.unit) or ""  # without an id it is refused
        servable = self._live.servables[choose_release(self._shares, self._live.deployment.salt, unit)]
        return servable, sample if servable is primary else servable.decoder.decode_object(request)

    def _judge_id(
        self, ready: Ready, sample: Sample, may_repeat: bool, earlier: Mapping[str, Earlier]
    ) -> Answer | str | None:
        """The recorded answer, or why there is none, or None if the row is to be answered."""
        if sample.id is None:
            _refuse(ready.counts, f"{self._plan.key}: missing")
            return f"{self._plan.key}: missing; each row needs an id"
        if may_repeat:
            if sample.id in self._seen:
                _refuse(ready.counts, f"{self._plan.key}: repeated")
                return f"{self._plan.key}: {sample.id!r} stands in an earlier row"
            self._seen.add(sample.id)
            ready.seen.append(sample.id)
        found = earlier.get(sample.id)
        if found is None:
            return None
        ready.counts.before += 1
        return _recorded(found, sample)

    # --- finishing

    def _answer_singly(
        self, rows: Sequence[tuple[int, Servable, Sample, Decided | str, Reasons | None]]
    ) -> list[tuple[int, Sample, Answer]]:
        answers = []
        for row, prediction_id in zip(rows, self._mint.mint(len(rows)), strict=True):
            place, servable, sample, result, reasons = row
            if isinstance(result, str):
                answer = answer_fallback(servable, sample, result, prediction_id)
            else:
                answer = answer_model(servable, sample, result, prediction_id)
            if servable.policy.reasons_always:
                add_reasons(answer, reasons, servable.policy)
            answers.append((place, sample, answer))
        return answers

    def _record(self, servable: Servable, contents: list[Framed]) -> bool:
        """Write the records as the policy wants it; whether the answers may go."""
        policy = servable.policy
        if self._writer is None:
            return True
        try:
            self._writer.append(contents, sync=policy.durability == "sync", seal=policy.encryption == "at_rest")
        except StorageError:
            if policy.when_full != "drop":
                return False
            self.counts.dropped += count_records(contents)
        return True

    def _count(
        self, rows: int, frames: list[tuple[NDArray[np.intp], pl.DataFrame]], settled: Mapping[int, Answer | str]
    ) -> pl.DataFrame:
        """The answers in the order of rows, counted."""
        counts = self.counts
        counts.rows += rows
        for places, frame in frames:
            _add(counts.answers, "model", len(places))
            counts.review += int((frame["handling"] == "review").sum())
            _add(counts.releases, frame["release"][0], len(places))
        for outcome in settled.values():
            if isinstance(outcome, Answer):
                _add(counts.answers, outcome.source)
                counts.review += outcome.handling == "review"
                _add(counts.releases, outcome.release)
        if settled:
            frames = [*frames, (np.array(list(settled)), answer_frame(list(settled.values()), self._schema))]
        if not frames:
            return answer_frame([], self._schema)
        if len(frames) == 1 and not settled:
            return frames[0][1]
        order = np.argsort(np.concatenate([places for places, _ in frames]))
        return pl.concat([frame for _, frame in frames])[order]


def _grouped(servable: Servable, taken: NDArray[np.bool_], judged: Judged) -> list[_Group]:
    places = np.flatnonzero(taken)
    if not len(places) or servable.policy.reasons_always:  # for reasons the row decoder has what they set anew
        return []
    matrix = judged.matrix if len(places) == len(taken) else judged.matrix[places]
    return [_Group(servable, places, matrix, judged.sent)]


def _explain(servable: Servable, samples: Sequence[Sample], results: Sequence[Decided | str]) -> list[Reasons | None]:
    """Reasons of each answer of the model, where answers always carry them."""
    found: list[Reasons | None] = [None] * len(samples)
    if servable.policy.reasons_always:
        places = [place for place, result in enumerate(results) if not isinstance(result, str)]
        decided = [result for result in results if not isinstance(result, str)]
        for place, reasons in zip(places, explain(servable, [samples[at] for at in places], decided), strict=True):
            found[place] = reasons
    return found


def _run_group(group: _Group) -> tuple[NDArray[np.intp], Decisions]:
    """The rows with a usable output that are like those of training, and what the policy says of them."""
    policy, run, matrix = group.servable.policy, group.servable.runtime.run, group.matrix
    outputs: list[NDArray[np.floating]] = []
    places: list[NDArray[np.intp]] = []
    sentinel = group.servable.sentinel
    strange = [] if sentinel is None else group.places[[*sentinel.judge(matrix)]].tolist()
    for start in range(0, len(matrix), RUN_ROWS):
        rows = matrix[start : start + RUN_ROWS]
        try:
            output = run(rows)
        except Exception:  # noqa: BLE001, S112 (whatever a model raises costs its rows: they are run again one by one)
            continue
        if output.shape[:1] == (len(rows),) and (not outputs or output.shape[1:] == outputs[0].shape[1:]):
            outputs.append(output)
            places.append(group.places[start : start + RUN_ROWS])
    if not outputs:
        return group.places[:0], decide(policy, np.empty((0, 1)), 0)
    every, output = np.concatenate(places), np.concatenate(outputs)
    if strange:
        usual = ~np.isin(every, strange)
        every, output = every[usual], output[usual]
    decided = decide(policy, output, len(every))
    if decided.valid.all():
        return every, decided
    every, output = every[decided.valid], output[decided.valid]
    return every, decide(policy, output, len(every))


def _rows_of(sent: Mapping[str, pl.Series], places: NDArray[np.intp]) -> Mapping[str, pl.Series]:
    if all(len(series) == len(places) for series in sent.values()):
        return sent
    return {name: series.gather(places) for name, series in sent.items()}


def _refuse(counts: Counts, reason: str, rows: int = 1) -> None:
    counts.refused += rows
    _add(counts.reasons, reason, rows)


def _refuse_fields(counts: Counts, error: InvalidRequestError) -> str:
    counts.refused += 1
    for problem in error.errors:
        _add(counts.reasons, f"{problem.field}: not {problem.expected}")
    named = [
        f"{problem.field}: expected {problem.expected}" + (f", got {problem.got}" if problem.got else "")
        for problem in error.errors
    ]
    return "; ".join(named) or error.detail


def _add(counts: dict[str, int], name: str, more: int = 1) -> None:
    counts[name] = counts.get(name, 0) + more


def _recorded(earlier: Earlier, sample: Sample) -> Answer:
    answer = earlier.answer()
    return answer if msgspec.to_builtins(sample.inputs) == earlier.inputs else with_other_inputs(answer)
