"""Expressions of the contract: a small language over the columns of one row, parsed, typed and compiled here.

The server runs the closures of `compile_row`; tables compile the same tree to a table engine. Both must give
the same answers, so the meaning of each node is exact:

- A value is a number (float64), a bool, a text or a datetime; each may be missing. Columns of kind float and
  int are numbers, those of category and text are texts. NaN and infinite inputs are missing.
- A node with a missing operand is missing, except in `And`, `Or`, `Missing`, `Coalesce` and the branch that
  `Where` does not take. A number that is not finite (overflow) is missing, at every node.
- `x / y` is missing where y = 0. `x // y` is floor(x / y), `x % y` is x - y * floor(x / y), each step rounded
  to float64, missing where y = 0. `x ** n` has a literal n from 0 to 8 and is x multiplied n times from the
  left, starting at 1.0.
- `log(x)` is missing for x <= 0, `log1p(x)` for x <= -1, `sqrt(x)` for x < 0. `round` goes half to even.
- `min` and `max` take two or more numbers; `clip(x, lo, hi)` is min(max(x, lo), hi).
- `==` and `!=` compare two values of one type; `<`, `<=`, `>`, `>=` numbers or datetimes (as instants; one
  without a zone counts as UTC). A chain `a < b < c` is `a < b and b < c`.
- `and`, `or`, `not` are Kleene's: `false and missing` is false, `true or missing` is true.
- `x in [a, b]` compares with literals. `where(c, a, b)` is missing where c is.
- `year`, `month`, `day`, `hour`, `minute` and `weekday` (Monday 1 to Sunday 7) read the wall clock of the
  datetime as it is handed in: the column's zone.
- `missing(x)` is never missing; `coalesce(x, y, ...)` is the first that is not missing.

Source: three-valued logic after S. C. Kleene, Introduction to Metamathematics (1952), section 64.
"""

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from shipworthy.kernel.errors import ExpressionError

Kind = Literal["float", "int", "bool", "category", "text", "datetime"]
ValueKind = Literal["number", "bool", "text", "datetime"]
Value = float | bool | str | datetime
Row = Mapping[str, object]
ArithmeticOperator = Literal["+", "-", "*", "/", "//", "%"]
CompareOperator = Literal["<", "<=", ">", ">=", "==", "!="]
Function = Literal[
    "abs", "floor", "ceil", "round", "log", "log1p", "exp", "sqrt", "min", "max", "clip",
    "year", "month", "day", "hour", "minute", "weekday",
]  # fmt: skip

MAX_LENGTH = 2000  # characters; what is longer belongs to `prepare`
MAX_DEPTH = 64  # keeps every recursion over a tree far below Python's limit
MAX_EXPONENT = 8  # a product of more factors is a mistake more often than a wish

VALUE_KINDS: dict[Kind, ValueKind] = {
    "float": "number",
    "int": "number",
    "bool": "bool",
    "category": "text",
    "text": "text",
    "datetime": "datetime",
}


@dataclass(frozen=True, slots=True)
class Constant:
    """A number, text or bool written in the expression; numbers are always float."""

    value: float | str | bool


@dataclass(frozen=True, slots=True)
class Column:
    """The value of a column in the row; NaN and infinity are missing."""

    name: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Negate:
    """The number with its sign turned."""

    operand: "Node"


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Two numbers to a number."""

    operator: ArithmeticOperator
    left: "Node"
    right: "Node"


@dataclass(frozen=True, slots=True)
class Power:
    """1.0 multiplied `exponent` times by the base."""

    base: "Node"
    exponent: int  # 0 to MAX_EXPONENT


@dataclass(frozen=True, slots=True)
class Compare:
    """Two values of one type to a bool."""

    operator: CompareOperator
    left: "Node"
    right: "Node"


@dataclass(frozen=True, slots=True)
class And:
    """Kleene's and of two or more bools."""

    operands: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Kleene's or of two or more bools."""

    operands: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Kleene's not of a bool."""

    operand: "Node"


@dataclass(frozen=True, slots=True)
class Member:
    """Whether a number or text is one of the literals; `not in` is a `Not` around it."""

    operand: "Node"
    values: tuple[float, ...] | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Where:
    """`then` where the condition is true, `otherwise` where it is false; both of one type."""

    condition: "Node"
    then: "Node"
    otherwise: "Node"


@dataclass(frozen=True, slots=True)
class Missing:
    """Whether the operand is missing."""

    operand: "Node"


@dataclass(frozen=True, slots=True)
class Coalesce:
    """The first of two or more operands of one type that is not missing."""

    operands: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A function of numbers, or of one datetime, to a number."""

    function: Function
    arguments: tuple["Node", ...]


Node = (
    Constant | Column | Negate | Arithmetic | Power | Compare | And | Or | Not | Member | Where | Missing | Coalesce | Call
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed and typed expression."""

    text: str
    root: Node
    kind: ValueKind
    whole: bool  # a number that is whole by construction
    columns: tuple[str, ...] = field(default=())  # those that it reads, sorted
