"""Lookups: features from other sources by key, as they were known at each row's time; and the tables for the server.

A lookup with a time is an as-of join: a row gets the newest row of its key whose time, plus the delay, is not after the
row's own. Nothing of later is ever seen, however the source is sorted.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import polars as pl

from shipworthy.bundle.format import LookupTable
from shipworthy.bundle.verify import MAX_LOOKUPS_BYTES
from shipworthy.contract.columns import Column, Feature
from shipworthy.contract.data_section import Lookup
from shipworthy.contract.expressions import FLOAT32_MAX, did_you_mean
from shipworthy.contract.lookups import OWN_COLUMN, columns_of, main_sources
from shipworthy.contract.patterns import Pattern
from shipworthy.contract.types import Contract
from shipworthy.data.datetimes import detect_format
from shipworthy.data.requests import MOMENT
from shipworthy.data.sources.read import SourceRead
from shipworthy.data.values import Read, read_columns
from shipworthy.kernel.errors import DataError

MAX_TEXT = 10_000  # characters of one text value, as a server takes it


@dataclass(frozen=True, slots=True)
class LookupCounts:
    """What became of the rows that looked something up, and of the source's own."""

    found: int
    not_found: int  # no row of the key was known by then, or the key is missing
    too_old: int
    rows: int  # of the source
    undated: int  # of them: no key, or no time that can be read
    repeated: int  # of them: a later one has the same key and time, and counts
    keys: int  # that the server's table has
    unfit: int  # values of that table that break the contract, and are missing in it

    def to_json(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Joined:
    """The rows with what was looked up, and the tables for the server."""

    frame: pl.DataFrame
    counts: dict[str, LookupCounts]  # by lookup
    tables: dict[str, LookupTable]


@dataclass(frozen=True, slots=True)
class _Source:
    """The rows of a lookup's source that can be found."""

    rows: pl.DataFrame  # k0, k1, ...; at: row of the source; with a time: moment and known
    frame: pl.DataFrame  # as it was read
    formats: dict[str, str]
    undated: int
    repeated: int


def main_reads(contract: Contract, reads: Mapping[str, SourceRead]) -> dict[str, SourceRead]:
    """The sources whose rows become the data's rows."""
    names = main_sources(contract.data)
    return {name: read for name, read in reads.items() if name in names}


def join_lookups(contract: Contract, frame: pl.DataFrame, reads: Mapping[str, SourceRead], *, now: float) -> Joined:
    """Look up what the contract's lookups give, for each row as it was known at its time.

    Args:
        contract: its lookups, the features that name them, and its time column.
        frame: as `prepare` left it.
        reads: of every source.
        now: Unix seconds: what is known only later is not in the server's table.

    Raises:
        DataError: a column is not there, or is there already; a key stands twice in a lookup without a time; dates
            cannot be told apart; or the tables are larger than a release takes.
    """
    counts: dict[str, LookupCounts] = {}
    tables: dict[str, LookupTable] = {}
    added: list[pl.Series] = []
    for name, columns in columns_of(contract).items():
        lookup = contract.data.lookups[name]
        _judge_columns(contract, name, columns, frame, reads)
        source = _read_source(contract, name, columns, reads)
        at, too_old = _find(contract, lookup, frame, source)
        added += [_looked_up(contract, source, feature, at) for feature in columns]
        tables[name], unfit = _table(contract, lookup, list(columns), source, now)
        found = len(at) - at.null_count()
        counts[name] = LookupCounts(
            found=found,
            not_found=frame.height - found - too_old,
            too_old=too_old,
            rows=source.frame.height,
            undated=source.undated,
            repeated=source.repeated,
            keys=len(tables[name].key[0]),
            unfit=unfit,
        )
    return Joined(frame.with_columns(added), counts, tables)


def pack_tables(tables: Mapping[str, LookupTable], limit: int = MAX_LOOKUPS_BYTES) -> bytes:
    """The tables as a release carries them; the same tables, the same bytes.

    Raises:
        DataError: they are larger than `limit` bytes.
    """
    content = msgspec.msgpack.encode(dict(tables), order="deterministic")
    if len(content) > limit:
        sizes = ", ".join(f"{name} {len(table.key[0]):,} keys" for name, table in tables.items())
        raise DataError(
            f"data.lookups: the tables have {len(content) / 1e6:,.0f} MB ({sizes}), and a release takes "
            f"{limit / 1e6:,.0f} MB; look up fewer columns, leave keys out, or let callers send the features"
        )
    return content


# --- what is there


def _judge_columns(
    contract: Contract, name: str, columns: Mapping[str, str], frame: pl.DataFrame, reads: Mapping[str, SourceRead]
) -> None:
    lookup = contract.data.lookups[name]
    source = lookup.source or name
    there = reads[source].frame.columns
    wanted = [*lookup.key_columns.values(), *([] if lookup.time is None else [lookup.time]), *columns.values()]
    for column in wanted:
        if column not in there:
            raise DataError(
                f"lookup {name}: source {source} has no column {column!r}{did_you_mean(column, there)}; "
                f"it has {', '.join(there[:20])}"
            )
    row_time = contract.context_by_role("time") if lookup.time is not None else ()
    for column in (*lookup.key, *row_time):
        if column not in frame.columns:
            raise DataError(f"lookup {name}: the data has no column {column!r}{did_you_mean(column, frame.columns)}")
    for feature in columns:
        if feature in frame.columns:
            raise DataError(f"features.{feature}.lookup: {OWN_COLUMN.format(feature)}")


def _read_source(contract: Contract, name: str, columns: Mapping[str, str], reads: Mapping[str, SourceRead]) -> _Source:
    """The source's rows with a key and, where the lookup asks for it, a time: one row for each of both.

    Raises:
        DataError: without a time, a key in several rows; or dates that cannot be told apart.
    """
    lookup = contract.data.lookups[name]
    frame = reads[lookup.source or name].frame
    wanted = pl.DataFrame([frame[column].alias(feature) for feature, column in columns.items()])
    formats = {
        feature: _format(f"lookup {name}: {columns[feature]}", wanted[feature])
        for feature in columns
        if contract.features[feature].type == "datetime"
    }
    keys = [f"k{place}" for place in range(len(lookup.key))]
    rows = _keys(contract, frame, lookup.key_columns).with_row_index("at")
    if lookup.time is not None:
        clock = Column(type="datetime", zone=lookup.zone)
        pattern = _format(f"lookup {name}: {lookup.time}", frame[lookup.time])
        moment = read_columns({"moment": clock}, frame.select(moment=lookup.time), {"moment": pattern})["moment"].values
        delay_us = round((lookup.delay or 0) * 1e6)
        rows = rows.with_columns(moment).with_columns(known=pl.col("moment") + pl.duration(microseconds=delay_us))
    held = rows.drop_nulls()
    by = keys if lookup.time is None else [*keys, "moment"]
    once = held.unique(by, keep="last", maintain_order=True)
    if lookup.time is None and once.height < held.height:
        repeated = held.filter(~pl.struct(keys).is_unique())
        shown = ", ".join(f"{key} {value!r}" for key, value in zip(lookup.key, repeated.row(0)[1:], strict=True))
        raise DataError(
            f"lookup {name}: {repeated.n_unique(keys):,} keys stand in several rows of {lookup.source or name}, the "
            f"first is {shown}; name the column that says when a row came true (time: COLUMN), or keep one row of each"
        )
    return _Source(once, wanted, formats, frame.height - held.height, held.height - once.height)


def _format(place: str, texts: pl.Series) -> str:
    if texts.dtype != pl.String:
        return ""
    found = detect_format(texts)
    if found is not None and found.ambiguous:
        raise DataError(f"{place}: every date reads as month/day and as day/month; write year-month-day: 2026-03-31")
    return found.pattern if found else "%Y-%m-%d"


def _keys(contract: Contract, frame: pl.DataFrame, key: Mapping[str, str]) -> pl.DataFrame:
    """The key's columns as k0, k1, ..., read as the contract reads them, so that both sides write alike."""
    known: dict[str, Column] = {**contract.features, **contract.context}
    columns = {f"k{place}": known[name] for place, name in enumerate(key)}
    renamed = frame.select(pl.col(column).alias(f"k{place}") for place, column in enumerate(key.values()))
    return pl.DataFrame([read.values.alias(key) for key, read in read_columns(columns, renamed, {}).items()])


# --- the rows that are found


def _find(contract: Contract, lookup: Lookup, frame: pl.DataFrame, source: _Source) -> tuple[pl.Series, int]:
    """The source's row of each row, null where there is none; and how many found only one that is too old."""
    asking = _keys(contract, frame, {name: name for name in lookup.key})
    keys = asking.columns
    if lookup.time is None:
        found = asking.join(source.rows, on=keys, how="left", maintain_order="left")
        return found["at"], 0
    name = contract.context_by_role("time")[0]
    clock = contract.context[name]
    pattern = _format(name, frame[name])
    moments = read_columns({"asked": clock}, frame.select(asked=name), {"asked": pattern})["asked"].values
    asking = asking.with_columns(moments).with_row_index("row").drop_nulls().sort("asked", maintain_order=True)
    known = source.rows.sort("known", maintain_order=True)
    found = asking.join_asof(
        known, left_on="asked", right_on="known", by=keys, strategy="backward", check_sortedness=False
    ).drop_nulls("at")
    if lookup.age is not None:
        young = pl.col("asked") - pl.col("moment") <= pl.duration(microseconds=round(lookup.age.at_most * 1e6))
        kept = found.filter(young)
    else:
        kept = found
    at = pl.repeat(None, frame.height, dtype=pl.UInt32, eager=True).scatter(kept["row"], kept["at"])
    return at.alias("at"), found.height - kept.height


def _looked_up(contract: Contract, source: _Source, feature: str, at: pl.Series) -> pl.Series:
    """The values that the rows get, as they were read, for validation to judge; of a datetime the moment itself."""
    values = source.frame[feature]
    if feature in source.formats:  # how its texts are written is told by the whole source, not by what was found
        values = _typed(contract, source, feature).values
    return values.gather(at)


def _typed(contract: Contract, source: _Source, feature: str) -> Read:
    column = contract.features[feature]
    return read_columns({feature: column}, source.frame.select(feature), source.formats)[feature]


# --- the server's table


def _table(
    contract: Contract, lookup: Lookup, features: list[str], source: _Source, now: float
) -> tuple[LookupTable, int]:
    """The latest row of each key that is known now, in the order of keys; and how many of its values are unfit."""
    keys = [f"k{place}" for place in range(len(lookup.key))]
    rows = source.rows
    if lookup.time is not None:
        rows = rows.filter(pl.col("known").dt.timestamp("us") <= int(now * 1e6))
        rows = rows.sort("moment", maintain_order=True).unique(keys, keep="last", maintain_order=True)
    rows = rows.sort(keys)
    columns: dict[str, list[Any]] = {}
    unfit = 0
    for name in features:
        read = _typed(contract, source, name)
        values = read.values.gather(rows["at"]).alias(name)
        kept = values.to_frame().select(pl.when(_fits(name, contract.features[name])).then(pl.col(name)))[name]
        unfit += int(read.odd.gather(rows["at"]).sum()) + kept.null_count() - values.null_count()
        columns[name] = (kept.dt.strftime(MOMENT) if kept.dtype.is_temporal() else kept).to_list()
    times = None if lookup.time is None else rows["moment"].dt.timestamp("us").to_list()
    return LookupTable(key=tuple(rows[key].to_list() for key in keys), times=times, columns=columns), unfit


def _fits(name: str, feature: Feature) -> pl.Expr:
    """Whether a value is one that a row may have: those of others are quarantined, and a server does not give them."""
    value = pl.col(name)
    match feature.type:
        case "float" | "int":
            low, high = feature.range if feature.range and feature.outside == "reject" else (-FLOAT32_MAX, FLOAT32_MAX)
            return (value >= low) & (value <= high) & (value.abs() <= FLOAT32_MAX)
        case "category" if feature.unknown == "reject":
            return value.is_in(list(feature.values or ()))
        case "text":
            short = value.str.len_chars() <= MAX_TEXT
            return short if feature.pattern is None else short & value.str.contains(Pattern(feature.pattern).rust)
        case _:
            return value.is_not_null()
