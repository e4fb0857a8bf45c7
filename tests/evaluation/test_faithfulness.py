"""Served reasons held against exact ones: 1 where they must be the same, less where they are made to differ."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from shipworthy.bundle.verify import VerifiedPayload, verify_payload
from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode
from shipworthy.evaluation.faithfulness import measure_faithfulness, shares

SMALL = (0.002, -0.003, 0.0005, 0.0)  # of income, purpose, children, ratio: next to 0.5 a probability is linear
REFERENCE = np.array([[1.0, 1.0, 1.0, 100.0]], dtype=np.float32)  # what reasons set, and the ratio that follows


@pytest.fixture
def verified(payload: Callable[..., Path], tmp_path: Path) -> Callable[..., VerifiedPayload]:
    def make(**changes: Any) -> VerifiedPayload:
        return verify_payload(payload(tmp_path / "payload", **{"weights": SMALL, "bias": 0.0, "reasons": 2, **changes}))

    return make


def test_on_a_linear_model_and_its_own_reference_served_reasons_are_exact(
    contract: Contract, verified: Callable[..., VerifiedPayload], rows: Callable[..., pl.DataFrame]
) -> None:
    found = measure_faithfulness(contract, verified(), rows(800), REFERENCE)
    assert found is not None
    assert (found.rows, found.features, found.method, found.background_rows, found.top) == (
        500,
        3,
        "exact-linear",
        1,
        2,
    )
    assert found.rank_correlation == pytest.approx(1.0)
    assert (found.top_agreement, found.first_agreement, found.sign_agreement) == (1.0, 1.0, 1.0)
    assert found.to_json()["score"] == "raw score of yes, before link and calibration"


def test_a_background_beyond_all_rows_turns_every_sign(
    contract: Contract, verified: Callable[..., VerifiedPayload], rows: Callable[..., pl.DataFrame]
) -> None:
    frame = rows(300).filter((pl.col("income") > 2) & (pl.col("children") > 1) & (pl.col("purpose") == "buy"))
    far = np.array([[100.0, -50.0, 100.0, 100.0]], dtype=np.float32)
    found = measure_faithfulness(contract, verified(), frame, far)
    assert found is not None
    assert found.sign_agreement == 0.0


def test_reasons_of_another_model_do_not_agree(
    contract: Contract, verified: Callable[..., VerifiedPayload], rows: Callable[..., pl.DataFrame]
) -> None:
    """References that hide what matters: income never differs from its own."""
    good = verified()
    frame = rows(300).with_columns(income=pl.lit(5.0))
    columns = [msgspec.structs.replace(column, reference=5.0) for column in good.baselines.columns[:1]]
    baselines = msgspec.structs.replace(good.baselines, columns=(*columns, *good.baselines.columns[1:]))
    found = measure_faithfulness(contract, replace(good, baselines=baselines), frame, REFERENCE)
    assert found is not None
    assert found.first_agreement < 0.3
    assert found.rank_correlation < 0.8


def test_what_is_derived_counts_for_the_features_it_is_derived_from(changed: Callable[..., Contract]) -> None:
    contract = changed(
        derived={
            "ratio": {"from": "100 * children / income", "type": "float"},
            "twice": {"from": "2 * ratio", "type": "float"},
        }
    )
    assert shares(contract).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0, 0.5], [0.5, 0, 0.5]]


def test_where_no_reasons_are_given_nothing_is_compared(
    contract: Contract, verified: Callable[..., VerifiedPayload], rows: Callable[..., pl.DataFrame]
) -> None:
    assert measure_faithfulness(contract, verified(reasons=0), rows(), encode(contract, rows())) is None
