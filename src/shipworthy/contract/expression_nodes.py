"""The tree of an expression: what its nodes, kinds and values are. Their meaning stands in `contract.expressions`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, get_args

Kind = Literal["float", "int", "bool", "category", "text", "datetime"]
ValueKind = Literal["number", "bool", "text", "datetime"]
Value = float | bool | str | datetime
Row = Mapping[str, object]
ArithmeticOperator = Literal["+", "-", "*", "/", "//", "%"]
CompareOperator = Literal["<", "<=", ">", ">=", "==", "!="]
DatePart = Literal["year", "quarter", "month", "week", "day", "day_of_year", "weekday", "hour", "minute"]
Function = Literal[
    DatePart, "abs", "floor", "ceil", "round", "log", "log1p", "exp", "sqrt", "min", "max", "clip", "bucket",
    "days_between", "hours_between", "lower", "upper", "strip", "length", "contains", "starts_with", "ends_with",
    "replace", "left", "right", "concat",
]  # fmt: skip

FLOAT32_MAX = 3.4028234663852886e38  # what the model's input can hold; a derived number beyond it is missing
MISSING = ("", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "?", "-")  # words for no value
MAX_LENGTH = 2000  # characters; what is longer belongs to `prepare`
MAX_DEPTH = 64  # keeps every recursion over a tree far below Python's limit
DATE_PARTS: tuple[DatePart, ...] = get_args(DatePart)
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
    """A function of values of one type, and of literals after them."""

    function: Function
    arguments: tuple["Node", ...]
    literals: tuple[float | str, ...] = ()


@dataclass(frozen=True, slots=True)
class Label:
    """The text that stands at the operand's place, from 0; the operand is a bucket."""

    operand: "Node"
    labels: tuple[str, ...]


Node = (
    Constant | Column | Negate | Arithmetic | Power | Compare
    | And | Or | Not | Member | Where | Missing | Coalesce | Call | Label
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed and typed expression."""

    text: str
    root: Node
    kind: ValueKind
    whole: bool  # a number that is whole by construction
    columns: tuple[str, ...] = field(default=())  # those that it reads, sorted
