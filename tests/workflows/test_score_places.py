"""What can be scored, and where answers can go: whole or not at all, carried on where somebody stopped."""

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import psycopg
import pytest
from deltalake import DeltaTable, write_deltalake

from shipworthy.data.sources.block import BATCH_ROWS
from shipworthy.kernel.errors import ConflictError, SourceError, StorageError, UsageError
from shipworthy.records.format import Record
from shipworthy.records.read import read_as, read_records
from shipworthy.workflows.drafts import PROGRESS, Draft, Plan, hold_draft
from shipworthy.workflows.project import Parts
from tests.serving.conftest import Place
from tests.workflows.test_score import (
    COMPARED,
    deploy,
    draw_rows,
    read_answers,
    run,
    write_table,
)


def compared(rows: list[dict[str, Any]]) -> list[list[Any]]:
    return [[None if row[name] is None else str(row[name]) for name in ("loan", *COMPARED, "problem")] for row in rows]


def score_csv(parts: Parts, folder: Path) -> list[list[Any]]:
    """What a CSV of the same rows gets."""
    run(parts, write_table(folder / "loans.csv", draw_rows(rows=300)), folder / "expected.csv")
    return compared(read_answers(folder / "expected.csv"))


def test_a_delta_table_becomes_another_and_then_its_next_version(
    place: Place,
    parts: Parts,
    tmp_path: Path,
) -> None:
    deploy(place)
    expected = score_csv(parts, tmp_path)
    write_deltalake(str(tmp_path / "loans"), pl.DataFrame(draw_rows(rows=300), infer_schema_length=None))
    out = tmp_path / "answers.delta"
    report = run(parts, tmp_path / "loans", out)
    assert report.recorded_before == report.answered > 150
    assert compared(pl.read_delta(str(out)).to_dicts()) == expected
    with pytest.raises(ConflictError, match=r"answers.delta exists; add --replace"):
        run(parts, tmp_path / "loans", out)
    run(parts, tmp_path / "loans", out, replace=True)
    assert DeltaTable(str(out)).version() == 1
    assert compared(pl.read_delta(str(out)).to_dicts()) == expected


def test_a_query_on_sqlite_becomes_a_table_of_it(place: Place, parts: Parts, tmp_path: Path) -> None:
    deploy(place)
    expected = score_csv(parts, tmp_path)
    rows = pl.DataFrame(draw_rows(rows=300), infer_schema_length=None)
    with closing(sqlite3.connect(tmp_path / "f.db")) as connection, connection:
        connection.execute(f"CREATE TABLE loans ({', '.join(rows.columns)})")
        marks = ", ".join("?" * rows.width)
        connection.executemany(f"INSERT INTO loans VALUES ({marks})", rows.rows())  # noqa: S608
    url = f"sqlite:///{tmp_path}/f.db"
    asked = {"query": "SELECT * FROM loans ORDER BY rowid"}
    with pytest.raises(UsageError, match="name the table that is made with --table"):
        run(parts, url, url, **asked)
    with pytest.raises(UsageError, match="say which rows with --query"):
        run(parts, url, tmp_path / "answers.csv")
    with pytest.raises(UsageError, match="--query is asked of a database"):
        run(parts, tmp_path / "loans.csv", tmp_path / "answers.csv", **asked)
    with pytest.raises(UsageError, match=r"--table 'a;b': name it with letters"):
        run(parts, url, url, table="a;b", **asked)
    run(parts, url, url, table="answers", **asked)
    with closing(sqlite3.connect(tmp_path / "f.db")) as connection:
        found = pl.read_database("SELECT * FROM answers", connection, infer_schema_length=None)
    assert compared(found.to_dicts()) == expected
    with pytest.raises(ConflictError, match="answers exists; add --replace"):
        run(parts, url, url, table="answers", **asked)
    assert run(parts, url, url, table="answers", replace=True, **asked).rows == 300


def test_a_query_on_postgresql_becomes_a_table_of_it_and_the_password_stands_nowhere(
    place: Place,
    parts: Parts,
    tmp_path: Path,
    postgresql: str,
) -> None:
    deploy(place)
    expected = score_csv(parts, tmp_path)
    rows = pl.DataFrame(draw_rows(rows=300), infer_schema_length=None)
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS batch")
        connection.execute("CREATE DATABASE batch")
    uri = postgresql.replace("/postgres?", "/batch?")
    with psycopg.connect(uri) as connection:
        kinds = {pl.String: "text", pl.Int64: "bigint", pl.Float64: "double precision", pl.Boolean: "boolean"}
        columns = ", ".join(f"{name} {kinds[kind.base_type()]}" for name, kind in rows.schema.items())
        connection.execute(f"CREATE TABLE loans (number serial, {columns})")  # type: ignore[call-overload]
        with connection.cursor().copy(f"COPY loans ({', '.join(rows.columns)}) FROM STDIN") as copy:  # type: ignore[arg-type]
            for row in rows.iter_rows():
                copy.write_row(row)
    environ = {"LOANS": uri}
    query = f"SELECT {', '.join(rows.columns)} FROM loans ORDER BY number"  # noqa: S608
    run(parts, "${LOANS}", "${LOANS}", query=query, table="answers", environ=environ)
    with psycopg.connect(uri) as connection:
        found = connection.execute("SELECT * FROM answers ORDER BY loan")  # a table has no order of its own
        names = [column.name for column in found.description or ()]
        answers = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    assert compared(answers) == sorted(expected, key=lambda row: row[0])
    (*_, entry) = parts.ledger.events(verb="scored.file")
    assert uri not in str(entry.body)


def test_rows_without_ids_are_recorded_once_for_each_table_and_release(
    place: Place,
    parts: Parts,
    tmp_path: Path,
) -> None:
    deploy(place)
    rows = [{name: value for name, value in row.items() if name != "loan"} for row in draw_rows(rows=50)]
    source = write_table(tmp_path / "loans.csv", rows)
    first, second = run(parts, source, tmp_path / "one.csv"), run(parts, source, tmp_path / "two.csv")
    assert (first.recorded_before, second.recorded_before) == (0, first.answered)
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    deploy(place, threshold=0.9)
    assert run(parts, source, tmp_path / "three.csv").recorded_before in (0, first.answered)
    rows[0]["income"] = 1.0
    other = run(parts, write_table(tmp_path / "other.csv", rows), tmp_path / "four.csv")
    assert other.recorded_before == 0
    ids = [record.id for record in read_records(place.records)]
    assert len(set(ids)) == len(ids)


def test_an_id_that_comes_again_far_below_is_refused_there(
    place: Place,
    parts: Parts,
    tmp_path: Path,
) -> None:
    deploy(place)
    good = [row for row in draw_rows(rows=100) if row["age"] and row["income"] > 0 and row["debt"] < 1000][:1]
    rows = pl.concat([pl.DataFrame(good)] * (BATCH_ROWS + 10)).with_columns(
        loan=pl.format("l-{}", pl.int_range(pl.len()) % BATCH_ROWS)
    )
    rows.write_parquet(tmp_path / "loans.parquet")
    report = run(parts, tmp_path / "loans.parquet", tmp_path / "answers.parquet")
    assert (report.answered, report.refused) == (BATCH_ROWS, 10)
    problems = pl.read_parquet(tmp_path / "answers.parquet")["problem"]
    assert problems[BATCH_ROWS:].to_list() == [f"loan: 'l-{number}' stands in an earlier row" for number in range(10)]


def test_a_run_whose_last_step_was_not_told_is_found_finished(
    place: Place,
    parts: Parts,
    tmp_path: Path,
) -> None:
    """Killed when the answers stood in place, and the draft was not yet removed."""
    deploy(place)
    source, out = write_table(tmp_path / "loans.csv", draw_rows(rows=50)), tmp_path / "answers.csv"
    folder, kept = tmp_path / ".answers.csv.draft", tmp_path / "kept"
    tell = kept_draft(folder, kept)
    report = run(parts, source, out, tell=tell)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(kept, folder)
    again = run(parts, source, out)
    assert (again.rows, again.answered, again.seconds) == (report.rows, report.answered, again.seconds)
    assert not folder.exists()
    assert len(list(parts.ledger.events(verb="scored.file"))) == 1
    with pytest.raises(ConflictError):
        run(parts, source, out)


@pytest.mark.parametrize("with_ids", [True, False])
def test_rows_that_were_recorded_when_their_part_was_not_written_get_the_recorded_answer(
    place: Place, parts: Parts, tmp_path: Path, with_ids: bool
) -> None:
    """Killed between the records of the second chunk and its part."""
    deploy(place)
    good = [row for row in draw_rows(rows=100) if row["age"] and row["income"] > 0 and row["debt"] < 1000][:1]
    rows = pl.concat([pl.DataFrame(good)] * (BATCH_ROWS + 10)).with_columns(
        loan=pl.format("l-{}", pl.int_range(pl.len()))
    )
    source, out = tmp_path / "loans.parquet", tmp_path / "answers.parquet"
    (rows if with_ids else rows.drop("loan")).write_parquet(source)
    folder, kept = tmp_path / ".answers.parquet.draft", tmp_path / "kept"

    def tell(done: int, _: int) -> None:
        if done == BATCH_ROWS:
            shutil.copytree(folder, kept)

    run(parts, source, out, tell=tell)
    undisturbed = pl.read_parquet(out)
    out.unlink()
    shutil.copytree(kept, folder)
    report = run(parts, source, out)
    assert (report.rows, report.recorded_before) == (BATCH_ROWS + 10, 10)
    assert pl.read_parquet(out).equals(undisturbed)
    assert len(list(read_records(place.records))) == sum(1 for _ in read_as(place.records, Record)) == BATCH_ROWS + 10
    assert len(list(parts.ledger.events(verb="scored.file"))) == 1


def kept_draft(folder: Path, kept: Path) -> Any:
    def tell(done: int, rows: int) -> None:
        if rows and done == rows:
            shutil.copytree(folder, kept, dirs_exist_ok=True)

    return tell


PLAN = Plan("sha256:1", "answers.csv", "id", {"a": "String"}, "run-1", "mark")


def write_draft(folder: Path) -> Draft:
    folder.mkdir(exist_ok=True)
    draft = Draft(folder, PLAN)
    for number in range(4):
        draft.append(b"row %d\n" % number, "answers.csv", 10, 0, {"counts": number})
    return draft


def spoil(case: str, folder: Path) -> None:
    answers, progress = folder / "answers.csv", folder / PROGRESS
    match case:
        case "a torn line":
            progress.write_bytes(progress.read_bytes()[:-5])
        case "a torn part":
            os.truncate(answers, 17)
        case "a changed byte":
            answers.write_bytes(answers.read_bytes().replace(b"row 2", b"row 7"))
        case "more than was told":
            with open(answers, "ab") as file:
                file.write(b"half a pa")
        case "no answers":
            answers.unlink()


@pytest.mark.parametrize(
    ("case", "parts_left"),
    [("a torn line", 3), ("a torn part", 2), ("a changed byte", 2), ("more than was told", 4), ("no answers", 0)],
)
def test_a_draft_is_believed_as_far_as_it_is_whole(tmp_path: Path, case: str, parts_left: int) -> None:
    write_draft(tmp_path / "draft")
    spoil(case, tmp_path / "draft")
    found = Draft(tmp_path / "draft", msgspec.structs.replace(PLAN, run="run-2", mark="other"))
    assert (found.rows, found.plan.run, found.plan.mark) == (10 * parts_left, "run-1", "mark")
    found.append(b"on\n", "answers.csv", 10, 0, {})
    whole = b"".join(b"row %d\n" % number for number in range(parts_left)) + b"on\n"
    assert (tmp_path / "draft" / "answers.csv").read_bytes() == whole
    assert Draft(tmp_path / "draft", PLAN).rows == 10 * parts_left + 10


def test_a_draft_of_another_table_is_begun_anew(tmp_path: Path) -> None:
    write_draft(tmp_path / "draft")
    found = Draft(tmp_path / "draft", Plan("sha256:2", "answers.csv", "id", {"a": "String"}, "run-2", "mark"))
    assert (found.rows, found.plan.run) == (0, "run-2")
    assert not (tmp_path / "draft" / "answers.csv").exists()


def test_two_processes_do_not_share_a_draft(tmp_path: Path) -> None:
    other = pytest.raises(ConflictError, match="another process is scoring into it")
    with hold_draft(tmp_path / "draft", "answers.csv"), other, hold_draft(tmp_path / "draft", "answers.csv"):
        pass


def test_a_place_that_cannot_be_is_refused(place: Place, parts: Parts, tmp_path: Path) -> None:
    deploy(place)
    source = write_table(tmp_path / "loans.csv", draw_rows(rows=5))
    with pytest.raises(StorageError, match="No such file or directory"):
        run(parts, source, tmp_path / "none" / "answers.csv")
    with pytest.raises(UsageError, match="--table names a table of a database"):
        run(parts, source, tmp_path / "answers.csv", table="answers")
    with pytest.raises(SourceError, match="there is no such file; correct the path"):
        run(parts, tmp_path / "none.csv", tmp_path / "answers.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".shipworthy", "loans.csv"]
