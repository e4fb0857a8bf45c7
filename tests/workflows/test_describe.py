"""A snapshot described in Croissant: mlcroissant finds nothing wrong with it, and loads the rows from it."""

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import mlcroissant
import polars as pl
import pytest
from deltalake import write_deltalake

from shipworthy.data.snapshot import ORDER, Snapshot, take
from shipworthy.data.sources.table_files import table_files
from shipworthy.data.validate import validate
from shipworthy.governance.croissant import DataFile, Described, Field, to_croissant
from shipworthy.kernel.errors import IntegrityError, NotFoundError, UsageError
from shipworthy.ledger.events import Event
from shipworthy.workflows.describe import describe_croissant
from shipworthy.workflows.project import Parts
from tests.data.conftest import BASE, build
from tests.vaults import make_vault

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mlcroissant's own
loads = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs mlcroissant[parquet]")

CONTRACT: dict[str, Any] = {
    **BASE,
    "context": {
        "loan_id": {"role": "key", "type": "text", "personal": True, "description": "Number of the file"},
        "applied_at": {"role": "time", "type": "datetime"},
    },
    "features": {
        "income": {"type": "float"},
        "children": {"type": "int"},
        "owner": {"type": "bool", "missing": "allow"},
    },
}
ROWS = pl.DataFrame(
    {
        "loan_id": ["001", "é 2", "3"],
        "applied_at": ["2026-01-01T10:00:00Z", "2026-01-02T10:00:00Z", "2026-01-03T10:00:00Z"],
        "income": ["1.5", "2.5", "3.5"],
        "children": ["0", "1", "2"],
        "owner": ["true", None, "false"],
        "repaid": ["0", "1", "1"],
    }
)
KINDS = {"loan_id": "text", "applied_at": "datetime", "income": "float", "children": "int", "owner": "bool"}


def take_rows(parts: Parts, rows: pl.DataFrame = ROWS, **more: Any) -> Snapshot:
    """A snapshot of `rows` in the ledger and on the disk."""
    contract = build(**{name: CONTRACT[name] for name in ("context", "features")})
    (parts.project.root / "shipworthy.yaml").write_text(json.dumps(CONTRACT))
    accepted = validate(contract, rows).accepted
    snapshot = take(contract, accepted, parts.project.tables, **more)
    columns = [{"name": name, "type": KINDS.get(name, "category"), "missing": 0} for name in accepted.columns]
    body = {"digest": snapshot.digest, "version": snapshot.version, "rows": snapshot.rows, "system": "loans"}
    parts.ledger.append(Event("snapshot.taken", f"snapshot:{snapshot.digest}", "a", {**body, "columns": columns}))
    return snapshot


def read_description(path: Path) -> mlcroissant.Dataset:
    """What mlcroissant makes of it; nothing but what we do not know may be missing."""
    dataset = mlcroissant.Dataset(str(path))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    absent = {str(issue).split('" is recommended')[0].rpartition("/")[2] for issue in issues.warnings}
    assert absent == {"citeAs", "license"}
    return dataset


def test_every_column_is_described_with_its_type_and_the_file_with_its_digest(parts: Parts, tmp_path: Path):
    snapshot = take_rows(parts)
    described = describe_croissant(parts.project, parts.ledger, None, tmp_path / "croissant.json")
    metadata = read_description(tmp_path / "croissant.json").metadata
    [record_set] = metadata.record_sets
    assert {field.name: str(field.data_types[0]).rpartition("/")[2] for field in record_set.fields} == {
        "loan_id": "Text", "applied_at": "DateTime", "income": "Float", "children": "Integer", "owner": "Boolean",
        "repaid": "Text",
    }  # fmt: skip
    assert record_set.fields[0].description == "Number of the file"
    assert record_set.key == ["rows/loan_id"]
    document = json.loads((tmp_path / "croissant.json").read_text())
    assert document["rai:personalSensitiveInformation"] == ["loan_id"]
    assert document["identifier"] == snapshot.digest == described.snapshot
    file = tmp_path / document["distribution"][0]["contentUrl"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == document["distribution"][0]["sha256"]


@loads
def test_mlcroissant_loads_the_rows_from_it(parts: Parts, tmp_path: Path):
    take_rows(parts)
    (tmp_path / "out").mkdir()
    describe_croissant(parts.project, parts.ledger, None, tmp_path / "out" / "croissant.json")
    records = list(read_description(tmp_path / "out" / "croissant.json").records("rows"))
    assert [record["rows/loan_id"].decode() for record in records] == ["001", "é 2", "3"]
    assert [record["rows/income"] for record in records] == [1.5, 2.5, 3.5]
    assert [record["rows/owner"] for record in records] == [True, None, False]
    assert str(records[0]["rows/applied_at"]) == "2026-01-01 10:00:00+00:00"


@loads
def test_a_table_of_several_files_is_loaded_whole(parts: Parts, tmp_path: Path):
    snapshot = take_rows(parts)
    frame = pl.read_parquet(table_files(snapshot)[0])
    write_deltalake(str(snapshot.path), frame, mode="overwrite")
    write_deltalake(str(snapshot.path), frame.with_columns(pl.col(ORDER) + 3), mode="append")
    whole = Snapshot(snapshot.digest, 2, 6, snapshot.path)
    assert len(table_files(whole)) == 2
    body = {"digest": snapshot.digest, "version": 2, "rows": 6, "system": "loans", "columns": [
        {"name": "income", "type": "float", "missing": 0}
    ]}  # fmt: skip
    parts.ledger.append(Event("snapshot.taken", f"snapshot:{snapshot.digest}", "a", body))
    with pytest.raises(UsageError, match="lies in 2 files, which readers find only below"):
        describe_croissant(parts.project, parts.ledger, "2", tmp_path / "out" / "c.json")
    describe_croissant(parts.project, parts.ledger, "2", tmp_path / "c.json")
    records = list(read_description(tmp_path / "c.json").records("rows"))
    assert sorted(record["rows/income"] for record in records) == [1.5, 1.5, 2.5, 2.5, 3.5, 3.5]


def test_the_same_snapshot_has_the_same_description_and_each_version_its_own(parts: Parts, tmp_path: Path):
    first = take_rows(parts)
    describe_croissant(parts.project, parts.ledger, None, tmp_path / "a.json")
    second = take_rows(parts, ROWS[:2])
    for name in ("0", first.digest, first.digest[7:15]):
        describe_croissant(parts.project, parts.ledger, name, tmp_path / "b.json")
        assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert describe_croissant(parts.project, parts.ledger, None, tmp_path / "c.json").snapshot == second.digest
    with pytest.raises(NotFoundError, match=r"no snapshot '9'; the newest versions are 0 \(.{12}\), 1 \("):
        describe_croissant(parts.project, parts.ledger, "9", tmp_path / "d.json")


def test_what_cannot_be_described_says_why(parts: Parts, tmp_path: Path):
    with pytest.raises(NotFoundError, match="there is no snapshot yet"):
        describe_croissant(parts.project, parts.ledger, None, tmp_path / "c.json")
    snapshot = take_rows(parts)
    with pytest.raises(IntegrityError, match="its files hold 3 rows, not 4"):
        table_files(Snapshot(snapshot.digest, 0, 4, snapshot.path))
    table_files(snapshot)[0].unlink()
    with pytest.raises(NotFoundError, match="version 0 cannot be read"):
        describe_croissant(parts.project, parts.ledger, None, tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


def test_an_encrypted_snapshot_is_not_described(parts: Parts, tmp_path: Path):
    take_rows(parts, vault=make_vault(tmp_path))
    with pytest.raises(UsageError, match="is encrypted; only Shipworthy can read its files"):
        describe_croissant(parts.project, parts.ledger, None, tmp_path / "c.json")


def test_a_description_needs_no_key_and_no_words():
    described = Described(
        "loans", "Tell.", "lending", f"sha256:{'a' * 64}", 3, "2026-01-01T00:00:00.000Z", 1, None,
        [Field("x", "float")], [DataFile("x.parquet", "b" * 64, 10)],
    )  # fmt: skip
    document = to_croissant(described)
    assert "key" not in document["recordSet"][0]
    assert "rai:personalSensitiveInformation" not in document
    assert document["version"] == "3.0.0"
