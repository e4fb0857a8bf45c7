"""Sources under way: each by its own promises, all broken ones by name, what is new exactly once, and nothing twice."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shipworthy.contract.parse import parse_contract
from shipworthy.data.sources.attempts import Pace
from shipworthy.faces.wiring import open_parts
from shipworthy.kernel.errors import SourceError, UsageError
from shipworthy.workflows.check import check
from shipworthy.workflows.fingerprints import Fingerprints
from shipworthy.workflows.inspect import lineage, status
from shipworthy.workflows.keys import ensure_data_key
from shipworthy.workflows.layout import Project
from shipworthy.workflows.ship import take_snapshot
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.sources import Gathered, gathering
from tests.conftest import Seen
from tests.data.conftest import BASE
from tests.data.stores import storing
from tests.data.web import Web, answer, serving

KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "2"))
NOW = 1_800_000_000.0
JOIN = "select income, repaid from loans"
BOTH = "select income, repaid from loans union all select income, repaid from more"


def csv(*incomes: float) -> bytes:
    """Two rows of each income, one of each class."""
    return "".join(["income,repaid\n", *(f"{income},{truth}\n" for income in incomes for truth in (0, 1))]).encode()


class Folder:
    """A project whose sources a test names; it ingests, and nothing more."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = NOW
        self.environ: dict[str, str] = {}
        self.pauses: list[float] = []

    def write(self, sources: dict[str, Any], prepare: str | None = None, **sections: Any) -> None:
        data = {"sources": sources, **({} if prepare is None else {"prepare": prepare})}
        (self.root / "shipworthy.yaml").write_text(json.dumps({**BASE, "data": data, **sections}))

    def ingest(self) -> tuple[dict[str, Any], Gathered]:
        """The outputs of the ingest, `reused` among them, and the sources."""
        with open_parts(self.root) as real:
            text = real.project.contract_text()
            contract = parse_contract(text)
            artefacts = real.artefacts if contract.encryption == "off" else real.artefacts.sealing()
            parts = replace(real, artefacts=artefacts, actor="user:ann", now=lambda: self.now)
            shipping = Shipping(parts, contract, text, lambda *_: None, self.environ, [])
            fingerprints = Fingerprints(parts.project.state / "digests.json", 0)
            pace = Pace(lambda: 0.0, self.pauses.append, lambda: 0.5)
            with gathering(shipping, fingerprints, pace) as gathered:
                outputs = take_snapshot(shipping, gathered, {})
            return {**outputs, "reused": shipping.stages[0].reused}, gathered

    def status(self) -> list[dict[str, Any]]:
        with open_parts(self.root) as parts:
            sources: list[dict[str, Any]] = status(parts.project, parts.ledger)["sources"]
            return sources

    def verbs(self) -> list[str]:
        with open_parts(self.root) as parts:
            return [entry.verb for entry in parts.ledger.events() if entry.verb.startswith("source.")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    root = tmp_path / "project"
    root.mkdir()
    (root / "train.py").write_text("def train(frame, params, context): ...\n")
    return Folder(root)


@pytest.fixture
def web() -> Iterator[Web]:
    with serving() as web:
        yield web


def test_a_file_a_web_server_a_store_and_a_database_are_one_snapshot_and_nothing_new_is_nothing(
    folder: Folder, web: Web, tmp_path: Path
):
    (folder.root / "a.csv").write_bytes(csv(1, 2))
    web.page("/b.csv", answer(200, csv(3, 4), ETag='"b"'), answer(304))
    with sqlite3.connect(tmp_path / "d.db") as database:
        database.execute("CREATE TABLE d (income REAL, repaid INTEGER)")
        database.execute("INSERT INTO d VALUES (7, 0), (8, 1)")
    database.close()
    with storing(tmp_path / "s3") as store:
        store.put("bucket/c/1.csv", csv(5))
        store.put("bucket/c/2.csv", csv(6, 6))
        folder.environ = {**store.environ, "HERE": str(web.port)}
        url = "http://127.0.0.1:${HERE}/b.csv"
        folder.write(
            {
                "a": {"path": "a.csv"},
                "b": {"url": url},
                "c": {"url": "s3://bucket/c/"},
                "d": {"url": f"sqlite:///{tmp_path}/d.db", "query": "SELECT * FROM d"},
            },
            "select * from a union all select * from b union all select * from c "
            "union all select cast(income as text) as income, cast(repaid as text) as repaid from d",
        )
        first, _ = folder.ingest()
        assert (first["rows"], first["reused"], list(first["sources"])) == (16, False, ["a", "b", "c", "d"])
        again, _ = folder.ingest()
        assert (again["reused"], again["snapshot"]) == (True, first["snapshot"])
        assert folder.verbs() == ["source.read"] * 3
        assert [source["state"] for source in folder.status()] == ["read"] * 3
        store.put("bucket/c/3.csv", csv(9))
        third, _ = folder.ingest()
        assert (third["rows"], third["reused"]) == (18, False)
    project = Project(folder.root)
    with open_parts(folder.root) as parts:
        for name in (url, "s3://bucket/c/2.csv", "a.csv"):
            (trail,) = lineage(project, parts.ledger, name, ("down",))
            assert f"snapshot:{first['snapshot']}" in {edge.child for edge in trail.edges}


def test_all_broken_sources_are_named_at_once_and_the_others_are_read(folder: Folder, web: Web):
    web.page("/b.csv", answer(500), answer(500), answer(503))
    (folder.root / "a.csv").write_bytes(csv(1, 2))
    folder.write(
        {
            "loans": {"path": "a.csv"},
            "gone": {"path": "nowhere.csv"},
            "web": {"url": f"{web.url}/b.csv", "retries": 2},
            "lost": {"url": f"{web.url}/c.csv", "retries": 2},
        },
        JOIN,
    )
    with pytest.raises(SourceError) as caught:
        folder.ingest()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("source gone: ")
    assert "nowhere.csv: there is no such file" in lines[0]
    assert lines[1:] == [
        f"source web: {web.url}/b.csv: answers 503 (tried 3 times)",
        f"source lost: {web.url}/c.csv: there is no such file (it answers 404); correct the URL",
    ]
    assert folder.pauses == [0.5, 1.0]
    assert [(source["source"], source["state"], source["policy"]) for source in folder.status()] == [
        ("web", "broken", "refuse"),
        ("lost", "broken", "refuse"),
    ]


def test_a_server_that_comes_back_is_read(folder: Folder, web: Web):
    web.page("/b.csv", answer(500), answer(200, csv(1, 2)))
    folder.write({"web": {"url": f"{web.url}/b.csv", "retries": 1}})
    assert folder.ingest()[0]["rows"] == 4


def test_a_secret_that_is_not_set_is_no_fault_of_a_source(folder: Folder):
    folder.write({"web": {"url": "https://ann:${SECRET}@127.0.0.1/a.csv", "broken": "last_good"}})
    with pytest.raises(UsageError, match=r"source web: .*: the environment variable SECRET is not set"):
        folder.ingest()


def test_the_last_good_rows_stand_in_and_that_is_said_everywhere(folder: Folder, web: Web):
    (folder.root / "a.csv").write_bytes(csv(1, 2))
    web.page("/b.csv", answer(200, csv(3, 4, 5)), answer(500), answer(500), answer(200, csv(3, 4, 5, 6)))
    folder.write({"loans": {"path": "a.csv"}, "more": {"url": f"{web.url}/b.csv", "broken": "last_good"}}, BOTH)
    first, _ = folder.ingest()
    (folder.root / "a.csv").write_bytes(csv(1, 2, 7))
    folder.now += 3600
    second, gathered = folder.ingest()
    assert second["rows"] == 12
    assert second["sources"]["more"] == first["sources"]["more"]
    expected = {
        "policy": "last_good",
        "reason": f"{web.url}/b.csv: answers 500",
        "digest": first["sources"]["more"],
        "since": "2027-01-15T08:00:00.000Z",
    }
    assert second["broken"] == {"more": expected} == {name: it.to_json() for name, it in gathered.broken.items()}
    (said,) = folder.status()
    assert (said["state"], said["policy"], said["read"]) == ("broken", "last_good", expected["since"])
    assert folder.ingest()[0]["reused"]  # the same broken source, and nothing new beside it
    third, gathered = folder.ingest()
    assert (third["rows"], gathered.broken) == (14, {})
    assert folder.verbs() == ["source.read", "source.broken", "source.read"]


def test_a_file_that_breaks_its_promise_or_cannot_be_parsed_is_answered_alike(folder: Folder):
    loans = {"path": "a.csv", "broken": "last_good", "rows": {"at_least": 5, "at_most": 10}}
    folder.write({"loans": loans})
    for content, reason in (
        (csv(1), "a.csv: has 2 rows; at least 5 are promised (rows.at_least)"),
        (csv(*range(9)), "a.csv: has 18 rows; at most 10 are promised (rows.at_most)"),
        (b"\x1f\x8b broken", "the gzip file is damaged"),
    ):
        (folder.root / "a.csv").write_bytes(content)
        with pytest.raises(SourceError, match="there is no last good read that could be used"):
            folder.ingest()
        (folder.root / "a.csv").write_bytes(csv(1, 2, 3))
        good, _ = folder.ingest()
        (folder.root / "a.csv").write_bytes(content)
        outputs, gathered = folder.ingest()
        assert outputs["snapshot"] == good["snapshot"]
        assert reason in gathered.broken["loans"].reason
        (folder.root / "a.csv").write_bytes(csv(1, 2, 3, 4))
        assert folder.ingest()[0]["rows"] == 8
        (folder.root / "a.csv").write_bytes(content)
        assert folder.ingest()[0]["rows"] == 8  # of the last good read, not of that of before
        shutil.rmtree(folder.root / ".shipworthy" / "sources" / "loans")


def test_the_ledger_holds_no_row_of_a_source_that_cannot_be_read(folder: Folder):
    folder.write({"loans": {"path": "a.csv", "broken": "last_good"}})
    (folder.root / "a.csv").write_bytes(csv(1, 2))
    folder.ingest()
    (folder.root / "a.csv").write_bytes(csv(1, 2) + b"Ann Smith\xff,1\n")
    _, gathered = folder.ingest()
    assert "Ann Smith" in gathered.broken["loans"].reason
    with open_parts(folder.root) as parts:
        assert not [entry for entry in parts.ledger.events() if "Ann Smith" in json.dumps(entry.body)]
    assert folder.status()[0]["reason"] == "a.csv: its rows cannot be read; the command that reads them says why"


def test_done_without_prepare_gets_no_rows_of_the_same_columns(folder: Folder, web: Web):
    (folder.root / "a.csv").write_bytes(csv(1, 2))
    web.page("/b.csv", answer(404), answer(200, csv(3, 4, 5)), answer(404))
    folder.write({"loans": {"path": "a.csv"}, "more": {"url": f"{web.url}/b.csv", "broken": "without"}}, BOTH)
    with pytest.raises(SourceError, match="it was never read, so its columns are not known"):
        folder.ingest()
    assert folder.ingest()[0]["rows"] == 10
    outputs, gathered = folder.ingest()
    assert (outputs["rows"], gathered.broken["more"].policy, "more" in outputs["sources"]) == (4, "without", False)


def test_a_source_that_is_too_old_breaks_its_promise(folder: Folder, web: Web, tmp_path: Path):
    file = folder.root / "a.csv"
    file.write_bytes(csv(1, 2))
    folder.write({"loans": {"path": "a.csv", "age": {"at_most": "1d"}}})
    os.utime(file, (NOW - 80_000, NOW - 80_000))
    assert folder.ingest()[0]["rows"] == 4
    folder.now += 100_000
    with pytest.raises(SourceError, match=r"source loans: a.csv: is 2.08d old; 1d are allowed \(age.at_most\)"):
        folder.ingest()
    web.page("/b.csv", answer(200, csv(1, 2)))
    folder.write({"loans": {"url": f"{web.url}/b.csv", "age": {"at_most": "1d"}}})
    with pytest.raises(SourceError, match=r"does not say how old it is; remove age, or use accept.age"):
        folder.ingest()


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
from tests.workflows.test_sources import Folder
from shipworthy.ledger.store import Ledger
folder = Folder(Path(sys.argv[1]))
at, names = int(sys.argv[2]), []
def die(self, events, real=Ledger.append_all):
    names.extend(event.verb for event in events)
    if len(names) > at:
        os.kill(os.getpid(), 9)
    return real(self, events)
Ledger.append_all = die
Ledger.append = lambda self, event: die(self, [event])[0]
folder.ingest()
"""


@pytest.mark.parametrize("at", [0, 2])
def test_killed_between_reading_and_recording_each_row_is_there_once(folder: Folder, tmp_path: Path, at: int):
    """Before the snapshot is recorded, and between it and what was read."""
    path = tmp_path / "d.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE d (at TEXT, income REAL, repaid INTEGER)")

    def add(day: int) -> None:
        database.execute("INSERT INTO d VALUES (?, ?, ?)", (f"2026-01-{day:02d}", day, day % 2))
        database.commit()

    for day in range(1, 11):
        add(day)
    folder.write({"d": {"url": f"sqlite:///{path}", "query": "SELECT * FROM d", "watermark": "at", "overlap": "2d"}})
    folder.ingest()
    add(11)
    add(9)
    command = [sys.executable, "-c", KILLED, str(folder.root), str(at)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    second, gathered = folder.ingest()
    assert (second["rows"], gathered.found["d"].new_rows) == (12, 2)
    assert second["reused"] == (at == 2)
    assert folder.verbs() == ["source.read"] * 2
    add(12)
    third, gathered = folder.ingest()
    assert (third["rows"], gathered.found["d"].new_rows) == (13, 1)
    database.execute("DELETE FROM d")
    database.commit()
    database.close()
    assert folder.ingest()[0]["reused"]


def test_killed_at_random_moments_the_rows_converge(folder: Folder, tmp_path: Path, seen: Seen):
    """Rows come all the time, some late; what is read is killed anywhere, and in the end each row is there once."""
    random = np.random.default_rng(KILLS)
    path = tmp_path / "d.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE d (at INTEGER, income REAL, repaid INTEGER)")
    rows = [(day, float(day), day % 2) for day in range(20)]
    database.executemany("INSERT INTO d VALUES (?, ?, ?)", rows)
    database.commit()
    folder.write({"d": {"url": f"sqlite:///{path}", "query": "SELECT * FROM d", "watermark": "at", "overlap": 10}})
    command = [sys.executable, "-c", KILLED, str(folder.root), "1000000"]
    killed = 0
    for at in range(KILLS):
        row = (20 + at - int(random.integers(0, 3)), float(at % 100), at % 2)
        rows.append(row)
        database.execute("INSERT INTO d VALUES (?, ?, ?)", row)
        database.commit()
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            process.wait(float(random.uniform(0.3, 4)))
        except subprocess.TimeoutExpired:
            process.kill()
            killed += 1
        process.wait()
    last, gathered = folder.ingest()
    frame = gathered.found["d"].read().frame
    assert sorted(frame.rows()) == sorted(rows)
    assert folder.ingest()[0]["reused"]
    database.close()
    shutil.rmtree(folder.root / ".shipworthy")
    assert folder.ingest()[0]["snapshot"] == last["snapshot"]  # read at once it is the same
    seen("killed", killed)
    seen("rows that are there exactly once", len(rows))


def test_a_query_that_cannot_be_asked_leaves_the_rows_of_before(folder: Folder, tmp_path: Path):
    path = tmp_path / "d.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE d (at TEXT, income REAL, repaid INTEGER)")
        database.execute("INSERT INTO d VALUES ('01', 1, 0), ('02', 2, 1), ('03', 1, 0), ('03', 2, 1)")
    database.close()
    source = {"url": f"sqlite:///{path}", "query": "SELECT * FROM d", "watermark": "at", "broken": "last_good"}
    folder.write({"d": source})
    first, _ = folder.ingest()
    path.rename(tmp_path / "away.db")
    second, gathered = folder.ingest()
    assert (second["rows"], second["snapshot"]) == (4, first["snapshot"])
    assert "there is no such file" in gathered.broken["d"].reason
    (tmp_path / "away.db").rename(path)
    assert folder.ingest()[1].broken == {}


def test_where_rows_are_encrypted_none_is_left_in_the_open(
    folder: Folder, web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    web.page("/b.csv", answer(200, csv(4_711.25, 2), ETag='"b"'))
    folder.write(
        {"loans": {"url": f"{web.url}/b.csv", "broken": "last_good"}},
        encryption="at_rest",
        features={"income": {"type": "float", "range": [0, 10_000]}},
    )
    with open_parts(folder.root) as parts:
        ensure_data_key(parts)
    folder.ingest()
    web.page("/b.csv", answer(500))
    assert folder.ingest()[1].broken["loans"].policy == "last_good"
    kept = [path for path in (folder.root / ".shipworthy").rglob("*") if path.is_file()]
    assert any(path.suffix == ".sealed" for path in kept if path.parent.name == "loans")
    assert not [path for path in kept if b"4711.25" in path.read_bytes() or path.suffix == ".csv"]


def test_check_says_what_can_be_reached(folder: Folder, web: Web, tmp_path: Path):
    path = tmp_path / "d.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE d (income REAL, repaid INTEGER)")
    database.close()
    web.page("/b.csv", answer(200, csv(1)))
    query = {"url": f"sqlite:///{path}", "query": "SELECT * FROM d"}
    folder.write(
        {"b": {"url": f"{web.url}/b.csv"}, "d": query, "e": {"url": f"{web.url}/e.csv", "broken": "last_good"}}, JOIN
    )
    lines = dict(check(Project(folder.root)).lines)
    assert (lines["source b"], lines["source d"]) == ("reachable, 22 bytes", "reachable, 2 columns")
    assert lines["broken source e"].startswith(f"{web.url}/e.csv: there is no such file (it answers 404)")
    folder.write({"b": {"url": f"{web.url}/x.csv"}, "d": {**query, "query": "SELECT * FROM nowhere"}}, JOIN)
    with pytest.raises(SourceError) as caught:
        check(Project(folder.root))
    assert [line.split(":")[0] for line in str(caught.value).splitlines()] == ["source b", "source d"]
