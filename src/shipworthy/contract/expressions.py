"""Expressions of the contract: a small language over the columns of one row, parsed, typed and compiled here.

The server runs the closures of `compile_row`; tables compile the same tree to a table engine. Both must give
the same answers, so the meaning of each node is exact:

- A value is a number (float64), a bool, a text or a datetime; each may be missing. Columns of kind float and
  int are numbers, those of category and text are texts. NaN and infinite inputs are missing.
- A text of more than 10,000 characters that a function made is missing. "" is a text like any other.
- A node with a missing operand is missing, except in `And`, `Or`, `Missing`, `Coalesce` and the branch that
  `Where` does not take. A number that is not finite (overflow) is missing, at every node.
- `x / y` is missing where y = 0. `x // y` is floor(x / y), `x % y` is x - y * floor(x / y), each step rounded
  to float64, missing where y = 0. `x ** n` has a literal n from 0 to 8 and is x multiplied n times from the
  left, starting at 1.0.
- A zero keeps its sign as in IEEE 754; `-0.0 == 0.0`.
- `log(x)` is missing for x <= 0, `log1p(x)` for x <= -1, `sqrt(x)` for x < 0. `round` goes half to even.
- `min` and `max` take two or more numbers; `clip(x, lo, hi)` is min(max(x, lo), hi).
- `bucket(x, a, b, ...)` is how many of the ascending literals x reaches (a <= x): 0 below them all.
- `==` and `!=` compare two values of one type; `<`, `<=`, `>`, `>=` numbers or datetimes (as instants; one
  without a zone counts as UTC). A chain `a < b < c` is `a < b and b < c`.
- `and`, `or`, `not` are Kleene's: `false and missing` is false, `true or missing` is true.
- `x in [a, b]` compares with literals. `where(c, a, b)` is missing where c is.
- `year`, `quarter`, `month`, `week` (ISO 8601), `day`, `day_of_year`, `weekday` (Monday 1 to Sunday 7), `hour` and
  `minute` read the wall clock of the datetime as it is handed in: the column's zone.
- `days_between(a, b)` and `hours_between(a, b)` are the time from instant a to instant b, exact to the microsecond,
  then rounded to float64 and divided by the unit's microseconds; below zero where b is earlier.
- `lower` and `upper` change each character by itself, as Unicode 14 has it (`contract.expression_text`). `strip` takes
  Unicode's white space from both ends. `length` counts code points; `left` and `right` take so many of them.
- `contains`, `starts_with`, `ends_with` and `replace` look for a literal, code point by code point; `replace` from the
  left, without overlap. `concat(a, b, ...)` and `a + b` join texts.
- `missing(x)` is never missing; `coalesce(x, y, ...)` is the first that is not missing.

Source: three-valued logic after S. C. Kleene, Introduction to Metamathematics (1952), section 64.
"""

from shipworthy.contract.expression_functions import FUNCTIONS
from shipworthy.contract.expression_nodes import (
    FLOAT32_MAX,
    MAX_DEPTH,
    MAX_EXPONENT,
    MAX_LENGTH,
    MISSING,
    VALUE_KINDS,
    Expression,
    Kind,
    Row,
    Value,
    ValueKind,
)
from shipworthy.contract.expression_parser import answers, parse_derived, parse_expression
from shipworthy.contract.expression_rows import compile_row
from shipworthy.contract.spelling import did_you_mean

__all__ = [
    "FLOAT32_MAX", "FUNCTIONS", "MAX_DEPTH", "MAX_EXPONENT", "MAX_LENGTH", "MISSING", "VALUE_KINDS", "Expression",
    "Kind", "Row", "Value", "ValueKind", "answers", "compile_row", "did_you_mean", "parse_derived", "parse_expression",
]  # fmt: skip
