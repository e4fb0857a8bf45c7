"""Noise moves numbers a little, and nothing else."""

from typing import Any

import polars as pl
import pytest

from shipworthy.contract.types import Contract
from shipworthy.data.columns import derive
from shipworthy.evaluation.perturb import noisy


def test_noise_is_a_share_of_each_columns_spread(contract: Contract, rows: Any) -> None:
    frame = rows(20_000)
    moved = noisy(contract, frame, noise_sd=0.1, seed=1)
    assert (moved["income"] - frame["income"]).std() == pytest.approx(0.1 * frame["income"].std(), rel=0.05)
    for untouched in ("purpose", "sex", "repaid"):
        assert moved[untouched].equals(frame[untouched])


def test_noise_keeps_types_ranges_and_missing_values(contract: Contract, rows: Any) -> None:
    frame = rows(2000).with_columns(income=pl.when(pl.col("income") > 2).then("income"))
    moved = noisy(contract, frame, noise_sd=5, seed=1)
    assert moved.schema == frame.schema
    assert moved["income"].is_null().equals(frame["income"].is_null())
    assert (moved["income"].drop_nulls() >= 0).all()
    assert moved["children"].is_between(0, 20).all()


def test_derived_columns_follow_the_noise(contract: Contract, rows: Any) -> None:
    frame = derive(contract, rows(200))
    moved = noisy(contract, frame, noise_sd=0.1, seed=1)
    assert "ratio" not in moved.columns


def test_no_noise_changes_nothing_and_a_seed_gives_the_same_noise(contract: Contract, rows: Any) -> None:
    frame = rows(100)
    assert noisy(contract, frame, noise_sd=0, seed=1).equals(frame)
    once, again, other = (noisy(contract, frame, noise_sd=0.1, seed=seed) for seed in (1, 1, 2))
    assert once.equals(again)
    assert not once.equals(other)


def test_a_constant_column_stays_constant(contract: Contract, rows: Any) -> None:
    frame = rows(1).with_columns(income=pl.lit(4.0))
    assert noisy(contract, frame, noise_sd=1, seed=1)["income"].to_list() == [4.0]
