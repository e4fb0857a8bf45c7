"""Guesses: what each column of a table most likely is, as `infer` finds it and `review` doubts it."""

from dataclasses import dataclass, field
from typing import Literal

import polars as pl

from shipworthy.contract.columns import Column
from shipworthy.contract.sections import Kind, Task
from shipworthy.data.values import cleaned, typed

GIVES_AWAY = "gives the target away"
SHOWN_CHARACTERS = 40  # of a value in a reason

Place = Literal["feature", "key", "time", "protected", "target", "left out"]


@dataclass(frozen=True, slots=True)
class Guess:
    """What one column most likely is."""

    name: str
    place: Place
    kind: Kind
    why: str = ""  # of a column that was left out
    values: tuple[str, ...] = ()  # of a category, most telling order: as numbers, else alphabetically
    range: tuple[float, float] | None = None
    missing: float = 0.0  # share, 0 to 1
    reference: str | None = None  # of a protected column: its most frequent group
    format: str | None = None  # of a datetime that was read as text
    strays: int = 0  # values that are not of the type


@dataclass(frozen=True, slots=True)
class Inference:
    """What a table most likely holds."""

    columns: tuple[Guess, ...]  # in the table's order, the target among them
    target: str
    task: Task
    classes: tuple[str, ...] = ()
    positive: str | None = None
    usual: str | float = 0.0  # majority class, or median
    review: tuple[str, ...] = ()  # what a person should look at

    def placed(self, *places: Place) -> tuple[Guess, ...]:
        """The columns with one of these places, in the table's order."""
        return tuple(guess for guess in self.columns if guess.place in places)


@dataclass(frozen=True, slots=True)
class Goal:
    """The target, with what it says of each row."""

    guess: Guess
    task: Task
    truth: pl.Series  # class texts or float64, of the rows that have one
    rows: pl.Series  # bool: which rows have one
    classes: tuple[str, ...]
    positive: str | None
    usual: str | float
    rare: dict[str, int] = field(default_factory=dict)  # classes of few rows, with their number
    absent: str = ""  # the words that mean missing, as they stand in the column


def texts_of(series: pl.Series) -> pl.Series:
    """The values as labels, without those that mean missing."""
    frame = series.to_frame()
    known = frame.select(cleaned(series.name, Column(type="category"), series.dtype))
    return known.select(typed(series.name, Column(type="category"), known.schema[series.name])).to_series()


def numbers_of(series: pl.Series) -> pl.Series:
    """The values as float64, null where one is no number."""
    column = Column(type="float")
    known = series.to_frame().select(cleaned(series.name, column, series.dtype))
    return known.select(typed(series.name, column, known.schema[series.name])).to_series()


def short(text: str) -> str:
    """A text in quotes as a reason shows it."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")
