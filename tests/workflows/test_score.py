"""A file is answered as the server would answer it: same decisions, same records, nothing lost, nothing twice."""

import json
import random
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from shipworthy.bundle.format import ContextField
from shipworthy.kernel.errors import AccessError, ConflictError, DataError, NotFoundError, UsageError
from shipworthy.records.read import read_records
from shipworthy.security.access import Principal
from shipworthy.serving.router import choose_release
from shipworthy.workflows.project import Parts
from shipworthy.workflows.score import ScoreReport, score
from tests.serving.conftest import SYSTEM, WEIGHTS, Place, linear_model, loans_policy, loans_schema, start_server

ROWS = 400
NOW = 1_800_000_000.0
ANN = Principal("ann", frozenset({"ml-engineer"}))
COMPARED = ("prediction", "confidence", "decision", "source", "handling", "release")
PURPOSES = ["purchase", "refinance"]


def schema() -> Any:
    key = ContextField(name="loan", kind="text", role="key")
    return msgspec.structs.replace(loans_schema(), context=(key, *loans_schema().context))


def deploy(place: Place, **policy: Any) -> None:
    place.deploy(place.publish(1, schema=schema(), policy=loans_policy(**policy)))


def draw_row(chance: random.Random, number: int) -> dict[str, Any]:
    """A row as JSON has it; about one in eight has something that is refused, as many something that is noted."""
    row: dict[str, Any] = {
        "loan": f"l-{number:03}",
        "applicant": f"a-{chance.randrange(90)}",
        "applied_at": f"2026-0{chance.randint(1, 9)}-1{chance.randint(0, 9)}T09:30:00Z",
        "sex": chance.choice(["f", "m", None]),
        "income": round(chance.uniform(1, 900), 2),
        "debt": round(chance.uniform(0, 500), 1),
        "purpose": chance.choice(PURPOSES),
        "score": chance.choice([1, 2, 3, 4, 5, 6, None]),
        "owner": chance.choice([True, False, None]),
        "region": chance.choice(["n", "s", "w", None]),
        "age": chance.randint(18, 105),
    }
    odd = {"income": -4.0, "debt": 2000.0, "purpose": "001", "score": 9, "sex": "x", "age": None}
    if chance.random() < 0.2:
        name = chance.choice(list(odd))
        row[name] = odd[name]
    return row


def draw_rows(seed: int = 0, rows: int = ROWS) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [draw_row(chance, number) for number in range(rows)]


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """As CSV with true and false written, or as the suffix says."""
    frame = pl.DataFrame(rows, infer_schema_length=None)
    if path.suffix == ".parquet":
        frame.write_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        frame.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")
    return path


def read_answers(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pl.read_parquet(path).to_dicts()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    return pl.read_csv(path, infer_schema_length=None, schema_overrides={"prediction": pl.String}).to_dicts()


def run(parts: Parts, source: Path, destination: Path, principal: Principal = ANN, **options: Any) -> ScoreReport:
    return score(parts, principal, "local", source, destination, **options)


def request_of(row: dict[str, Any]) -> dict[str, Any]:
    known = {name: value for name, value in row.items() if value is not None}
    context = {name: known.pop(name) for name in ("loan", "applicant", "applied_at", "sex") if name in known}
    return {"inputs": known, "context": context}


def test_a_row_of_a_table_and_the_same_row_sent_to_the_server_get_the_same_answer(
    place: Place, parts: Parts, tmp_path: Path
) -> None:
    deploy(place, review_below=0.55, review_answer="refer")
    rows = draw_rows()
    report = run(parts, write_table(tmp_path / "loans.csv", rows), tmp_path / "answers.jsonl")
    scored = read_answers(tmp_path / "answers.jsonl")
    server = start_server(place.settings(records=str(tmp_path / "others")), tmp_path / "stderr")
    try:
        status, answers = server.predict([request_of(row) for row in rows])
    finally:
        server.stop(signal.SIGKILL)
    assert (status, len(answers), len(scored)) == (200, ROWS, ROWS)
    refused = 0
    for mine, theirs in zip(scored, answers, strict=True):
        if "errors" in theirs:
            refused += 1
            assert mine["decision"] is None
            assert all(error["field"] in mine["problem"] for error in theirs["errors"])
            continue
        assert {name: mine[name] for name in COMPARED} == {name: theirs[name] for name in COMPARED}
        assert {label: mine[f"probability_{label}"] for label in "01"} == theirs["probability"]
        assert mine["warnings"] == ("; ".join(theirs["warnings"]) or None)
    assert report.refused == refused > 20
    assert report.review == sum(answer.get("handling") == "review" for answer in answers) > 20


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "tsv"])
def test_the_same_rows_in_another_kind_of_file_get_the_same_answers(
    place: Place, parts: Parts, tmp_path: Path, kind: str
) -> None:
    deploy(place)
    rows = draw_rows(rows=100)
    run(parts, write_table(tmp_path / "loans.csv", rows), tmp_path / "answers.csv")
    report = run(parts, write_table(tmp_path / f"loans.{kind}", rows), tmp_path / "answers.parquet")
    first, second = read_answers(tmp_path / "answers.csv"), read_answers(tmp_path / "answers.parquet")
    compared = [*COMPARED, "prediction_id", "warnings"]
    assert [[row[name] for name in compared] for row in first] == [[row[name] for name in compared] for row in second]
    assert report.recorded_before == report.answered > 50


def test_every_answer_is_recorded_once_however_often_the_file_is_scored(
    place: Place, parts: Parts, tmp_path: Path
) -> None:
    deploy(place)
    source = write_table(tmp_path / "loans.csv", draw_rows())
    first = run(parts, source, tmp_path / "one.csv")
    second = run(parts, source, tmp_path / "two.csv")
    assert (first.recorded_before, second.recorded_before) == (0, first.answered)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    records = list(read_records(place.records))
    written = {row["prediction_id"]: row for row in read_answers(tmp_path / "one.csv") if row["prediction_id"]}
    assert len(records) == len(written) == first.answered
    assert {record.prediction_id: record.id for record in records} == {i: row["loan"] for i, row in written.items()}
    assert {(record.worker, record.environment, record.system) for record in records} == {("score", "local", SYSTEM)}
    assert records[0].inputs["income"] == written[records[0].prediction_id]["income"]


def test_an_id_with_other_inputs_keeps_its_recorded_answer_and_says_so(
    place: Place, parts: Parts, tmp_path: Path
) -> None:
    deploy(place)
    rows = [row for row in draw_rows(rows=40) if "001" not in row.values()][:5]
    run(parts, write_table(tmp_path / "loans.csv", rows), tmp_path / "one.csv")
    rows[0]["income"] = 123.0
    run(parts, write_table(tmp_path / "later.csv", rows), tmp_path / "two.csv")
    one, two = read_answers(tmp_path / "one.csv"), read_answers(tmp_path / "two.csv")
    assert [row["prediction_id"] for row in one] == [row["prediction_id"] for row in two]
    assert "answered earlier with other inputs" in two[0]["warnings"]
    assert [row["warnings"] for row in one[1:]] == [row["warnings"] for row in two[1:]]


def test_refused_rows_stand_in_the_answers_with_their_problem_and_none_is_lost(
    place: Place, parts: Parts, tmp_path: Path
) -> None:
    deploy(place)
    source = tmp_path / "loans.csv"
    source.write_text(
        "loan,income,debt,purpose,age,note\n"
        "a,50,10,purchase,40,fine\n"
        "b,much,-1,001,40,\n"
        "c,50,10,purchase,40,too,many\n"
        "a,50,10,purchase,40,again\n"
        ",50,10,purchase,40,nameless\n"
    )
    report = run(parts, source, tmp_path / "answers.csv")
    rows = read_answers(tmp_path / "answers.csv")
    assert [row["loan"] for row in rows] == ["a", "b", "a", None, None]
    assert [row["note"] for row in rows] == ["fine", None, "again", "nameless", None]
    assert [row["decision"] is not None for row in rows] == [True, False, False, False, False]
    assert 'inputs.income: expected a number from 0 to 1000, got "much"' in rows[1]["problem"]
    assert 'inputs.purpose: expected one of "purchase", "refinance", got "001"' in rows[1]["problem"]
    assert rows[2]["problem"] == "loan: 'a' stands in an earlier row"
    assert rows[3]["problem"] == "loan: missing; each row needs an id"
    assert rows[4]["problem"].startswith("line 4: row: more fields")
    assert "c,50,10,purchase,40,too,many" in rows[4]["problem"]
    assert (report.rows, report.answered, report.refused) == (5, 1, 4)
    assert report.reasons["loan: repeated"] == 1
    assert report.absent == ("score", "owner", "region")


def test_a_model_that_fails_leaves_the_answer_to_the_fallback(place: Place, parts: Parts, tmp_path: Path) -> None:
    broken = linear_model([float("inf"), *WEIGHTS[1:]])
    place.deploy(place.publish(1, model=broken, schema=schema()))
    rows = [{"loan": "a", "income": 10, "debt": 9, "purpose": "purchase", "age": 30}, {"loan": "b", "income": 10}]
    rows[1] = {**rows[0], "loan": "b", "debt": 1}
    report = run(parts, write_table(tmp_path / "loans.csv", rows), tmp_path / "answers.csv")
    first, second = read_answers(tmp_path / "answers.csv")
    assert (first["decision"], second["decision"]) == ("refuse", "refer")
    assert (first["source"], first["confidence"]) == ("fallback", None)
    assert "answered by fallback" in second["warnings"]
    assert (report.fallback, report.answered) == (2, 2)


def test_releases_that_share_the_traffic_share_a_file_by_the_same_rule(
    place: Place, parts: Parts, tmp_path: Path
) -> None:
    shares = (0.7, 0.3)
    releases = [
        msgspec.structs.replace(place.publish(version, schema=schema()), share=share)
        for version, share in zip((1, 2), shares, strict=True)
    ]
    place.deploy(*releases)
    run(parts, write_table(tmp_path / "loans.csv", draw_rows()), tmp_path / "answers.csv")
    answered = [row for row in read_answers(tmp_path / "answers.csv") if row["release"]]
    expected = [f"{SYSTEM}:{1 + choose_release(shares, 's', row['applicant'])}" for row in answered]
    assert [row["release"] for row in answered] == expected
    assert 60 < expected.count(f"{SYSTEM}:2") < 180


def test_a_policy_that_keeps_no_records_writes_none(place: Place, parts: Parts, tmp_path: Path) -> None:
    deploy(place, durability="off")
    report = run(parts, write_table(tmp_path / "loans.csv", draw_rows(rows=20)), tmp_path / "answers.csv")
    assert report.answered > 10
    assert not place.records.exists()


def test_rows_without_ids_are_answered_and_another_column_can_name_them(
    place: Place, parts: Parts, tmp_path: Path
) -> None:
    deploy(place)
    rows = [{"ticket no": number, **row} for number, row in enumerate(draw_rows(rows=20))]
    for row in rows:
        del row["loan"]
    source = write_table(tmp_path / "loans.csv", rows)
    assert not run(parts, source, tmp_path / "one.csv").has_ids
    named = run(parts, source, tmp_path / "two.csv", key="ticket no")
    again = run(parts, source, tmp_path / "three.csv", key="ticket_no")
    assert (named.recorded_before, again.recorded_before) == (0, again.answered)
    assert list(pl.read_csv(tmp_path / "two.csv").columns[:2]) == ["ticket no", "applicant"]


def test_what_was_scored_is_in_the_ledger_with_the_digests_of_both_files(
    place: Place, parts: Parts, tmp_path: Path
) -> None:
    deploy(place)
    source = write_table(tmp_path / "loans.csv", draw_rows(rows=50))
    report = run(parts, source, tmp_path / "answers.csv")
    (entry,) = parts.ledger.events(verb="scored.file")
    assert (entry.object, entry.actor, entry.rule) == ("score:local", "user:ann", "ml-engineer may predict")
    assert entry.body["releases"] == {f"{SYSTEM}:1": report.answered}
    for name, path in (("input", source), ("output", tmp_path / "answers.csv")):
        digest = subprocess.run(["sha256sum", path], check=True, capture_output=True, text=True).stdout.split()[0]
        assert entry.body[name] == f"sha256:{digest}"


def test_nothing_is_overwritten_unless_asked(place: Place, parts: Parts, tmp_path: Path) -> None:
    deploy(place)
    source = write_table(tmp_path / "loans.csv", draw_rows(rows=5))
    (tmp_path / "answers.csv").write_text("mine")
    with pytest.raises(ConflictError, match=r"answers.csv exists; add --replace"):
        run(parts, source, tmp_path / "answers.csv")
    assert (tmp_path / "answers.csv").read_text() == "mine"
    assert run(parts, source, tmp_path / "answers.csv", replace=True).rows == 5
    assert len(read_answers(tmp_path / "answers.csv")) == 5
    with pytest.raises(UsageError, match="is the file to score"):
        run(parts, source, source, replace=True)
    with pytest.raises(UsageError, match=r"answers are written to \.csv, \.jsonl, \.parquet"):
        run(parts, source, tmp_path / "answers.xlsx")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shipworthy", "answers.csv", "loans.csv"]


def test_what_cannot_be_scored_is_refused_before_anything_is_answered(
    place: Place, parts: Parts, tmp_path: Path
) -> None:
    source = write_table(tmp_path / "loans.csv", draw_rows(rows=5))
    with pytest.raises(NotFoundError, match="nothing is deployed in local; run `shipworthy ship` first"):
        run(parts, source, tmp_path / "answers.csv")
    deploy(place)
    with pytest.raises(AccessError, match=r"max \(auditor\) may not do `score`"):
        run(parts, source, tmp_path / "answers.csv", Principal("max", frozenset({"auditor"})))
    scored = write_table(tmp_path / "scored.csv", [{**row, "decision": "x"} for row in draw_rows(rows=5)])
    with pytest.raises(UsageError, match=r"scored.csv: has a column decision, as the answers have; rename it"):
        run(parts, scored, tmp_path / "answers.csv")
    (tmp_path / "short.csv").write_text("loan,incom\na,1\n")
    with pytest.raises(DataError, match="no column income, debt, purpose, age; it has loan, incom"):
        run(parts, tmp_path / "short.csv", tmp_path / "answers.csv")
    assert not list(place.records.glob("score-*"))
    assert not (tmp_path / "answers.csv").exists()


FULL = """
import os, resource, sys
from pathlib import Path
sys.path.insert(0, {top!r})
from tests.workflows.conftest import NOW, Place, Project, Parts, ArtefactStore, open_ledger
from tests.workflows.test_score import run
top = Path({root!r})
project, place = Project(top), Place(Project(top).state)
with open_ledger(project.ledger_url({{}}), project.log, place.key, lambda: NOW) as ledger:
    parts = Parts(project, ledger, ArtefactStore(project.blobs), place.key, "user:ann", lambda: NOW, os.urandom)
    resource.setrlimit(resource.RLIMIT_FSIZE, (550_000, 550_000))  # the answers fit, their records do not
    report = run(parts, top / "loans.csv", top / "answers.csv")
print(report.rows, report.answered, report.refused, report.dropped)
"""


@pytest.mark.parametrize("when_full", ["refuse", "drop"])
def test_a_disk_that_takes_no_records_refuses_the_rows_unless_the_policy_lets_them_go(
    place: Place, parts: Parts, tmp_path: Path, when_full: str
) -> None:
    deploy(place, when_full=when_full)
    write_table(tmp_path / "loans.csv", draw_rows(rows=2000))
    script = FULL.format(top=str(Path(__file__).parents[2]), root=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, answered, refused, dropped = map(int, done.stdout.split())
    assert (rows, answered + refused) == (2000, 2000)
    assert list(read_records(place.records)) == []
    if when_full == "refuse":
        assert (answered, dropped) == (0, 0)
        problems = {row["problem"] for row in read_answers(tmp_path / "answers.csv")}
        assert "the prediction cannot be recorded, so it is not answered" in problems
    else:
        assert answered == dropped > 1000


def test_two_at_once_are_kept_apart(place: Place, parts: Parts, tmp_path: Path) -> None:
    from shipworthy.records.write import SegmentWriter

    deploy(place)
    source = write_table(tmp_path / "loans.csv", draw_rows(rows=5))
    other = SegmentWriter(place.records, "local", "score", now=lambda: NOW, monotonic=lambda: 0.0)
    with closing(other), pytest.raises(ConflictError, match="another process writes records as score"):
        run(parts, source, tmp_path / "answers.csv")
    assert not (tmp_path / "answers.csv").exists()


def test_where_answers_always_carry_reasons_those_of_a_file_are_recorded_with_them(
    place: Place, parts: Parts, tmp_path: Path
) -> None:
    deploy(place, reasons=2, reasons_always=True)
    rows = draw_rows(rows=120)
    report = run(parts, write_table(tmp_path / "loans.csv", rows), tmp_path / "answers.jsonl")
    records = {record.id: record for record in read_records(place.records)}
    assert len(records) == report.answered > 60
    asked = [row for row in rows if row["loan"] in records][:20]
    server = start_server(place.settings(records=str(tmp_path / "others")), tmp_path / "stderr")
    try:
        answers = server.predict([request_of(row) for row in asked])[1]
    finally:
        server.stop(signal.SIGKILL)
    for row, answer in zip(asked, answers, strict=True):
        assert len(answer["reasons"]["changes"]) <= 2
        assert records[row["loan"]].reasons == answer["reasons"]
