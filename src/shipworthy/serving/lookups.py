"""Lookups in memory: the latest row of each key, as the release carries them; one dict look-up for a row.

A row that was known only after the request's own time is not used: nothing is answered from the future, and a request
of the past is not answered from what came true since.
"""

from array import array
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from shipworthy.bundle.format import FeatureField, Kind, LookupField, LookupTable, Schema
from shipworthy.kernel.errors import IntegrityError

UNKNOWN, EARLY, OLD = -1, -2, -3  # instead of a row's number: no such key; known only later; too old
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_TYPES: Mapping[Kind, frozenset[type]] = {
    "float": frozenset({float, type(None)}),
    "int": frozenset({int, type(None)}),
    "bool": frozenset({bool, type(None)}),
    "category": frozenset({str, type(None)}),
    "text": frozenset({str, type(None)}),
    "datetime": frozenset({str, type(None)}),
}


class Lookup:
    """One lookup: which row of its table a request gets.

    Args:
        field: how rows are found.
        table: the rows.
        features: that it gives.

    Raises:
        IntegrityError: the table is not of this lookup.
    """

    def __init__(self, field: LookupField, table: LookupTable, features: Sequence[FeatureField]) -> None:
        self.field = field
        self.features = tuple(features)
        rows = _count_rows(field, table)
        self.columns = tuple(_column(field.name, feature, table, rows) for feature in features)
        self._nothing = (None,) * len(self.features)
        self.needed = tuple((place, f.name) for place, f in enumerate(self.features) if f.missing == "reject")
        keys = table.key[0] if len(table.key) == 1 else list(zip(*table.key, strict=True))
        self._rows: dict[Any, int] = {key: row for row, key in enumerate(keys)}
        if len(self._rows) != rows:
            raise IntegrityError(f"The payload's lookup {field.name} has a key twice.")
        self._times = None if table.times is None else array("q", table.times)
        self._delay_us = field.delay_us
        self._max_age_us = field.max_age_us

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def keys(self) -> list[Any]:
        """The keys; of several columns a tuple each."""
        return list(self._rows)

    @property
    def known_us(self) -> int | None:
        """When the last of its rows was known; None where its rows are of no moment."""
        return max(self._times) + self._delay_us if self._times else None

    def find(self, key: Any, moment_us: int) -> int:
        """The number of the row for `key` (of several columns a tuple) at a moment; UNKNOWN, EARLY or OLD."""
        row = self._rows.get(key, UNKNOWN)
        if self._times is None or row < 0:
            return row
        age_us = moment_us - self._times[row]
        if age_us < self._delay_us:
            return EARLY
        return OLD if self._max_age_us is not None and age_us > self._max_age_us else row

    def row(self, row: int) -> tuple[Any, ...]:
        """What a row that was found gives each feature, None where it is missing; of one that was not, nothing."""
        if row < 0:
            return self._nothing
        return tuple([None if (value := column[row]) != value else value for column in self.columns])

    def gather(self, rows: Sequence[int]) -> list[list[Any]]:
        """What `row` gives, of many rows, by feature."""
        return [
            [None if row < 0 or (value := column[row]) != value else value for row in rows] for column in self.columns
        ]

    def expect(self, found: int) -> str:
        """What would have had to be there, in a problem's words."""
        of = f"a row of the lookup {self.field.name} for this {', '.join(self.field.key)}"
        if found == EARLY:
            return f"{of} that was known at the request's time"
        age_s = (self.field.max_age_us or 0) / 1e6
        if found == OLD:
            return f"{of} of at most {age_s:g} s before the request's time"
        return of if found < 0 else f"{of} that has the value"

    def explain(self, found: int) -> str:
        """Why features are missing, in a warning's words."""
        names = ", ".join(feature.name for feature in self.features)
        of = f"{names}: the lookup {self.field.name} has no row for this {', '.join(self.field.key)}"
        why = {EARLY: " that was known at the request's time", OLD: " that is young enough"}.get(found, "")
        return f"{of}{why}: taken as missing"


def load_lookups(schema: Schema, tables: Mapping[str, LookupTable]) -> tuple[Lookup, ...]:
    """The lookups of a payload.

    Raises:
        IntegrityError: the tables are not those of the schema.
    """
    known = {lookup.name for lookup in schema.looked_up}
    strangers = [field.name for field in schema.features if isinstance(field.lookup, str) and field.lookup not in known]
    if strangers or known != tables.keys():
        raise IntegrityError(f"The payload has the lookups {sorted(tables)}; its schema names {sorted(known)}.")
    return tuple(
        Lookup(each, tables[each.name], [field for field in schema.features if field.lookup == each.name])
        for each in schema.looked_up
    )


def microseconds(moment: datetime) -> int:
    """Whole microseconds since 1970 in UTC, exact.

    >>> microseconds(datetime(1970, 1, 1, 0, 0, 1, 5, tzinfo=UTC))
    1000005
    """
    return (moment - EPOCH) // _MICROSECOND


def _count_rows(field: LookupField, table: LookupTable) -> int:
    parts: list[Sequence[Any]] = [*table.key, *table.columns.values(), *([] if table.times is None else [table.times])]
    if len(table.key) != len(field.key) or field.is_timed != (table.times is not None):
        raise IntegrityError(f"The payload's lookup {field.name} has a table with other keys.")
    if any(len(one) != len(other) for one, other in pairwise(parts)):
        raise IntegrityError(f"The payload's lookup {field.name} has columns of different length.")
    return len(table.key[0])


def _column(lookup: str, feature: FeatureField, table: LookupTable, rows: int) -> Sequence[Any]:
    values = table.columns.get(feature.name)
    if values is None or len(values) != rows or not set(map(type, values)) <= _TYPES[feature.kind]:
        raise IntegrityError(f"The payload's lookup {lookup} has no column of {feature.kind} for {feature.name}.")
    if feature.kind == "float":
        return array("d", [float("nan") if value is None else value for value in values])
    pool: dict[Any, Any] = {}  # equal texts are kept once
    return [pool.setdefault(value, value) for value in values] if feature.kind != "int" else values
