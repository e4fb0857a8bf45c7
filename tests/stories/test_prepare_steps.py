"""Declared steps and the future, as a user meets them: check, ship, quarantine, data show, the card, the ledger."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.faces.wiring import open_parts
from tests.stories.loans import CONTRACT, write_project

DATA = """\
data:
  sources:
    loans: {path: loans.csv}
    rates: {path: rates.csv, time: seen}
  prepare:
    - {table: loans, set: {debt: "where(debt == 79.99, 0, debt)"}, because: 79.99 stands for none}
    - {table: loans, keep: "income > 2", because: others are tests}
    - {table: loans, run: "prepare.py:add_rate"}
  accept: {quarantined: {at_most: 10%}}
"""
PREPARE = """\
import polars as pl


def add_rate(tables):
    day = pl.col("seen").str.to_datetime()
    rates = tables["rates"].select(at=day, rate=pl.col("rate").cast(pl.Float64)).sort("at")
    loans = tables["loans"].with_columns(at=pl.col("applied").str.to_datetime()).sort("at", maintain_order=True)
    return loans.join_asof(rates, on="at", strategy="backward").drop("at")
"""


def write(folder: Path) -> None:
    """The loans with a time, and a rate of each day that is joined as of then; one income cannot be read."""
    write_project(folder)
    loans = pl.read_csv(folder / "loans.csv", infer_schema=False).with_row_index("row")
    days = pl.col("row") // 10 + 1
    applied = pl.datetime(2026, 1, 1, time_unit="us") + pl.duration(days=days, hours=12)
    loans = loans.with_columns(applied.dt.strftime("%Y-%m-%d %H:%M").alias("applied"))
    loans = loans.with_columns(pl.when(pl.col("row") == 6).then(pl.lit("a lot")).otherwise("income").alias("income"))
    loans.drop("row").write_csv(folder / "loans.csv")
    dates = pl.datetime_range(pl.datetime(2026, 1, 1), pl.datetime(2026, 12, 1), "1d", eager=True)
    rates = pl.DataFrame({"seen": dates.dt.strftime("%Y-%m-%d %H:%M"), "rate": range(len(dates))})
    rates.write_csv(folder / "rates.csv")
    (folder / "prepare.py").write_text(PREPARE)
    start, end = CONTRACT.index("data:"), CONTRACT.index("context:")
    text = CONTRACT[:start] + DATA + CONTRACT[end:]
    text = text.replace("features:", "  applied: {role: time, type: datetime}\nfeatures:\n  rate: {type: float}")
    (folder / "shipworthy.yaml").write_text(text)


def test_steps_count_and_a_planted_leak_is_refused(
    tmp_path: Path, shipworthy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "loans"
    write(folder)
    checked = shipworthy("check", "--project", folder)
    assert checked.code == 0, checked.err
    assert "skew: data.prepare[0] sets the feature debt for training" in checked.out
    assert "future: no feature may see later rows of rates by seen; taken whole: loans" in checked.out

    shipped = shipworthy("ship", "--project", folder, "--json")
    assert shipped.code == 0, shipped.err
    first, second, third = shipped.document["steps"]
    assert first["because"] == "79.99 stands for none"
    assert (second["quarantined"], second["rows_in"]) == (1, {"loans": 3000})
    assert second["dropped"] == 2999 - second["rows_out"] > 0
    assert third["words"] == f"loans {third['rows_out']:,} rows: new: rate"
    assert shipped.document["future"]["watched"] == ["rates"]
    assert shipped.document["future"]["ahead"] == []
    assert shipped.document["future"]["words"].startswith("no feature sees later rows of rates: without them")

    listed = shipworthy("data", "quarantine", "--project", folder)
    assert "loans.income: not a number: 1" in listed.out
    line = shipworthy("lineage", "loans.csv:8", "--project", folder)
    assert "in quarantine: loans.income: not a number" in line.out
    shown = shipworthy("data", "show", "--project", folder).out
    assert f"Step 2: {second['words']}" in shown
    assert f"- step 2: {second['words']}" in shipworthy("card", "--project", folder).out

    (folder / "prepare.py").write_text(PREPARE.replace("backward", "forward"))
    refused = shipworthy("ship", "--project", folder)
    assert refused.code == 1
    assert "without the rows of rates that became known later, rate differs in" in refused.err
    with open_parts(folder) as parts:
        (event,) = parts.ledger.events(verb="data.refused")
        assert len(parts.ledger.snapshots()) == 1
    assert [found["column"] for found in event.body["future"]["ahead"]] == ["rate"]
    assert "2026" not in str(event.body["future"])

    contract = folder / "shipworthy.yaml"
    contract.write_text(contract.read_text().replace("accept: {", "accept: {future: note, "))
    noted = shipworthy("ship", "--project", folder)
    assert noted.code == 0, noted.err
    assert "?? future: rate sees the future in" in noted.out


def test_check_names_a_column_that_a_step_or_a_time_lacks(tmp_path: Path, shipworthy: Callable[..., Any]):
    folder = tmp_path / "loans"
    write(folder)
    contract = folder / "shipworthy.yaml"
    good = contract.read_text()
    for old, new, said in (
        ("time: seen", "time: sean", "data.sources.rates.time: rates has no column 'sean'; did you mean seen?"),
        ('"income > 2"', '"incom > 2", types: {incom: int}', "data.prepare[1]: loans has no column 'incom'"),
        ("prepare.py:add_rate", "prepare.py:add_rates", "prepare.py: has no function `add_rates` (data.prepare[2])"),
    ):
        contract.write_text(good.replace(old, new))
        done = shipworthy("check", "--project", folder)
        assert done.code == 1
        assert said in done.err
