"""Numerals: how the texts of a column write numbers, such as 1.234,5; only what is written so is read so."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from shipworthy.contract.expressions import MISSING

WORDS_FOR_NULL = ("None", "none")  # what programs write for a value that is not there, and people for "no such thing"
WRITTEN_SHARE = 0.95  # of a column's texts that must be written alike; the rest goes to quarantine
_GROUPERS = {"": "", ",": ",", ".": r"\.", "'": "['\u2019]", " ": "[ \u00a0\u202f]"}  # sign -> what stands for it
_DECIMALS = {".": r"\.", ",": ","}


@dataclass(frozen=True, slots=True)
class Numerals:
    """The signs within a number."""

    decimal: str = "."
    thousands: str = ""  # none

    @property
    def is_plain(self) -> bool:
        """Whether numbers are written as every program reads them."""
        return self == PLAIN

    @property
    def example(self) -> str:
        """A number that is written so.

        >>> Numerals(",", ".").example
        '1.234,5'
        """
        return f"1{self.thousands}234{self.decimal}5"

    @property
    def pattern(self) -> str:
        """What a whole text matches that is written so; groups have three digits."""
        decimal, group = _DECIMALS[self.decimal], _GROUPERS[self.thousands]
        grouped = rf"[1-9]\d{{0,2}}(?:{group}\d{{3}})+|" if group else ""
        return rf"^[+-]?(?:(?:{grouped}\d+)(?:{decimal}\d*)?|{decimal}\d+)(?:[eE][+-]?\d+)?$"

    def written(self, texts: pl.Expr) -> pl.Expr:
        """Whether each trimmed text is a number that is written so."""
        return texts.str.contains(self.pattern).fill_null(False)

    def plain(self, texts: pl.Expr) -> pl.Expr:
        """The texts, those of numbers as every program reads them; others stay as they are."""
        trimmed = texts.str.strip_chars()
        bare = trimmed.str.replace_all(_GROUPERS[self.thousands], "") if self.thousands else trimmed
        return pl.when(self.written(trimmed)).then(bare.str.replace(self.decimal, ".", literal=True)).otherwise(texts)

    def mistaken(self, texts: pl.Expr) -> pl.Expr:
        """Whether a text is not written so, and yet would be read as a number: it must not be."""
        trimmed = texts.str.strip_chars()
        reads = trimmed.cast(pl.Float64, strict=False).is_not_null() & trimmed.str.contains(r"\d")
        return reads & ~self.written(trimmed)


PLAIN = Numerals()
CANDIDATES = tuple(
    Numerals(decimal, thousands)
    for decimal, thousands in ((",", ""), (",", "."), (",", " "), (",", "'"), (".", ","), (".", "'"), (".", " "))
)


@dataclass(frozen=True, slots=True)
class Written:
    """How the numbers of a table are written."""

    numerals: Numerals = PLAIN
    columns: tuple[str, ...] = ()  # whose texts are written so, and not plainly
    numbers: tuple[str, ...] = ()  # and those that are written plainly as well as so, such as 12
    unclear: tuple[str, ...] = ()  # where a sign may part decimals as well as thousands
    apart: tuple[str, ...] = ()  # written in another way than others


def detect_numerals(frame: pl.DataFrame) -> Written:
    """The one way in which the numbers of a text file are written; plain where none is sure.

    A column such as 1,234 and 5,678 says nothing by itself: another one has to.
    """
    ways = {name: _ways(frame[name]) for name, kind in frame.schema.items() if kind == pl.String}
    voting = {name: fits for name, fits in ways.items() if fits and not _is_unclear(fits)}
    unclear = tuple(name for name, fits in ways.items() if _is_unclear(fits))
    if not voting:
        return Written(unclear=unclear)
    votes = {way: [name for name, fits in voting.items() if way in fits] for way in CANDIDATES}
    chosen = max(CANDIDATES, key=lambda way: len(votes[way]))
    columns = (*votes[chosen], *(name for name in unclear if chosen in ways[name]))
    others = [name for name in ways if name not in columns]
    apart = tuple(name for name in others if ways[name] or _contradicts(frame[name], chosen))
    if apart:
        return Written(unclear=unclear, apart=apart)
    numbers = (name for name in others if _is_plain(_known(frame[name])))
    return Written(chosen, columns, (*columns, *numbers))


def _is_unclear(fits: Sequence[Numerals]) -> bool:
    return len({way.decimal for way in fits}) > 1


def _known(series: pl.Series) -> pl.Series:
    trimmed = series.str.strip_chars().drop_nulls()
    return trimmed.filter(~trimmed.is_in([*MISSING, *WORDS_FOR_NULL]))


def _ways(series: pl.Series) -> list[Numerals]:
    """The ways in which nearly all texts of a column are written; none where they are plain numbers."""
    known = _known(series)
    if not len(known) or _is_plain(known):
        return []
    return [way for way in CANDIDATES if _share(known, way) >= WRITTEN_SHARE]


def _contradicts(series: pl.Series, way: Numerals) -> bool:
    """Whether a column of plain numbers would not be read, if it were written in this way."""
    known = _known(series)
    return _is_plain(known) and _share(known, way) < WRITTEN_SHARE


def _is_plain(known: pl.Series) -> bool:
    return bool(len(known)) and _share(known, PLAIN) >= WRITTEN_SHARE


def _share(known: pl.Series, way: Numerals) -> float:
    return float(known.str.contains(way.pattern).mean() or 0)  # type: ignore[arg-type]


def words_for_null(frame: pl.DataFrame, numerals: Numerals) -> tuple[str, ...]:
    """The words that stand for no value in some column of numbers, written in this way or plainly."""
    found: set[str] = set()
    for name in (name for name, kind in frame.schema.items() if kind == pl.String):
        words = frame[name].str.strip_chars().unique()
        words = words.filter(words.is_in(WORDS_FOR_NULL))
        known = _known(frame[name])
        if len(words) and (_is_plain(known) or (len(known) and _share(known, numerals) >= WRITTEN_SHARE)):
            found |= set(words.to_list())
    return tuple(sorted(found))


def spoken(numerals: Numerals) -> str:
    """How numbers are written, in words for a person."""
    words = f"decimal sign {numerals.decimal!r}"
    return f"{words}, thousands by {numerals.thousands!r}" if numerals.thousands else words
