"""A batch beyond a limit is refused as a whole: the last snapshot stays, and what is deployed goes on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.faces.wiring import open_parts
from tests.stories.loans import CONTRACT, write_project

KEYS = """\
data:
  sources: {loans: {path: loans.csv}, towns: {path: towns.csv}}
  prepare: select * from loans
  keys: [{from: loans.purpose, to: towns.purpose, failing: {at_most: 1%}}]
  accept: {quarantined: {at_most: 10%}, growth: {at_least: 50%, at_most: 150%}}
"""


def state_of(folder: Path) -> tuple[Any, ...]:
    with open_parts(folder) as parts:
        current = parts.ledger.current_deployment("local")
        refused = [entry.body for entry in parts.ledger.events(verb="data.refused")]
        return [one["digest"] for one in parts.ledger.snapshots()], current, refused


def test_a_refused_batch_leaves_the_snapshot_and_the_deployment(
    tmp_path: Path, shipworthy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = write_project(tmp_path / "loans")
    start, end = CONTRACT.index("data:"), CONTRACT.index("context:")
    (folder / "shipworthy.yaml").write_text(CONTRACT[:start] + KEYS + CONTRACT[end:])
    (folder / "towns.csv").write_text("purpose\ncar\nhome\nschool\n")
    assert shipworthy("ship", "--project", folder).code == 0
    before = state_of(folder)
    good = pl.read_csv(folder / "loans.csv", infer_schema=False)

    good.head(1000).write_csv(folder / "loans.csv")
    few = shipworthy("ship", "--project", folder)
    assert few.code == 1
    assert "1000 rows are accepted, 0.3333 times the last snapshot's 3000; data.accept.growth asks for 0.5" in few.err

    good.with_columns(pl.when(pl.int_range(pl.len()) % 5 > 0).then("purpose").otherwise(pl.lit("boat"))).write_csv(
        folder / "loans.csv"
    )
    orphans = shipworthy("ship", "--project", folder)
    assert orphans.code == 1
    assert "loans.purpose: 600 of 3,000 rows name no towns.purpose, such as 'boat'; 1% may (data.keys)" in orphans.err

    digests, deployed, refused = state_of(folder)
    assert (digests, deployed) == before[:2]
    assert ["orphans" in body for body in refused] == [False, True]
    good.write_csv(folder / "loans.csv")
    again = shipworthy("ship", "--project", folder, "--json")
    assert again.code == 0
    assert all(stage["reused"] for stage in again.document["stages"])


def test_check_names_a_key_whose_column_is_not_there(tmp_path: Path, shipworthy: Callable[..., Any]):
    folder = write_project(tmp_path / "loans")
    start, end = CONTRACT.index("data:"), CONTRACT.index("context:")
    (folder / "shipworthy.yaml").write_text(
        CONTRACT[:start] + KEYS.replace("towns.purpose", "towns.purpos") + CONTRACT[end:]
    )
    (folder / "towns.csv").write_text("purpose\ncar\n")
    done = shipworthy("check", "--project", folder)
    assert done.code == 1
    assert "data.keys[0].to: towns has no column 'purpos'; did you mean purpose?" in done.err
