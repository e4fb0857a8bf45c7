"""A small contract that each test changes where it needs to."""

import json
from typing import Any

import pytest

from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract

BASE: dict[str, Any] = {
    "shipworthy": 1,
    "system": "loans",
    "purpose": "test",
    "owner": "test",
    "risk": "minimal",
    "data": {"sources": {"loans": {"path": "loans.csv"}}},
    "features": {"income": {"type": "float", "range": [0, 1000]}},
    "target": {"column": "repaid", "type": "binary", "values": ["0", "1"], "positive": "1"},
    "training": {"entry": "train.py:train"},
    "decision": {"fallback": {"otherwise": "0"}},
    "gates": {"performance": {"log_loss": {"better_than": "baseline"}}},
    "environments": {"local": {}},
}
REGRESSION: dict[str, Any] = {
    "target": {"column": "repaid", "type": "regression"},
    "decision": {"fallback": {"otherwise": 0}},
    "gates": {"performance": {"mae": {"better_than": "baseline"}}},
}


def build(**sections: Any) -> Contract:
    """The base contract with `sections` in place of its own."""
    return parse_contract(json.dumps({**BASE, **sections}))


@pytest.fixture
def make():
    """Builds a contract."""
    return build


@pytest.fixture
def make_regression():
    """Builds a contract of a regression."""

    def made(**sections: Any) -> Contract:
        return build(**{**REGRESSION, **sections})

    return made
