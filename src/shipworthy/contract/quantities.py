"""Quantities with units: durations, shares, sizes and sums as the contract writes them."""

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_NUMBER = r"(-?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?)"
_DURATION = re.compile(_NUMBER + r"\s*(ms|s|min|h|d)", re.ASCII)
_SHARE = re.compile(_NUMBER + r"\s*%", re.ASCII)
_SIZE = re.compile(_NUMBER + r"\s*(kB|MB|GB|TB)", re.ASCII)
_MONEY = re.compile(_NUMBER + r"\s+([A-Z]{3})", re.ASCII)

SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_duration(text: Any) -> float:
    """Seconds of a duration such as `200ms`, `30min` or `90d`; above 0.

    >>> parse_duration("1.5h")
    5400.0
    """
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None or float(found[1]) <= 0:
        raise ValueError("expected a duration above 0 with its unit (ms, s, min, h or d), such as 200ms or 30d")
    return float(found[1]) * SECONDS[found[2]]


def parse_share(text: Any) -> float:
    """Fraction of a share such as `2%`; 0 to 1.

    >>> parse_share("2.5%")
    0.025
    """
    found = _SHARE.fullmatch(text) if isinstance(text, str) else None
    if found is None or not 0 <= float(found[1]) <= 100:
        raise ValueError("expected a share from 0% to 100% with its percent sign, such as 2%")
    return float(found[1]) / 100


def parse_multiple(text: Any) -> float:
    """Factor of a percentage such as `200%`, which may be more than all; above 0.

    >>> parse_multiple("200%")
    2.0
    """
    found = _SHARE.fullmatch(text) if isinstance(text, str) else None
    if found is None or not 0 < float(found[1]) <= 1_000_000:
        raise ValueError("expected a percentage above 0% with its percent sign, such as 200%")
    return float(found[1]) / 100


def parse_size(text: Any) -> int:
    """Bytes of a size such as `200MB`, with decimal prefixes; above 0.

    >>> parse_size("20MB")
    20000000
    """
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None or float(found[1]) <= 0:
        raise ValueError("expected a size above 0 with its unit (kB, MB, GB or TB), such as 200MB")
    return round(float(found[1]) * BYTES[found[2]])


@dataclass(frozen=True, slots=True)
class Money:
    """A sum in one currency."""

    amount: float
    currency: str  # ISO 4217, three capitals

    def __str__(self) -> str:
        """As the contract writes it: `120 USD`."""
        return f"{self.amount:g} {self.currency}"


def format_duration(seconds: float) -> str:
    """A duration as the contract writes it, in the largest unit that needs no fraction.

    >>> format_duration(5400.0), format_duration(0.2)
    ('90min', '200ms')
    """
    for unit, length in reversed(SECONDS.items()):
        count = round(seconds / length, 9)
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{seconds / SECONDS['ms']:g}ms"


def format_share(fraction: float) -> str:
    """A share as the contract writes it.

    >>> format_share(0.025)
    '2.5%'
    """
    return f"{fraction * 100:.10g}%"


def format_size(size_bytes: int) -> str:
    """A size as the contract writes it, in the largest unit that needs no fraction.

    >>> format_size(20_000_000)
    '20MB'
    """
    for unit, length in reversed(BYTES.items()):
        if size_bytes >= length and size_bytes % length == 0:
            return f"{size_bytes // length}{unit}"
    return f"{size_bytes / BYTES['kB']:.10g}kB"


def parse_money(text: Any) -> Money:
    """The sum that a text such as `120 USD` names.

    >>> parse_money("0.01 USD")
    Money(amount=0.01, currency='USD')
    """
    if isinstance(text, Money):
        return text
    found = _MONEY.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("expected a sum with its currency in three capitals, such as 120 USD")
    return Money(float(found[1]), found[2])


def _text_schema(pattern: re.Pattern[str], description: str, example: str) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": "string", "pattern": f"^{pattern.pattern}$", "description": description, "examples": [example]}
    )


Duration = Annotated[float, BeforeValidator(parse_duration), _text_schema(_DURATION, "duration with unit", "200ms")]
Share = Annotated[float, BeforeValidator(parse_share), _text_schema(_SHARE, "share in percent", "2%")]
Multiple = Annotated[float, BeforeValidator(parse_multiple), _text_schema(_SHARE, "multiple in percent", "200%")]
Size = Annotated[int, BeforeValidator(parse_size), _text_schema(_SIZE, "size in bytes with unit", "200MB")]
Sum = Annotated[
    Money,
    BeforeValidator(parse_money),
    PlainSerializer(str),
    _text_schema(_MONEY, "sum with currency", "120 USD"),
]
