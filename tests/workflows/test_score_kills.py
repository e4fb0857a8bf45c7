"""`score` killed at any moment: run again it carries on, and ends as if nobody had disturbed it."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from shipworthy.records.format import Record
from shipworthy.records.read import read_as
from shipworthy.workflows.drafts import PROGRESS
from shipworthy.workflows.layout import Project
from tests.conftest import Seen
from tests.serving.conftest import Place
from tests.workflows.test_score import deploy, draw_rows

KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "4"))
ROWS = 100_000
RUN = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {top!r})
from tests.workflows.conftest import ArtefactStore, Parts, Place, Project, open_ledger
from tests.workflows.test_score import ANN
from shipworthy.workflows.score import score
root = Path(sys.argv[1])
project, place = Project(root), Place(Project(root).state)
with open_ledger(project.ledger_url({{}}), project.log, place.key, time.time) as ledger:
    parts = Parts(project, ledger, ArtefactStore(project.blobs), place.key, "user:ann", time.time, os.urandom)
    print("ready", flush=True)
    told = lambda done, rows: print(done, rows, flush=True)
    score(parts, ANN, "local", sys.argv[2], sys.argv[3], table=sys.argv[4] or None, tell=told)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same rows with ids as CSV and without as Parquet; some ids twice, some refused, some lines do not part."""
    folder = tmp_path_factory.mktemp("sources")
    few = pl.DataFrame(draw_rows(rows=10_000), infer_schema_length=None)
    rows = pl.concat([few] * (ROWS // few.height)).with_columns(
        pl.int_range(pl.len())
        .map_elements(lambda number: f"l-{number % (ROWS - 50)}", return_dtype=pl.String)
        .alias("loan")
    )
    rows.write_csv(folder / "loans.csv")
    with open(folder / "loans.csv", "a") as file:
        file.write("a,line,of,few,fields\n" * 3)
    rows.drop("loan").write_parquet(folder / "loans.parquet")
    return folder


CASES = {
    "csv": ("loans.csv", "answers.csv", ""),
    "parquet": ("loans.parquet", "answers.parquet", ""),
    "delta": ("loans.parquet", "answers.delta", ""),
    "table": ("loans.csv", "sqlite:///{root}/answers.db", "answers"),
}


@pytest.mark.timeout(36_000)
def test_a_killed_scoring_carries_on_to_the_same_answers_and_records_nothing_twice(
    sources: Path, tmp_path: Path, seen: Seen
) -> None:
    chance = random.Random(KILLS)
    undisturbed: dict[str, pl.DataFrame] = {}
    kills = 0
    while kills < KILLS:
        for name, (source, destination, table) in CASES.items():
            root = tmp_path / "project"
            deploy(Place(Project(root).state), review_below=0.55, review_answer="refer")
            out = destination.format(root=root) if table else str(root / destination)
            words = [str(root), str(sources / source), out, table]
            if name not in undisturbed:
                assert run(words) is None
                undisturbed[name] = answers_of(name, root)
                shutil.rmtree(root / ".shipworthy" / "records")
                remove(root, destination)
            while run(words, chance) is not None:
                kills += 1
                if is_there(name, root) or kills % 4 == 0:  # killed behind its last step: what is there is whole
                    break
            if not is_there(name, root) or any((folder / PROGRESS).exists() for folder in drafts(root)):
                run(words)
            assert_same(answers_of(name, root), undisturbed[name], is_ordered=name != "delta")
            assert_recorded_once(answers_of(name, root), root)
            assert not any((folder / PROGRESS).exists() for folder in drafts(root))
            shutil.rmtree(root)
            if kills >= KILLS:
                break
    seen("kills", kills)


def run(words: list[str], chance: random.Random | None = None) -> str | None:
    """Score; None if it came to its end, else what it said last before it was killed, somewhere in some chunk."""
    script = RUN.format(top=str(Path(__file__).parents[2]))
    process = subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    said = b""
    if chance is not None:
        for _ in range(chance.randint(1, 5)):  # it tells of each chunk
            said = process.stdout.readline() or said
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    if process.returncode == -signal.SIGKILL:
        return said.decode()
    assert process.returncode == 0, errors.decode()
    return None


def drafts(root: Path) -> list[Path]:
    return [*root.glob(".*.draft"), *(root / ".shipworthy" / "work").glob("score-*")]


def is_there(name: str, root: Path) -> bool:
    if name != "table":
        return (root / CASES[name][1]).exists()
    return (root / "answers.db").exists() and "answers" in tables(root / "answers.db")


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}


def answers_of(name: str, root: Path) -> pl.DataFrame:
    if name == "table":
        with closing(sqlite3.connect(root / "answers.db")) as connection:
            return pl.read_database("SELECT * FROM answers", connection, infer_schema_length=None)
    path = root / CASES[name][1]
    if name == "csv":
        return pl.read_csv(path, infer_schema=False)
    return pl.read_delta(str(path)) if name == "delta" else pl.read_parquet(path)


def assert_same(one: pl.DataFrame, other: pl.DataFrame, *, is_ordered: bool) -> None:
    """Row for row, or in any order, but for the ids that are minted anew."""
    if not is_ordered:
        one, other = (frame.drop("prediction_id").sort(pl.exclude("prediction_id")) for frame in (one, other))
    differing = [name for name in other.columns if name != "prediction_id" and not one[name].equals(other[name])]
    assert not differing, differing


def assert_recorded_once(answers: pl.DataFrame, root: Path) -> None:
    records = [record.prediction_id for record in read_as(Project(root).records("local"), Record)]
    answered = answers.filter(pl.col("prediction_id").is_not_null())["prediction_id"].to_list()
    assert len(answered) > 0.6 * ROWS
    assert sorted(records) == sorted(answered)
    assert len(set(records)) == len(records)


def remove(root: Path, destination: str) -> None:
    path = root / ("answers.db" if "://" in destination else destination)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
