"""Texts, buckets and dates computed from a row: from the contract to the answer, and proven the same in both."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.faces.wiring import open_parts
from tests.stories.loans import CONTRACT, write_project

DERIVED = """\
  ratio: {from: "debt / income", type: float}
  band: {from: "bucket(income, 20, 50)", type: category, values: [low, middle, high]}
  trade: {from: "lower(strip(job))", type: category, values: [nurse, "ünternehmer"], unknown: review}
  side: {from: 'where(weekday(asked) > 5, "weekend", "week")', type: category, values: [week, weekend]}
  hours: {from: "hours_between(asked, due)", type: float}
  shout: {from: 'upper(job) == "STRASSE"', type: bool}
"""
FEATURES = """\
  job: {type: text, missing: allow}
  asked: {type: datetime, zone: America/New_York}
  due: {type: datetime}
"""
JOBS = ["Nurse ", "ÜNTERNEHMER", "straße", "\U0001f600", "\u200fאב", "NURSE"]


def test_what_is_computed_from_a_row_is_the_same_from_the_table_to_the_answer(
    tmp_path: Path, shipworthy: Callable[..., Any], serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = write_project(tmp_path / "loans", rows=2_000)
    rows = pl.read_csv(folder / "loans.csv")
    numbers = range(rows.height)
    rows.with_columns(
        job=pl.Series([JOBS[at % len(JOBS)] for at in numbers]),
        asked=pl.Series([f"2026-{1 + at % 12:02}-{1 + at % 28:02}T{3 + at % 20:02}:30:00" for at in numbers]),
        due=pl.Series([f"2027-11-01T0{at % 9}:15:00.{at:06}Z" for at in numbers]),
    ).write_csv(folder / "loans.csv")
    text = CONTRACT.replace('  ratio: {from: "debt / income", type: float}\n', DERIVED)
    (folder / "shipworthy.yaml").write_text(text.replace("derived:", FEATURES + "derived:"))

    shipped = shipworthy("ship", "--project", folder)
    assert shipped.code == 0, shipped.out + shipped.err
    assert "2,000 rows as served" in shipped.out
    card = shipworthy("card", "--project", folder).out
    assert "table and server make the same model inputs of a row, to the bit: 2,000 rows x 9 columns, none diff" in card
    assert "| `band` | category |  | low, middle, high |" in card
    with open_parts(folder) as parts:
        built = [entry.body for entry in parts.ledger.events(verb="payload.built")]
    assert [body["skew"] for body in built] == [{"rows": 2000, "columns": 9, "different": 0, "unsent": 0}]

    inputs = {"income": 60.5, "debt": 3, "purpose": "car", "job": " nurse", "due": "2026-07-06T00:00:00Z"}
    with serving(folder) as server:
        asked: dict[str, Any] = {"inputs": {**inputs, "asked": "2026-07-05T12:00:00"}, "context": {"loan_id": "a"}}
        code, answer = server.post(asked)
        assert (code, answer["warnings"], answer["handling"]) == (200, [], "automatic")
        code, other = server.post({**asked, "inputs": {**asked["inputs"], "job": "baker"}})
    assert (code, other["handling"]) == (200, "review")
    assert "trade is not one of the declared values: taken as missing" in other["warnings"]

    frame = pl.DataFrame([{"loan_id": "a", **asked["inputs"]}])
    frame.write_csv(tmp_path / "one.csv")
    scored = shipworthy("score", tmp_path / "one.csv", tmp_path / "out.csv", "--project", folder, "--json")
    assert json.loads(scored.out)["answered"] == 1
    assert pl.read_csv(tmp_path / "out.csv")["probability_1"].to_list() == [answer["probability"]["1"]]
