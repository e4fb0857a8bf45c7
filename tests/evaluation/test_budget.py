"""Budgets are measured in the product's own server, and its answers are those of the payload."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from shipworthy.bundle.deployment import write_payload
from shipworthy.bundle.format import LOOKUPS, LookupTable
from shipworthy.bundle.verify import MANIFEST, verify_payload
from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode
from shipworthy.evaluation.budget import count_wrong, measure_budget, request_documents
from shipworthy.evaluation.load import Load
from shipworthy.evaluation.measure import measure, run_policy
from shipworthy.gates.judge import judge
from shipworthy.kernel.errors import EvidenceError, UnavailableError


def test_the_real_server_is_measured_and_judged(contract: Contract, rows: Any, payload: Any, tmp_path: Path) -> None:
    directory = payload(tmp_path / "payload", contract)
    measured = measure_budget(contract, directory, rows(300), tmp_path / "work", seconds=1)
    assert measured.requests == 400
    assert measured.errors == measured.wrong == 0
    assert measured.rps == pytest.approx(400, rel=0.15)
    assert 0 < measured.p50_ms <= measured.p99_ms
    assert 20e6 < measured.memory_bytes < 300e6
    assert 0 < measured.cpu_seconds < 3
    assert measured.size_bytes == sum(
        path.stat().st_size for path in directory.iterdir() if path.name != "manifest.json"
    )
    evidence = measure(contract, directory, rows(300), baseline=np.array([0.5, 0.5]), budget=measured)
    outcomes = {verdict.gate: verdict.outcome for verdict in judge(contract, evidence)}
    assert outcomes["budget.memory"] == "pass"
    assert outcomes["budget.p99"] in ("pass", "insufficient")  # this machine may be busy
    worse = replace(evidence, budget=replace(measured, wrong=1))
    assert {v.gate: v.outcome for v in judge(contract, worse)}["budget.memory"] == "insufficient"


def test_an_answer_that_differs_from_the_payloads_is_counted(
    contract: Contract, rows: Any, payload: Any, tmp_path: Path
) -> None:
    verified = verify_payload(payload(tmp_path / "payload", contract))
    matrix = encode(contract, rows(3))
    probabilities = run_policy(verified, matrix).probability
    assert probabilities is not None

    def body(row: int, off: float = 0.0, source: str = "model") -> bytes:
        yes = probabilities[row, 1] + off
        answer = {"probability": {"no": 1 - yes, "yes": yes}, "source": source}
        return json.dumps(answer, separators=(",", ":")).encode()

    bodies = (body(0), body(1), body(2), body(0), body(1, 1e-3), body(2, 1e-3, "fallback"), b"refused")
    load = Load(np.ones(7), np.ones(7), np.array([200] * 6 + [503]), bodies, 1.0, 7.0)
    assert count_wrong(load, verified, matrix) == 1


def test_a_server_that_does_not_start_says_why(contract: Contract, rows: Any, payload: Any, tmp_path: Path) -> None:
    directory = payload(tmp_path / "payload", contract, weights=(1.0, 1.0))
    with pytest.raises(UnavailableError, match=r"the server did not start: .*model"):
        measure_budget(contract, directory, rows(10), tmp_path / "work")


def test_without_rows_nothing_is_sent(contract: Contract, rows: Any, payload: Any, tmp_path: Path) -> None:
    directory = payload(tmp_path / "payload", contract)
    with pytest.raises(EvidenceError, match="nothing can be sent"):
        measure_budget(contract, directory, rows(10).clear(), tmp_path / "work")


def test_requests_carry_what_the_rows_have(contract: Contract, rows: Any) -> None:
    frame = rows(2).with_columns(income=pl.Series([1.5, None]), sex=pl.Series([None, "male"]))
    first, second = request_documents(contract, frame)
    assert first == {
        "inputs": {"income": 1.5, "purpose": frame["purpose"][0], "children": frame["children"][0]},
        "context": {},
    }
    assert second["context"] == {"sex": "male"}
    assert "income" not in second["inputs"]  # type: ignore[operator]


def test_moments_are_sent_with_their_zone(changed: Any) -> None:
    contract = changed(context={"at": {"role": "time", "type": "datetime"}}, derived={})
    frame = pl.DataFrame({"at": [datetime(2026, 1, 2, 3, 4, tzinfo=UTC)], "income": [1.0], "purpose": ["buy"]})
    assert next(request_documents(contract, frame))["context"] == {"at": "2026-01-02T03:04:00+00:00"}


def looking_up(make: Any, payload: Any, folder: Path, table: LookupTable) -> tuple[Contract, Path]:
    """A contract whose incomes are looked up by purpose as of a time, and a payload of it."""
    sources = {"loans": {"path": "loans.csv"}, "incomes": {"path": "incomes.csv"}}
    lookups = {"incomes": {"key": ("purpose",), "time": "since", "delay": "1h", "age": {"at_most": "2h"}}}
    contract = make(
        data={"sources": sources, "lookups": lookups},
        context={"asked": {"role": "time", "type": "datetime"}},
        features={
            "income": {"type": "float", "range": (0.0, 50.0), "lookup": "incomes"},
            "purpose": {"type": "category", "values": ("buy", "renew")},
            "children": {"type": "int", "range": (0.0, 20.0)},
        },
        gates={"performance": {"log_loss": {"better_than": "baseline"}}},
    )
    bare = payload(folder / "bare", contract)
    files = {path.name: path.read_bytes() for path in bare.iterdir() if path.name != MANIFEST}
    write_payload(folder / "payload", "loans", "binary", {**files, LOOKUPS: msgspec.msgpack.encode({"incomes": table})})
    return contract, folder / "payload"


def test_what_is_looked_up_is_measured_as_the_tables_give_it_now(
    changed: Any, rows: Any, payload: Any, tmp_path: Path
) -> None:
    table = LookupTable(key=(["buy"],), times=[1_700_000_000_000_000], columns={"income": [7.5]})
    contract, directory = looking_up(changed, payload, tmp_path, table)
    test = rows(300).with_columns(asked=pl.lit(datetime(2020, 1, 1, tzinfo=UTC)))  # when the table knew nothing yet
    measured = measure_budget(contract, directory, test, tmp_path / "work", seconds=0.5)
    assert measured.errors == measured.wrong == 0  # those who renew find nothing, and are not sent


def test_tables_that_answer_no_test_row_are_said(changed: Any, rows: Any, payload: Any, tmp_path: Path) -> None:
    contract, directory = looking_up(
        changed, payload, tmp_path, LookupTable(key=([],), times=[], columns={"income": []})
    )
    test = rows(30).with_columns(asked=pl.lit(datetime(2020, 1, 1, tzinfo=UTC)))
    with pytest.raises(EvidenceError, match="none of 30 test rows finds what it needs in the tables of incomes"):
        measure_budget(contract, directory, test, tmp_path / "work")
