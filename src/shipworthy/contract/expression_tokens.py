"""The words of an expression: its text as tokens."""

import re
from dataclasses import dataclass
from typing import Literal

from shipworthy.kernel.errors import ExpressionError


@dataclass(frozen=True, slots=True)
class Token:
    """One word of an expression."""

    kind: Literal["number", "text", "name", "sign", "end"]
    text: str
    start: int  # from 0


_PATTERN = re.compile(
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
WORDS = ("and", "or", "not", "in", "true", "false")


def read_tokens(text: str) -> tuple[Token, ...]:
    """The tokens of `text`, an end token last.

    Raises:
        ExpressionError: a character that begins no token.
    """
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        found = _PATTERN.match(text, at)
        if found is None:
            cure = _CURES.get(text[at], "see the contract reference for what an expression may hold")
            raise ExpressionError(f"{text[at]!r} at character {at + 1} means nothing here: {cure}", at + 1)
        kind: Literal["number", "text", "name", "sign"] = found.lastgroup  # type: ignore[assignment]
        tokens.append(Token(kind, found[0], at))
        at = found.end()
        if kind == "number" and text[at : at + 1].isidentifier():
            raise ExpressionError(f"the number {found[0]!r} at character {found.start() + 1} runs into a name", at + 1)
    tokens.append(Token("end", "", len(text)))
    return tuple(tokens)
