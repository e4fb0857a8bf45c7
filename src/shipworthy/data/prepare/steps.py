"""Steps: what a declared step of `prepare` does to a table, row by row, with every row accounted for.

A step reads columns by their kind as validation does (`values`); what it does not touch stays as it stands. A row
that holds a value which a step must read and cannot is rejected: it goes to quarantine, never silently on or away.
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from shipworthy.contract.columns import Column
from shipworthy.contract.data_section import Step
from shipworthy.contract.expressions import VALUE_KINDS, Kind, parse_expression
from shipworthy.contract.steps import kind_of
from shipworthy.contract.types import Contract
from shipworthy.data.columns import evaluate
from shipworthy.data.datetimes import detect_format
from shipworthy.data.values import EXACT_WHOLE, read_columns
from shipworthy.kernel.errors import DataError

REJECTED: dict[str, type[pl.DataType]] = {"at": pl.Int64, "reason": pl.String}
_KINDS = {"float": "a number", "int": "a whole number", "bool": "true or false", "datetime": "a datetime"}
_MOST = int(EXACT_WHOLE)
_SHOWN_COLUMNS = 20  # of a table, in a message


@dataclass(frozen=True, slots=True)
class Stepped:
    """A table after a step: its rows in their order, and what became of the others."""

    frame: pl.DataFrame
    rows: pl.Series  # of the table before, from 0: which stand in `frame`
    changed: Mapping[str, int] = field(default_factory=dict)  # column -> rows in which it has another value
    missing: int = 0  # rows that `keep` drops because its condition is missing
    rejected: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=REJECTED))  # `at` in the table before


@dataclass(frozen=True, slots=True)
class _Typed:
    """Columns of a table as a step reads them, without the rows in which one cannot be read."""

    values: pl.DataFrame
    rows: pl.Series  # of the table, from 0
    rejected: pl.DataFrame


def contract_columns(contract: Contract) -> dict[str, Column]:
    """The columns that the contract names, with how their values are read."""
    target = contract.target
    truth = Column(type="float") if target.type == "regression" else Column(type="category", values=target.values)
    return {**contract.context, **contract.features, target.column: truth}


def take_step(step: Step, frame: pl.DataFrame, scope: Mapping[str, Kind], known: Mapping[str, Column]) -> Stepped:
    """What a step with `keep`, `set` or `distinct` makes of a table.

    Args:
        step: with its table.
        frame: the table.
        scope: the kind in which the step reads each column (`contract.steps.step_scopes`).
        known: the contract's columns, for the zones of times and what stands for no value.

    Raises:
        DataError: the table lacks a column, or its dates cannot be told apart.
    """
    columns = _Columns(step, frame, scope, known)
    if step.keep is not None:
        return _keep(step.keep, frame, columns)
    return _set(step.set_, frame, columns) if step.set_ is not None else _distinct(step, frame, columns)


def _keep(condition: str, frame: pl.DataFrame, columns: "_Columns") -> Stepped:
    expression = parse_expression(condition, columns.scope)
    typed = columns.read(expression.columns)
    holds = evaluate(expression, typed.values, columns.zones())
    stay = typed.rows.filter(holds.fill_null(False))
    return Stepped(frame[stay], stay, missing=holds.null_count(), rejected=typed.rejected)


def _set(settings: Mapping[str, str], frame: pl.DataFrame, columns: "_Columns") -> Stepped:
    expressions = {name: parse_expression(text, columns.scope) for name, text in settings.items()}
    typed = columns.read({column for expression in expressions.values() for column in expression.columns})
    before = frame[typed.rows]
    values, changed = [], {}
    for name, expression in expressions.items():
        value = _held(evaluate(expression, typed.values, columns.zones()), kind_of(expression)).alias(name)
        values.append(value)
        if name in frame.columns:
            changed[name] = _count_changed(columns.as_kind(before[name], kind_of(expression)), value)
    return Stepped(before.with_columns(values), typed.rows, changed, rejected=typed.rejected)


def _distinct(step: Step, frame: pl.DataFrame, columns: "_Columns") -> Stepped:
    names = list(step.distinct or ())
    columns.demand(names)
    typed = columns.read([] if step.latest is None else [step.latest])
    keys = frame[typed.rows].select(pl.struct(names).alias("key"), named=pl.all_horizontal(pl.col(names).is_not_null()))
    if step.latest is None:
        stays = keys.select(~pl.col("named") | pl.col("key").is_first_distinct()).to_series()
    else:
        latest = keys.with_columns(typed.values[step.latest].alias("latest")).with_row_index("at")
        ordered = latest.filter("named").sort("latest", nulls_last=False, maintain_order=True)
        held = ordered.unique("key", keep="last")["at"]
        stays = latest.select(~pl.col("named") | pl.col("at").is_in(held.implode())).to_series()
    stay = typed.rows.filter(stays)
    return Stepped(frame[stay], stay, rejected=typed.rejected)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns of a table, as a step reads them."""

    step: Step
    frame: pl.DataFrame
    scope: Mapping[str, Kind]
    known: Mapping[str, Column]

    def demand(self, names: list[str]) -> None:
        """Refuse what the table does not have."""
        lacking = [name for name in names if name not in self.frame.columns]
        if lacking:
            shown = ", ".join(self.frame.columns[:_SHOWN_COLUMNS]) + (
                ", …" if self.frame.width > _SHOWN_COLUMNS else ""
            )
            near = difflib.get_close_matches(lacking[0], self.frame.columns, 1)
            guess = f"; did you mean {near[0]}?" if near else ""
            raise DataError(f"the table {self.step.table} has no column {', '.join(lacking)}; it has {shown}{guess}")

    def zones(self) -> dict[str, str]:
        return {name: column.zone for name in self.scope if (column := self.column(name)).zone is not None}

    def column(self, name: str) -> Column:
        """How the values of `name` are read: as the contract's column of that name, where it has the same kind."""
        found = self.known.get(name)
        return found if found is not None and found.type == self.scope[name] else Column(type=self.scope[name])

    def read(self, names: Iterable[str]) -> _Typed:
        """These columns, without the rows in which one of them cannot be read."""
        wanted = sorted(set(names))
        self.demand(wanted)
        asked = {name: self.column(name) for name in wanted}
        found = read_columns(asked, self.frame, self._formats(asked))
        bad = pl.DataFrame({name: _unreadable(read.odd, read.values) for name, read in found.items()})
        every = pl.int_range(self.frame.height, eager=True)
        values = pl.DataFrame([read.values for read in found.values()]) if wanted else self.frame
        if not any(series.any() for series in bad):
            return _Typed(values, every, pl.DataFrame(schema=REJECTED))
        reasons = [pl.when(name).then(pl.lit(f"{self.step.table}.{name}: {_problem(asked[name])}")) for name in wanted]
        stated = bad.select(
            every.alias("at"), pl.concat_str(reasons, separator="; ", ignore_nulls=True).alias("reason")
        )
        any_bad = bad.select(pl.any_horizontal(pl.all())).to_series()
        return _Typed(values.filter(~any_bad), every.filter(~any_bad), stated.filter(any_bad))

    def as_kind(self, series: pl.Series, kind: Kind) -> pl.Series:
        """A column as it stood, read as what is put in its place; null where it is not that."""
        known = self.known.get(series.name)
        column = known if known is not None and VALUE_KINDS[known.type] == VALUE_KINDS[kind] else Column(type=kind)
        frame = series.to_frame()
        return read_columns({series.name: column}, frame, self._formats({series.name: column}))[series.name].values

    def _formats(self, columns: Mapping[str, Column]) -> dict[str, str]:
        formats = {}
        for name, column in columns.items():
            if column.type != "datetime" or self.frame.schema[name] != pl.String:
                continue
            found = detect_format(self.frame[name])
            if found is not None and found.ambiguous:
                raise DataError(
                    f"{self.step.table}.{name}: every date reads as month/day and as day/month; write year-month-day, "
                    "such as 2026-03-31"
                )
            formats[name] = found.pattern if found else "%Y-%m-%d"
        return formats


def _unreadable(odd: pl.Series, values: pl.Series) -> pl.Series:
    """Where something stands that is not of the kind, or a whole number that an expression would round."""
    if not values.dtype.is_integer():
        return odd
    return odd | ((values > _MOST) | (values < -_MOST)).fill_null(False)


def _problem(column: Column) -> str:
    words = _KINDS.get(column.type, "a text")
    return f"not {words}" + (" that arithmetic holds exactly" if column.type == "int" else "")


def _held(values: pl.Series, kind: Kind) -> pl.Series:
    """The values as a column holds them: whole numbers as such, as long as none is too large for it."""
    if kind != "int" or not (values.abs() <= EXACT_WHOLE).all():
        return values
    return values.cast(pl.Int64)


def _count_changed(before: pl.Series, after: pl.Series) -> int:
    return int(_number(before).ne_missing(_number(after)).sum())


def _number(values: pl.Series) -> pl.Series:
    return values.cast(pl.Float64) if values.dtype.is_numeric() else values
