"""Columns: the contract's expressions over tables, and tables as the matrix that a model sees.

The meaning of an expression stands in `contract.expressions`; what is compiled here gives the same values as
its row functions, bit for bit. Numbers stay float64 until `encode` rounds them to float32 once.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.contract.columns import Derived, Feature
from shipworthy.contract.expression_functions import SIGNATURES
from shipworthy.contract.expression_nodes import (
    DATE_PARTS,
    And,
    Arithmetic,
    Call,
    Coalesce,
    Column,
    Compare,
    Constant,
    Function,
    Label,
    Member,
    Missing,
    Negate,
    Node,
    Not,
    Or,
    Power,
    Where,
)
from shipworthy.contract.expression_rows import DAY_US, HOUR_US
from shipworthy.contract.expression_text import MAX_TEXT, SPACES, lower, upper
from shipworthy.contract.expressions import FLOAT32_MAX, VALUE_KINDS, Expression, Kind, parse_derived
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import InternalError

_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_DATE_PARTS: dict[str, str] = {name: name for name in DATE_PARTS} | {"day_of_year": "ordinal_day"}  # as polars has them


def kinds(contract: Contract) -> dict[str, Kind]:
    """The kind of each column that an expression may read: features, context, derived columns."""
    plain = {name: column.type for name, column in (*contract.features.items(), *contract.context.items())}
    return {**plain, **{name: column.type for name, column in contract.derived.items()}}


def zones(contract: Contract) -> dict[str, str]:
    """The declared time zone of each datetime column that has one."""
    columns = (*contract.features.items(), *contract.context.items())
    return {name: column.zone for name, column in columns if column.zone is not None}


def derive(contract: Contract, frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with the derived columns, in contract order, after what `outside` and `unknown` do to their values.

    A later derived column reads an earlier one as `outside` or `unknown` left it. Numbers are float64, also those of
    type int; values of `outside: reject` and `review` stay as they are.
    """
    for name, column in contract.derived.items():
        values = derived_values(contract, frame, column).alias(name)
        frame = frame.with_columns(values).with_columns(settled(name, column))
    return frame


def derived_values(contract: Contract, frame: pl.DataFrame, column: Derived) -> pl.Series:
    """The values of a derived column before `outside` or `unknown` is applied; `frame` holds the earlier ones.

    A number that the model's float32 cannot hold is missing.
    """
    values = evaluate(parse_derived(column.from_, kinds(contract), column.values), frame, zones(contract))
    if column.type in ("bool", "category"):
        return values
    held = values.abs() <= FLOAT32_MAX
    return values if held.all(ignore_nulls=True) else _keep(values, held)


def settled(name: str, column: Feature | Derived) -> pl.Expr:
    """The values of column `name` after `outside` and `unknown` are applied, as the server applies them."""
    values = pl.col(name)
    if column.type == "category" and column.values is not None and column.unknown != "reject":
        return pl.when(values.is_in(list(column.values))).then(values)
    if column.type in ("float", "int") and column.range is not None:
        return bounded(values, column.range, column.outside)
    return values


def is_outside(values: pl.Expr, bounds: tuple[float, float]) -> pl.Expr:
    """Whether a number lies beyond its bounds; false where it is missing."""
    return ((values < bounds[0]) | (values > bounds[1])).fill_null(False)


def bounded(values: pl.Expr, bounds: tuple[float, float], outside: str) -> pl.Expr:
    """The values after `outside` is applied: clipped, or missing where beyond the bounds, else as they are."""
    if outside == "clip":
        return values.clip(*bounds)
    if outside == "missing":
        return pl.when(~is_outside(values, bounds)).then(values)
    return values


def encode(contract: Contract, frame: pl.DataFrame) -> NDArray[np.float32]:
    """The model's input: float32, shape (rows, `contract.model_columns`), missing is NaN.

    A category is its index in `values`, a bool 0 or 1. Derived columns are computed when `frame` lacks them.
    """
    if not set(contract.derived) <= set(frame.columns):
        frame = derive(contract, frame)
    codes = [_codes(contract, name).alias(name) for name in contract.model_columns]
    return frame.select(codes).fill_null(float("nan")).to_numpy(order="c")


def _codes(contract: Contract, name: str) -> pl.Expr:
    values = contract.model_categories.get(name)
    if values is not None:
        return class_codes(pl.col(name), values).cast(pl.Float32)
    return pl.col(name).cast(pl.Float64).cast(pl.Float32)


def class_codes(labels: pl.Expr, values: tuple[str, ...]) -> pl.Expr:
    """The index of each text in `values`; missing where it is none of them."""
    return labels.replace_strict(list(values), list(range(len(values))), default=None, return_dtype=pl.Int32)


def target_array(contract: Contract, frame: pl.DataFrame) -> NDArray[np.int64] | NDArray[np.float64]:
    """The truth of each row: the index in `target.values`, or the number of a regression."""
    target = contract.target
    if target.type == "regression":
        return frame[target.column].cast(pl.Float64).to_numpy().astype(np.float64)
    codes = frame.select(class_codes(pl.col(target.column), target.values or ()))
    return codes.to_series().to_numpy().astype(np.int64)


def evaluate(expression: Expression, frame: pl.DataFrame, zones: Mapping[str, str] | None = None) -> pl.Series:
    """The value of `expression` in each row of `frame`, null where it is missing.

    Each node is evaluated once, over whole columns.

    Args:
        expression: parsed and typed.
        frame: holds the columns that it reads, with the dtypes of accepted rows.
        zones: the time zone in which parts of a datetime column are read; UTC for the others.
    """
    return _evaluate(expression.root, frame, zones or {})


def _evaluate(node: Node, frame: pl.DataFrame, zones: Mapping[str, str]) -> pl.Series:
    def inner(operand: Node) -> pl.Series:
        return _evaluate(operand, frame, zones)

    match node:
        case Constant(value):
            return pl.repeat(value, frame.height, eager=True)
        case Column(name, kind):
            return _finite(frame[name].cast(pl.Float64)) if VALUE_KINDS[kind] == "number" else frame[name]
        case Negate(operand):
            return -inner(operand)
        case Arithmetic(sign, left, right):
            return _arithmetic(sign, inner(left), inner(right))
        case Power(base, exponent):
            return _power(inner(base), exponent)
        case Compare(sign, left, right):
            compared: pl.Series = _COMPARE[sign](inner(left), inner(right))
            return compared
        case And(operands):
            return functools.reduce(operator.and_, map(inner, operands))
        case Or(operands):
            return functools.reduce(operator.or_, map(inner, operands))
        case Not(operand):
            return ~inner(operand)
        case Member(operand, values):
            return _member(inner(operand), values)
        case Where(condition, then, otherwise):
            return _where(inner(condition), inner(then), inner(otherwise))
        case Missing(operand):
            return inner(operand).is_null()
        case Coalesce(operands):
            return functools.reduce(_coalesce, map(inner, operands))
        case Call(function, arguments) if function in _DATE_PARTS:
            return _date_part(function, arguments[0], frame, zones)
        case Call(function, arguments, literals):
            return _call(function, [inner(argument) for argument in arguments], literals)
        case Label(operand, labels):
            return inner(operand).replace_strict(range(len(labels)), labels, return_dtype=pl.String)


def _keep(values: pl.Series, kept: pl.Series) -> pl.Series:
    """The values where `kept` is true, else null."""
    return values.zip_with(kept.fill_null(False), pl.repeat(None, len(values), dtype=values.dtype, eager=True))


def _finite(values: pl.Series) -> pl.Series:
    finite = values.is_finite()
    return values if finite.all(ignore_nulls=True) else _keep(values, finite)


def _arithmetic(sign: str, left: pl.Series, right: pl.Series) -> pl.Series:
    match sign:
        case "+":
            return _finite(left + right)
        case "-":
            return _finite(left - right)
        case "*":
            return _finite(left * right)
        case "/":
            return _finite(left / right)  # x/0 is infinite or NaN
        case "//":
            return _finite((left / right).floor())
        case _:
            return _finite(left - right * _finite((left / right).floor()))


def _power(base: pl.Series, exponent: int) -> pl.Series:
    product = _keep(pl.repeat(1.0, len(base), eager=True), base.is_not_null())
    for _ in range(exponent):
        product = product * base
    return _finite(product)


def _member(values: pl.Series, literals: tuple[float, ...] | tuple[str, ...]) -> pl.Series:
    found = [values == literal for literal in literals]
    return functools.reduce(operator.or_, found)


def _where(condition: pl.Series, then: pl.Series, otherwise: pl.Series) -> pl.Series:
    return _keep(then.zip_with(condition.fill_null(False), otherwise), condition.is_not_null())


def _coalesce(first: pl.Series, second: pl.Series) -> pl.Series:
    return first.zip_with(first.is_not_null(), second)


def _held(values: pl.Series) -> pl.Series:
    """The texts that are not too long, else null."""
    held = values.str.len_chars() <= MAX_TEXT
    return values if held.all(ignore_nulls=True) else _keep(values, held)


def _call(function: Function, arguments: list[pl.Series], literals: tuple[Any, ...]) -> pl.Series:
    signature = SIGNATURES[function]
    called = _of_texts if signature.takes == "text" else _of_numbers
    values = called(function, arguments, literals)
    match signature.gives:
        case "number":
            return _finite(values.cast(pl.Float64))
        case "text":
            return _held(values)
        case _:
            return values


def _of_texts(function: Function, arguments: list[pl.Series], literals: tuple[Any, ...]) -> pl.Series:
    texts = arguments[0].str
    match function:
        case "lower":
            return _cased(arguments[0], texts.to_lowercase(), lower)
        case "upper":
            return _cased(arguments[0], texts.to_uppercase(), upper)
        case "strip":
            return texts.strip_chars(SPACES)
        case "length":
            return texts.len_chars()
        case "contains":
            return texts.contains(literals[0], literal=True)
        case "starts_with":
            return texts.starts_with(literals[0])
        case "ends_with":
            return texts.ends_with(literals[0])
        case "replace":
            return texts.replace_all(*literals, literal=True)
        case "left":
            return texts.head(int(literals[0]))
        case "right":
            return texts.tail(int(literals[0]))
        case _:
            return functools.reduce(operator.add, arguments)


def _cased(values: pl.Series, changed: pl.Series, change: Callable[[str], str | None]) -> pl.Series:
    """`changed` of ASCII; else each different text once, by the server's own function: polars knows other letters."""
    is_ascii = values.str.len_bytes() == values.str.len_chars()
    others = values.filter(~is_ascii).unique()
    if others.is_empty():
        return changed
    known = pl.Series([change(text) for text in others], dtype=pl.String)
    return changed.zip_with(is_ascii.fill_null(True), values.replace_strict(others, known, default=None))


def _of_numbers(function: Function, arguments: list[pl.Series], literals: tuple[Any, ...]) -> pl.Series:
    first = arguments[0]
    match function:
        case "bucket":
            places = np.searchsorted(literals, first.fill_null(0.0).to_numpy(), side="right")
            return _keep(pl.Series(places.astype(np.float64)), first.is_not_null())
        case "days_between" | "hours_between":
            lasting = (arguments[1] - first).dt.total_microseconds().cast(pl.Float64)
            unit = float(DAY_US if function == "days_between" else HOUR_US)
            return lasting / pl.repeat(unit, len(lasting), eager=True)  # by one number polars multiplies with 1 / x
        case "round":
            return first.round(0, mode="half_to_even")
        case "min":
            return functools.reduce(_smaller, arguments)
        case "max":
            return functools.reduce(_larger, arguments)
        case "clip":
            return _smaller(_larger(first, arguments[1]), arguments[2])
        case _:
            plain: pl.Series = getattr(first, function)()  # abs, floor, ceil, log, log1p, exp, sqrt
            return plain


def _smaller(x: pl.Series, y: pl.Series) -> pl.Series:
    return _where(y < x, y, x)


def _larger(x: pl.Series, y: pl.Series) -> pl.Series:
    return _where(y > x, y, x)


def _date_part(function: str, node: Node, frame: pl.DataFrame, zones: Mapping[str, str]) -> pl.Series:
    """Read in each column's own zone, hence at the leaves."""
    match node:
        case Where(condition, then, otherwise):
            parts = [_date_part(function, branch, frame, zones) for branch in (then, otherwise)]
            return _where(_evaluate(condition, frame, zones), *parts)
        case Coalesce(operands):
            return functools.reduce(_coalesce, (_date_part(function, operand, frame, zones) for operand in operands))
        case Column(name, _):
            local = frame[name].dt.convert_time_zone(zones.get(name, "UTC"))
            part: pl.Series = getattr(local.dt, _DATE_PARTS[function])()
            return part.cast(pl.Float64)
        case _:
            raise InternalError(f"{function} of {type(node).__name__}: the parser lets only datetimes through")
