"""Where each row of a snapshot came from: the line, the row behind `prepare`, and the lines that are in quarantine."""

import gzip
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from shipworthy.data.origins import Origin, find_line, find_row, read_origins, trace
from shipworthy.data.prepare.run import Prepared, prepare
from shipworthy.data.sources.read import SourceRead, read_file
from shipworthy.data.validate import validate
from shipworthy.kernel.errors import IntegrityError

HEADER = "loan_id,income,repaid\n"
KEY = {"loan_id": {"role": "key", "type": "text"}}


def traced(make, frame: pl.DataFrame, *reads: SourceRead, context=KEY, root=None, **sections):
    sources = {read.name: {"path": read.path.name} for read in reads}
    contract = make(data={"sources": sources, **sections}, context=context)
    malformed = pl.concat([read.malformed for read in reads])
    validated = validate(contract, frame, malformed=malformed)
    by_name = {read.name: read for read in reads}
    one = {reads[0].name: pl.int_range(frame.height, eager=True)} if frame is reads[0].frame else {}
    prepared = Prepared(frame, rows=one if len(reads) == 1 and contract.data.prepare is None else {})
    return read_origins(trace(contract, by_name, prepared, validated, root or reads[0].path.parent)), validated


def test_a_row_is_found_from_its_line_and_back(make, tmp_path: Path):
    file = tmp_path / "loans.csv"
    file.write_text(HEADER + "a,1,0\nb,-5,1\n\nc,3,1\nbroken\nd,4,0\n")
    read = read_file("loans", file)
    runs, validated = traced(make, read.frame, read)
    assert validated.accepted["loan_id"].to_list() == ["a", "c", "d"]
    assert find_line(runs, "loans.csv", 2) == [Origin("loans", "loans.csv", "line", 2, 1, 1)]
    assert find_line(runs, "loans", 3) == [Origin("loans", "loans.csv", "line", 3, 2, None)]  # b is in quarantine
    assert find_line(runs, "loans.csv", 4)[0].prepared == 2  # blank: it counts to the row before it
    assert find_line(runs, "loans.csv", 6) == [Origin("loans", "loans.csv", "line", 6, None, None)]  # malformed
    assert find_row(runs, 3) == [Origin("loans", "loans.csv", "line", 7, 4, 3)]
    assert find_row(runs, 4) == find_line(runs, "loans.csv", 1) == find_line(runs, "loans.csv", 8) == []


def test_lines_within_quotes_belong_to_their_row(make, tmp_path: Path):
    file = tmp_path / "loans.csv.gz"
    file.write_bytes(gzip.compress(b'loan_id,income,repaid\r\n"a\r\n\r\n1",1,0\r\nb,2,1\r\n"c\r\n""2",3,1\r\n'))
    read = read_file("loans", file)
    runs, _ = traced(make, read.frame, read)
    assert [[o.row for o in find_line(runs, "loans.csv.gz", line)] for line in range(1, 9)] == [
        [], [1], [1], [1], [2], [3], [], [],
    ]  # fmt: skip
    assert find_row(runs, 3)[0].line == 6


def test_what_has_no_lines_is_counted_in_rows(make, tmp_path: Path):
    pl.DataFrame({"loan_id": ["a", "b"], "income": [1.0, 2.0], "repaid": ["0", "1"]}).write_parquet(
        tmp_path / "l.parquet"
    )
    read = read_file("loans", tmp_path / "l.parquet")
    runs, _ = traced(make, read.frame, read)
    assert find_row(runs, 2) == [Origin("loans", "l.parquet", "row", 2, 2, 2)]


def test_each_file_of_a_source_has_its_own_lines(make, tmp_path: Path):
    (tmp_path / "months").mkdir()
    (tmp_path / "months" / "01.csv").write_text(HEADER + "a,1,0\nbroken\nb,2,1\n")
    (tmp_path / "months" / "02.csv").write_text(HEADER + "c,3,0\nd,4,1\n")
    read = read_file("loans", tmp_path / "months")
    runs, _ = traced(make, read.frame, read, root=tmp_path)
    assert find_row(runs, 2) == [Origin("loans", "months/01.csv", "line", 4, 2, 2)]
    assert find_line(runs, "months/02.csv", 3) == [Origin("loans", "months/02.csv", "line", 3, 4, 4)]
    assert find_line(runs, "months/01.csv", 3) == [Origin("loans", "months/01.csv", "line", 3, None, None)]


def test_json_lines_have_lines(make, tmp_path: Path):
    file = tmp_path / "loans.jsonl"
    file.write_text('{"loan_id":"a","income":1,"repaid":"0"}\n\n{"loan_id":"b","income":2,"repaid":"1"}\n')
    read = read_file("loans", file)
    runs, _ = traced(make, read.frame, read)
    assert find_row(runs, 2)[0] == Origin("loans", "loans.jsonl", "line", 3, 2, 2)


@pytest.fixture
def two(tmp_path: Path) -> tuple[SourceRead, SourceRead]:
    """Loans, and a table of branches in which the key of loans does not stand."""
    (tmp_path / "loans.csv").write_text("loan_id,income,repaid,branch\na,1,0,x\nb,2,1,y\nc,3,1,x\n")
    (tmp_path / "branches.csv").write_text("branch,city\nx,Ulm\ny,Bonn\n")
    return read_file("loans", tmp_path / "loans.csv"), read_file("branches", tmp_path / "branches.csv")


def test_behind_a_prepare_that_keeps_rows_they_are_traced_as_they_stand(make, two):
    loans, branches = two
    joined = loans.frame.join(branches.frame, on="branch", how="left", maintain_order="left").drop("loan_id")
    runs, _ = traced(make, joined, loans, branches, context={}, prepare="p.py:p")
    assert [find_row(runs, row)[0].line for row in (1, 2, 3)] == [2, 3, 4]
    assert find_line(runs, "branches.csv", 2) == []  # rows of a lookup are not the snapshot's


def test_rows_that_look_alike_are_not_taken_for_kept(make, two):
    loans, branches = two
    turned = loans.frame.reverse().select("repaid", income=pl.lit("1"))
    same = replace(loans, frame=loans.frame.select("loan_id", income=pl.lit("1")))
    runs, _ = traced(make, turned, same, branches, context={}, prepare="p.py:p")
    assert runs.is_empty()


def test_behind_a_prepare_that_filters_and_sorts_the_key_tells(make, two):
    loans, branches = two
    changed = loans.frame.filter(pl.col("loan_id") != "b").sort("loan_id", descending=True)
    runs, _ = traced(make, changed, loans, branches, prepare="p.py:p")
    assert [(o.line, o.prepared) for row in (1, 2) for o in find_row(runs, row)] == [(4, 1), (2, 2)]
    assert find_line(runs, "loans.csv", 3) == []


def test_a_row_of_a_repeated_key_is_not_guessed(make, two):
    loans, branches = two
    twice = replace(loans, frame=pl.concat([loans.frame, loans.frame[:1]]))
    runs, _ = traced(make, loans.frame.sort("loan_id", descending=True), twice, branches, prepare="p.py:p")
    assert [len(find_row(runs, row)) for row in (1, 2, 3)] == [1, 1, 0]


def test_sources_put_one_below_the_other_are_traced_each_into_its_own(make, two):
    loans, _ = two
    more = replace(loans, name="more", frame=loans.frame.with_columns(income=pl.lit("9")))
    runs, _ = traced(make, pl.concat([loans.frame, more.frame]), loans, more, context={}, prepare="p.py:p")
    assert [(o.source, o.line) for row in (1, 3, 4, 6) for o in find_row(runs, row)] == [
        ("loans", 2), ("loans", 4), ("more", 2), ("more", 4),
    ]  # fmt: skip
    keyed, validated = traced(make, pl.concat([loans.frame, more.frame]), loans, more, prepare="p.py:p")
    assert validated.quarantined.height == 3  # their keys stand twice
    assert [o.row for o in find_line(keyed, "more", 2)] == [None]
    mixed, _ = traced(make, pl.concat([more.frame, loans.frame[1:]]), loans, more, prepare="p.py:p")
    assert find_line(mixed, "more", 3) == []  # its key stands twice among the prepared rows
    assert find_line(mixed, "more", 2) != []


def test_an_aggregate_is_not_traced(make, two):
    loans, _ = two
    sums = loans.frame.group_by("branch", maintain_order=True).agg(
        pl.col("income").first(), pl.col("repaid").first(), loan_id=pl.lit("all of ") + pl.col("branch").first()
    )
    runs, _ = traced(make, sums, loans, prepare="p.py:p")
    assert runs.is_empty()


def test_runs_stay_few(make, tmp_path: Path):
    file = tmp_path / "loans.csv"
    file.write_text(HEADER + "".join(f"{at},{-1 if at % 1000 == 7 else 1},{at % 2}\n" for at in range(10_000)))
    read = read_file("loans", file)
    runs, validated = traced(make, read.frame, read)
    assert validated.quarantined.height == 10
    assert runs.height == 21
    again, _ = traced(make, read.frame, read)
    assert again.equals(runs)


def test_what_is_no_table_of_origins_is_refused():
    with pytest.raises(IntegrityError, match="do not hold a table"):
        read_origins(b"PAR1 or not")


def test_rows_behind_declared_steps_are_traced_without_a_key(make, tmp_path: Path):
    file = tmp_path / "loans.csv"
    file.write_text("income,repaid\n1,0\n2,1\n3,0\n-5,1\n3,1\n")
    read = read_file("loans", file)
    steps = [{"keep": "income != 2"}, {"set": {"income": "income * 10"}}]
    contract = make(data={"sources": {"loans": {"path": "loans.csv"}}, "prepare": steps})
    prepared = prepare(contract, {"loans": read}, tmp_path, work=tmp_path, environment={})
    runs = read_origins(trace(contract, {"loans": read}, prepared, validate(contract, prepared.frame), tmp_path))
    assert [[(o.prepared, o.row) for o in find_line(runs, "loans.csv", line)] for line in range(2, 7)] == [
        [(1, 1)], [], [(2, 2)], [(3, None)], [(4, 3)],
    ]  # fmt: skip
