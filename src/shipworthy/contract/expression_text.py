"""Texts in expressions: case, blanks and length, the same on every machine that computes them."""

import re
from collections.abc import Callable

MAX_TEXT = 10_000  # characters; a longer text is missing, as a number is that overflows
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
_LATER = re.compile(  # letters whose other case came after Unicode 14: not every Python and polars knows it
    "[\u019b\u0264\u1c89\u1c8a\ua7cb-\ua7cf\ua7d2-\ua7d5\ua7da-\ua7dc\U00010d50-\U00010d65\U00010d70-\U00010d85"
    "\U00016ea0-\U00016eb8\U00016ebb-\U00016ed3]"
)


def lower(text: str) -> str | None:
    """`text` in small letters, each character by itself as in Unicode 14; None where that is too long.

    >>> lower("ÀB"), lower("ΟΔΟΣ")
    ('àb', 'οδοσ')
    """
    return text.lower() if text.isascii() else _each(str.lower, text)


def upper(text: str) -> str | None:
    """`text` in capitals, each character by itself as in Unicode 14; None where that is too long.

    >>> upper("straße")
    'STRASSE'
    """
    return text.upper() if text.isascii() else _each(str.upper, text)


def held(text: str) -> str | None:
    """`text`, or None where it is too long."""
    return text if len(text) <= MAX_TEXT else None


def _each(change: Callable[[str], str], text: str) -> str | None:
    if _LATER.search(text):
        return held("".join(one if _LATER.match(one) else change(one) for one in text))
    return held("".join(map(change, text)))
