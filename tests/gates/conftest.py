"""Evidence and contracts that the gates' tests share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shipworthy.contract.types import Contract
from shipworthy.gates.evidence import Evidence
from shipworthy.stats.estimates import Answers

Make = Callable[..., Any]


def _binary(rows: int = 2000, *, signal: float = 1.5, seed: int = 0, **changes: Any) -> Evidence:
    """Calibrated answers whose log odds have standard deviation `signal`; 0 is pure noise."""
    rng = np.random.default_rng(seed)
    logits = signal * rng.normal(size=rows)
    positive = 1 / (1 + np.exp(-logits))
    truth = (rng.random(rows) < positive).astype(np.int64)
    labels = (positive >= 0.5).astype(np.int64)
    given: dict[str, Any] = {
        "task": "binary",
        "classes": ("no", "yes"),
        "positive": 1,
        "truth": truth,
        "answers": Answers(np.stack([1 - positive, positive], axis=1), labels),
        "baseline": np.array([0.5, 0.5]),
        "decisions": labels,
        "actions": ("refer", "approve"),
    }
    return Evidence(**(given | changes))


def _contract(**changes: Any) -> Contract:
    given: dict[str, Any] = {
        "shipworthy": 1,
        "system": "loans",
        "purpose": "Approve loans.",
        "owner": "lending",
        "risk": "high",
        "data": {"sources": {"loans": {"path": "loans.csv"}}},
        "context": {
            "sex": {"role": "protected", "type": "category", "values": ("female", "male"), "reference": "male"},
        },
        "features": {"income": {"type": "float"}},
        "target": {"column": "repaid", "type": "binary", "values": ("no", "yes"), "positive": "yes"},
        "training": {"entry": "train.py:train"},
        "decision": {"actions": {"yes": "approve", "no": "refer"}, "fallback": {"otherwise": "refer"}},
        "value": {"unit": "USD", "approve": {"yes": 900.0, "no": -4000.0}, "refer": {"yes": -60.0, "no": -60.0}},
        "gates": {"performance": {"log_loss": {"better_than": "baseline"}}},
        "environments": {"local": {}, "production": {"approvals": {"risk": 1}}},
    }
    return Contract.model_validate(given | changes)


@pytest.fixture
def binary() -> Make:
    """Makes evidence of a binary system."""
    return _binary


@pytest.fixture
def contract() -> Make:
    """Makes a contract, its sections replaced by the keywords."""
    return _contract
