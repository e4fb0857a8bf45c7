"""Novelty, measured: how many ordinary test rows are taken for strangers, and how many strange ones are found."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from shipworthy.bundle.verify import VerifiedPayload
from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode, is_outside
from shipworthy.serving.novelty import Sentinel, load_sentinel
from shipworthy.stats.intervals import wilson_interval

TRIALS = 20  # of each kind: columns or pairs of them, drawn by the seed
ROWS = 500  # of each trial
FACTOR = 10.0  # of a unit that is wrong


@dataclass(frozen=True, slots=True)
class Strange:
    """What became of rows of one kind of fault."""

    rows: int  # that the fault changed
    refused: int  # by the contract's ranges
    flagged: int  # of the others, as out of distribution


@dataclass(frozen=True, slots=True)
class Found:
    """What a release's sentinel does on test rows."""

    share: float  # of ordinary rows, as declared
    handling: str
    rows: int
    flagged: int
    interval: tuple[float, float]  # of the share of ordinary rows that are flagged, 95 %
    swapped: Strange  # two numbers have changed places
    unit: Strange  # a number is ten times what it was
    far: Strange  # a number lies beyond all of the test rows, as far again as they reach

    def to_json(self) -> dict[str, Any]:
        """As a document."""
        return asdict(self)


def measure_novelty(contract: Contract, payload: VerifiedPayload, test: pl.DataFrame) -> Found | None:
    """What the payload's sentinel says of test rows, and of test rows with faults; None if it has none.

    Args:
        contract: names the features, their ranges and the seed.
        payload: what is served.
        test: accepted rows of the test part.
    """
    sentinel = load_sentinel(payload.baselines.novelty, payload.schema)
    if sentinel is None or payload.baselines.novelty is None or not test.height:
        return None
    flagged = len(sentinel.judge(encode(contract, test)))
    kinds = {name: _strange(contract, sentinel, test, name) for name in ("swapped", "unit", "far")}
    return Found(
        share=payload.baselines.novelty.share,
        handling=payload.policy.out_of_distribution,
        rows=test.height,
        flagged=flagged,
        interval=wilson_interval(flagged, test.height, 0.975),
        **kinds,
    )


def _strange(contract: Contract, sentinel: Sentinel, test: pl.DataFrame, kind: str) -> Strange:
    rows = refused = flagged = 0
    for broken, changed in _broken(contract, test, kind):
        outside = np.zeros(broken.height, dtype=np.bool_)
        for name in changed:
            feature = contract.features[name]
            if feature.range is not None:
                outside |= broken.select(is_outside(pl.col(name), feature.range)).to_series().to_numpy()
        rows += broken.height
        refused += int(outside.sum())
        left = broken.filter(pl.Series(~outside))
        flagged += len(sentinel.judge(encode(contract, left))) if left.height else 0
    return Strange(rows, refused, flagged)


def _broken(contract: Contract, test: pl.DataFrame, kind: str) -> Iterator[tuple[pl.DataFrame, list[str]]]:
    """Test rows with one fault in all of them, and the columns that it changed."""
    chance = np.random.default_rng(contract.training.seed)
    numbers = [name for name, feature in contract.features.items() if feature.type in ("float", "int")]
    plain = test.drop(contract.derived.keys(), strict=False).with_columns(pl.col(numbers).cast(pl.Float64))
    for _ in range(TRIALS if len(numbers) > 1 else 0):
        one, other = chance.choice(numbers, 2, replace=False).tolist()
        sample = plain.sample(min(ROWS, plain.height), seed=int(chance.integers(2**31)))
        if kind == "swapped":
            changed = sample.with_columns(pl.col(one).alias(other), pl.col(other).alias(one))
        elif kind == "unit":
            changed = sample.with_columns(pl.col(one) * FACTOR)
        else:
            known = plain[one].drop_nulls().to_numpy()
            reach = float(np.ptp(known)) if len(known) else 0.0
            changed = sample.with_columns(pl.lit(float(known.max(initial=0.0)) + (reach or 1.0)).alias(one))
        names = [one, other] if kind == "swapped" else [one]
        is_other = pl.any_horizontal(pl.col(name).ne_missing(sample[name]) for name in names)
        yield changed.filter(is_other), names
