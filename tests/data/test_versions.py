"""Versions: many writers and many readers of one table; what goes when some are removed, and what stays."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from deltalake import DeltaTable, write_deltalake

from shipworthy.data.snapshot import Snapshot, content_digest, read, take
from shipworthy.data.versions import (
    GRACE_S,
    MANY_FILES,
    ORDER,
    columns_of,
    files_of,
    list_versions,
    merge_files,
    plan_removal,
    remove,
)
from shipworthy.kernel.errors import NotFoundError, StorageError
from shipworthy.security.vault import Vault
from tests.conftest import Seen
from tests.vaults import ENVIRONMENT, make_vault

KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "2"))
ROWS = 200_000  # of a version that takes long enough to be killed in
WRITER = """\
import os, sys
from pathlib import Path
import polars as pl
from shipworthy.contract.parse import parse_contract
from shipworthy.data.snapshot import take
from shipworthy.security.vault import Vault

text, tables, first, count, keys = sys.argv[1:]
contract = parse_contract(text)
vault = Vault(Path(keys), {"SHIPWORTHY_MASTER_KEY": os.environ["SHIPWORTHY_MASTER_KEY"]}) if keys else None
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(first), int(first) + int(count)):
    print("taking", flush=True)
    rows = pl.DataFrame({"n": pl.int_range(200_000, eager=True) + number, "t": [f"row {number}"] * 200_000})
    print(take(contract, rows[: 20_000 if int(count) > 1 else None], Path(tables), vault).version, flush=True)
"""


def frame(rows: int, start: int = 0) -> pl.DataFrame:
    return pl.DataFrame({"n": pl.int_range(start, start + rows, eager=True), "t": ["ä"] * rows})


def rows_like(number: int) -> pl.DataFrame:
    """What a writer takes."""
    return pl.DataFrame({"n": pl.int_range(ROWS, eager=True) + number, "t": [f"row {number}"] * ROWS})


def rows_of(tables: Path, vault: Vault | None = None) -> list[int]:
    """How many rows each version has; each is compared with its digest."""
    path = tables / "loans"
    return [read(Snapshot(v.digest, v.number, 0, path), vault).height for v in list_versions(path)]


def writer(contract: Any, tables: Path, first: int, count: int, keys: str = "") -> "subprocess.Popen[str]":
    """A process of its own that takes snapshots once it is told to."""
    text = contract.model_dump_json(by_alias=True, exclude_unset=True)
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, text, str(tables), str(first), str(count), keys],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **ENVIRONMENT},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def start(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_snapshot_that_goes_on_where_the_newest_ends_adds_its_new_rows_alone(make: Any, tmp_path: Path) -> None:
    first, second = take(make(), frame(5000), tmp_path), take(make(), frame(5003), tmp_path)
    assert (read(first).height, read(second).height) == (5000, 5003)
    assert second.digest == content_digest(frame(5003))
    one, two = (set(files_of(DeltaTable(str(first.path), version=number))) for number in (0, 1))
    assert one < two
    assert [(v.rows, v.appended) for v in list_versions(first.path)] == [(5000, None), (5003, 3)]


@pytest.mark.parametrize(
    "after",
    [frame(4, 1), frame(4).with_columns(pl.col("n").cast(pl.Int32)), frame(2), frame(4).rename({"t": "u"})],
    ids=["other rows", "another type", "fewer rows", "another name"],
)
def test_one_that_does_not_is_written_whole(make: Any, tmp_path: Path, after: pl.DataFrame) -> None:
    take(make(), frame(3), tmp_path)
    snapshot = take(make(), after, tmp_path)
    assert read(snapshot).equals(after)
    assert [v.appended for v in list_versions(snapshot.path)] == [None, None]
    assert columns_of(snapshot.path, 1) == {name: str(kind) for name, kind in after.schema.items()}


def test_rows_that_somebody_else_put_into_the_table_are_no_version_and_not_built_upon(
    make: Any, tmp_path: Path
) -> None:
    first = take(make(), frame(3), tmp_path)
    write_deltalake(str(first.path), frame(1).with_columns(pl.lit(7, pl.Int64).alias(ORDER)), mode="append")
    second = take(make(), frame(5), tmp_path)
    assert (second.version, read(second).height, rows_of(tmp_path)) == (2, 5, [3, 5])


def test_a_version_that_lost_a_file_is_not_built_upon_and_is_written_again(make: Any, tmp_path: Path) -> None:
    first = take(make(), frame(3), tmp_path)
    for file in first.path.glob("*.parquet"):
        file.unlink()
    second = take(make(), frame(5), tmp_path)
    assert (second.version, read(second).height) == (1, 5)
    third = take(make(), frame(3), tmp_path)
    assert (third.version, read(third).height, read(first).height) == (2, 3, 3)


def test_a_table_is_read_below_any_folder_that_it_can_be_written_to(make: Any, tmp_path: Path) -> None:
    odd = tmp_path / "Größe & more, it's +x#y?"
    taken = [take(make(), rows, odd) for rows in (frame(3), frame(5), frame(3).head(0))]
    assert [read(snapshot).height for snapshot in taken] == [3, 5, 0]
    assert columns_of(taken[0].path, 0) == {"n": "Int64", "t": "String"}


def test_other_readers_read_the_table_and_travel_to_the_same_numbers(make: Any, tmp_path: Path) -> None:
    for rows in (3, 5):
        snapshot = take(make(), frame(rows), tmp_path)
    path = str(snapshot.path)
    for number, rows in enumerate((3, 5)):
        wanted = frame(rows)
        assert pl.read_delta(path, version=number).sort(ORDER).drop(ORDER).equals(wanted)
        opened = DeltaTable(path, version=number)
        assert (
            pl.DataFrame(opened.scan().read_all() if hasattr(opened.scan(), "read_all") else opened.scan())
            .sort(ORDER)
            .drop(ORDER)
            .equals(wanted)
        )
        found = duckdb.sql(
            f"select n, t from read_parquet({opened.file_uris()}) order by {ORDER}"  # noqa: S608
        ).fetchall()
        assert found == wanted.rows()


def test_writers_at_once_all_make_versions_of_their_own(make: Any, tmp_path: Path) -> None:
    writers = [writer(make(), tmp_path, first, 3) for first in (10, 20)]
    for process in writers:
        start(process)
    said = [process.communicate(timeout=120)[0] for process in writers]
    assert [process.returncode for process in writers] == [0, 0]
    numbers = [int(word) for text in said for word in text.split() if word.isdigit()]
    assert sorted(numbers) == list(range(6))
    assert rows_of(tmp_path) == [20_000] * 6


def test_encrypted_versions_written_at_once_have_numbers_of_their_own_too(make: Any, tmp_path: Path) -> None:
    vault = make_vault(tmp_path)
    writers = [writer(make(), tmp_path / "t", first, 3, str(tmp_path / "data")) for first in (10, 20)]
    for process in writers:
        start(process)
    for process in writers:
        process.communicate(timeout=120)
    assert [v.number for v in list_versions(tmp_path / "t" / "loans")] == list(range(6))
    assert rows_of(tmp_path / "t", vault) == [20_000] * 6


@pytest.mark.timeout(36_000)
def test_a_writer_killed_at_any_moment_leaves_no_partial_version_and_converges(
    make: Any, tmp_path: Path, seen: Seen
) -> None:
    chance, begun = random.Random(4), 0
    take(make(), frame(3), tmp_path)
    for number in range(KILLS):
        with writer(make(), tmp_path, number, 1) as process:
            start(process)
            assert process.stdout is not None
            assert process.stdout.readline() == "taking\n"
            time.sleep(chance.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        begun += process.returncode == -signal.SIGKILL
        assert set(rows_of(tmp_path)[1:]) <= {ROWS}
        snapshot = take(make(), rows_like(number), tmp_path)
        assert (snapshot.version, snapshot.digest) == (number + 1, content_digest(rows_like(number)))
    assert rows_of(tmp_path) == [3] + [ROWS] * KILLS
    removal = plan_removal(tmp_path / "loans", [], time.time() + GRACE_S + 60)
    remove(removal)
    assert rows_of(tmp_path) == [3] + [ROWS] * KILLS
    seen("writers killed", begun)
    seen("files that they left", len(removal.files))


def test_a_removed_version_takes_the_files_that_no_other_needs(make: Any, tmp_path: Path) -> None:
    first, second, third = (take(make(), rows, tmp_path) for rows in (frame(3), frame(5), frame(4, 9)))
    path = first.path
    removal = plan_removal(path, [(0, first.digest)], time.time())
    assert removal.files == ()  # the second is built upon it
    removal = plan_removal(path, [(0, first.digest), (1, second.digest)], time.time())
    assert (len(removal.files), removal.size_bytes) == (2, sum(file.stat().st_size for file in removal.files))
    remove(removal)
    remove(removal)
    assert read(third).equals(frame(4, 9))
    with pytest.raises(NotFoundError, match="version 0 cannot be read"):
        read(first)
    again = take(make(), frame(3), tmp_path)
    assert (again.version, again.digest) == (3, first.digest)
    assert read(first).equals(frame(3))  # what names it is its digest


def test_the_newest_version_stays_and_so_does_what_a_writer_writes_at_this_moment(make: Any, tmp_path: Path) -> None:
    snapshot = take(make(), frame(3), tmp_path)
    orphan = snapshot.path / "part-00000-of-somebody.parquet"
    orphan.write_bytes(b"half")
    assert plan_removal(snapshot.path, [(0, snapshot.digest)], time.time()).files == ()
    assert plan_removal(snapshot.path, [], time.time() + GRACE_S + 60).files == (orphan,)


def test_many_small_files_become_one_and_every_version_stays(make: Any, tmp_path: Path) -> None:
    many = 5
    for rows in range(1, many + 1):
        last = take(make(), frame(rows), tmp_path)
    assert (many < MANY_FILES, merge_files(last.path), merge_files(last.path, many + 1)) == (True, 0, 0)
    assert merge_files(last.path, many) == many
    assert merge_files(last.path, many) == 0
    assert len(files_of(DeltaTable(str(last.path)))) == 1
    after = take(make(), frame(many + 1), tmp_path)
    listed = [v for v in list_versions(last.path) if not v.is_copy]
    assert (listed[-1].number, listed[-1].appended) == (many + 1, 1)
    assert rows_of(tmp_path) == [*range(1, many + 1), many, many + 1]
    gone = [(v.number, v.digest) for v in listed if v.number < many]
    remove(plan_removal(last.path, gone, time.time()))
    assert sorted(last.path.glob("*.parquet")) == sorted(
        last.path / name for name in files_of(DeltaTable(str(last.path)))
    )
    assert read(after).equals(frame(many + 1))


def test_an_encrypted_version_is_listed_and_removed_as_one_in_the_open(make: Any, tmp_path: Path) -> None:
    vault = make_vault(tmp_path)
    plain = take(make(), frame(3), tmp_path)
    first, second = (take(make(), frame(rows), tmp_path, vault) for rows in (4, 5))
    assert [(v.number, v.is_sealed) for v in list_versions(plain.path)] == [(0, False), (1, True), (2, True)]
    remove(plan_removal(plain.path, [(1, first.digest)], time.time()))
    assert [v.number for v in list_versions(plain.path)] == [0, 2]
    assert read(second, vault).height == 5
    with pytest.raises(NotFoundError, match="version 1 cannot be read"):
        read(first, vault)


def test_a_log_that_is_damaged_is_named_and_not_taken_for_an_empty_table(make: Any, tmp_path: Path) -> None:
    snapshot = take(make(), frame(3), tmp_path)
    for file in (snapshot.path / "_delta_log").glob("*.json"):
        file.write_text("no json")
    with pytest.raises(StorageError, match=r"loans: the table's log cannot be read"):
        take(make(), frame(4), tmp_path)


def test_old_versions_outlive_the_checkpoints_of_the_log(make: Any, tmp_path: Path) -> None:
    """Every so many commits the log is condensed; by default what is older than a month would then be lost."""
    snapshot = take(make(), frame(1), tmp_path)
    DeltaTable(str(snapshot.path)).alter.set_table_properties({"delta.checkpointInterval": "4"})
    old = time.time() - 90 * 86_400
    for rows in range(2, 10):
        take(make(), frame(rows), tmp_path)
        for file in (snapshot.path / "_delta_log").glob("*.json"):
            os.utime(file, (old, old))
    assert (snapshot.path / "_delta_log" / "_last_checkpoint").exists()
    assert [v.number for v in list_versions(snapshot.path)] == [0, *range(2, 10)]
    assert read(snapshot).height == 1
