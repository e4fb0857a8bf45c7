"""A table is read in pieces, and the pieces are the table: the rows, the faults and their places of a whole reading."""

import gzip
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from deltalake import write_deltalake

from shipworthy.data.sources.block import BATCH_ROWS
from shipworthy.data.sources.databases import Query, Target, count_rows, write_table
from shipworthy.data.sources.read import read_file, stream_text
from shipworthy.data.tables import Table, open_table
from shipworthy.kernel.errors import ConflictError, SourceError, StorageError, UsageError

CELLS = ["1", "", '"a,b"', '"two\nlines"', '"a ""quote"""', "é", "NA", "x" * 50, '""', "3.5", '"\r\n"']


def whole(table: Table, start: int = 0, columns: Any = None) -> pl.DataFrame:
    empty = pl.DataFrame(schema=dict(table.schema)).select(columns or list(table.schema))
    return pl.concat([empty, *table.batches(start, columns)])


def draw_csv(chance: random.Random) -> str:
    newline = chance.choice(["\n", "\r\n"])
    lines = ["id,b,c d"]
    for number in range(chance.randint(1, 60)):
        fields = [str(number), chance.choice(CELLS), chance.choice(CELLS)]
        if number > 8 and chance.random() < 0.05:
            fields = chance.choice([fields[:2], [*fields, "more"]])
        lines.append("" if chance.random() < 0.05 else ",".join(fields))
    text = newline.join(lines) + chance.choice(["", newline])
    return chance.choice(["", "\ufeff"]) + text


def outcome(read: Any) -> Any:
    try:
        return read()
    except SourceError as error:
        return str(error)


def streamed(path: Path, block_bytes: int) -> Any:
    blocks = list(stream_text(path, block_bytes))
    lines = pl.concat([block.lines for block in blocks if block.lines is not None])
    return pl.concat([block.frame for block in blocks]), pl.concat([block.malformed for block in blocks]), lines


@pytest.mark.parametrize("seed", range(150))
def test_a_text_file_in_blocks_is_the_file(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    path = tmp_path / "rows.csv"
    content = draw_csv(chance).encode()
    if chance.random() < 0.15:  # a byte that is not UTF-8, a NUL, a quote inside a field, one that is never closed
        at = chance.randrange(len(content) // 2, len(content))
        content = content[:at] + chance.choice([b"\xff", b"\0", b'x"', b'\n"']) + content[at:]
    path.write_bytes(gzip.compress(content) if seed % 5 == 0 else content)

    def at_once() -> Any:
        read = read_file("rows", path)
        return read.frame.rename(dict(read.names)), read.malformed.drop("file"), read.files[0].lines

    expected, found = outcome(at_once), outcome(lambda: streamed(path, chance.choice([80, 150, 400, 10_000])))
    if isinstance(expected, str) or isinstance(found, str):
        assert isinstance(expected, str) and isinstance(found, str), (expected, found)  # noqa: PT018
        if "has a header and no rows" not in found:
            assert expected.split(":")[1:2] == found.split(":")[1:2] or "have not the" in expected
        return
    assert found[0].equals(expected[0])
    assert found[1].equals(expected[1])
    assert found[2].equals(expected[2])
    assert len(found[2]) == found[0].height


def test_json_lines_that_leave_columns_out_or_change_a_number_are_one_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [f'{{"a": {number}}}' for number in range(40)] + ['{"a": 1.5, "b": "x"}', '{"b": "y"}']
    path.write_text("\n".join(lines))
    blocks = list(stream_text(path, 100))
    assert len(blocks) > 3
    table = open_table(path, tmp_path / "copy")
    assert dict(table.schema) == {"a": pl.Float64, "b": pl.String}
    assert whole(table).to_dicts()[-3:] == [{"a": 39.0, "b": None}, {"a": 1.5, "b": "x"}, {"a": None, "b": "y"}]
    path.write_text("\n".join([*lines, "{"]))
    with pytest.raises(SourceError, match="line 43: is not JSON"):
        list(stream_text(path, 100))


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "jsonl", "parquet", "delta", "sqlite"])
def test_every_kind_gives_the_same_rows_from_any_row_on(tmp_path: Path, kind: str) -> None:
    count = BATCH_ROWS + 1000
    rows = pl.DataFrame({"loan no": [f"l-{n}" for n in range(count)], "income": [n / 4 for n in range(count)]})
    source: Any = tmp_path / f"rows.{kind}"
    match kind:
        case "csv":
            rows.write_csv(source)
        case "csv.gz":
            source.write_bytes(gzip.compress(rows.write_csv().encode()))
        case "jsonl":
            rows.write_ndjson(source)
        case "parquet":
            rows.write_parquet(source)
        case "delta":
            write_deltalake(str(source), rows.rename({"loan no": "loan_no"}))
        case _:
            with sqlite3.connect(source) as connection:
                connection.execute('CREATE TABLE loans ("loan no" TEXT, income REAL)')
                connection.executemany("INSERT INTO loans VALUES (?, ?)", rows.rows())
            connection.close()
            source = Query(f"sqlite:///{source}", "SELECT * FROM loans ORDER BY rowid", {})
    table = open_table(source, tmp_path / "copy")
    assert (table.rows, table.malformed_rows, list(table.schema)) == (count, 0, ["loan_no", "income"])
    expected = rows.rename({"loan no": "loan_no"})
    for start in (0, 5, BATCH_ROWS, count - 1):
        found = whole(table, start).cast({"income": pl.Float64})
        assert found.equals(expected[start:])
    assert whole(table, 3, ["income"]).cast(pl.Float64).equals(expected[3:].select("income"))
    again = open_table(source, tmp_path / "copy")
    assert again == table


def test_a_file_that_changed_is_copied_anew_and_a_query_is_not_asked_twice(tmp_path: Path) -> None:
    path, copy = tmp_path / "rows.csv", tmp_path / "copy"
    path.write_text("a,b\n1,2\n")
    first = open_table(path, copy)
    path.write_text("a,b\n1,3\n")
    second = open_table(path, copy)
    assert first.digest != second.digest
    assert whole(second).to_dicts() == [{"a": "1", "b": "3"}]
    database = tmp_path / "f.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (1)")
    query = Query(f"sqlite:///{database}", "SELECT a FROM t", {})
    asked = open_table(query, tmp_path / "asked")
    with connection:
        connection.execute("INSERT INTO t VALUES (2)")
    connection.close()
    assert whole(open_table(query, tmp_path / "asked")).equals(whole(asked))
    other = open_table(query, tmp_path / "other")
    assert (other.rows, other.digest != asked.digest) == (2, True)


REFUSED = {
    "no such file": ("sqlite:///{root}/none.db", "SELECT 1", SourceError, "there is no such file"),
    "no such table": ("sqlite:///{root}/f.db", "SELECT * FROM none", SourceError, "no such table: none"),
    "a query that writes": ("sqlite:///{root}/f.db", "DELETE FROM t", SourceError, "readonly database"),
    "no rows": ("sqlite:///{root}/f.db", "SELECT a FROM t WHERE a > 5", SourceError, "there are no rows"),
    "two of a name": ("sqlite:///{root}/f.db", "SELECT a, a FROM t", SourceError, "two columns named 'a'"),
    "another database": ("mysql://host/f", "SELECT 1", UsageError, "databases are sqlite:///FILE and postgresql://"),
    "no address": ("://", "SELECT 1", UsageError, "is no address of a database"),
    "a password": ("postgresql://ann:secret@host/f", "SELECT 1", UsageError, r"put it in the environment"),
    "an unset secret": ("postgresql://ann:${UNSET}@host/f", "SELECT 1", UsageError, "UNSET is not set"),
    "nobody there": ("postgresql://ann:${SET}@127.0.0.1:9/f", "SELECT 1", SourceError, "127.0.0.1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_query_that_cannot_be_asked_is_refused_without_its_secrets(tmp_path: Path, case: str) -> None:
    with sqlite3.connect(tmp_path / "f.db") as connection:
        connection.execute("CREATE TABLE t (a)")
        connection.execute("INSERT INTO t VALUES (1)")
    connection.close()
    url, text, kind, words = REFUSED[case]
    query = Query(url.format(root=tmp_path) if "{root}" in url else url, text, {"SET": "planted-secret"})
    with pytest.raises(kind, match=words) as refusal:
        open_table(query, tmp_path / "copy")
    assert "secret@" not in str(refusal.value)
    assert "planted-secret" not in str(refusal.value)
    with sqlite3.connect(tmp_path / "f.db") as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
    connection.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A database's URL, and the environment with its secrets."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/f.db", {}
        return
    uri = request.getfixturevalue("postgresql")
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS scored")
        connection.execute("CREATE DATABASE scored")
    yield "${DATABASE}", {"DATABASE": uri.replace("/postgres?", "/scored?")}


def test_what_is_written_is_read_back_and_a_failure_leaves_nothing(
    database: tuple[str, dict[str, str]], tmp_path: Path
):
    url, environ = database
    rows = pl.DataFrame(
        {
            "id": ["a", "b", None],
            "x": [1.5, None, -0.0],
            "n": [1, 2**40, None],
            "is": [True, None, False],
            "at": pl.Series(["2026-01-02T03:04:05", None, None]).str.to_datetime(),
        }
    )
    target = Target(url, "answers", environ)
    schema = dict(rows.schema)
    assert count_rows(target) is None

    def broken() -> Iterator[pl.DataFrame]:
        yield rows
        yield rows.with_columns(pl.lit("no number").alias("n"), pl.lit("?").alias("at"))

    with pytest.raises(StorageError):
        write_table(target, schema, broken(), replace=False)
    assert count_rows(target) is None
    write_table(target, schema, [rows, rows], replace=False)
    assert count_rows(target) == 6
    with pytest.raises(ConflictError, match="has a table answers; add --replace"):
        write_table(target, schema, [rows], replace=False)
    with pytest.raises(StorageError):
        write_table(target, schema, broken(), replace=True)
    assert count_rows(target) == 6
    write_table(target, schema, [rows], replace=True)
    table = open_table(Query(url, "SELECT id, x, n FROM answers ORDER BY id", environ), tmp_path / "copy")
    assert sorted(whole(table).drop_nulls("id").rows()) == [("a", 1.5, 1), ("b", None, 2**40)]
