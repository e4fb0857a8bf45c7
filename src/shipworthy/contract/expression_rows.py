"""Expressions over one row: the tree as closures, which the server runs."""

import math
import operator
from bisect import bisect_right
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from shipworthy.contract.expression_functions import SIGNATURES
from shipworthy.contract.expression_nodes import (
    VALUE_KINDS,
    And,
    Arithmetic,
    ArithmeticOperator,
    Call,
    Coalesce,
    Column,
    Compare,
    CompareOperator,
    Constant,
    Expression,
    Function,
    Label,
    Member,
    Missing,
    Negate,
    Node,
    Not,
    Or,
    Power,
    Row,
    Value,
    Where,
)
from shipworthy.contract.expression_text import SPACES, held, lower, upper

_Evaluate = Callable[[Row], Any]
DAY_US, HOUR_US = 86_400_000_000, 3_600_000_000  # microseconds
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def compile_row(expression: Expression) -> Callable[[Row], Value | None]:
    """A fast function from a row to the expression's value, None where it is missing.

    The row's values have the types of their columns (a missing one is None or absent); rows are validated
    before they come here.

    >>> from shipworthy.contract.expression_parser import parse_expression
    >>> ratio = compile_row(parse_expression("debt / income", {"debt": "float", "income": "float"}))
    >>> ratio({"debt": 1, "income": 4}), ratio({"debt": 1, "income": 0}), ratio({"debt": 1})
    (0.25, None, None)
    """
    return _compile(expression.root)


def _compile(node: Node) -> _Evaluate:
    match node:
        case Constant(value):
            return lambda _row: value
        case Column(name, kind):
            return _read_number(name) if VALUE_KINDS[kind] == "number" else lambda row: row.get(name)
        case Negate(operand):
            return _strict(operator.neg, (operand,))
        case Arithmetic(sign, left, right):
            return _finite(_strict(_ARITHMETIC[sign], (left, right)))
        case Power(base, exponent):
            return _finite(_strict(lambda x: _power(x, exponent), (base,)))
        case Compare(sign, left, right):
            compare = _COMPARE[sign]
            return _strict(_comparing_instants(compare) if _is_datetime(left) else compare, (left, right))
        case And(operands):
            return _kleene(operands, False)
        case Or(operands):
            return _kleene(operands, True)
        case Not(operand):
            return _strict(operator.not_, (operand,))
        case Member(operand, values):
            return _strict(frozenset(values).__contains__, (operand,))
        case Where(condition, then, otherwise):
            return _where(_compile(condition), _compile(then), _compile(otherwise))
        case Missing(operand):
            inner = _compile(operand)
            return lambda row: inner(row) is None
        case Coalesce(operands):
            return _coalesce(tuple(_compile(operand) for operand in operands))
        case Call(function, arguments, literals):
            call = _WRITTEN[function](*literals) if literals else _CALLS[function]
            called = _strict(call, arguments)
            return _finite(called) if SIGNATURES[function].gives == "number" else called
        case Label(operand, labels):
            return _strict(lambda place: labels[int(place)], (operand,))


def _read_number(name: str) -> _Evaluate:
    def read(row: Row) -> float | None:
        value: Any = row.get(name)
        if value is None:
            return None
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond float64
            return None
        return number if math.isfinite(number) else None

    return read


def _strict(function: Callable[..., Any], operands: tuple[Node, ...]) -> _Evaluate:
    """`function` of the operands, missing where one of them is."""
    evaluated = tuple(_compile(operand) for operand in operands)
    if len(evaluated) == 1:
        return _strict_unary(function, evaluated[0])
    if len(evaluated) == 2:
        return _strict_binary(function, *evaluated)

    def apply(row: Row) -> Any:
        values = [evaluate(row) for evaluate in evaluated]
        return None if None in values else function(*values)

    return apply


def _strict_unary(function: Callable[..., Any], operand: _Evaluate) -> _Evaluate:
    def apply(row: Row) -> Any:
        value = operand(row)
        return None if value is None else function(value)

    return apply


def _strict_binary(function: Callable[..., Any], left: _Evaluate, right: _Evaluate) -> _Evaluate:
    def apply(row: Row) -> Any:
        x = left(row)
        if x is None:
            return None
        y = right(row)
        return None if y is None else function(x, y)

    return apply


def _finite(evaluate: _Evaluate) -> _Evaluate:
    def apply(row: Row) -> float | None:
        value: float | None = evaluate(row)
        return value if value is not None and math.isfinite(value) else None

    return apply


def _kleene(operands: tuple[Node, ...], decisive: bool) -> _Evaluate:
    evaluated = tuple(_compile(operand) for operand in operands)

    def apply(row: Row) -> bool | None:
        missing = False
        for evaluate in evaluated:
            value = evaluate(row)
            if value is None:
                missing = True
            elif bool(value) is decisive:
                return decisive
        return None if missing else not decisive

    return apply


def _where(condition: _Evaluate, then: _Evaluate, otherwise: _Evaluate) -> _Evaluate:
    def apply(row: Row) -> Any:
        chosen = condition(row)
        if chosen is None:
            return None
        return then(row) if chosen else otherwise(row)

    return apply


def _coalesce(evaluated: tuple[_Evaluate, ...]) -> _Evaluate:
    def apply(row: Row) -> Any:
        for evaluate in evaluated:
            value = evaluate(row)
            if value is not None:
                return value
        return None

    return apply


def _divide(x: float, y: float) -> float:
    return x / y if y else math.nan


def _floor_divide(x: float, y: float) -> float:
    quotient = _divide(x, y)
    return _whole(math.floor, quotient) if math.isfinite(quotient) else math.nan


def _whole(rounded: Callable[[float], int], x: float) -> float:
    """With the sign of `x`, also where it is a zero (IEEE 754)."""
    return math.copysign(rounded(x), x)


def _remainder(x: float, y: float) -> float:
    return x - y * _floor_divide(x, y)


def _power(base: float, exponent: int) -> float:
    product = 1.0
    for _ in range(exponent):
        product *= base
    return product


def _exp(x: float) -> float:
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def _is_datetime(node: Node) -> bool:
    match node:
        case Column(_, kind):
            return kind == "datetime"
        case Where(_, then, _):
            return _is_datetime(then)
        case Coalesce(operands):
            return _is_datetime(operands[0])
        case _:
            return False


def _instant(value: datetime) -> timedelta:
    return (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH


def _microseconds(start: datetime, end: datetime) -> float:
    """From `start` to `end`, exact before it is rounded to float64."""
    return float((_instant(end) - _instant(start)) // timedelta(microseconds=1))


def _comparing_instants(compare: Callable[[Any, Any], bool]) -> Callable[[datetime, datetime], bool]:
    return lambda x, y: compare(_instant(x), _instant(y))


_ARITHMETIC: dict[ArithmeticOperator, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": _divide,
    "//": _floor_divide,
    "%": _remainder,
}
_COMPARE: dict[CompareOperator, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
_CALLS: dict[Function, Callable[..., Any]] = {
    "abs": abs,
    "floor": partial(_whole, math.floor),
    "ceil": partial(_whole, math.ceil),
    "round": partial(_whole, round),
    "log": lambda x: math.log(x) if x > 0 else math.nan,
    "log1p": lambda x: math.log1p(x) if x > -1 else math.nan,
    "exp": _exp,
    "sqrt": lambda x: math.sqrt(x) if x >= 0 else math.nan,
    "min": min,
    "max": max,
    "clip": lambda x, low, high: min(max(x, low), high),
    "year": lambda x: float(x.year),
    "quarter": lambda x: float((x.month + 2) // 3),
    "month": lambda x: float(x.month),
    "week": lambda x: float(x.isocalendar().week),
    "day": lambda x: float(x.day),
    "day_of_year": lambda x: float(x.timetuple().tm_yday),
    "weekday": lambda x: float(x.isoweekday()),
    "hour": lambda x: float(x.hour),
    "minute": lambda x: float(x.minute),
    "days_between": lambda x, y: _microseconds(x, y) / DAY_US,
    "hours_between": lambda x, y: _microseconds(x, y) / HOUR_US,
    "lower": lower,
    "upper": upper,
    "strip": lambda x: x.strip(SPACES),
    "length": lambda x: float(len(x)),
    "concat": lambda *texts: held("".join(texts)),
}
_WRITTEN: dict[Function, Callable[..., Callable[[Any], Any]]] = {  # literals to a function of the one argument
    "bucket": lambda *edges: lambda x: float(bisect_right(edges, x)),
    "contains": lambda part: lambda x: part in x,
    "starts_with": lambda part: lambda x: x.startswith(part),
    "ends_with": lambda part: lambda x: x.endswith(part),
    "replace": lambda old, new: lambda x: held(x.replace(old, new)),
    "left": lambda count: lambda x: x[: int(count)],
    "right": lambda count: lambda x: x[-int(count) :],
}
