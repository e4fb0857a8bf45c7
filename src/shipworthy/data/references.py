"""References: rows of one source that name a row of another, judged before the sources are joined.

A join that finds nothing leaves a gap, or drops the row, and says nothing: here the orphans are counted and shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl

from shipworthy.contract.columns import Column
from shipworthy.contract.data_section import KeyRule
from shipworthy.contract.expressions import did_you_mean
from shipworthy.contract.quantities import format_share
from shipworthy.contract.types import Contract
from shipworthy.data.values import cleaned, typed
from shipworthy.kernel.digest import Json
from shipworthy.kernel.errors import DataError

SHOWN_ORPHANS = 3  # values that name nothing, the most frequent ones


@dataclass(frozen=True, slots=True)
class Orphans:
    """What one rule of `data.keys` found."""

    rule: KeyRule
    rows: int  # that name something
    orphans: int  # of them whose value is not there
    examples: tuple[str, ...]  # the most frequent values that name nothing

    @property
    def passed(self) -> bool:
        """Whether no more are orphans than the rule allows."""
        return self.orphans <= self.rule.failing.at_most * self.rows

    def __str__(self) -> str:
        """What was found, in a sentence."""
        named = f", such as {', '.join(map(repr, self.examples))}" if self.examples else ""
        return (
            f"{self.rule.from_}: {self.orphans:,} of {self.rows:,} rows name no {self.rule.to}{named}; "
            f"{format_share(self.rule.failing.at_most)} may"
        )

    def to_json(self) -> dict[str, Json]:
        """For the event of a snapshot."""
        return {
            "from": self.rule.from_,
            "to": self.rule.to,
            "rows": self.rows,
            "orphans": self.orphans,
            "examples": list(self.examples),
        }


def find_orphans(contract: Contract, frames: Mapping[str, pl.DataFrame]) -> list[Orphans]:
    """What each rule of `data.keys` finds in the sources.

    Values are compared as texts, as labels are read: trimmed, and 7.0 is 7. One that is missing names nothing.

    Raises:
        DataError: a source has no such column.
    """
    return [_judge(rule, frames) for rule in contract.data.keys]


def judge_orphans(found: Sequence[Orphans]) -> None:
    """Refuse sources of which more rows are orphans than the contract allows.

    Raises:
        DataError: names each rule that failed, with examples.
    """
    problems = [str(orphans) for orphans in found if not orphans.passed]
    if problems:
        raise DataError("; ".join(problems) + " (data.keys)")


def _judge(rule: KeyRule, frames: Mapping[str, pl.DataFrame]) -> Orphans:
    names, known = _labels(rule.from_, frames).drop_nulls(), _labels(rule.to, frames).drop_nulls().unique()
    orphans = names.filter(~names.is_in(known.implode()))
    counted = orphans.value_counts().sort("count", orphans.name, descending=[True, False]).head(SHOWN_ORPHANS)
    return Orphans(rule, len(names), len(orphans), tuple(counted[orphans.name]))


def _labels(place: str, frames: Mapping[str, pl.DataFrame]) -> pl.Series:
    source, _, name = place.partition(".")
    frame = frames[source]
    if name not in frame.columns:
        raise DataError(f"data.keys: {source} has no column {name!r}{did_you_mean(name, frame.columns)}")
    column = Column(type="category")
    known = frame.select(cleaned(name, column, frame.schema[name]))
    return known.select(typed(name, column, known.schema[name])).to_series()
