"""Quality: how the columns of a snapshot are distributed, and the baselines that monitors compare with."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.bundle.format import Baselines, ColumnBaseline
from shipworthy.contract.types import Contract
from shipworthy.kernel.digest import Json
from shipworthy.stats.profile import histogram, profile, quantile_edges

SHOWN_VALUES = 20  # of the most frequent values of a text column


def profile_frame(frame: pl.DataFrame) -> dict[str, Json]:
    """Profile of each column, ready for JSON: rows, missing, distinct, then by its type.

    Numbers have moments, quantile edges and counts; texts and bools their most frequent values; datetimes the
    first and last.
    """
    return {series.name: _profile(series) for series in frame}


def build_baselines(
    contract: Contract, matrix: NDArray[np.float32], scores: NDArray[np.floating] | None = None
) -> Baselines:
    """How the model's inputs were distributed in training rows.

    Args:
        contract: gives the columns and their categories.
        matrix: shape (n, columns) as `columns.encode` makes it.
        scores: shape (n,), what the model's score was on them, if known.
    """
    edges = quantile_edges(scores.astype(np.float64)) if scores is not None and len(scores) else ()
    return Baselines(
        columns=tuple(_baseline(contract, name, matrix[:, at]) for at, name in enumerate(contract.model_columns)),
        score_edges=edges,
        score_counts=histogram(scores, edges) if scores is not None and edges else (),
    )


def _profile(series: pl.Series) -> dict[str, Json]:
    found: dict[str, Json] = {
        "type": str(series.dtype),
        "rows": len(series),
        "missing": series.null_count(),
        "distinct": series.drop_nulls().n_unique(),
    }
    if series.dtype.is_numeric():
        numbers = profile(series.cast(pl.Float64).fill_null(float("nan")).to_numpy())
        described = dataclasses.asdict(numbers)
        return {**described, **found, "edges": list(numbers.edges), "counts": list(numbers.counts)}
    if series.dtype.is_temporal():
        return {**found, "first": _text(series.min()), "last": _text(series.max())}
    return {**found, "most_frequent": dict(_frequent(series))}


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _frequent(series: pl.Series) -> Iterator[tuple[str, int]]:
    counts = (
        series.drop_nulls()
        .cast(pl.String)
        .value_counts(name="rows")
        .sort("rows", series.name, descending=[True, False])
    )
    for value, rows in counts.head(SHOWN_VALUES).iter_rows():
        yield value[:100], rows


def _baseline(contract: Contract, name: str, values: NDArray[np.float32]) -> ColumnBaseline:
    known = values[~np.isnan(values)]
    missing = len(values) - len(known)
    feature = contract.features.get(name)
    if feature is not None and feature.type == "category":
        counts = np.bincount(known.astype(np.int64), minlength=len(feature.values or ()))
        return ColumnBaseline(
            name=name,
            rows=len(values),
            missing=missing,
            reference=float(counts.argmax()) if len(known) else None,
            counts=tuple(counts.tolist()),
        )
    described = profile(values)
    return ColumnBaseline(
        name=name,
        rows=len(values),
        missing=missing,
        reference=described.median,
        mean=described.mean,
        sd=described.sd,
        edges=described.edges,
        counts=described.counts,
    )
