"""The history of the data: what versions are called, what refers to them, what is shown, and what goes when."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.data.snapshot import Snapshot, read, take
from shipworthy.data.versions import list_versions
from shipworthy.kernel.errors import AccessError, ConflictError, NotFoundError, UsageError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import open_ledger
from shipworthy.security.access import ROLES, Principal
from shipworthy.security.keys import create_key
from shipworthy.workflows.history import Listed, find_version, list_history
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts, read_contract
from shipworthy.workflows.retention import compact_data
from shipworthy.workflows.shipping import is_removed
from shipworthy.workflows.snapshots import MASK, compare, describe, export_version
from shipworthy.workflows.tags import tag_version, untag_version
from shipworthy.workflows.verify import verify_snapshots
from tests.stories.loans import CONTRACT

START, DAY = 1_700_000_000.0, 86_400.0
ANN = Principal("ann", frozenset(ROLES))
PERSONAL = CONTRACT.replace(
    "{role: key, type: text}", "{role: key, type: text}\n  mail: {role: slice, type: text, personal: true}"
)


class Life:
    """A project in which batches are taken and released day by day, as `ship` does it."""

    def __init__(self, parts: Parts, days: list[int]) -> None:
        self.parts = parts
        self.days = days

    def contract(self, keep: str = "") -> None:
        text = PERSONAL.replace("  accept:", f"  keep: {{{keep}}}\n  accept:") if keep else PERSONAL
        self.parts.project.contract_file.write_text(text)

    def day(self, rows: int, **columns: Any) -> Snapshot:
        self.days[0] += 1
        return self.take(batch(rows).with_columns(**columns))

    def take(self, frame: pl.DataFrame) -> Snapshot:
        contract = read_contract(self.parts.project)
        vault = self.parts.project.vault if contract.encryption == "at_rest" else None
        snapshot = take(contract, frame, self.parts.project.tables, vault)
        body = {
            "digest": snapshot.digest,
            "snapshot": snapshot.digest,
            "version": snapshot.version,
            "rows": snapshot.rows,
            "system": "loans",
            "sources": {"loans": f"sha256:{self.days[0]:064d}"},
            "schema": {name: str(kind) for name, kind in frame.schema.items()},
            "quarantined": 0,
            "links": [],
        }
        self.parts.ledger.append(Event("snapshot.taken", f"snapshot:{snapshot.digest}", "user:ann", body))
        return snapshot

    def release(self, snapshot: Snapshot, environment: str | None = None) -> None:
        version = self.parts.ledger.next_version("loans")
        digest = f"sha256:{version:064d}"
        body = {"system": "loans", "version": version, "digest": digest, "payload": "p", "snapshot": snapshot.digest}
        self.parts.ledger.append(Event("release.published", f"release:loans:{version}", "user:ann", body))
        if environment is not None:
            generation = self.parts.ledger.next_generation(environment)
            entry = {"release": f"loans:{version}", "digest": digest, "payload": "p", "share": 1.0}
            said = {"environment": environment, "generation": generation, "releases": [entry]}
            self.parts.ledger.append(Event("deployment.set", f"deployment:{environment}", "user:ann", said))

    def listed(self) -> list[Listed]:
        return list_history(self.parts.project, self.parts.ledger, "loans")

    def verbs(self) -> list[str]:
        return [entry.verb for entry in self.parts.ledger.events() if entry.verb != "access.allowed"]


def batch(rows: int) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "loan_id": [f"loan-{at}" for at in range(rows)],
            "mail": [f"ann{at}@example.org" for at in range(rows)],
            "income": [10.0 + at for at in range(rows)],
            "debt": [1.0] * rows,
            "purpose": ["car", "home"] * (rows // 2) + ["car"] * (rows % 2),
            "repaid": ["1"] * rows,
        }
    )


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    project, days = Project(tmp_path / "loans"), [0]
    project.state.mkdir(parents=True)
    key = create_key(tmp_path / "keys", "loans")
    now = lambda: START + days[0] * DAY  # noqa: E731
    with open_ledger(project.ledger_url({}), project.log, key, now) as ledger:
        parts = Parts(project, ledger, ArtefactStore(project.blobs), key, "user:ann", now, os.urandom)
        made = Life(parts, days)
        made.contract()
        yield made


def test_a_version_has_its_number_digest_tags_release_and_latest_as_names(life: Life) -> None:
    first, second = life.day(10), life.day(12)
    life.release(first)
    tag_version(life.parts, ANN, "0", "golden")
    listed = life.listed()
    for name in ("0", first.digest, first.digest[7:15], first.digest[:20], "golden", "loans:1"):
        assert find_version(listed, name).digest == first.digest
    assert find_version(listed, "latest").digest == second.digest
    assert find_version(listed, "", START + 1.5 * DAY).digest == first.digest
    for name in ("7", "silver", "loans:9", first.digest[7:14], ""):
        with pytest.raises(NotFoundError, match=f"the data has no version '{name}'; `shipworthy data log` shows all"):
            find_version(listed, name)
    with pytest.raises(NotFoundError, match="no version as old as 2023-11-14T"):
        find_version(listed, "", START)


def test_the_log_says_what_changed_from_which_sources_and_what_refers_to_it(life: Life) -> None:
    first, _, third = life.day(10), life.day(13), life.day(13, income=pl.lit(5), new=pl.lit("x"))
    life.release(first)
    life.release(third, "production")
    one, two, three = life.listed()
    assert (one.rows, one.since, one.schema, one.releases, one.serving) == (10, None, {}, ("loans:1",), ())
    assert (two.since, two.appended, two.schema, two.releases) == (3, True, {}, ())
    assert (three.since, three.appended, three.releases, three.serving) == (0, False, ("loans:2",), ("production",))
    assert three.schema == {"added": {"new": "String"}, "retyped": {"income": ["Float64", "Int32"]}}
    assert three.sources == {"loans": f"sha256:{3:064d}"}
    assert [version.new_sources for version in (one, two, three)] == [("loans",)] * 3
    life.take(batch(14))  # of the same day
    assert life.listed()[3].new_sources == ()
    assert (one.time, three.time) == ("2023-11-15T22:13:20.000Z", "2023-11-17T22:13:20.000Z")


def test_a_version_that_a_stopped_ship_left_is_listed_too(life: Life) -> None:
    life.day(10)
    take(read_contract(life.parts.project), batch(11).drop("debt"), life.parts.project.tables)
    last = life.listed()[-1]
    assert (last.rows, last.sources, last.schema) == (11, {}, {"removed": {"debt": "Float64"}})


def test_tags_stand_until_they_are_taken_away_and_stay_on_record(life: Life) -> None:
    life.day(10)
    life.day(12)
    assert tag_version(life.parts, ANN, "latest", "golden")["version"] == 1
    assert tag_version(life.parts, ANN, "1", "golden")["revision"] == 1  # it stands there already
    with pytest.raises(ConflictError, match="'golden' is version 1 of loans; take it away first: shipworthy data"):
        tag_version(life.parts, ANN, "0", "golden")
    assert untag_version(life.parts, ANN, "golden")["version"] == 1
    assert life.listed()[1].tags == ()
    tag_version(life.parts, ANN, "0", "golden")
    assert [version.tags for version in life.listed()] == [("golden",), ()]
    with pytest.raises(NotFoundError, match="no version is called 'silver'"):
        untag_version(life.parts, ANN, "silver")
    assert life.verbs()[-3:] == ["snapshot.tagged", "snapshot.untagged", "snapshot.tagged"]


@pytest.mark.parametrize("name", ["latest", "7", "deadbeef", "-x", "", "a b", "a" * 65, "loans:1"])
def test_a_name_that_would_mean_something_else_is_refused(life: Life, name: str) -> None:
    life.day(10)
    with pytest.raises(UsageError, match="a version cannot be called"):
        tag_version(life.parts, ANN, "0", name)


def test_a_version_is_shown_with_personal_columns_masked(life: Life) -> None:
    life.day(10, secret=pl.lit("s3cret"))
    project, ledger = life.parts.project, life.parts.ledger
    found = describe(project, ledger, read_contract(project), life.listed()[0], 2)
    assert "example.org" not in str(found)
    assert "s3cret" not in str(found)  # the contract does not know it, so it may be anything
    assert [row["mail"] for row in found["first_rows"]] == [MASK] * 2
    assert [row["loan_id"] for row in found["first_rows"]] == ["loan-0", "loan-1"]
    columns = {column["column"]: column for column in found["columns"]}
    assert (columns["income"]["role"], columns["repaid"]["role"], columns["mail"]["role"]) == (
        "feature",
        "target",
        "slice",
    )
    assert columns["income"]["profile"]["mean"] == 14.5
    assert columns["mail"]["profile"] is None


def test_two_versions_are_compared_by_the_contracts_key_without_a_personal_value(life: Life) -> None:
    life.day(10)
    life.day(12, mail=pl.lit("bob@example.org"))
    one, two = life.listed()
    found = compare(life.parts.project, read_contract(life.parts.project), one, two)
    assert (found.rows.added, found.rows.removed, found.rows.changed) == (2, 0, 10)
    assert found.rows.examples["added"] == ["loan-10", "loan-11"]
    assert "example.org" not in str(found.to_json())


def test_all_rows_are_exported_to_who_may_see_them_and_that_is_on_record(life: Life, tmp_path: Path) -> None:
    life.day(10)
    for name in ("out.parquet", "out.csv"):
        done = export_version(life.parts, ANN, "0", tmp_path / name)
        assert (done["rows"], (tmp_path / name).stat().st_mode & 0o777) == (10, 0o600)
    assert pl.read_parquet(tmp_path / "out.parquet").equals(batch(10))
    assert pl.read_csv(tmp_path / "out.csv", schema_overrides={"repaid": pl.String}).equals(batch(10))
    assert life.verbs()[-2:] == ["snapshot.exported"] * 2
    with pytest.raises(ConflictError, match=r"out\.csv exists; nothing is replaced"):
        export_version(life.parts, ANN, "0", tmp_path / "out.csv")
    with pytest.raises(UsageError, match=r"written as \.parquet or \.csv, not \.xlsx"):
        export_version(life.parts, ANN, "0", tmp_path / "out.xlsx")
    with pytest.raises(AccessError, match="read decisions needs"):
        export_version(life.parts, Principal("max", frozenset({"auditor"})), "0", tmp_path / "other.csv")
    assert not (tmp_path / "other.csv").exists()


def test_without_a_word_in_the_contract_every_version_stays(life: Life) -> None:
    for rows in range(10, 14):
        life.day(rows)
    done = compact_data(life.parts, ANN, dry_run=False)
    assert (done.keep, done.kept, done.removed, done.files) == ("", 4, (), 0)


def test_old_versions_go_but_for_what_refers_to_them_and_the_newest(life: Life) -> None:
    taken = [life.day(20 - day) for day in range(8)]
    life.release(taken[1])
    life.release(taken[3], "production")
    tag_version(life.parts, ANN, "4", "golden")
    life.contract("versions: 2")
    asked = compact_data(life.parts, ANN, dry_run=True)
    assert (asked.removed, asked.kept, asked.files) == ((0, 2, 5), 5, 3)
    assert {held.version: held.by for held in asked.held} == {
        1: "release loans:1",
        3: "release loans:2, deployment in production",
        4: "tag golden",
    }
    assert all(read(snapshot).height for snapshot in taken)
    assert "snapshot.removed" not in life.verbs()
    done = compact_data(life.parts, ANN, dry_run=False)
    assert (done.removed, done.files, done.freed_bytes) == (asked.removed, asked.files, asked.freed_bytes)
    for number in (1, 3, 4, 6, 7):
        assert read(taken[number]).height == 20 - number
    for number in (0, 2, 5):
        with pytest.raises(NotFoundError, match=rf"version {number} .* was removed on 2023-11-22 by user:ann, as data"):
            find_version(life.listed(), str(number))
    events = [entry.body for entry in life.parts.ledger.events(verb="snapshot.removed")]
    assert [(body["version"], body["rows"], body["reason"]) for body in events] == [
        (0, 20, "data.keep {versions: 2}"),
        (2, 18, "data.keep {versions: 2}"),
        (5, 15, "data.keep {versions: 2}"),
    ]
    again = compact_data(life.parts, ANN, dry_run=False)
    assert (again.removed, again.files, again.kept) == ((), 0, 5)
    assert [proof.problem for proof in verify_snapshots(life.parts.project, life.parts.ledger)] == [None] * 8


@pytest.mark.parametrize(
    ("keep", "left"), [("for: 3d", 4), ("versions: 6, for: 3d", 6), ("versions: 1, for: 3d", 4), ("for: 1h", 1)]
)
def test_either_limit_is_enough_to_stay_and_the_newest_always_does(life: Life, keep: str, left: int) -> None:
    for day in range(8):
        life.day(20 - day)
    life.contract(keep)
    assert compact_data(life.parts, ANN, dry_run=False).kept == left
    life.days[0] += 1000
    assert compact_data(life.parts, ANN, dry_run=False).kept == (6 if "6" in keep else 1)


def test_a_removal_that_was_stopped_after_its_event_is_carried_on(life: Life) -> None:
    first = life.day(10)
    life.day(9)
    body = {"system": "loans", "version": 0, "digest": first.digest, "rows": 10, "reason": "data.keep {versions: 1}"}
    life.parts.ledger.append(Event("snapshot.removed", f"snapshot:{first.digest}", "user:ann", body))
    assert read(first).height == 10
    done = compact_data(life.parts, ANN, dry_run=False)
    assert (done.removed, done.files) == ((), 1)
    with pytest.raises(NotFoundError, match="version 0 cannot be read"):
        read(first)


def test_rows_that_come_back_after_their_version_was_removed_are_a_version_again(life: Life) -> None:
    first = life.day(10)
    life.day(9)
    life.contract("versions: 1")
    compact_data(life.parts, ANN, dry_run=False)
    outputs = {"snapshot": first.digest, "version": first.version}
    assert is_removed(life.parts.ledger, outputs)
    again = life.day(10)
    assert (again.digest, again.version) == (first.digest, 2)
    assert not is_removed(life.parts.ledger, {"snapshot": again.digest, "version": again.version})
    assert find_version(life.listed(), first.digest[7:19]).version == 2
    assert [version.removed is None for version in life.listed()] == [False, True, True]


def test_who_may_not_removes_and_names_nothing(life: Life) -> None:
    life.day(10)
    life.day(9)
    life.contract("versions: 1")
    auditor = Principal("max", frozenset({"auditor"}))
    for act in (
        lambda: compact_data(life.parts, auditor, dry_run=False),
        lambda: tag_version(life.parts, auditor, "0", "golden"),
        lambda: untag_version(life.parts, auditor, "golden"),
    ):
        with pytest.raises(AccessError, match=r"max \(auditor\) may not do `data"):
            act()
    assert [v.number for v in list_versions(life.parts.project.tables / "loans")] == [0, 1]
    assert [version.removed for version in life.listed()] == [None, None]
