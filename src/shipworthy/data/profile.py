"""Profile: what each column of a table holds, in parts that merge, so that tables of any size have one.

Exact are rows, missing values, least, most, moments, and histograms with fixed edges; with the edges of an earlier
profile the histories of both compare. Quantiles (KLL) and large numbers of distinct values (the smallest hashes) are
estimates, and said to be: no test is made on them.
"""

import math
from base64 import b64decode, b64encode
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from datasketches import kll_doubles_sketch
from numpy.typing import NDArray

from shipworthy.kernel.digest import Json
from shipworthy.stats.profile import Moments, merge_counts, quantile_edges

SHOWN_VALUES = 50  # of the most frequent values of a text column
KEPT_VALUES = 1_000  # counted while parts are merged
SHOWN_CHARACTERS = 100  # of a value
EDGE_ROWS = 100_000  # from which edges are taken where none are given: quantiles of 0.1 % have 100 rows beside them
SHOWN_QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)  # farther out a sketch of this size says nothing
KLL_K = 200  # rank error 1.3 % with 99 % confidence, 5 kB
SMALLEST_HASHES = 512  # distinct values are exact below, 4.4 % off (one sd) above; 4 kB
_HASHES = f"polars {pl.__version__}"  # whose hashes are the same in one version only

Edges = Mapping[str, tuple[float, ...]]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class ColumnProfile:
    """What one column holds. Nothing beyond counts of a personal one."""

    type: str  # as polars names it
    rows: int
    missing: int
    hashes: Hashes  # the smallest ones of distinct values, ascending; as many as there are, or SMALLEST_HASHES
    moments: Moments | None = None  # of a number
    edges: tuple[float, ...] = ()  # of a number, ascending
    counts: tuple[int, ...] = ()  # len(edges) + 1 bins, the outer ones open
    sketch: bytes = b""  # KLL of a number
    first: str | None = None  # of a time
    last: str | None = None
    values: Mapping[str, int] | None = None  # of text, bool: rows of each, or of KEPT_VALUES of the most frequent
    are_all_values: bool = True
    is_personal: bool = False
    hashed_by: str = _HASHES

    @property
    def distinct(self) -> int | None:
        """How many values there are, exact where `is_distinct_exact`; None where parts were hashed differently."""
        if not self.hashed_by:
            return None
        if self.is_distinct_exact:
            return len(self.hashes)
        estimate = round((SMALLEST_HASHES - 1) / (int(self.hashes[-1]) / 2**64))
        return min(estimate, self.rows - self.missing)

    @property
    def is_distinct_exact(self) -> bool:
        """Whether every distinct value was counted."""
        return len(self.hashes) < SMALLEST_HASHES

    def quantiles(self) -> dict[str, float]:
        """Estimated quantiles by their share, such as `0.5`; empty without a number."""
        if not self.sketch or self.moments is None or not self.moments.count:
            return {}
        found = kll_doubles_sketch.deserialize(self.sketch).get_quantiles(list(SHOWN_QUANTILES))
        return {f"{share:g}": float(value) for share, value in zip(SHOWN_QUANTILES, found, strict=True)}

    def merge(self, other: "ColumnProfile") -> "ColumnProfile":
        """The profile of both columns' rows.

        Raises:
            EvidenceError: their histograms have other edges.
        """
        hashed_by = self.hashed_by if self.hashed_by == other.hashed_by and self.type == other.type else ""
        merged = replace(
            self,
            rows=self.rows + other.rows,
            missing=self.missing + other.missing,
            hashes=_smallest(np.concatenate([self.hashes, other.hashes])),
            hashed_by=hashed_by,
            is_personal=self.is_personal or other.is_personal,
        )
        if self.moments is not None and other.moments is not None:
            merged = replace(
                merged,
                moments=self.moments.merge(other.moments),
                counts=merge_counts((self.edges, self.counts), (other.edges, other.counts)),
                sketch=_merge_sketches(self.sketch, other.sketch),
            )
        if self.values is not None and other.values is not None:
            names = {**self.values, **other.values}
            larger = self if self.rows >= other.rows else other
            if not larger.values and not larger.are_all_values:  # too many were there to be counted
                names = {}
            counted = {name: self.values.get(name, 0) + other.values.get(name, 0) for name in names}
            merged = replace(
                merged,
                values=_most_frequent(counted),
                are_all_values=self.are_all_values and other.are_all_values and len(counted) <= KEPT_VALUES,
            )
        firsts = [text for text in (self.first, other.first) if text is not None]
        lasts = [text for text in (self.last, other.last) if text is not None]
        return replace(merged, first=min(firsts, default=None), last=max(lasts, default=None))

    def to_json(self) -> dict[str, Json]:
        """What is known of the column, as JSON; a number that is not finite is null."""
        found: dict[str, Json] = {
            "type": self.type,
            "rows": self.rows,
            "missing": self.missing,
            "distinct": self.distinct,
            "distinct_exact": self.is_distinct_exact,
        }
        if self.is_personal:
            return {**found, "personal": True}
        if self.moments is not None:
            known = self.moments.count > 0
            quantiles = {share: _finite(value) for share, value in self.quantiles().items()}
            return {
                **found,
                "mean": _finite(self.moments.mean) if known else None,
                "sd": _finite(self.moments.sd) if known else None,
                "least": _finite(self.moments.least) if known else None,
                "most": _finite(self.moments.most) if known else None,
                "median": quantiles.get("0.5"),
                "quantiles": dict(quantiles),
                "edges": list(self.edges),
                "counts": list(self.counts),
            }
        if self.values is not None:
            shown = dict(list(self.values.items())[:SHOWN_VALUES])
            whole = self.are_all_values and len(self.values) <= SHOWN_VALUES
            return {**found, "most_frequent": shown, "all_values": whole}
        return {**found, "first": self.first, "last": self.last}


Profile = Mapping[str, ColumnProfile]


def profile_frame(frame: pl.DataFrame, edges: Edges | None = None, personal: Collection[str] = ()) -> Profile:
    """The profile of each column of `frame`; NaN is missing.

    Args:
        frame: any table.
        edges: of the histograms, by column; those of the rows themselves where none are given.
        personal: columns of which only counts are kept.
    """
    known = {name: tuple(given) for name, given in (edges or {}).items()}
    numbers = [name for name in frame.columns if name not in personal and frame.schema[name].is_numeric()]
    known |= {name: _edges(frame[name]) for name in numbers if name not in known}
    facts = _facts(frame, numbers, known)
    return {
        series.name: _column(series, facts[at], known.get(series.name, ()), series.name in personal)
        for at, series in enumerate(frame)
    }


def merge_profiles(parts: Iterable[Profile]) -> Profile:
    """The profile of all rows of tables with the same columns.

    Raises:
        EvidenceError: their histograms have other edges: give each part those of the first (`edges_of`).
    """
    merged: dict[str, ColumnProfile] = {}
    for part in parts:
        merged = {name: merged[name].merge(column) if name in merged else column for name, column in part.items()}
    return merged


def profile_batches(
    batches: Iterable[pl.DataFrame], edges: Edges | None = None, personal: Collection[str] = ()
) -> Profile:
    """The profile of rows that come some at a time; edges that are not given are those of the first batch."""
    return merge_profiles(_profiled(batches, edges, personal))


def edges_of(profile: Profile) -> dict[str, tuple[float, ...]]:
    """The histograms' edges, by column."""
    return {name: column.edges for name, column in profile.items() if column.edges}


def profile_json(profile: Profile) -> dict[str, Json]:
    """The profile as a JSON document, by column."""
    return {name: column.to_json() for name, column in profile.items()}


def pack_profile(profile: Profile) -> dict[str, Json]:
    """The profile whole, as JSON: what `unpack_profile` reads, so that it can be merged with that of other rows."""
    return {name: _pack(column) for name, column in profile.items()}


def unpack_profile(document: Mapping[str, Any]) -> Profile:
    """What `pack_profile` wrote."""
    return {name: _unpack(found) for name, found in document.items()}


def _profiled(batches: Iterable[pl.DataFrame], edges: Edges | None, personal: Collection[str]) -> Iterator[Profile]:
    known = dict(edges or {})
    for batch in batches:
        found = profile_frame(batch, known, personal)
        known = {**edges_of(found), **known}
        yield found


def _edges(series: pl.Series) -> tuple[float, ...]:
    sample = series.gather_every(max(1, len(series) // EDGE_ROWS)).drop_nulls().cast(pl.Float64).to_numpy()
    finite = sample[np.isfinite(sample)]
    return quantile_edges(finite) if len(finite) else ()


def _facts(frame: pl.DataFrame, numbers: Collection[str], edges: Edges) -> list[dict[str, Any]]:
    """The exact figures of each column, all in one pass of the engine."""
    wanted: dict[str, pl.Expr] = {}
    for at, (name, kind) in enumerate(frame.schema.items()):
        values = _known(pl.col(name), kind)
        own = {"missing": values.null_count()}
        if _has_hashes(kind):
            own["distinct"] = values.approx_n_unique()
        if name in numbers:
            number = values.cast(pl.Float64)
            own |= {"least": number.min(), "most": number.max(), "mean": number.mean(), "variance": number.var(ddof=0)}
            own |= {str(place): (number >= edge).sum() for place, edge in enumerate(edges[name])}
        elif kind.is_temporal():
            own |= {"first": values.min().cast(pl.String), "last": values.max().cast(pl.String)}
        wanted |= {f"{at}:{word}": found for word, found in own.items()}
    facts: list[dict[str, Any]] = [{} for _ in range(frame.width)]
    for key, value in frame.lazy().select(**wanted).collect().row(0, named=True).items() if wanted else ():
        place, _, word = key.partition(":")
        facts[int(place)][word] = value
    return facts


def _known(values: pl.Expr, kind: pl.DataType) -> pl.Expr:
    return values.fill_nan(None) if kind.is_float() else values


def _has_hashes(kind: pl.DataType) -> bool:
    return not kind.is_nested() and kind not in (pl.Object, pl.Null)


def _column(series: pl.Series, facts: Mapping[str, Any], edges: tuple[float, ...], is_personal: bool) -> ColumnProfile:
    kind = series.dtype
    known = series.to_frame().select(_known(pl.col(series.name), kind).drop_nulls()).to_series()
    found = ColumnProfile(
        type=str(kind),
        rows=len(series),
        missing=int(facts["missing"]),
        hashes=_hashes(known, int(facts.get("distinct", 0))),
        is_personal=is_personal,
        hashed_by=_HASHES if _has_hashes(kind) or kind == pl.Null else "",
    )
    if is_personal:
        return found
    if kind.is_numeric():
        above = [len(known), *(int(facts[str(place)]) for place in range(len(edges))), 0]
        counts = tuple(int(count) for count in -np.diff(above)) if edges else ()
        return replace(found, moments=_moments(facts, len(known)), edges=edges, counts=counts, sketch=_sketch(known))
    if kind.is_temporal():
        return replace(found, first=facts["first"], last=facts["last"])
    if not _has_hashes(kind):
        return found
    if facts["distinct"] > max(KEPT_VALUES, len(known) / 2):  # hardly a value comes twice: to count them tells nothing
        return replace(found, values={}, are_all_values=False)
    counted = _counted(known)
    return replace(found, values=_most_frequent(counted), are_all_values=len(counted) <= KEPT_VALUES)


def _moments(facts: Mapping[str, Any], count: int) -> Moments:
    if not count:
        return Moments()
    return Moments(count, facts["mean"], facts["variance"] * count, facts["least"], facts["most"])


def _sketch(known: pl.Series) -> bytes:
    sketch = kll_doubles_sketch(KLL_K)
    sketch.update(known.cast(pl.Float64).to_numpy(writable=True))  # it refuses views
    return bytes(sketch.serialize())


def _merge_sketches(first: bytes, second: bytes) -> bytes:
    merged = kll_doubles_sketch.deserialize(first)
    merged.merge(kll_doubles_sketch.deserialize(second))
    return bytes(merged.serialize())


def _hashes(known: pl.Series, about: int) -> Hashes:
    """The smallest hashes of distinct values; `about` how many there are, so that most need not be sorted.

    Source: Bar-Yossef et al. (2002), doi:10.1007/3-540-45726-7_1: the k-th smallest of n uniform hashes lies near k/n.
    """
    if not len(known) or not _has_hashes(known.dtype):
        return np.empty(0, dtype=np.uint64)
    hashes = known.hash()
    if about > 4 * SMALLEST_HASHES:  # twice as many pass as are needed: all pass again where the guess was that bad
        few = hashes.filter(hashes < (2**64 * 2 * SMALLEST_HASHES) // about).unique()
        if len(few) >= SMALLEST_HASHES:
            return _smallest(few.to_numpy())
    return _smallest(hashes.unique().to_numpy())


def _smallest(hashes: Hashes) -> Hashes:
    return np.unique(hashes)[:SMALLEST_HASHES]


def _counted(known: pl.Series) -> dict[str, int]:
    """Rows of each of the most frequent values, and of one more than are kept if there are more."""
    counts = known.value_counts(name="rows").select(pl.nth(0).cast(pl.String).alias("value"), "rows")
    return dict(counts.top_k(KEPT_VALUES + 1, by=["rows", "value"], reverse=[False, True]).iter_rows())


def _most_frequent(counted: Mapping[str, int]) -> dict[str, int]:
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered[:KEPT_VALUES])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _pack(column: ColumnProfile) -> dict[str, Json]:
    found: dict[str, Json] = {"type": column.type, "rows": column.rows, "missing": column.missing}
    if column.is_personal:
        return {**found, "personal": True}  # a hash of a value that can be guessed tells the value
    found |= {"hashes": b64encode(column.hashes.astype("<u8").tobytes()).decode(), "hashed_by": column.hashed_by}
    if column.moments is not None:
        told = column.moments
        found["moments"] = [told.count, *map(_finite, (told.mean, told.squares, told.least, told.most))]
        found |= {"edges": list(column.edges), "counts": list(column.counts), "kll": b64encode(column.sketch).decode()}
    if column.values is not None:
        found |= {"values": dict(column.values), "all_values": column.are_all_values}
    return {**found, "first": column.first, "last": column.last}


def _unpack(found: Mapping[str, Any]) -> ColumnProfile:
    hashes = np.frombuffer(b64decode(found.get("hashes", "")), dtype="<u8").astype(np.uint64)
    column = ColumnProfile(
        type=found["type"],
        rows=found["rows"],
        missing=found["missing"],
        hashes=hashes,
        is_personal=found.get("personal", False),
        hashed_by=found.get("hashed_by", ""),
        first=found.get("first"),
        last=found.get("last"),
        values=found.get("values"),
        are_all_values=found.get("all_values", True),
    )
    if "moments" not in found:
        return column
    count, *others = found["moments"]
    numbers = (math.nan if value is None else float(value) for value in others)
    return replace(
        column,
        moments=Moments(count, *numbers) if count else Moments(),
        edges=tuple(found["edges"]),
        counts=tuple(found["counts"]),
        sketch=b64decode(found["kll"]),
    )
