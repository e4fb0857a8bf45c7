"""Incremental reads: what is new is added exactly once, whatever the database and however often it is interrupted."""

import datetime as dt
import gc
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.contract.data_section import Source
from shipworthy.data.sources.attempts import Deadline
from shipworthy.data.sources.databases import Query, Since, concat_exactly, query_columns, read_query
from shipworthy.data.sources.downloads import Downloads
from shipworthy.data.sources.found import Found, Kept
from shipworthy.data.sources.incremental import MOST_PARTS, Shelf, Watermark, advance, restore
from shipworthy.data.sources.remote import Places, find_remote, look_at, newest_time
from shipworthy.kernel.errors import DeadlineError, IntegrityError, SourceError, UnavailableError, UsageError

DAY = dt.timedelta(days=1)
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


class Database:
    """A table `loans` of either kind: id, at, amount."""

    def __init__(self, url: str) -> None:
        self.url = url

    def run(self, statement: str, *values: object) -> None:
        if self.url.startswith("sqlite"):
            connection: Any = sqlite3.connect(self.url.removeprefix("sqlite:///"))
            values = tuple(value.isoformat(" ") if isinstance(value, dt.datetime) else value for value in values)
        else:
            connection = psycopg.connect(self.url)
            statement = statement.replace("?", "%s")
        try:
            connection.execute(statement, values)
            connection.commit()
        finally:
            connection.close()

    def add(self, id: int, at: dt.datetime, amount: float) -> None:
        self.run("INSERT INTO loans VALUES (?, ?, ?)", id, at, amount)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path}/loans.db")
        database.run("CREATE TABLE loans (id INTEGER, at TEXT, amount REAL)")
        yield database
        return
    database = Database(request.getfixturevalue("postgresql"))
    database.run("DROP TABLE IF EXISTS loans")
    database.run("CREATE TABLE loans (id bigint, at timestamptz, amount double precision)")
    yield database


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places({}, Downloads(tmp_path / "downloads"), Shelf(tmp_path / "sources" / "loans", None))


def soon(seconds: float = 60) -> Deadline:
    return Deadline(time.monotonic() + seconds, time.monotonic)


def find(database: Database, places: Places, before: Kept | None = None, **keys: Any) -> Found:
    described = {"url": database.url, "query": "SELECT * FROM loans WHERE amount % 7 <> 3.5;", **keys}
    if database.url.startswith("postgresql"):
        described["query"] = described["query"].replace("amount % 7", "amount::numeric % 7")
    return find_remote("loans", Source.model_validate(described), places, before, soon())


def ids(found: Found) -> list[int]:
    return [row[0] for row in found.read().frame.select("id").rows()]


def test_a_query_is_read_whole_without_a_watermark(database: Database, places: Places):
    for number in (1, 2):
        database.add(number, START, number)
    found = find(database, places)
    assert (ids(found), found.kept, found.changed) == ([1, 2], None, None)
    assert find(database, places).digest == found.digest
    database.add(3, START, 3)
    assert find(database, places).digest != found.digest


def test_only_rows_from_the_watermark_on_are_read_and_added_once(database: Database, places: Places):
    for number in range(100):
        database.add(number, START + number * DAY, number)
    first = find(database, places, watermark="at")
    assert (ids(first), first.new_rows) == (list(range(100)), 100)
    assert first.changed == (START + 99 * DAY).timestamp()

    same = find(database, places, first.kept, watermark="at")
    assert (same.digest, same.kept, same.new_rows) == (first.digest, first.kept, 0)

    database.run("DELETE FROM loans WHERE id < 50")  # what was read stays
    database.add(100, START + 99 * DAY, 100)  # as late as the newest: not lost
    database.add(101, START + 200 * DAY, 101)
    third = find(database, places, first.kept, watermark="at")
    assert (ids(third), third.new_rows) == ([*range(100), 100, 101], 2)
    assert third.kept is not None
    assert [len(places.shelf.get(part)) for part in third.kept.parts] == [100, 2]
    assert find(database, places, first.kept, watermark="at").digest == third.digest  # killed before it was recorded


def test_late_rows_of_the_overlap_are_found_and_equal_rows_stay_as_often_as_they_are(
    database: Database, places: Places
):
    for number in (-9, 1, 1, 2):
        database.add(number, START + number * DAY, 7)
    first = find(database, places, watermark="at", overlap="2d")
    assert ids(first) == [-9, 1, 1, 2]
    database.add(1, START + DAY, 7)  # a third of the same
    database.add(5, START + DAY / 2, 7)  # late
    database.add(6, START - 30 * DAY, 7)  # too late
    second = find(database, places, first.kept, watermark="at", overlap="2d")
    assert ids(second) == [-9, 5, 1, 1, 1, 2]
    third = find(database, places, second.kept, watermark="at", overlap="2d")
    assert (third.new_rows, ids(third)) == (0, [-9, 5, 1, 1, 1, 2])


def test_an_overlap_can_be_a_number_of_rows(database: Database, places: Places):
    for number in range(10):
        database.add(number, START, number)
    first = find(database, places, watermark="id", overlap=3)
    database.run("DELETE FROM loans")
    database.add(7, START, 70)
    database.add(5, START, 50)
    assert ids(find(database, places, first.kept, watermark="id", overlap=3)) == [*range(8), 7, 8, 9]


def test_with_a_key_the_later_row_stands_in_the_place_of_the_one_before(database: Database, places: Places):
    database.add(1, START, 10)
    database.add(2, START + DAY, 20)
    first = find(database, places, watermark="at", key=("id",))
    database.run("UPDATE loans SET amount = 11, at = ? WHERE id = 1", START + 2 * DAY)
    second = find(database, places, first.kept, watermark="at", key=("id",))
    assert second.read().frame.select("id", "amount").rows() == [(2, 20.0), (1, 11.0)]
    database.run("UPDATE loans SET amount = 10 WHERE id = 1")  # and back, in the same moment
    third = find(database, places, second.kept, watermark="at", key=("id",))
    assert third.read().frame.select("id", "amount").rows() == [(2, 20.0), (1, 10.0)]
    database.run("UPDATE loans SET amount = 11 WHERE id = 1")
    fourth = find(database, places, third.kept, watermark="at", key=("id",))
    assert fourth.read().frame.select("id", "amount").rows() == [(2, 20.0), (1, 11.0)]
    database.add(1, START + 2 * DAY, 12)
    with pytest.raises(SourceError, match=r"two rows have id=1, at=.*; a key names one row at a time"):
        find(database, places, fourth.kept, watermark="at", key=("id",))


def test_another_question_is_read_anew(database: Database, places: Places):
    for number in (1, 2, 3):
        database.add(number, START + number * DAY, number)
    first = find(database, places, watermark="at")
    other = find(database, places, first.kept, watermark="at", query="SELECT * FROM loans WHERE id <> 2")
    assert (ids(other), other.new_rows) == ([1, 3], 2)


def test_columns_that_come_and_go_are_refused(database: Database, places: Places):
    database.add(1, START, 1)
    first = find(database, places, watermark="at")
    database.run("ALTER TABLE loans ADD COLUMN branch TEXT")
    with pytest.raises(SourceError, match=r"no longer those of the rows kept from before \(branch\); name the columns"):
        find(database, places, first.kept, watermark="at")


def test_a_watermark_is_a_value_that_each_row_has_and_that_has_an_order(database: Database, places: Places):
    database.add(1, START, 1)
    with pytest.raises(SourceError, match=r"the watermark 'amount' is Float64; it must be a time, a date, a whole"):
        find(database, places, watermark="amount")
    with pytest.raises(SourceError, match=r"the query gives no column 'since'; it gives id, at, amount"):
        find(database, places, watermark="since")
    database.run("INSERT INTO loans VALUES (2, NULL, 2)")
    with pytest.raises(SourceError, match=r"1 of 2 rows have no 'at', so it cannot be told when they came"):
        find(database, places, watermark="at")


def test_an_overlap_in_time_needs_a_time(database: Database, places: Places):
    database.add(1, START, 1)
    first = find(database, places, watermark="id", overlap="1h")
    with pytest.raises(SourceError, match="the watermark 'id' is no time, so an overlap cannot be a duration"):
        find(database, places, first.kept, watermark="id", overlap="1h")


def test_no_rows_at_all_are_refused(database: Database, places: Places):
    for keys in ({}, {"watermark": "at"}):
        with pytest.raises(SourceError, match="the query gives no rows; it needs some"):
            find(database, places, **keys)


def test_many_parts_become_one_and_the_digest_goes_on(database: Database, places: Places):
    kept = None
    for number in range(MOST_PARTS + 2):
        database.add(number, START + number * DAY, number)
        kept = find(database, places, kept, watermark="at").kept
    assert kept is not None
    assert len(kept.parts) == 2
    found = find(database, places, kept, watermark="at")
    assert (ids(found), found.digest) == (list(range(MOST_PARTS + 2)), kept.digest)
    assert restore("x", Watermark("at", None, ()), kept, places.shelf).height == MOST_PARTS + 2


def test_what_was_kept_and_changed_is_not_used(database: Database, places: Places):
    database.add(1, START, 1)
    first = find(database, places, watermark="at")
    path = next(places.shelf.folder.glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="was changed; restore it from a backup, or remove it to read anew"):
        find(database, places, first.kept, watermark="at")
    path.unlink()
    with pytest.raises(IntegrityError, match="rows of before cannot be read"):
        find(database, places, first.kept, watermark="at")


def test_columns_are_told_without_a_row(database: Database, places: Places):
    source = Source(url=database.url, query="SELECT id, at AS when_it_was FROM loans; ")
    assert look_at("x", source, {}, time.monotonic) == ("reachable, 2 columns", ("id", "when_it_was"))
    with pytest.raises(SourceError if database.url.startswith("postgresql") else UnavailableError, match="nowhere"):
        query_columns(Query(database.url, "SELECT * FROM nowhere", {}, timeout_s=5))


def test_a_database_that_is_gone_in_mid_query_is_said_and_may_be_tried_again(postgresql: str):
    text = "SELECT g, pg_sleep(0.0002)::text AS s FROM generate_series(1, 200000) AS g"
    query = Query(postgresql, text, {})

    def end() -> None:
        with psycopg.connect(postgresql, autocommit=True) as connection:
            for _ in range(600):
                ended = connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query LIKE 'FETCH%' AND pid <> pg_backend_pid()"
                ).fetchall()
                if ended:
                    return
                time.sleep(0.05)

    killer = threading.Thread(target=end)
    killer.start()
    with pytest.raises(UnavailableError, match="terminat"):
        read_query(query, soon())
    killer.join()


@pytest.mark.filterwarnings("ignore:.*ServerCursor:pytest.PytestUnraisableExceptionWarning")
def test_a_slow_query_is_cut(postgresql: str):
    """SQLAlchemy leaves the cursor of a statement that failed to psycopg's finaliser, which complains of it."""
    with pytest.raises(DeadlineError):
        read_query(Query(postgresql, "SELECT pg_sleep(60)::text AS s", {}), soon(1))
    gc.collect()


def test_a_per_cent_sign_of_a_query_is_one(postgresql: str):
    frame = read_query(Query(postgresql, "SELECT 'a%' AS a WHERE 'abc' LIKE '%b%' AND 7 % 4 = 3", {}), soon())
    assert frame is not None
    assert frame.rows() == [("a%",)]


def test_a_database_that_is_not_there(tmp_path: Path):
    with pytest.raises(UnavailableError, match="connection"):
        read_query(Query("postgresql://127.0.0.1:1/loans", "SELECT 1", {}), soon(5))
    with pytest.raises(SourceError, match="there is no such file; correct the path"):
        read_query(Query(f"sqlite:///{tmp_path}/no.db", "SELECT 1", {}), soon(5))


def test_an_address_and_a_query_go_together(tmp_path: Path, places: Places):
    environ = {"DB": f"sqlite:///{tmp_path}/x.db", "WEB": "http://127.0.0.1:1/a.csv"}
    for source, message in (
        (Source(url="${DB}"), "is a database, and needs a query"),
        (Source(url="${WEB}", query="SELECT 1"), "is no database, and takes no query"),
    ):
        with pytest.raises(UsageError, match=message):
            find_remote("x", source, Places(environ, places.downloads, places.shelf), None, soon())


def test_whole_numbers_beside_fractions_stay_exact_or_are_refused():
    frames = [pl.DataFrame({"a": [0.5]}), pl.DataFrame({"a": [2**53 + 1]})]
    with pytest.raises(SourceError, match=r"x: column 'a' holds fractions and whole numbers above 2\^53"):
        concat_exactly(frames, "x")
    texts = concat_exactly([pl.DataFrame({"a": ["001"]}), pl.DataFrame({"a": [1]})], "x")
    assert texts["a"].to_list() == ["001", "1"]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(dt.date(1970, 1, 2), 86400.0), (dt.datetime(1970, 1, 1, 1), 3600.0), ("1970-01-01T01:00:00+01:00", 0.0)],
)
def test_the_time_of_a_watermark(value: object, seconds: float):
    assert newest_time(value) == seconds


ROW = st.tuples(st.integers(0, 20), st.sampled_from(["a", "b", None]))


@settings(max_examples=60, deadline=None)
@given(batches=st.lists(st.lists(ROW, max_size=6), min_size=1, max_size=6), killed=st.lists(st.booleans(), min_size=6))
def test_rows_that_come_within_the_overlap_are_all_there_exactly_once(
    batches: list[list[tuple[int, str | None]]], killed: list[bool], tmp_path_factory: pytest.TempPathFactory
):
    """The source only grows; each row is at most 20 behind the newest, and so many are read again."""
    shelf = Shelf(tmp_path_factory.mktemp("shelf") / "x", None)
    watermark = Watermark("at", 10_000, ())
    source: list[tuple[int, str | None]] = []

    def read(since: Since | None) -> pl.DataFrame | None:
        rows = [row for row in source if since is None or row[0] >= since.value]
        return pl.DataFrame(rows, {"at": pl.Int64, "name": pl.String}, orient="row") if rows else None

    kept = None
    for batch, is_killed in zip(batches, killed, strict=False):
        source += batch
        if not source:
            continue
        advanced = advance("x", watermark, "d", kept, shelf, read)
        if not is_killed:  # else it was written and never recorded
            kept = advanced.kept
        assert sorted(advanced.frame.rows(), key=repr) == sorted(source, key=repr)
