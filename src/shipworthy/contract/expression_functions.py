"""The functions of expressions: what each takes and gives."""

from dataclasses import dataclass
from typing import Literal

from shipworthy.contract.expression_nodes import DATE_PARTS, Function, ValueKind

MAX_ARGUMENTS = 100

Written = Literal["text", "count", "edges"]  # literals: a text, a whole number from 1, ascending numbers


@dataclass(frozen=True, slots=True)
class Signature:
    """The arguments of a function, and its value."""

    takes: ValueKind  # each argument that is computed
    gives: ValueKind
    count: tuple[int, int] = (1, 1)  # fewest and most computed arguments
    written: tuple[Written, ...] = ()  # the literals after them; `edges` is one or more
    whole: Literal["never", "always", "if all are"] = "never"  # a number that is whole by construction

    @property
    def arity(self) -> tuple[int, int]:
        """Fewest and most arguments, literals among them."""
        most = MAX_ARGUMENTS if "edges" in self.written else self.count[1] + len(self.written)
        return self.count[0] + len(self.written), most


_NUMBER = Signature("number", "number")
_WHOLE = Signature("number", "number", whole="always")
_SEVERAL = Signature("number", "number", (2, MAX_ARGUMENTS), whole="if all are")
_PART = Signature("datetime", "number", whole="always")
_TEXT = Signature("text", "text")
_ASKED = Signature("text", "bool", written=("text",))
_CUT = Signature("text", "text", written=("count",))

SIGNATURES: dict[Function, Signature] = {
    "abs": Signature("number", "number", whole="if all are"),
    "floor": _WHOLE,
    "ceil": _WHOLE,
    "round": _WHOLE,
    "log": _NUMBER,
    "log1p": _NUMBER,
    "exp": _NUMBER,
    "sqrt": _NUMBER,
    "min": _SEVERAL,
    "max": _SEVERAL,
    "clip": Signature("number", "number", (3, 3), whole="if all are"),
    "bucket": Signature("number", "number", written=("edges",), whole="always"),
    **dict.fromkeys(DATE_PARTS, _PART),
    "days_between": Signature("datetime", "number", (2, 2)),
    "hours_between": Signature("datetime", "number", (2, 2)),
    "lower": _TEXT,
    "upper": _TEXT,
    "strip": _TEXT,
    "length": Signature("text", "number", whole="always"),
    "contains": _ASKED,
    "starts_with": _ASKED,
    "ends_with": _ASKED,
    "replace": Signature("text", "text", written=("text", "text")),
    "left": _CUT,
    "right": _CUT,
    "concat": Signature("text", "text", (2, MAX_ARGUMENTS)),
}
BRANCHES: dict[str, tuple[int, int]] = {  # fewest and most arguments of what looks at them itself
    "where": (3, 3),
    "missing": (1, 1),
    "coalesce": (2, MAX_ARGUMENTS),
}
ARITIES: dict[str, tuple[int, int]] = {name: signature.arity for name, signature in SIGNATURES.items()} | BRANCHES
FUNCTIONS: tuple[str, ...] = tuple(sorted(ARITIES))
