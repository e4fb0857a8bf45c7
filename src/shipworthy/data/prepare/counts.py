"""Step counts: what each step of `prepare` did to how many rows; numbers and names, never a value of a row."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from shipworthy.contract.data_section import Step, StepVerb
from shipworthy.data.prepare.steps import Stepped

_Pairs = tuple[pl.Series, pl.Series]  # places of the same row in two tables
_SHOWN_COLUMNS = 4  # of those that a step changed, in a line


@dataclass(frozen=True, slots=True)
class StepCount:
    """One step as it went. What is None could not be told: no key stands at both ends of SQL or a function."""

    step: int  # from 1
    verb: StepVerb
    table: str  # that it made or replaced
    rows_in: Mapping[str, int]  # of each table that it read
    rows_out: int
    base: str | None = None  # the table whose rows went on
    dropped: int | None = None  # rows of `base` that did not
    missing: int = 0  # of those dropped: rows in which the condition of `keep` is missing
    added: int | None = None  # rows of no row of `base`
    multiplied: int | None = None  # rows of `base` that became several
    changed: Mapping[str, int] = field(default_factory=dict)  # column -> rows with another value than in `base`
    new: tuple[str, ...] = ()  # columns that `base` does not have
    quarantined: int = 0  # rows with a value that the step could not read
    because: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As the snapshot's event and `ship --json` have it."""
        return {
            "step": self.step,
            "does": self.verb,
            "table": self.table,
            "rows_in": dict(self.rows_in),
            "rows_out": self.rows_out,
            "base": self.base,
            "dropped": self.dropped,
            "missing": self.missing,
            "added": self.added,
            "multiplied": self.multiplied,
            "changed": dict(self.changed),
            "new": list(self.new),
            "quarantined": self.quarantined,
            "because": self.because,
            "words": self.words,
        }

    @property
    def words(self) -> str:
        """One line for a person.

        >>> StepCount(1, "keep", "flights", {"flights": 1000}, 990, "flights", 10, changed={"delay": 3}).words
        'flights 1,000 -> 990 rows: 10 dropped, delay changed in 3'
        """
        base = self.base or (next(iter(self.rows_in)) if len(self.rows_in) == 1 else None)
        before = "" if base is None else f"{base} {self.rows_in[base]:,} -> "
        made = f"{self.table} " if base != self.table else ""
        if base == self.table and self.rows_in[base] == self.rows_out:
            before = f"{base} "
        dropped = "dropped" + (f" ({self.missing:,} for a missing value)" if self.missing else "")
        counts = {dropped: self.dropped, "added": self.added, "to quarantine": self.quarantined}
        parts = [f"{count:,} {words}" for words, count in counts.items() if count]
        if self.multiplied:
            others = [name for name in self.rows_in if name != base]
            join = f"the join with {' or '.join(others)}" if others else "it"
            parts.append(f"{join} found several rows for {self.multiplied:,}")
        changed = sorted(((name, rows) for name, rows in self.changed.items() if rows), key=lambda item: -item[1])
        parts += [f"{name} changed in {rows:,}" for name, rows in changed[:_SHOWN_COLUMNS]]
        parts += [f"{len(changed) - _SHOWN_COLUMNS} more columns"] if len(changed) > _SHOWN_COLUMNS else []
        if self.new:
            shown = [*self.new[:_SHOWN_COLUMNS], *(["…"] if len(self.new) > _SHOWN_COLUMNS else [])]
            parts.append(f"new: {' '.join(shown)}")
        because = f" ({self.because})" if self.because else ""
        return f"{before}{made}{self.rows_out:,} rows" + (f": {', '.join(parts)}" if parts else "") + because


def count_declared(number: int, step: Step, before: pl.DataFrame, after: Stepped) -> StepCount:
    """What a step with `keep`, `set` or `distinct` did."""
    table, rejected = step.table or "", after.rejected.height
    return StepCount(
        step=number,
        verb=step.verbs[0],
        table=table,
        rows_in={table: before.height},
        rows_out=after.frame.height,
        base=table,
        dropped=before.height - after.frame.height - rejected,
        missing=after.missing,
        added=0,
        multiplied=0,
        changed=after.changed,
        new=_new(before, after.frame),
        quarantined=rejected,
        because=step.because,
    )


def count_made(
    number: int, step: Step, tables: Mapping[str, pl.DataFrame], frame: pl.DataFrame, key: str | None
) -> StepCount:
    """What SQL or a function did, told by the contract's key where the table that it came from has it too.

    Args:
        number: of the step, from 1.
        step: with its table.
        tables: as they were before the step.
        frame: the table that it made.
        key: the contract's column with `role: key`.
    """
    read = _named(step, tables)
    plain = StepCount(
        number, step.verbs[0], step.table or "", {name: tables[name].height for name in read}, frame.height,
        because=step.because,
    )  # fmt: skip
    base = _base(step, {name: tables[name] for name in read}, key) if key in frame.columns else None
    if key is None or base is None:
        return plain
    before = tables[base]
    rows, rows_out = before[key].cast(pl.String), frame[key].cast(pl.String)
    dropped, added, multiplied, pairs = _unmoved(rows) if rows.equals(rows_out) else _matched(rows, rows_out)
    return replace(
        plain,
        base=base,
        dropped=dropped,
        added=added,
        multiplied=multiplied,
        changed=_changed(before, frame, key, pairs),
        new=_new(before, frame),
    )


def _unmoved(rows: pl.Series) -> tuple[int, int, int, _Pairs]:
    """Of a table whose keys stand as they did, as most joins leave them."""
    every = pl.int_range(len(rows), eager=True)
    return 0, 0, 0, (every, every)


def _matched(rows: pl.Series, rows_out: pl.Series) -> tuple[int, int, int, _Pairs]:
    """Rows that were dropped, added and multiplied, and the pairs of rows whose key stands once at both ends."""
    one, other = (
        keys.to_frame("key").with_row_index("at").drop_nulls().group_by("key").agg(rows=pl.len(), at=pl.first("at"))
        for keys in (rows, rows_out)
    )
    both = one.join(other, on="key", how="full", suffix="_out", coalesce=True)
    both = both.with_columns(pl.col("rows", "rows_out").fill_null(0).cast(pl.Int64))
    known, gone = pl.col("rows") > 0, pl.col("rows") - pl.col("rows_out")
    dropped, added, multiplied = both.select(
        pl.when(known & (gone > 0)).then(gone).sum().alias("dropped"),
        pl.when(~known).then("rows_out").sum().alias("added"),
        (known & (gone < 0)).sum().alias("multiplied"),
    ).row(0)
    once = both.filter((pl.col("rows") == 1) & (pl.col("rows_out") == 1))
    return dropped, added, multiplied, (once["at"], once["at_out"])


def _named(step: Step, tables: Mapping[str, pl.DataFrame]) -> list[str]:
    """The tables that a step reads: those that SQL names, or all that a function gets."""
    if step.sql is None:
        return list(tables)
    words = set(re.findall(r"\w+", step.sql))
    return [name for name in tables if name in words]


def _base(step: Step, tables: Mapping[str, pl.DataFrame], key: str | None) -> str | None:
    """The table whose rows go on: the one that is replaced, else the first that has the key."""
    having = [name for name, frame in tables.items() if key in frame.columns]
    return step.table if step.table in having else next(iter(having), None)


def _new(before: pl.DataFrame, after: pl.DataFrame) -> tuple[str, ...]:
    return tuple(name for name in after.columns if name not in before.columns)


def _changed(before: pl.DataFrame, after: pl.DataFrame, key: str, pairs: _Pairs) -> dict[str, int]:
    """Of columns at both ends that are of one type: paired rows whose value differs."""
    counts = {}
    for name, kind in before.schema.items():
        if name == key or after.schema.get(name) != kind or kind.is_nested():
            continue
        was, now = before[name], after[name]
        if was.equals(now):  # as most columns
            continue
        counts[name] = int(was[pairs[0]].ne_missing(now[pairs[1]]).sum())
    return {name: count for name, count in counts.items() if count}
