"""A contract, a small ONNX model and what the calibrate part fixed, shared by the room's tests."""

from typing import Any

import numpy as np
import pytest

from shipworthy.bundle.format import Baselines, ColumnBaseline
from shipworthy.contract.parse import parse_contract
from shipworthy.training.graph import Graph, Layout

CONTRACT = """
shipworthy: 1
system: mortgage-approval
purpose: Approve a mortgage application at once, or refer it to an underwriter.
owner: lending
risk: high
data: {sources: {applications: {path: applications.csv}}}
context:
  application_id: {role: key, type: text, request: required}
  sex: {role: protected, type: category, values: [female, male], reference: male}
features:
  income: {type: float, unit: kUSD/month, range: [0, 1000], outside: reject}
  monthly_debt: {type: float, range: [0, 1000], outside: clip}
  loan_purpose: {type: category, values: [purchase, refinance], unknown: missing}
  note: {type: text, missing: allow}
derived:
  debt_ratio: {from: "100 * monthly_debt / income", type: float, unit: "%", range: [0, 300], outside: missing}
target: {column: repaid, type: binary, values: ["0", "1"], positive: "1", known_after: 30d}
training: {entry: "train.py:train", seed: 7, params: {learning_rate: 0.1}}
decision:
  actions: {"1": approve, "0": refer}
  threshold: {maximise: value}
  review: {confidence_below: 0.65, answer: refer}
  fallback: {rules: [{if: "debt_ratio > 45", then: refer}], otherwise: refer}
value: {unit: USD, approve: {"1": 900, "0": -4000}, refer: {"1": -60, "0": -60}}
gates: {performance: {log_loss: {better_than: baseline}}}
serving: {timeout: 200ms, reasons: 3}
environments: {local: {}}
"""


@pytest.fixture(scope="session")
def contract() -> Any:
    return parse_contract(CONTRACT)


@pytest.fixture(scope="session")
def model() -> bytes:
    graph = Graph(Layout(("income", "monthly_debt", "loan_purpose", "debt_ratio"), "binary", 2), double=True)
    graph.select([0, 1, 2, 3])
    graph.constant("weights", np.array([[0.1], [-0.1], [0.0], [0.0]]))
    graph.last = graph.op("MatMul", [graph.last, "weights"], "sum")
    graph.answer("sigmoid", 1)
    return graph.finish()


@pytest.fixture(scope="session")
def baselines() -> Baselines:
    return Baselines(columns=(ColumnBaseline(name="income", rows=3, missing=0, reference=4.0),))


@pytest.fixture(scope="session")
def calibrate() -> Any:
    """Probabilities of both classes and the truth, overconfident by a factor of two."""
    random = np.random.default_rng(4)
    logit = random.normal(1, 3, 5000)
    positive = 1 / (1 + np.exp(-logit))
    truth = (random.random(5000) < 1 / (1 + np.exp(-logit / 2))).astype(np.int64)
    return np.column_stack([1 - positive, positive]), truth
