"""Rows made noisy, as a slightly different measurement of the same case would be."""

import numpy as np
import polars as pl

from shipworthy.contract.types import Contract


def noisy(contract: Contract, frame: pl.DataFrame, *, noise_sd: float, seed: int) -> pl.DataFrame:
    """`frame` with normal noise on each feature that is a number, and without its derived columns.

    A value stays within the feature's range, an int stays an int (small noise may round away), a missing value
    stays missing. Derived columns are left out so that they are computed again from the noisy features.

    Args:
        contract: names the features, their types and ranges.
        frame: accepted rows.
        noise_sd: of the noise, as a share of each feature's own standard deviation; >= 0.
        seed: of the noise.
    """
    rng = np.random.default_rng(seed)
    columns = []
    for name, feature in contract.features.items():
        if feature.type not in ("float", "int"):
            continue
        values = frame[name].cast(pl.Float64)
        spread = values.std()
        noise = noise_sd * (float(spread) if isinstance(spread, float) else 0.0) * rng.standard_normal(frame.height)
        moved = values + pl.Series(noise)
        if feature.range is not None:
            moved = moved.clip(*feature.range)
        if feature.type == "int":
            moved = moved.round()
        columns.append(moved.cast(frame[name].dtype).alias(name))
    kept = [name for name in frame.columns if name not in contract.derived]
    return frame.select(kept).with_columns(columns)
