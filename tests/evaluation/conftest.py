"""A small loan system: a contract, rows, and payloads with a hand-made logistic model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import polars as pl
import pytest
from onnx import TensorProto, helper

from shipworthy.bundle.deployment import write_payload
from shipworthy.bundle.format import Baselines, ColumnBaseline, Policy
from shipworthy.contract.types import Contract
from shipworthy.release.schema import compile_schema

WEIGHTS = (0.8, -1.0, -0.05)  # of income, purpose, ratio
BIAS = 0.3


def contract_of(**changes: Any) -> Contract:
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
        "features": {
            "income": {"type": "float", "range": (0.0, 50.0)},
            "purpose": {"type": "category", "values": ("buy", "renew")},
            "children": {"type": "int", "range": (0.0, 20.0)},
        },
        "derived": {"ratio": {"from": "100 * children / income", "type": "float"}},
        "target": {"column": "repaid", "type": "binary", "values": ("no", "yes"), "positive": "yes"},
        "training": {"entry": "train.py:train", "seed": 5},
        "decision": {"actions": {"yes": "approve", "no": "refer"}, "fallback": {"otherwise": "refer"}},
        "gates": {
            "performance": {"log_loss": {"better_than": "baseline"}},
            "fairness": {"demographic_parity_difference": {"at_most": 0.2}},
            "slices": {"by": ("purpose", "income"), "accuracy": {"at_least": 0.6}},
            "robustness": {"noise_sd": "1%", "flips": {"at_most": "5%"}},
            "budget": {"at_rps": 400, "p99": {"at_most": "500ms"}, "memory": {"at_most": "300MB"}},
        },
        "environments": {"local": {}},
    }
    return Contract.model_validate(given | changes)


def rows_of(rows: int = 1000, seed: int = 1) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame(
        {
            "income": rng.uniform(1, 10, rows),
            "purpose": rng.choice(["buy", "renew"], rows),
            "children": rng.integers(0, 5, rows),
            "sex": rng.choice(["female", "male"], rows),
        }
    )
    probability = 1 / (1 + np.exp(-logits(frame)))
    return frame.with_columns(repaid=pl.Series(np.where(rng.random(rows) < probability, "yes", "no")))


def logits(frame: pl.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    income, children = frame["income"].to_numpy(), frame["children"].to_numpy()
    renew = (frame["purpose"] == "renew").to_numpy()
    weighted = WEIGHTS[0] * income + WEIGHTS[1] * renew + WEIGHTS[2] * 100 * children / income + BIAS
    return np.asarray(weighted, dtype=np.float64)


def model_of(weights: tuple[float, ...], bias: float) -> bytes:
    """A logistic model as ONNX: probabilities of no and yes."""
    columns = len(weights)
    nodes = [
        helper.make_node("Gemm", ["features", "weights", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["yes"]),
        helper.make_node("Sub", ["one", "yes"], ["no"]),
        helper.make_node("Concat", ["no", "yes"], ["probabilities"], axis=1),
    ]
    constants = [
        helper.make_tensor("weights", TensorProto.FLOAT, [columns, 1], weights),
        helper.make_tensor("bias", TensorProto.FLOAT, [1], [bias]),
        helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "logistic",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [None, columns])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 2])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def payload_of(
    directory: Path,
    contract: Contract | None = None,
    *,
    weights: tuple[float, ...] = (WEIGHTS[0], WEIGHTS[1], 0.0, WEIGHTS[2]),
    bias: float = BIAS,
    **policy: Any,
) -> Path:
    contract = contract or contract_of()
    schema = compile_schema(contract)
    given: dict[str, Any] = {
        "task": "binary",
        "classes": ("no", "yes"),
        "positive": "yes",
        "actions": {"yes": "approve", "no": "refer"},
        "threshold": 0.5,
        "fallback_otherwise": "refer",
        "timeout_s": 1.0,
    }
    columns = tuple(ColumnBaseline(name=name, rows=1000, missing=0, reference=1.0) for name in schema.columns)
    files = {
        "model.onnx": model_of(weights, bias),
        "schema.json": msgspec.json.encode(schema),
        "policy.json": msgspec.json.encode(Policy(**(given | policy))),
        "baselines.json": msgspec.json.encode(Baselines(columns=columns)),
    }
    write_payload(directory, contract.system, "binary", files)
    return directory


@pytest.fixture
def contract() -> Contract:
    """The loan system's contract."""
    return contract_of()


@pytest.fixture
def changed() -> Callable[..., Contract]:
    """Makes the contract with other sections."""
    return contract_of


@pytest.fixture
def rows() -> Callable[..., pl.DataFrame]:
    """Makes accepted rows."""
    return rows_of


@pytest.fixture
def payload() -> Callable[..., Path]:
    """Makes a payload in a directory."""
    return payload_of
