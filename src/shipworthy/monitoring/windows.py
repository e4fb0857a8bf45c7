"""Windows: records and outcomes as one growing table, cut by event time.

Event time is the contract's time column as the caller sent it, else when the answer was given. A truth counts in a
window as of a moment: what became known later is not there yet; of several, the one received last holds.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import polars as pl

from shipworthy.contract.columns import Column
from shipworthy.contract.types import Contract
from shipworthy.data.datetimes import parse_datetimes
from shipworthy.kernel.digest import Json
from shipworthy.records.format import Outcome
from shipworthy.records.read import Tail
from shipworthy.security.vault import Vault
from shipworthy.serving.values import find_zone, read_datetime

Unit = Literal["subject", "key", "request"]

DAY_S = 86_400.0
CHUNK_LINES = 20_000  # made columns at a time: more gains nothing and holds more plain objects at once
MAX_CHUNKS = 64  # of the table; from there on it is copied into one piece, as each costs every filter
_PATTERN = "%Y-%m-%dT%H:%M:%S%.f"  # how most callers write a datetime; others are read one by one
_NIL = b"\xc0"  # MessagePack's nothing
_DTYPES: dict[str, pl.DataType] = {
    "float": pl.Float64(),
    "int": pl.Int64(),
    "bool": pl.Boolean(),
    "category": pl.String(),
    "text": pl.String(),
    "datetime": pl.Datetime("us", "UTC"),
}


class _Line(msgspec.Struct, gc=False):
    """What a window needs of a record; the parts with the contract's names are decoded later, in columns."""

    prediction_id: str
    time: float
    release: str
    id: str | None = None
    inputs: msgspec.Raw = msgspec.Raw(_NIL)
    context: msgspec.Raw = msgspec.Raw(_NIL)
    prediction: Any = None
    probability: msgspec.Raw = msgspec.Raw(_NIL)
    confidence: float | None = None
    decision: Any = None
    source: str = "model"
    handling: str = "automatic"
    latency_ms: float = 0.0


class _Part:
    """The named values in one part of a record, as columns; a name that a record lacks is missing there."""

    def __init__(self, names: Sequence[str]) -> None:
        inner = [f"f{at}" for at in range(len(names))]  # so that no name can clash with Python's
        fields: Any = [(field, Any, None) for field in inner]
        kind: Any = msgspec.defstruct("Part", fields, rename=dict(zip(inner, names, strict=True)), gc=False)
        self._names = tuple(names)
        self._decode = msgspec.msgpack.Decoder(kind | None).decode
        self._nothing = kind()

    def columns(self, parts: Iterable[msgspec.Raw]) -> dict[str, Sequence[Any]]:
        """The values of each name in the order of `parts`."""
        decode, nothing = self._decode, self._nothing
        rows = [msgspec.structs.astuple(decode(part) or nothing) for part in parts]
        return dict(zip(self._names, zip(*rows, strict=True) if rows else [()] * len(self._names), strict=True))


class Journal:
    """All records and outcomes of an environment, each read once; windows are cut from it.

    A window's frame has the columns time (Unix seconds, event time), unit (what keeps its release during a rollout),
    id, prediction_id, release, source, handling, decision, prediction, score (what drift is judged on: the positive
    class's probability, or the number), confidence, latency_ms, outcome and worth (null while unknown), and, as
    `inputs.NAME` and `context.NAME`, what was sent; of a multiclass system also `probability.CLASS`.

    Args:
        contract: says types, zones, classes and what a decision is worth.
        records: `records/ENV`; may come to exist later.
        outcomes: `outcomes/ENV`; may come to exist later.
        unit: the unit is the subject, else the key, else the request (`subject`); the key, else the request; or the
            request.
        vault: opens what is encrypted.
    """

    def __init__(
        self,
        contract: Contract,
        records: Path,
        outcomes: Path,
        *,
        unit: Unit = "subject",
        vault: Vault | None = None,
    ) -> None:
        self._columns = _Columns(contract, unit)
        self._records = Tail(records, _Line, vault)
        self._outcomes = Tail(outcomes, Outcome, vault)
        self._seen: set[str] = set()
        self._worth = _worth_table(contract)
        self._is_number = contract.target.type == "regression"
        self._table = self._columns.make([])
        self._told = _told([], self._is_number, 0)

    @property
    def count(self) -> int:
        """How many predictions there are, each id once."""
        return self._table.height

    def starts(self, every_s: float) -> list[float]:
        """Where the windows of this length begin that hold a row, ascending, Unix seconds.

        The first begins with the first row's day, or with a whole part of it where windows are shorter.
        """
        first = self._table["time"].min()
        if not isinstance(first, float):
            return []
        whole = min(every_s, DAY_S)
        base = first // whole * whole
        held = self._table.select(((pl.col("time") - base) / every_s).floor().cast(pl.Int64).unique().sort())
        return [base + number * every_s for number in held.to_series().to_list()]

    def last_time(self) -> float | None:
        """The latest event time, Unix seconds; None without a record."""
        last = self._table["time"].max()
        return float(last) if isinstance(last, float) else None

    def refresh(self) -> int:
        """Read what came since the last time; how many predictions that were.

        Raises:
            IntegrityError: a segment is damaged before its tail.
        """
        before = self._table.height
        self._refresh_records()
        self._refresh_outcomes()
        return self._table.height - before

    def frame(self, start: float, end: float, as_of: float | None = None) -> pl.DataFrame:
        """The rows whose event time lies in [start, end), in its order.

        Args:
            start: Unix seconds.
            end: Unix seconds.
            as_of: Unix seconds; truths that became known later are left out. None takes all.
        """
        window = self._table.filter((pl.col("time") >= start) & (pl.col("time") < end)).sort(
            "time", maintain_order=True
        )
        told = self._told if as_of is None else self._told.filter(pl.col("known") <= as_of)
        return window.with_columns(_outcomes(window, told)).join(
            self._worth, on=["decision", "outcome"], how="left", maintain_order="left"
        )

    def _refresh_records(self) -> None:
        lines = [line for line in self._records.read_new() if self._is_new(line.id)]
        for start in range(0, len(lines), CHUNK_LINES):
            self._table = _appended(self._table, self._columns.make(lines[start : start + CHUNK_LINES]))

    def _refresh_outcomes(self) -> None:
        outcomes = self._outcomes.read_new()
        if outcomes:
            self._told = _appended(self._told, _told(outcomes, self._is_number, self._told.height))

    def _is_new(self, id: str | None) -> bool:
        if id is None:
            return True
        known = id in self._seen
        self._seen.add(id)
        return not known


def summarise(frame: pl.DataFrame) -> dict[str, Json]:
    """What a window of inputs says of its traffic: rows, releases, source, handling, share of fallbacks, p99."""
    rows = frame.height
    return {
        "rows": rows,
        "releases": _counts(frame["release"]),
        "source": {"model": 0, "fallback": 0} | _counts(frame["source"]),
        "handling": {"automatic": 0, "review": 0} | _counts(frame["handling"]),
        "errors": float((frame["source"] != "model").sum()) / rows if rows else 0.0,
        "p99_ms": frame["latency_ms"].quantile(0.99, "higher"),
    }


def model_rows(contract: Contract, frame: pl.DataFrame) -> pl.DataFrame:
    """What was sent in a window under the contract's own names, ready for `data.columns.encode`."""
    sent = [pl.col(f"inputs.{name}").alias(name) for name in contract.features]
    return frame.select(*sent, *(pl.col(f"context.{name}").alias(name) for name in _kept_context(contract)))


def _counts(values: pl.Series) -> dict[str, int]:
    return dict(values.value_counts(name="rows").sort(values.name).iter_rows())


def _kept_context(contract: Contract) -> dict[str, Column]:
    """The context columns that a window shows; who it was is in `unit` alone."""
    return {name: column for name, column in contract.context.items() if column.role not in ("key", "subject")}


def _appended(table: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    table = table.vstack(rows)
    return table.rechunk() if table.n_chunks() > MAX_CHUNKS else table


# --- records


class _Columns:
    """Makes the table's columns of lines."""

    def __init__(self, contract: Contract, unit: Unit) -> None:
        target = contract.target
        self._contract = contract
        self._task = target.type
        self._context_columns = _kept_context(contract)
        self._time = next(iter(contract.context_by_role("time")), None)
        roles = {"subject": ("subject", "key"), "key": ("key",), "request": ()}[unit]
        self._units = [name for role in roles for name in contract.context_by_role(role)]  # type: ignore[arg-type]
        self._positive = target.positive or (target.values or ("",))[-1]
        self._inputs = _Part(tuple(contract.features))
        self._context = _Part(tuple(contract.context))
        self._probability = _Part(target.values or ())

    def make(self, lines: Sequence[_Line]) -> pl.DataFrame:
        """The table of `lines`, without outcomes."""
        inputs = self._inputs.columns(line.inputs for line in lines)
        context = self._context.columns(line.context for line in lines)
        sent = [_typed(name, column, inputs, "inputs") for name, column in self._contract.features.items()]
        beside = {name: _typed(name, column, context, "context") for name, column in self._context_columns.items()}
        answered = pl.Series("time", [line.time for line in lines], pl.Float64)
        return pl.DataFrame(
            [
                self._event_times(answered, beside),
                *self._named(lines, context),
                *self._answers(lines),
                *sent,
                *beside.values(),
            ]
        )

    def _event_times(self, answered: pl.Series, beside: dict[str, pl.Series]) -> pl.Series:
        if self._time is None:
            return answered
        sent = beside[self._time].dt.epoch("us").cast(pl.Float64) / 1e6
        return sent.zip_with(sent.is_not_null(), answered).alias("time")

    def _named(self, lines: Sequence[_Line], context: dict[str, Sequence[Any]]) -> Iterator[pl.Series]:
        ids = _texts("id", [line.id for line in lines])
        predictions = _texts("prediction_id", [line.prediction_id for line in lines])
        units = [_texts("unit", context[name]) for name in self._units]
        yield pl.select(pl.coalesce(*units, ids, predictions).alias("unit")).to_series()
        yield ids
        yield predictions
        for name in ("release", "source", "handling", "decision"):
            yield _texts(name, [getattr(line, name) for line in lines])

    def _answers(self, lines: Sequence[_Line]) -> Iterator[pl.Series]:
        predictions = [line.prediction for line in lines]
        if self._task == "regression":
            yield pl.Series("prediction", predictions, pl.Float64, strict=False)
            yield pl.Series("score", predictions, pl.Float64, strict=False)
        else:
            shares = self._probability.columns(line.probability for line in lines)
            yield _texts("prediction", predictions)
            scores = shares[self._positive] if self._task == "binary" else [None] * len(lines)
            yield pl.Series("score", scores, pl.Float64, strict=False)
            if self._task == "multiclass":
                for name, values in shares.items():
                    yield pl.Series(f"probability.{name}", values, pl.Float64, strict=False)
        yield pl.Series("confidence", [line.confidence for line in lines], pl.Float64)
        yield pl.Series("latency_ms", [line.latency_ms for line in lines], pl.Float64)


def _texts(name: str, values: Sequence[Any]) -> pl.Series:
    try:
        return pl.Series(name, values, pl.String)
    except TypeError:  # a number among them
        return pl.Series(name, [_label(value) for value in values], pl.String)


def _label(value: Any) -> str | None:
    """A class, action or name as text; a whole number has no fraction."""
    if value is None or type(value) is str:
        return value
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _typed(name: str, column: Column, values: dict[str, Sequence[Any]], section: str) -> pl.Series:
    """What was sent as the contract's type; a value that another contract allowed and this one cannot is missing."""
    shown, sent = f"{section}.{name}", values[name]
    if column.type == "datetime":
        return _instants(shown, sent, column.zone)
    try:
        return pl.Series(shown, sent, _DTYPES[column.type])
    except (TypeError, OverflowError):
        return pl.Series(shown, sent, _DTYPES[column.type], strict=False)


def _instants(name: str, values: Sequence[Any], zone: str | None) -> pl.Series:
    texts = pl.Series(name, values, pl.String, strict=False)
    fast = texts.to_frame().select(parse_datetimes(pl.col(name), _PATTERN, zone)).to_series()
    rest = texts.filter(fast.is_null() & texts.is_not_null()).unique().to_list()
    if not rest:
        return fast
    clock = find_zone(zone)
    moments: list[datetime | None] = [read_datetime(text, clock) for text in rest]
    read = texts.replace_strict(rest, moments, default=None, return_dtype=_DTYPES["datetime"])
    return fast.zip_with(fast.is_not_null(), read)


# --- outcomes


def _told(outcomes: Sequence[Outcome], is_number: bool, start: int) -> pl.DataFrame:
    values: list[Any] = [outcome.value if is_number else _label(outcome.value) for outcome in outcomes]
    return pl.DataFrame(
        {
            "key": pl.Series([outcome.id for outcome in outcomes], dtype=pl.String),
            "outcome": pl.Series(values, dtype=pl.Float64 if is_number else pl.String, strict=False),
            "known": pl.Series([outcome.time for outcome in outcomes], dtype=pl.Float64),
            "received": pl.Series([outcome.received for outcome in outcomes], dtype=pl.Float64),
            "order": pl.Series(range(start, start + len(outcomes)), dtype=pl.Int64),
        }
    )


def _outcomes(window: pl.DataFrame, told: pl.DataFrame) -> pl.Series:
    """The truth of each row: of all that was told under its id or its prediction's id, what was received last."""
    rows = window.select("id", "prediction_id").with_row_index("row")
    names = [rows.select("row", key=name).drop_nulls() for name in ("id", "prediction_id")]
    found = pl.concat(names).join(told, on="key", how="inner").sort("received", "order")
    latest = found.unique("row", keep="last", maintain_order=True).select("row", "outcome")
    return rows.join(latest, on="row", how="left", maintain_order="left")["outcome"]


def _worth_table(contract: Contract) -> pl.DataFrame:
    table = contract.value.outcomes if contract.value is not None else {}
    cells = [(action, label, worth) for action, row in table.items() for label, worth in row.items()]
    dtype = pl.Float64 if contract.target.type == "regression" else pl.String
    if contract.target.type == "regression":
        cells = []
    return pl.DataFrame(cells, {"decision": pl.String, "outcome": dtype, "worth": pl.Float64}, orient="row")
