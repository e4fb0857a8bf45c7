"""The parser of expressions: tokens to a typed tree, by precedence climbing."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from shipworthy.contract.expression_functions import ARITIES, SIGNATURES, Written
from shipworthy.contract.expression_nodes import (
    MAX_DEPTH,
    MAX_EXPONENT,
    MAX_LENGTH,
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
    Kind,
    Label,
    Member,
    Missing,
    Negate,
    Node,
    Not,
    Or,
    Power,
    ValueKind,
    Where,
)
from shipworthy.contract.expression_text import MAX_TEXT
from shipworthy.contract.expression_tokens import WORDS, Token, read_tokens
from shipworthy.contract.spelling import did_you_mean
from shipworthy.kernel.errors import ExpressionError


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
_NAMES_OF_KINDS = {"number": "a number", "bool": "a bool", "text": "a text", "datetime": "a datetime"}
_NULLS = ("none", "null", "nan", "na", "nil")


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
    parser = _Parser(read_tokens(text), columns, values or {})
    part = parser.parse()
    return Expression(text, part.node, part.kind, part.whole, tuple(sorted(parser.used)))


def parse_derived(
    text: str,
    columns: Mapping[str, Kind],
    labels: Collection[str] | None = None,
    *,
    values: Mapping[str, Collection[str]] | None = None,
) -> Expression:
    """`parse_expression`, where the buckets of a category are its labels.

    Args:
        text: of a derived column.
        columns: the names that may be used, with their kinds.
        labels: a category's values in order; None for other columns.
        values: as of `parse_expression`.

    Raises:
        ExpressionError: as `parse_expression`, or there are not as many labels as buckets.

    >>> parse_derived("bucket(age, 18, 65)", {"age": "int"}, ["child", "adult", "old"]).kind
    'text'
    """
    parsed = parse_expression(text, columns, values=values)
    root = parsed.root
    if labels is None or not (isinstance(root, Call) and root.function == "bucket"):
        return parsed
    if len(labels) != len(root.literals) + 1:
        raise ExpressionError(
            f"{len(root.literals)} edges make {len(root.literals) + 1} buckets, and there are {len(labels)} values; "
            "write one for each, lowest first"
        )
    return replace(parsed, root=Label(root, tuple(labels)), kind="text", whole=False)


def answers(expression: Expression) -> frozenset[str]:
    """The texts written out that an expression of kind text may give, as it stands.

    >>> sorted(answers(parse_expression('where(a < 3, "low", lower("High"))', {"a": "float"})))
    ['low']
    """
    return frozenset(_answers(expression.root))


def _answers(node: Node) -> Iterator[str]:
    match node:
        case Constant(str(value)):
            yield value
        case Where(_, then, otherwise):
            yield from (*_answers(then), *_answers(otherwise))
        case Coalesce(operands):
            for operand in operands:
                yield from _answers(operand)


class _Parser:
    """Precedence climbing over the tokens; its invariant is that `_at` never passes the end token."""

    def __init__(
        self, tokens: tuple[Token, ...], columns: Mapping[str, Kind], values: Mapping[str, Collection[str]]
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

    def _peek(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
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

    def _number(self, token: Token) -> _Part:
        value = float(token.text)
        if not math.isfinite(value):
            raise _error(token.start, f"{token.text} is beyond the range of float64")
        return _Part(Constant(value), "number", token.start, whole=value.is_integer())

    def _name(self, token: Token) -> _Part:
        if token.text in ("true", "false"):
            return _Part(Constant(token.text == "true"), "bool", token.start)
        if token.text == "not":
            part = self._expression(5)
            _demand(part, "bool", "not")
            return self._made(Not(part.node), "bool", token.start, (part,))
        if self._peek().kind == "sign" and self._peek().text == "(":
            return self._call(token)
        if token.text not in self._columns or token.text in WORDS:
            raise _error(token.start, self._unknown(token.text))
        self.used.add(token.text)
        kind = self._columns[token.text]
        return _Part(Column(token.text, kind), VALUE_KINDS[kind], token.start, whole=kind == "int")

    def _unknown(self, name: str) -> str:
        if name in WORDS:
            return f"{name!r} is an operator and stands between or before operands"
        if name in ARITIES:
            return f"{name!r} is a function: write {name}(…)"
        if name.lower() in _NULLS:
            return f"there is no {name!r}: write missing(column) to ask whether a value is missing"
        if name.lower() in ("true", "false"):
            return f"no column is called {name!r}; did you mean {name.lower()}?"
        return f"no column is called {name!r} here{did_you_mean(name, self._columns)}"

    def _infix(self, left: _Part, token: Token, strength: int) -> _Part:
        if token.text in ("and", "or"):
            return self._logic(left, token.text, strength)
        if strength == 7:
            return self._comparison(left)
        self._take()
        if token.text == "**":
            return self._power(left)
        right = self._expression(strength + 1)
        sign: ArithmeticOperator = token.text  # type: ignore[assignment]
        if sign == "+" and left.kind == right.kind == "text":
            return self._called("concat", left.start, (left, right))
        if sign == "-" and left.kind == right.kind == "datetime":
            raise _error(token.start, "write days_between(start, end) or hours_between(start, end) for a duration")
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

    def _compare(self, token: Token, left: _Part, right: _Part) -> _Part:
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

    def _call(self, token: Token) -> _Part:
        name = token.text
        if name not in ARITIES:
            cure = "; did you mean where?" if name.lower() in ("if", "iif", "ifelse") else did_you_mean(name, ARITIES)
            raise _error(token.start, f"there is no function {name!r}{cure}")
        self._expect("(")
        parts = [self._expression(0)]
        while self._accept(","):
            parts.append(self._expression(0))
        self._expect(")")
        fewest, most = ARITIES[name]
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
        function: Function = name  # type: ignore[assignment]
        return self._called(function, start, parts)

    def _called(self, function: Function, start: int, parts: Sequence[_Part]) -> _Part:
        signature = SIGNATURES[function]
        written = _written(function, signature.written, parts)
        computed = parts[: len(parts) - len(written)]
        for part in computed:
            _demand(part, signature.takes, function)
        if function == "clip":
            _check_clip(computed)
        whole = signature.whole == "always" or (signature.whole != "never" and all(part.whole for part in computed))
        node = Call(function, tuple(part.node for part in computed), written)
        return self._made(node, signature.gives, start, parts, whole=whole)

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


def _written(function: Function, wanted: Sequence[Written], parts: Sequence[_Part]) -> tuple[float | str, ...]:
    """The literals at the end of a function's arguments."""
    if not wanted:
        return ()
    if wanted == ("edges",):
        edges = [_literal_of(part, "number", f"an edge of {function}") for part in parts[1:]]
        for part, one, other in zip(parts[2:], edges, edges[1:], strict=False):
            if float(one) >= float(other):
                raise _error(part.start, f"the edges of {function} ascend, and {other:g} is not above {one:g}")
        return tuple(edges)
    found = []
    for position, (kind, part) in enumerate(zip(wanted, parts[-len(wanted) :], strict=True)):
        value = _literal_of(part, "number" if kind == "count" else "text", f"what {function} takes here")
        if kind == "count" and (not isinstance(value, float) or not value.is_integer() or not 1 <= value <= MAX_TEXT):
            raise _error(part.start, f"{function} takes a whole number of characters, 1 to {MAX_TEXT}, not {value:g}")
        if value == "" and position == 0:
            raise _error(part.start, f"the text that {function} looks for is empty")
        found.append(value)
    return tuple(found)


def _literal_of(part: _Part, kind: ValueKind, what: str) -> float | str:
    node = part.node
    if isinstance(node, Negate) and isinstance(node.operand, Constant):
        return -float(node.operand.value)
    if not isinstance(node, Constant) or part.kind != kind:
        raise _error(part.start, f"{what} is {_NAMES_OF_KINDS[kind]} written out")
    return node.value


def _check_clip(parts: Sequence[_Part]) -> None:
    low, high = parts[1].node, parts[2].node
    if isinstance(low, Constant) and isinstance(high, Constant) and float(low.value) > float(high.value):
        raise _error(parts[1].start, f"clip's lower bound {low.value} is above its upper bound {high.value}")
