"""A small contract, windows of plain numbers, and records on a real disk."""

import itertools
import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from shipworthy.bundle.format import Baselines
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode
from shipworthy.data.quality import build_baselines
from shipworthy.monitoring.windows import model_rows
from shipworthy.records.format import Record
from shipworthy.records.write import SegmentWriter

BASE: dict[str, Any] = {
    "shipworthy": 1,
    "system": "loans",
    "purpose": "Approve a loan at once, or refer it.",
    "owner": "lending",
    "risk": "high",
    "data": {"sources": {"loans": {"path": "loans.csv"}}},
    "context": {
        "loan": {"role": "key", "type": "text"},
        "person": {"role": "subject", "type": "int"},
        "asked": {"role": "time", "type": "datetime", "zone": "Europe/Vienna"},
        "sex": {"role": "protected", "type": "category", "values": ["f", "m"], "reference": "m"},
    },
    "features": {
        "age": {"type": "float", "unit": "years", "missing": "allow"},
        "income": {"type": "float", "unit": "EUR", "missing": "allow"},
        "purpose": {"type": "category", "values": ["car", "home", "school"], "unknown": "missing"},
        "owner": {"type": "bool"},
    },
    "derived": {"burden": {"from": "1000 * age / income", "type": "float"}},
    "target": {"column": "repaid", "type": "binary", "values": ["0", "1"], "positive": "1"},
    "training": {"entry": "train.py:train"},
    "decision": {"actions": {"1": "approve", "0": "refer"}, "fallback": {"otherwise": "refer"}},
    "value": {"unit": "EUR", "approve": {"1": 100, "0": -400}, "refer": {"1": -10, "0": -10}},
    "gates": {"performance": {"log_loss": {"better_than": "baseline"}}},
    "monitor": {"every": "1d", "rows": {"at_least": 500}, "false_alarms": {"at_most": 1, "per": "90d"}},
}


def build(**sections: Any) -> Contract:
    """The base contract with `sections` in place of its own."""
    return parse_contract(json.dumps({**BASE, **sections}))


def people(rows: int, seed: int) -> dict[str, Any]:
    """Applicants whose distribution never changes."""
    rng = np.random.default_rng(seed)
    age = rng.normal(40, 11, rows)
    income = rng.lognormal(8, 0.5, rows)
    return {
        "age": np.where(rng.random(rows) < 0.01, np.nan, age),
        "income": income,
        "purpose": rng.choice(["car", "home", "school"], rows, p=[0.5, 0.3, 0.2]),
        "owner": rng.random(rows) < 0.3,
        "score": 1 / (1 + np.exp(-(0.05 * (age - 40) + rng.normal(0, 1, rows)))),
    }


def window(columns: dict[str, Any], release: str = "loans:1") -> pl.DataFrame:
    """A window as the journal makes it, of the columns that drift reads."""
    rows = len(columns["age"])
    sent = {f"inputs.{name}": values for name, values in columns.items() if name != "score"}
    return pl.DataFrame({**sent, "score": columns["score"], "release": [release] * rows}).with_columns(
        pl.col("inputs.age", "inputs.income").fill_nan(None),
        pl.lit(None, pl.Datetime("us", "UTC")).alias("context.asked"),
        pl.lit(None, pl.String).alias("context.sex"),
    )


def reference(contract: Contract, rows: int = 20_000, seed: int = 0) -> Baselines:
    """The baselines of training rows of the same people."""
    return baselines_of(contract, window(people(rows, seed)))


def baselines_of(contract: Contract, trained: pl.DataFrame) -> Baselines:
    """The baselines of training rows."""
    matrix = encode(contract, model_rows(contract, trained))
    return build_baselines(contract, matrix, trained["score"].to_numpy())


def write_segment(directory: Path, worker: str, items: Iterable[msgspec.Struct]) -> None:
    """Append records or outcomes as a worker does."""
    writer = SegmentWriter(directory, "local", worker, now=time.time, monotonic=time.monotonic)
    writer.append([msgspec.msgpack.encode(item) for item in items], sync=False)
    writer.close()


@pytest.fixture
def contract() -> Contract:
    """A binary system with a value table."""
    return build()


@pytest.fixture
def record() -> Callable[..., Record]:
    """Makes a record, each with its own prediction's id."""
    numbers = itertools.count()

    def make(**changes: Any) -> Record:
        given: dict[str, Any] = {
            "prediction_id": f"p_{next(numbers):026d}",
            "time": 1000.0,
            "system": "loans",
            "release": "loans:1",
            "environment": "local",
            "worker": "w",
            "inputs": {"age": 40, "income": 3000.0, "purpose": "car", "owner": True},
            "prediction": "1",
            "probability": {"0": 0.25, "1": 0.75},
            "confidence": 0.75,
            "decision": "approve",
            "latency_ms": 2.0,
        }
        return Record(**(given | changes))

    return make
