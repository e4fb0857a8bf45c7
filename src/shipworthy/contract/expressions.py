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
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

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

FLOAT32_MAX = 3.4028234663852886e38  # what the model's input can hold; a derived number beyond it is missing
MISSING = ("", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "?", "-")  # words for no value
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
    Constant | Column | Negate | Arithmetic | Power | Compare
    | And | Or | Not | Member | Where | Missing | Coalesce | Call
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed and typed expression."""

    text: str
    root: Node
    kind: ValueKind
    whole: bool  # a number that is whole by construction
    columns: tuple[str, ...] = field(default=())  # those that it reads, sorted


def parse_expression(
    text: str, columns: Mapping[str, Kind], *, values: Mapping[str, Collection[str]] | None = None
) -> Expression:
    """Parse and type `text`; what it returns can be compiled without further checks.

    Args:
        text: at most `MAX_LENGTH` characters.
        columns: the names that may be used, with their kinds.
        values: of category columns; a literal that is compared with one of them must be among its values.

    Raises:
        ExpressionError: with the place, what was seen and what was expected.

    >>> parse_expression("100 * debt / income", {"debt": "float", "income": "float"}).kind
    'number'
    """
    if len(text) > MAX_LENGTH:
        raise ExpressionError(
            f"the expression has {len(text)} characters; at most {MAX_LENGTH} are allowed, so split it into "
            "derived columns or compute it in prepare"
        )
    parser = _Parser(_tokens(text), columns, values or {})
    part = parser.parse()
    return Expression(text, part.node, part.kind, part.whole, tuple(sorted(parser.used)))


def compile_row(expression: Expression) -> Callable[[Row], Value | None]:
    """A fast function from a row to the expression's value, None where it is missing.

    The row's values have the types of their columns (a missing one is None or absent); rows are validated
    before they come here.

    >>> ratio = compile_row(parse_expression("debt / income", {"debt": "float", "income": "float"}))
    >>> ratio({"debt": 1, "income": 4}), ratio({"debt": 1, "income": 0}), ratio({"debt": 1})
    (0.25, None, None)
    """
    return _compile(expression.root)


# --- text to tokens


@dataclass(frozen=True, slots=True)
class _Token:
    kind: Literal["number", "text", "name", "sign", "end"]
    text: str
    start: int  # from 0


_TOKEN = re.compile(
    r"""(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
      | (?P<text>"[^"]*"|'[^']*')
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<sign>\*\*|//|<=|>=|==|!=|[-+*/%<>()\[\],])""",
    re.VERBOSE | re.ASCII,
)
_CURES = {
    "=": "write == to compare",
    "&": "write and",
    "|": "write or",
    "!": "write not, or !=",
    "^": "write ** for a power",
    '"': "the text has no closing quote",
    "'": "the text has no closing quote",
    ".": "columns are plain names",
    "{": "a list of literals stands in [ and ]",
    ";": "one expression, no statements",
    ":": "one expression, no statements",
}
_WORDS = ("and", "or", "not", "in", "true", "false")


def _tokens(text: str) -> tuple[_Token, ...]:
    tokens: list[_Token] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        found = _TOKEN.match(text, at)
        if found is None:
            cure = _CURES.get(text[at], "see the contract reference for what an expression may hold")
            raise ExpressionError(f"{text[at]!r} at character {at + 1} means nothing here: {cure}", at + 1)
        kind: Literal["number", "text", "name", "sign"] = found.lastgroup  # type: ignore[assignment]
        tokens.append(_Token(kind, found[0], at))
        at = found.end()
        if kind == "number" and text[at : at + 1].isidentifier():
            raise ExpressionError(f"the number {found[0]!r} at character {found.start() + 1} runs into a name", at + 1)
    tokens.append(_Token("end", "", len(text)))
    return tuple(tokens)


# --- tokens to a typed tree


@dataclass(frozen=True, slots=True)
class _Part:
    """A typed piece of the tree and where it starts."""

    node: Node
    kind: ValueKind
    start: int
    depth: int = 1
    whole: bool = False


_COMPARES: tuple[str, ...] = ("<", "<=", ">", ">=", "==", "!=")
_STRENGTH = {  # how strongly an infix binds; `not` is 5, unary minus 13
    "or": 1,
    "and": 3,
    **dict.fromkeys((*_COMPARES, "in", "not"), 7),
    **dict.fromkeys(("+", "-"), 9),
    **dict.fromkeys(("*", "/", "//", "%"), 11),
    "**": 15,
}
_ARITIES: dict[str, tuple[int, int]] = {  # fewest and most arguments
    **dict.fromkeys(("abs", "floor", "ceil", "round", "log", "log1p", "exp", "sqrt"), (1, 1)),
    **dict.fromkeys(("year", "month", "day", "hour", "minute", "weekday"), (1, 1)),
    **dict.fromkeys(("min", "max", "coalesce"), (2, 100)),
    **dict.fromkeys(("clip", "where"), (3, 3)),
    "missing": (1, 1),
}
FUNCTIONS: tuple[str, ...] = tuple(sorted(_ARITIES))
_DATE_PARTS = ("year", "month", "day", "hour", "minute", "weekday")
_ALWAYS_WHOLE = ("floor", "ceil", "round", *_DATE_PARTS)
_WHOLE_IF_ALL = ("abs", "min", "max", "clip")
_NAMES_OF_KINDS = {"number": "a number", "bool": "a bool", "text": "a text", "datetime": "a datetime"}
_MANY = 300  # names that a guess compares, 30 us each
_NULLS = ("none", "null", "nan", "na", "nil")


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`; did you mean …?`, or nothing. Among many names only those of about the same length are compared."""
    lowered = [word for word in known if word.lower() == name.lower()]
    alike = sorted(known) if len(known) <= _MANY else sorted(known, key=lambda word: abs(len(word) - len(name)))[:_MANY]
    near = difflib.get_close_matches(name[:_MANY], alike, 1)
    return f"; did you mean {(lowered or near)[0]}?" if lowered or near else ""


class _Parser:
    """Precedence climbing over the tokens; its invariant is that `_at` never passes the end token."""

    def __init__(
        self, tokens: tuple[_Token, ...], columns: Mapping[str, Kind], values: Mapping[str, Collection[str]]
    ) -> None:
        self._tokens = tokens
        self._columns = columns
        self._values = values
        self._at = 0
        self._nested = 0
        self.used: set[str] = set()

    def parse(self) -> _Part:
        if self._tokens[0].kind == "end":
            raise ExpressionError("the expression is empty")
        part = self._expression(0)
        if self._peek().kind != "end":
            raise self._unexpected("an operator or the end")
        return part

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _accept(self, text: str) -> bool:
        token = self._peek()
        found = token.kind in ("sign", "name") and token.text == text
        if found:
            self._take()
        return found

    def _expect(self, text: str) -> None:
        if not self._accept(text):
            raise self._unexpected(f"{text!r}")

    def _unexpected(self, expected: str) -> ExpressionError:
        token = self._peek()
        if token.kind == "end":
            return ExpressionError(f"the expression ends where {expected} was expected", token.start + 1)
        return _error(token.start, f"expected {expected}, not {token.text!r}")

    def _expression(self, weakest: int) -> _Part:
        self._nested += 1
        if self._nested > MAX_DEPTH:
            raise _too_deep(self._peek().start)
        part = self._prefix()
        while True:
            token = self._peek()
            strength = _STRENGTH.get(token.text, 0) if token.kind in ("sign", "name") else 0
            if strength == 0 or strength < weakest:
                break
            part = self._infix(part, token, strength)
        self._nested -= 1
        return part

    def _prefix(self) -> _Part:
        token = self._peek()
        if token.kind == "end" or (token.kind == "sign" and token.text not in ("(", "-")):
            raise self._unexpected("a column, a literal or a function")
        self._take()
        if token.kind == "number":
            return self._number(token)
        if token.kind == "text":
            return _Part(Constant(token.text[1:-1]), "text", token.start)
        if token.kind == "name":
            return self._name(token)
        if token.text == "(":
            part = self._expression(0)
            self._expect(")")
            return part
        part = self._expression(13)
        _demand(part, "number", "-")
        return self._made(Negate(part.node), "number", token.start, (part,), whole=part.whole)

    def _number(self, token: _Token) -> _Part:
        value = float(token.text)
        if not math.isfinite(value):
            raise _error(token.start, f"{token.text} is beyond the range of float64")
        return _Part(Constant(value), "number", token.start, whole=value.is_integer())

    def _name(self, token: _Token) -> _Part:
        if token.text in ("true", "false"):
            return _Part(Constant(token.text == "true"), "bool", token.start)
        if token.text == "not":
            part = self._expression(5)
            _demand(part, "bool", "not")
            return self._made(Not(part.node), "bool", token.start, (part,))
        if self._peek().kind == "sign" and self._peek().text == "(":
            return self._call(token)
        if token.text not in self._columns or token.text in _WORDS:
            raise _error(token.start, self._unknown(token.text))
        self.used.add(token.text)
        kind = self._columns[token.text]
        return _Part(Column(token.text, kind), VALUE_KINDS[kind], token.start, whole=kind == "int")

    def _unknown(self, name: str) -> str:
        if name in _WORDS:
            return f"{name!r} is an operator and stands between or before operands"
        if name in _ARITIES:
            return f"{name!r} is a function: write {name}(…)"
        if name.lower() in _NULLS:
            return f"there is no {name!r}: write missing(column) to ask whether a value is missing"
        if name.lower() in ("true", "false"):
            return f"no column is called {name!r}; did you mean {name.lower()}?"
        return f"no column is called {name!r} here{did_you_mean(name, self._columns)}"

    def _infix(self, left: _Part, token: _Token, strength: int) -> _Part:
        if token.text in ("and", "or"):
            return self._logic(left, token.text, strength)
        if strength == 7:
            return self._comparison(left)
        self._take()
        if token.text == "**":
            return self._power(left)
        right = self._expression(strength + 1)
        sign: ArithmeticOperator = token.text  # type: ignore[assignment]
        _demand(left, "number", sign)
        _demand(right, "number", sign)
        whole = sign != "/" and (sign == "//" or (left.whole and right.whole))
        return self._made(Arithmetic(sign, left.node, right.node), "number", left.start, (left, right), whole=whole)

    def _logic(self, left: _Part, word: str, strength: int) -> _Part:
        parts = [left]
        while self._accept(word):
            parts.append(self._expression(strength + 1))
        for part in parts:
            _demand(part, "bool", word)
        nodes = tuple(part.node for part in parts)
        return self._made(And(nodes) if word == "and" else Or(nodes), "bool", left.start, parts)

    def _power(self, base: _Part) -> _Part:
        _demand(base, "number", "**")
        token = self._peek()
        value = float(token.text) if token.kind == "number" else -1.0
        if value not in range(MAX_EXPONENT + 1):
            raise _error(
                token.start,
                f"the exponent of ** is a whole number written out, 0 to {MAX_EXPONENT}; else use sqrt(x), 1 / x or "
                "exp(y * log(x))",
            )
        self._take()
        if self._peek().text == "**":
            raise _error(self._peek().start, "a power of a power needs parentheses")
        return self._made(Power(base.node, int(value)), "number", base.start, (base,), whole=base.whole)

    def _comparison(self, first: _Part) -> _Part:
        links: list[_Part] = []
        left = first
        while True:
            token = self._peek()
            if token.kind == "sign" and token.text in _COMPARES:
                self._take()
                right = self._expression(8)
                links.append(self._compare(token, left, right))
                left = right
            elif not links and (token.kind, token.text) in (("name", "in"), ("name", "not")):
                return self._membership(first)
            else:
                break
        if len(links) == 1:
            return links[0]
        return self._made(And(tuple(link.node for link in links)), "bool", first.start, links)

    def _compare(self, token: _Token, left: _Part, right: _Part) -> _Part:
        sign: CompareOperator = token.text  # type: ignore[assignment]
        if left.kind != right.kind:
            raise _error(
                token.start,
                f"{sign} compares {_NAMES_OF_KINDS[left.kind]} with {_NAMES_OF_KINDS[right.kind]}"
                + _quote_cure(left, right),
            )
        if sign not in ("==", "!=") and left.kind not in ("number", "datetime"):
            raise _error(token.start, f"{sign} orders numbers or datetimes, not {_NAMES_OF_KINDS[left.kind]}")
        self._check_values(left, (right,))
        self._check_values(right, (left,))
        return self._made(Compare(sign, left.node, right.node), "bool", left.start, (left, right))

    def _membership(self, operand: _Part) -> _Part:
        negated = self._accept("not")
        self._expect("in")
        self._expect("[")
        items = [self._item()]
        while self._accept(","):
            items.append(self._item())
        self._expect("]")
        if operand.kind not in ("number", "text"):
            raise _error(operand.start, f"in asks for a number or a text, not {_NAMES_OF_KINDS[operand.kind]}")
        for item in items:
            if item.kind != operand.kind:
                raise _error(
                    item.start,
                    f"the list of in holds {_NAMES_OF_KINDS[item.kind]} where {_NAMES_OF_KINDS[operand.kind]} was "
                    "expected" + _quote_cure(operand, item),
                )
        self._check_values(operand, items)
        values: tuple[float, ...] | tuple[str, ...] = tuple(_literal(item) for item in items)  # type: ignore[assignment]
        part = self._made(Member(operand.node, values), "bool", operand.start, (operand,))
        return self._made(Not(part.node), "bool", operand.start, (part,)) if negated else part

    def _item(self) -> _Part:
        start = self._peek().start
        negated = self._accept("-")
        token = self._take()
        if token.kind == "text" and not negated:
            return _Part(Constant(token.text[1:-1]), "text", start)
        if token.kind != "number":
            raise _error(start, "the list of in holds literals: numbers, or texts in quotes")
        value = _literal(self._number(token))
        return _Part(Constant(-value if negated and isinstance(value, float) else value), "number", start)

    def _check_values(self, part: _Part, others: Collection[_Part]) -> None:
        if not isinstance(part.node, Column) or part.node.name not in self._values:
            return
        values = self._values[part.node.name]
        for other in others:
            if isinstance(other.node, Constant) and other.node.value not in values:
                text = str(other.node.value)
                listed = ", ".join(sorted(values)[:10])
                raise _error(
                    other.start, f"{text!r} is no value of {part.node.name} ({listed}){did_you_mean(text, values)}"
                )

    def _call(self, token: _Token) -> _Part:
        name = token.text
        if name not in _ARITIES:
            cure = "; did you mean where?" if name.lower() in ("if", "iif", "ifelse") else did_you_mean(name, _ARITIES)
            raise _error(token.start, f"there is no function {name!r}{cure}")
        self._expect("(")
        parts = [self._expression(0)]
        while self._accept(","):
            parts.append(self._expression(0))
        self._expect(")")
        fewest, most = _ARITIES[name]
        if not fewest <= len(parts) <= most:
            wanted = str(fewest) if fewest == most else f"{fewest} or more"
            raise _error(token.start, f"{name} takes {wanted} arguments, not {len(parts)}")
        return self._applied(name, token.start, parts)

    def _applied(self, name: str, start: int, parts: list[_Part]) -> _Part:
        nodes = tuple(part.node for part in parts)
        if name == "missing":
            return self._made(Missing(nodes[0]), "bool", start, parts)
        if name in ("coalesce", "where"):
            branches = parts if name == "coalesce" else parts[1:]
            if name == "where":
                _demand(parts[0], "bool", "the condition of where")
            for part in branches[1:]:
                _demand(part, branches[0].kind, f"{name}, as in its first value,")
            node: Node = Coalesce(nodes) if name == "coalesce" else Where(*nodes)
            return self._made(node, branches[0].kind, start, parts, whole=all(part.whole for part in branches))
        for part in parts:
            _demand(part, "datetime" if name in _DATE_PARTS else "number", name)
        if name == "clip":
            _check_clip(parts)
        whole = name in _ALWAYS_WHOLE or (name in _WHOLE_IF_ALL and all(part.whole for part in parts))
        function: Function = name  # type: ignore[assignment]
        return self._made(Call(function, nodes), "number", start, parts, whole=whole)

    def _made(self, node: Node, kind: ValueKind, start: int, parts: Collection[_Part], *, whole: bool = False) -> _Part:
        depth = 1 + max(part.depth for part in parts)
        if depth > MAX_DEPTH:
            raise _too_deep(start)
        return _Part(node, kind, start, depth, whole)


def _error(start: int, message: str) -> ExpressionError:
    return ExpressionError(f"{message} (at character {start + 1})", start + 1)


def _too_deep(start: int) -> ExpressionError:
    return _error(start, f"nested deeper than {MAX_DEPTH}; split it into derived columns")


def _demand(part: _Part, kind: ValueKind, user: str) -> None:
    if part.kind != kind:
        cure = "; where(condition, 1, 0) makes a number of a bool" if (kind, part.kind) == ("number", "bool") else ""
        raise _error(part.start, f"{user} takes {_NAMES_OF_KINDS[kind]}, not {_NAMES_OF_KINDS[part.kind]}{cure}")


def _quote_cure(left: _Part, right: _Part) -> str:
    for one, other in ((left, right), (right, left)):
        if one.kind == "text" and other.kind == "number" and isinstance(other.node, Constant):
            return f'; write "{other.node.value:g}" in quotes' if isinstance(other.node.value, float) else ""
    return ""


def _literal(part: _Part) -> float | str:
    if not isinstance(part.node, Constant):
        raise _error(part.start, "a literal was expected")
    return part.node.value


def _check_clip(parts: list[_Part]) -> None:
    low, high = parts[1].node, parts[2].node
    if isinstance(low, Constant) and isinstance(high, Constant) and float(low.value) > float(high.value):
        raise _error(parts[1].start, f"clip's lower bound {low.value} is above its upper bound {high.value}")


# --- tree to closures

_Evaluate = Callable[[Row], Any]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
        case Call(function, arguments):
            return _finite(_strict(_CALLS[function], arguments))


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
    return float(math.floor(quotient)) if math.isfinite(quotient) else math.nan


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
_CALLS: dict[Function, Callable[..., float]] = {
    "abs": abs,
    "floor": lambda x: float(math.floor(x)),
    "ceil": lambda x: float(math.ceil(x)),
    "round": lambda x: float(round(x)),
    "log": lambda x: math.log(x) if x > 0 else math.nan,
    "log1p": lambda x: math.log1p(x) if x > -1 else math.nan,
    "exp": _exp,
    "sqrt": lambda x: math.sqrt(x) if x >= 0 else math.nan,
    "min": min,
    "max": max,
    "clip": lambda x, low, high: min(max(x, low), high),
    "year": lambda x: float(x.year),
    "month": lambda x: float(x.month),
    "day": lambda x: float(x.day),
    "hour": lambda x: float(x.hour),
    "minute": lambda x: float(x.minute),
    "weekday": lambda x: float(x.isoweekday()),
}
