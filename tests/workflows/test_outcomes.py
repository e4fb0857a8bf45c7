"""A file of what came true joins what was predicted; whatever does not is kept, counted and explained."""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from shipworthy.feedback.labels import Truths
from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError, NotFoundError, SourceError, UsageError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.store import open_ledger
from shipworthy.records.format import Outcome, Record
from shipworthy.records.read import list_segments, read_outcomes
from shipworthy.records.write import SegmentWriter
from shipworthy.security.access import Principal
from shipworthy.security.keys import SigningKey
from shipworthy.workflows.layout import Project
from shipworthy.workflows.outcomes import NOT_PREDICTED, Columns, Told, tell_outcomes
from shipworthy.workflows.project import Parts
from shipworthy.workflows.segments import record_closed_segments
from shipworthy.workflows.verify import verify_records
from tests.stories.loans import CONTRACT

NOW = 1_800_000_000.0
ANN = Principal("ann", frozenset({"ml-engineer"}))
REGRESSION = (
    CONTRACT.replace(
        'type: binary, values: ["0", "1"], positive: "1"}', "type: regression, unit: EUR, range: [0, 500]}"
    )
    .replace('  actions: {"1": approve, "0": refer}\n', "")
    .replace("fallback: {otherwise: refer}", "fallback: {otherwise: 0}")
    .replace("log_loss: {better_than: baseline}", "mae: {better_than: baseline}")
)


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[Parts]:
    """A project where `loan-0` to `loan-4999` were predicted."""
    project = Project(tmp_path)
    project.state.mkdir()
    project.contract_file.write_text(CONTRACT)
    key = SigningKey.from_seed("test", bytes(range(32)))
    predict(project, 5000)
    with open_ledger(project.ledger_url({}), project.log, key, lambda: NOW) as ledger:
        yield Parts(project, ledger, ArtefactStore(project.blobs), key, "user:ann", lambda: NOW, os.urandom)


def quiet(words: str) -> None:
    """Nobody watches."""


def predict(project: Project, rows: int) -> None:
    names: dict[str, Any] = {"system": "loans", "release": "loans:1", "environment": "local", "worker": "w0"}
    records = [Record(prediction_id=f"p_{row}", time=NOW - 9, id=f"loan-{row}", **names) for row in range(rows)]
    append(project.records("local"), "w0", records)


def append(directory: Path, worker: str, contents: list[Any], size: int = 2**26) -> None:
    clock = time.monotonic
    writer = SegmentWriter(directory, "local", worker, now=clock, monotonic=clock, segment_bytes=size)
    writer.append([msgspec.msgpack.encode(content) for content in contents])
    writer.close()


def tell(parts: Parts, file: Path | str, content: str | None = None, **columns: str) -> Told:
    path = parts.project.root / file
    if content is not None:
        path.write_text(content)
    return tell_outcomes(parts, ANN, "local", path, Columns(**columns), quiet)


def truths(parts: Parts) -> dict[str, Any]:
    return {truth.id: truth.value for truth in Truths(read_outcomes(parts.project.outcomes("local")))}


def counts(told: Told) -> dict[str, Any]:
    document = told.report.to_json()
    return {name: count for name, count in document.items() if count and name != "rows"}


def test_a_file_joins_by_id_and_says_what_became_of_each_row(parts: Parts):
    told = tell(
        parts,
        "march.csv",
        "loan_id,repaid,time\nloan-1,1,2026-03-01T09:00:00Z\np_2,0,\nloan-3,,\nloan-9999,1,\nloan-4,yes,\n,1,\n"
        "loan-5,1,soon\nloan-6,0\n",
    )
    assert counts(told) == {
        "accepted": 2,
        "unknown": 1,
        "pending": 1,
        "invalid": {
            "id: missing": 1,
            "repaid: unknown class": 1,
            "row: fewer fields than the header's 3": 1,
            "time: not a time": 1,
        },
    }
    assert told.report.rows == 8
    first, second = read_outcomes(parts.project.outcomes("local"))
    source = f"file:march.csv@{told.digest[7:19]}"
    assert first == Outcome(id="loan-1", value="1", time=1_772_355_600.0, received=NOW, source=source)
    assert second == Outcome(id="p_2", value="0", time=NOW, received=NOW, source=source)
    assert told.quarantine == parts.project.quarantine / f"outcomes-{told.digest[7:19]}.csv"
    kept = pl.read_csv(told.quarantine, infer_schema=False)
    assert kept.columns == ["row", "reason", "loan_id", "repaid", "time", "malformed"]
    assert (kept["row"][0], kept["loan_id"][0], kept["reason"][0]) == ("4", "loan-9999", NOT_PREDICTED)
    assert kept["malformed"].drop_nulls().to_list() == ["line 9: loan-6,0"]


def test_the_same_file_again_writes_nothing_and_says_so(parts: Parts):
    content = "id,outcome\nloan-1,1\nloan-2,0\nloan-1,0\n"
    assert counts(tell(parts, "a.csv", content)) == {"accepted": 2, "contradicting": 1}
    before = list_segments(parts.project.outcomes("local"))[0].read_bytes()
    assert counts(tell(parts, "a.csv")) == {"repeated": 3}
    assert list_segments(parts.project.outcomes("local"))[0].read_bytes() == before
    assert len(list(parts.ledger.events(verb="outcomes.told"))) == 1
    assert truths(parts) == {"loan-1": "0", "loan-2": "0"}  # the later row of a file that contradicts itself


def test_a_contradiction_is_kept_and_the_latest_telling_counts_until_it_is_taken_back(parts: Parts):
    tell(parts, "a.csv", "id,value\nloan-1,1\n")
    assert counts(tell(parts, "b.csv", "id,value\nloan-1,0\n")) == {"contradicting": 1}
    assert truths(parts) == {"loan-1": "0"}
    assert counts(tell(parts, "a.csv")) == {"repeated": 1}  # an old file told again takes nothing back
    assert truths(parts) == {"loan-1": "0"}
    assert counts(tell(parts, "copy-of-a.csv", "id,value\nloan-1,1\n")) == {"repeated": 1}  # nor does its copy
    assert counts(tell(parts, "c.csv", "loan_id,value\nloan-1,1\n")) == {"contradicting": 1}  # a new one does
    assert truths(parts) == {"loan-1": "1"}
    assert len(list(read_outcomes(parts.project.outcomes("local")))) == 3


def test_a_file_that_only_repeated_another_takes_nothing_back_when_it_is_told_again(parts: Parts):
    tell(parts, "a.csv", "id,value\nloan-1,1\n")
    assert counts(tell(parts, "b.csv", "loan_id,value\nloan-1,1\n")) == {"repeated": 1}
    tell(parts, "c.csv", "id,value\nloan-1,0\n")
    assert counts(tell(parts, "b.csv")) == {"repeated": 1}
    assert truths(parts) == {"loan-1": "0"}


def test_what_was_told_is_an_event_with_counts_digest_and_the_rule_that_allowed_it(parts: Parts):
    told = tell(parts, "a.csv", "id,value\nloan-1,1\nnobody,1\n")
    (entry,) = parts.ledger.events(verb="outcomes.told", object="outcomes:local")
    assert (entry.actor, entry.rule) == ("user:ann", "ml-engineer may tell outcomes")
    assert {name: entry.body[name] for name in ("file", "digest", "accepted", "unknown", "rows")} == {
        "file": "a.csv", "digest": told.digest, "accepted": 1, "unknown": 1, "rows": 2,
    }  # fmt: skip


def test_a_telling_stopped_before_its_event_is_still_recorded_when_it_is_told_again(parts: Parts):
    """As after a kill between the last sync and the ledger: the outcomes are there, the event is not."""
    told = tell(parts, "a.csv", "id,value\nloan-1,1\nloan-2,0\n")
    parts.project.log.rename(parts.project.state / "elsewhere")
    (parts.project.state / "ledger.db").rename(parts.project.state / "other.db")
    with open_ledger(parts.project.ledger_url({}), parts.project.log, parts.key, lambda: NOW) as ledger:
        again = Parts(parts.project, ledger, parts.artefacts, parts.key, parts.actor, parts.now, parts.entropy)
        assert counts(tell(again, "a.csv")) == {"repeated": 2}
        assert [entry.body["digest"] for entry in ledger.events(verb="outcomes.told")] == [told.digest]


def test_rows_that_join_later_leave_the_quarantine(parts: Parts):
    told = tell(parts, "a.csv", "id,value\nloan-1,1\nloan-5001,1\n")
    assert told.quarantine is not None
    predict(parts.project, 5002)
    again = tell(parts, "a.csv")
    assert counts(again) == {"accepted": 1, "repeated": 1}
    assert again.quarantine is None
    assert not told.quarantine.exists()


def test_thousands_of_late_repeated_contradicting_and_unknown_outcomes_end_in_the_right_truth(parts: Parts):
    """Told in ten files in random order, each row the newest word on its id."""
    chance = random.Random(27)
    expected: dict[str, str] = {}
    seen: Counter[str] = Counter()
    told: Counter[str] = Counter()
    for number in range(10):
        rows, mine = [], set()
        for id_ in chance.sample(range(6000), 1500):  # from 5000 on unknown
            name = f"loan-{id_}"
            value = str(chance.randrange(2))
            rows.append(f"{name},{value},{chance.randrange(1_700_000_000, 1_800_000_000)}")
            mine.add(name)
            if id_ >= 5000:
                seen["unknown"] += 1
            else:
                before = expected.get(name)
                seen["accepted" if before is None else "repeated" if before == value else "contradicting"] += 1
                expected[name] = value
        report = tell(parts, f"{number}.csv", "loan_id,repaid,time\n" + "\n".join(rows)).report
        told.update({name: getattr(report, name) for name in ("accepted", "repeated", "contradicting", "unknown")})
        assert report.rows == 1500
    assert told == seen
    assert min(seen.values()) > 1000
    assert truths(parts) == expected


# --- what a file may look like


def test_parquet_json_lines_and_other_names_say_the_same(parts: Parts):
    rows = {"Loan no.": ["loan-1", "loan-2", "loan-3"], "paid back": [1, 0, None], "seen on": [NOW - 5.5, None, None]}
    pl.DataFrame(rows).write_parquet(parts.project.root / "a.parquet")
    pl.DataFrame(rows).write_ndjson(parts.project.root / "a.jsonl")
    columns = {"id": "Loan no.", "value": "paid back", "time": "seen on"}
    told = tell(parts, "a.parquet", **columns)
    assert counts(told) == {"accepted": 2, "pending": 1}
    assert told.columns == Columns("Loan_no", "paid_back", "seen_on")
    assert next(read_outcomes(parts.project.outcomes("local"))).time == NOW - 5.5
    assert counts(tell(parts, "a.jsonl", **columns)) == {"repeated": 2, "pending": 1}


def test_the_number_of_a_regression_is_held_to_its_range(parts: Parts):
    parts.project.contract_file.write_text(REGRESSION)
    told = tell(parts, "a.csv", "id,value\nloan-1,12.5\nloan-2,501\nloan-3,much\nloan-4,inf\nloan-5,\n")
    assert counts(told) == {
        "accepted": 1,
        "pending": 1,
        "invalid": {"repaid: not a number": 2, "repaid: outside [0, 500]": 1},
    }
    assert truths(parts) == {"loan-1": 12.5}


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("2026-03-01T10:00:00+01:00", 1_772_355_600.0),
        ("2026-03-01 09:00", 1_772_355_600.0),
        ("2026-03-01", 1_772_323_200.0),
        ("1772355600", 1_772_355_600.0),
        ("1772355600.5", 1_772_355_600.5),
        ("", NOW),
    ],
)
def test_a_time_is_a_date_in_any_usual_form_or_unix_seconds(parts: Parts, written: str, known: float):
    assert counts(tell(parts, "a.csv", f"id,value,time\nloan-1,1,{written}\n")) == {"accepted": 1}
    assert next(read_outcomes(parts.project.outcomes("local"))).time == known


def test_milliseconds_are_not_taken_for_seconds(parts: Parts):
    assert counts(tell(parts, "a.csv", "id,value,time\nloan-1,1,1772355600000\n")) == {
        "invalid": {"time: not a time": 1}
    }


def test_a_date_that_reads_both_ways_is_refused(parts: Parts):
    with pytest.raises(SourceError, match=r"a\.csv: every time reads as month/day and as day/month"):
        tell(parts, "a.csv", "id,value,time\nloan-1,1,03/04/2026\n")


@pytest.mark.parametrize(
    ("content", "columns", "said"),
    [
        ("ref,repaid\nloan-1,1\n", {}, "no column is called id or loan_id, for which prediction a row is about; it has "
         "ref, repaid; name the one with --id COL"),
        ("id,paid\nloan-1,1\n", {}, "no column is called repaid or outcome or value, for what came true; it has id, "
         "paid; name the one with --value COL"),
        ("id,repaid\nloan-1,1\n", {"id": "ref"}, "there is no column 'ref'; it has id, repaid; correct --id"),
        ("id,repaid\nloan-1,1\n", {"time": "when"}, "there is no column 'when'; it has id, repaid; correct --time"),
        ("", {}, "the file is empty"),
    ],
)  # fmt: skip
def test_a_file_with_other_columns_is_refused_naming_those_it_has(
    parts: Parts, content: str, columns: dict[str, str], said: str
):
    with pytest.raises(SourceError, match=said):
        tell(parts, "a.csv", content, **columns)
    assert not parts.project.outcomes("local").exists()


# --- who, where, when


def test_who_may_not_tell_outcomes_is_refused(parts: Parts):
    with pytest.raises(AccessError, match=r"ruth \(risk\) may not do `outcomes`: tell outcomes needs data-scientist"):
        tell_outcomes(parts, Principal("ruth", frozenset({"risk"})), "local", Path("a.csv"), Columns(), quiet)


def test_an_environment_that_is_not_there_or_never_predicted_is_refused(parts: Parts):
    with pytest.raises(UsageError, match="there is no environment 'produktion'; the contract has local"):
        tell_outcomes(parts, Principal("sim", frozenset({"service"})), "produktion", Path("a.csv"), Columns(), quiet)
    for segment in list_segments(parts.project.records("local")):
        segment.unlink()
    with pytest.raises(
        NotFoundError, match="nothing was predicted in local yet, so no outcome can join; predict first"
    ):
        tell(parts, "a.csv", "id,value\nloan-1,1\n")


def test_two_at_once_are_one_refused(parts: Parts):
    directory = parts.project.outcomes("local")
    writer = SegmentWriter(directory, "local", "file", now=time.time, monotonic=time.monotonic)
    try:
        with pytest.raises(
            ConflictError, match="another file of outcomes is being told for local; wait until it is done"
        ):
            tell(parts, "a.csv", "id,value\nloan-1,1\n")
    finally:
        writer.close()
    assert counts(tell(parts, "a.csv")) == {"accepted": 1}


def test_damaged_outcomes_are_told_and_nothing_is_written_behind_them(parts: Parts):
    tell(parts, "a.csv", "id,value\nloan-1,1\nloan-2,0\n")
    segment = list_segments(parts.project.outcomes("local"))[0]
    content = bytearray(segment.read_bytes())
    content[content.index(b"loan-1")] ^= 1
    segment.write_bytes(content)
    with pytest.raises(IntegrityError, match="file-00000001 is damaged at byte"):
        tell(parts, "b.csv", "id,value\nloan-3,1\n")


# --- verified like records


def test_closed_segments_of_outcomes_are_held_to_the_digest_in_the_ledger(parts: Parts):
    outcomes = [Outcome(id=f"loan-{n}", value="1", time=NOW, received=NOW, source="api:x") for n in range(9)]
    append(parts.project.outcomes("local"), "w0", outcomes, size=100)
    assert record_closed_segments(parts, "local") == 1
    assert record_closed_segments(parts, "local") == 0
    (entry,) = parts.ledger.events(verb="segment.closed")
    assert entry.object == "segment:local/outcomes/w0-00000001"
    records, held = verify_records(parts.project, parts.ledger)
    assert (records.name, records.problem) == ("records local", None)
    assert (held.name, held.words, held.problem) == ("outcomes local", "9 outcomes in 1 segments", None)
    segment = list_segments(parts.project.outcomes("local"))[0]
    segment.with_name(segment.name + ".seal").unlink()
    assert "is not the segment whose digest the ledger has" in str(
        verify_records(parts.project, parts.ledger)[1].problem
    )
    segment.unlink()
    segment.parent.joinpath(".w0.lock").unlink()
    segment.parent.rmdir()
    assert verify_records(parts.project, parts.ledger)[1].problem == (
        "segment:local/outcomes/w0-00000001 is in the ledger, its file is missing"
    )
