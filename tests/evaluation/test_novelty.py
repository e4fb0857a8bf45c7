"""What a release's sentinel finds: ordinary rows as often as declared, and rows that were made strange."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from shipworthy.bundle.deployment import write_payload
from shipworthy.bundle.format import Baselines, Novelty, Policy
from shipworthy.bundle.verify import VerifiedPayload, verify_payload
from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode
from shipworthy.data.novelty import fit_novelty
from shipworthy.evaluation.novelty import measure_novelty
from shipworthy.kernel.errors import EvidenceError
from shipworthy.release.schema import compile_schema
from tests.evaluation.conftest import BIAS, model_of

DECISION = {
    "actions": {"yes": "approve", "no": "refer"},
    "fallback": {"otherwise": "refer"},
    "out_of_distribution": {"handling": "review", "share": "1%"},
}


@pytest.fixture
def asked(changed: Callable[..., Contract]) -> Contract:
    """The contract with two numbers in step, and their novelty asked for."""
    feature = {"type": "float", "range": (0.0, 60.0)}
    features = {"income": feature, "price": {**feature, "range": (0.0, 4000.0)}, "age": {"type": "int"}}
    return changed(
        decision=DECISION,
        features=features,
        derived={},
        context={},
        gates={"performance": {"log_loss": {"better_than": "baseline"}}},
    )


def rows_of(rows: int, seed: int) -> pl.DataFrame:
    chance = np.random.default_rng(seed)
    income = chance.uniform(1, 50, rows)
    price = income * 50 + chance.normal(0, 20, rows)
    return pl.DataFrame({"income": income, "price": np.clip(price, 0, 4000), "age": chance.integers(20, 70, rows)})


def payload(folder: Path, contract: Contract, novelty: Novelty | None) -> VerifiedPayload:
    policy = Policy(
        task="binary",
        classes=("no", "yes"),
        fallback_otherwise="refer",
        timeout_s=1.0,
        out_of_distribution="off" if novelty is None else "review",
    )
    files = {
        "model.onnx": model_of((0.1, 0.0, 0.0), BIAS),
        "schema.json": msgspec.json.encode(compile_schema(contract)),
        "policy.json": msgspec.json.encode(policy),
        "baselines.json": msgspec.json.encode(Baselines(columns=(), novelty=novelty)),
    }
    write_payload(folder, contract.system, "binary", files)
    return verify_payload(folder)


def test_ordinary_rows_are_flagged_as_declared_and_strange_ones_found(asked: Contract, tmp_path: Path) -> None:
    train, held, test = (encode(asked, rows_of(rows, seed)) for rows, seed in ((5000, 1), (2000, 2), (1, 3)))
    novelty = fit_novelty(asked, train, held)
    assert novelty is not None
    assert (novelty.share, novelty.rows, len(novelty.columns)) == (0.01, 2000, 3)
    assert novelty == fit_novelty(asked, train, held)
    found = measure_novelty(asked, payload(tmp_path / "p", asked, novelty), rows_of(4000, 4))
    assert found is not None
    low, high = found.interval
    assert low < 0.01 < high
    assert (found.rows, found.handling) == (4000, "review")
    for fault in (found.swapped, found.unit, found.far):
        assert fault.rows > 5000
        assert fault.flagged > 0.8 * (fault.rows - fault.refused)
    assert found.far.refused > 0  # an income of 100 is beyond its range
    assert test.shape == (1, 3)


def test_rows_with_nothing_to_tell_them_by_are_not_told(asked: Contract, tmp_path: Path) -> None:
    """Numbers without relation and without end: what is swapped among them is as ordinary as before."""
    chance = np.random.default_rng(5)
    frame = pl.DataFrame({name: chance.uniform(1, 50, 6000) for name in ("income", "price")})
    frame = frame.with_columns(age=pl.Series(chance.uniform(1, 50, 6000).astype(int)))
    matrix = encode(asked, frame)
    novelty = fit_novelty(asked, matrix[:4000], matrix[4000:])
    found = measure_novelty(asked, payload(tmp_path / "p", asked, novelty), frame[4000:])
    assert found is not None
    assert found.swapped.flagged < 0.03 * found.swapped.rows


def test_what_is_not_asked_for_is_neither_fitted_nor_measured(changed: Callable[..., Contract], tmp_path: Path) -> None:
    contract = changed(
        derived={},
        features={"income": {"type": "float"}},
        context={},
        gates={"performance": {"log_loss": {"better_than": "baseline"}}},
    )
    matrix: Any = np.ones((5, 1), dtype=np.float32)
    assert fit_novelty(contract, matrix, matrix) is None
    folder = tmp_path / "p"
    files = {"model.onnx": model_of((0.1,), BIAS), "schema.json": msgspec.json.encode(compile_schema(contract))}
    policy = Policy(task="binary", classes=("no", "yes"), fallback_otherwise="refer", timeout_s=1.0)
    files |= {"policy.json": msgspec.json.encode(policy), "baselines.json": msgspec.json.encode(Baselines(columns=()))}
    write_payload(folder, contract.system, "binary", files)
    assert measure_novelty(contract, verify_payload(folder), pl.DataFrame({"income": [1.0]})) is None


def test_without_held_out_rows_there_is_no_limit(asked: Contract) -> None:
    matrix = encode(asked, rows_of(10, 1))
    with pytest.raises(EvidenceError, match=r"no rows, which decision.out_of_distribution needs .* training.split"):
        fit_novelty(asked, matrix, matrix[:0])
