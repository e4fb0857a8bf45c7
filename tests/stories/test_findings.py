"""Questions about the data reach whoever ships: the terminal, the event and the card."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from shipworthy.faces.wiring import open_parts
from tests.stories.loans import CONTRACT, write_project


def test_what_is_found_is_asked_by_check_and_ship_and_stands_in_event_and_card(
    tmp_path: Path, shipworthy: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = write_project(tmp_path / "loans")
    loans = pl.read_csv(folder / "loans.csv")
    coded = pl.when(pl.int_range(pl.len()) % 100 == 0).then(999).otherwise("debt").alias("debt")
    loans.with_columns(coded, cents=pl.col("income") * 100).write_csv(folder / "loans.csv")
    text = CONTRACT.replace("  debt: {", "  cents: {type: float}\n  debt: {")
    (folder / "shipworthy.yaml").write_text(text)
    checked = shipworthy("check", "--project", folder)
    assert "??  duplicate: cents: says what income says, in every row; leave one out" in checked.out
    shipped = shipworthy("ship", "--project", folder)
    question = "debt: 999 in 30 of 3,000 rows, far from all others (0"
    assert f"?? {question}" in shipped.out
    again = shipworthy("ship", "--project", folder, "--json").document
    assert [(finding["kind"], finding["columns"]) for finding in again["findings"]] == [
        ("duplicate", ["income", "cents"]),
        ("sentinel", ["debt"]),
    ]
    assert f"- question: {question}" in shipworthy("card", "--project", folder).out
    with open_parts(folder) as parts:
        assert parts.ledger.snapshots()[-1]["findings"] == again["findings"]
