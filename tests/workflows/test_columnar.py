"""Rows judged in columns get, bit for bit, what the row decoder gives each of them; their records say the same."""

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from shipworthy.bundle.format import ContextField, Policy, Schema
from shipworthy.contract.parse import parse_contract
from shipworthy.data.lookups import join_lookups
from shipworthy.data.requests import make_requests, plan_requests
from shipworthy.data.sources.read import SourceRead
from shipworthy.records.format import Record, whole_frames_of
from shipworthy.release.schema import compile_schema
from shipworthy.serving.answer import answer_model, record_answer
from shipworthy.serving.decode import InvalidRequestError, RequestDecoder
from shipworthy.serving.policy import decide
from shipworthy.workflows.answers import answer_frame, answer_schema, decided_frame
from shipworthy.workflows.columnar import judge_rows
from shipworthy.workflows.recording import Occasion, record_rows
from tests.conftest import Seen
from tests.stories import deliveries
from tests.stories.test_skew import CONTRACT, as_text, draw_rows

SEEDS = range(int(os.environ.get("SHIPWORTHY_SOAK", "3")))
CONTRACT = CONTRACT.replace("rules: [{if: hurry", 'rules: [{if: "heavy"').replace("service: {type", "wide: {type: float, range: [-1, 1], outside: clip, missing: allow}\n  service: {type")  # fmt: skip  # noqa: E501
BINARY = Policy(
    task="binary", classes=("0", "one"), positive="one", threshold=0.4, fallback_otherwise="0", timeout_s=1,
    actions={"0": "refer", "one": "approve"}, review_below=0.6, review_answer="look",
)  # fmt: skip
NUMBER = Policy(task="regression", fallback_otherwise=0.0, timeout_s=1)
BANDED = msgspec.structs.replace(NUMBER, review_below=0.7, review_answer="look")
OCCASION = Occasion("local", "score", 1.8e9, 2.5)
ODD = {
    "sent_at": ["2026-1-05", "2026-01-05 09:30:60", "05.01.2026", "2026-01-05 09:30:00.1234567", "soon"],
    "wide": ["-1.5", "1.5", "0.5", "1", "NaN", "inf", "-0.0"],
    "legs": ["9.0", "10", "0", "1e0", "\u0661"],
    "parcel": ["", "x" * 256, "x" * 257],
}


def make_rows(chance: random.Random) -> pl.DataFrame:
    rows = draw_rows(chance)
    for row in rows:
        row["wide"] = chance.choice([None, chance.uniform(-1.2, 1.2), 0.25])
        for name, odd in ODD.items():
            if chance.random() < 0.02:
                row[name] = chance.choice(odd)
    columns = {name: pl.Series([as_text(row[name]) for row in rows], dtype=pl.String) for name in rows[0]}
    return pl.DataFrame(columns)


def typed(frame: pl.DataFrame) -> pl.DataFrame:
    """As Parquet would have some of it: numbers, truths, NaN."""
    numbers = [name for name in ("weight", "volume", "value", "distance", "wide", "stops", "legs") if name in frame]
    as_numbers = [pl.col(name).cast(pl.Float64, strict=False).fill_null(float("nan")) for name in numbers[:5]]
    as_whole = [pl.col(name).cast(pl.Int64, strict=False) for name in numbers[5:]]
    return frame.with_columns(*as_numbers, *as_whole, pl.col("fragile") == "true", pl.col("depot").cast(pl.Categorical))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["texts", "typed"])
def test_every_plain_row_is_what_the_row_decoder_makes_of_it(seed: int, kind: str, seen: Seen) -> None:
    contract = parse_contract(CONTRACT)
    schema = compile_schema(contract)
    frame = make_rows(random.Random(seed))
    frame = typed(frame) if kind == "typed" else frame
    decoder, plan = RequestDecoder(schema), plan_requests(schema, frame)
    judged = judge_rows(decoder, plan, frame)
    plain = left = 0
    for number, request in enumerate(make_requests(plan, frame)):
        try:
            sample = decoder.decode_object(request)
        except InvalidRequestError:
            needs_nothing = False
        else:
            needs_nothing = not sample.warnings and not sample.review
        nameable = 1 <= len(request.get("id", "")) <= 256
        if judged.plain[number] and nameable:
            plain += 1
            assert needs_nothing, request
            served = np.array(sample.floats, dtype=np.float32)
            assert served.tobytes() == judged.matrix[number].tobytes() or same_with_nan(served, judged.matrix[number])
            sent = {name: series[number] for name, series in judged.sent.items()}
            given = {**msgspec.to_builtins(sample.inputs), **msgspec.to_builtins(sample.context)}
            assert {name: value for name, value in sent.items() if value is not None} == given
        left += needs_nothing and nameable and not judged.plain[number]  # such as odd spellings of a moment
    seen("rows compared", frame.height)
    seen("rows that needed nothing special", plain)
    assert plain > 60
    assert left < 0.1 * plain


def test_odd_spellings_of_a_moment_are_left_to_the_row_decoder() -> None:
    field = ContextField(name="at", kind="datetime", role="time")
    schema = Schema(system="s", features=(), context=(field,), derived=(), columns=())
    spelled = ["2026-01-05", "2026-1-05", "2026-01-5", " 2026-01-05 ", "0999-01-01", "soon", None]
    frame = pl.DataFrame({"at": spelled})
    judged = judge_rows(RequestDecoder(schema), plan_requests(schema, frame), frame)
    assert judged.plain.tolist() == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("policy", [BINARY, NUMBER, BANDED], ids=["binary", "regression", "regression with review"])
@pytest.mark.parametrize("kind", ["texts", "typed"])
def test_a_record_and_an_answer_from_columns_are_those_of_each_row(policy: Policy, kind: str) -> None:
    schema = compile_schema(parse_contract(CONTRACT))
    frame = make_rows(random.Random(9))
    frame = typed(frame) if kind == "typed" else frame
    decoder, plan = RequestDecoder(schema), plan_requests(schema, frame)
    judged = judge_rows(decoder, plan, frame)
    judged.plain[:] &= frame["parcel"].str.len_chars().is_between(1, 256).fill_null(False).to_numpy()
    places = np.flatnonzero(judged.plain)
    chance = np.random.default_rng(1)
    shares = chance.uniform(size=len(places))
    outputs = np.column_stack([1 - shares, shares]) if policy.task == "binary" else shares
    servable: Any = SimpleNamespace(
        policy=policy, schema=schema, system="parcels", release="parcels:1", decoder=decoder
    )
    ids = [f"p-{number}" for number in range(len(places))]
    decided = decide(policy, outputs.astype(np.float32), len(places))
    sent = {name: series.gather(places) for name, series in judged.sent.items()}
    names = frame["parcel"].gather(places).to_list()
    framed = record_rows(servable, decided, sent, ids, names, OCCASION)
    bulk = [each.content[start:end] for each in framed for start, end in whole_frames_of(each.content, 0)]
    assert sum(each.records for each in framed) == len(bulk)

    requests = make_requests(plan, frame[places])
    samples = [decoder.decode_object(request) for request in requests]
    rows = decided.rows()
    answers = [answer_model(servable, *pair, name) for *pair, name in zip(samples, rows, ids, strict=True)]
    single = [
        record_answer(answer, sample, "parcels", "local", "score", 1.8e9, 2.5)
        for answer, sample in zip(answers, samples, strict=True)
    ]
    decode, encode = msgspec.msgpack.Decoder(Record).decode, msgspec.msgpack.Encoder().encode
    assert len(bulk) > 60
    for mine, theirs in zip(bulk, single, strict=True):
        assert msgspec.to_builtins(decode(mine)) == msgspec.to_builtins(decode(encode(theirs)))
    kinds = answer_schema([policy])
    assert decided_frame(servable, decided, ids, kinds).equals(answer_frame(answers, kinds))


def same_with_nan(one: Any, other: Any) -> bool:
    missing = np.isnan(one)
    return bool((missing == np.isnan(other)).all() and one[~missing].tobytes() == other[~missing].tobytes())


def test_rows_that_look_something_up_are_what_the_row_decoder_makes_of_them(seen: Seen) -> None:
    contract = parse_contract(deliveries.CONTRACT)
    sky = deliveries.weather()
    reads = {
        name: SourceRead(name, frame, Path(name), "", 0, frame.height)
        for name, frame in (("vans", deliveries.vans()[:-5]), ("weather", sky))
    }
    end = sky["observed_at"].max()
    rows = deliveries.deliveries(400).with_columns(
        due=pl.lit(end) + pl.duration(minutes=pl.int_range(pl.len()) % 400 - 60),
        depot=pl.col("depot").replace("west", " west "),
    )
    tables = join_lookups(contract, rows[:1], reads, now=end.timestamp() + 600).tables  # type: ignore[union-attr]
    decoder = RequestDecoder(compile_schema(contract), (), tables)
    plan = plan_requests(decoder.schema, rows)
    judged = judge_rows(decoder, plan, rows)
    plain = 0
    for number, request in enumerate(make_requests(plan, rows)):
        try:
            sample = decoder.decode_object(request)
        except InvalidRequestError:
            assert not judged.plain[number]
            continue
        assert judged.plain[number] == (not sample.warnings), request
        if judged.plain[number]:
            plain += 1
            assert same_with_nan(np.array(sample.floats, dtype=np.float32), judged.matrix[number])
            sent = {name: judged.sent[name][number] for name in (field.name for field in decoder.schema.features)}
            assert {name: value for name, value in sent.items() if value is not None} == sample.inputs
    seen("rows that looked something up", plain)
    assert 100 < plain < 350
    nothing = judge_rows(decoder, plan, rows.clear())
    assert nothing.matrix.shape == (0, 7)
