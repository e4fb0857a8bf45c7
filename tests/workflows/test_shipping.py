"""Shipping: what a ledger knows is used again, but not a budget that a busy machine may have missed."""

from pathlib import Path

import pytest

from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.faces.wiring import open_parts
from shipworthy.workflows.shipping import Shipping
from tests.stories.loans import CONTRACT

VERDICTS = (
    ("performance.log_loss", "fail", 1),
    ("budget.p99", "pass", 1),
    ("budget.p99", "fail", 2),
    ("budget.p99", "insufficient", 1),
)


@pytest.mark.parametrize(("gate", "outcome", "times"), VERDICTS)
def test_only_a_missed_budget_is_measured_anew(
    gate: str, outcome: str, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "shipworthy.yaml").touch()
    done: list[str] = []

    def judge() -> dict[str, object]:
        done.append(gate)
        return {"verdicts": [{"gate": gate, "outcome": outcome}]}

    with open_parts(tmp_path) as parts:
        shipping = Shipping(parts, Contract.model_construct(), "", lambda *_: None, {}, [])
        for _ in range(2):
            shipping.stage("gates", {"payload": "sha256:1"}, judge)
    assert len(done) == times


def test_how_long_versions_stay_is_no_reason_to_do_anything_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "shipworthy.yaml").touch()
    kept = CONTRACT.replace("accept:", "keep: {versions: 3}\n  accept:")
    with open_parts(tmp_path) as parts:
        plain, keeping = (
            Shipping(parts, parse_contract(text), "", lambda *_: None, {}, []).sections("ingest")
            for text in (CONTRACT, kept)
        )
    assert kept != CONTRACT
    assert plain == keeping
