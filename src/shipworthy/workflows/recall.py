"""What of a table's rows is on record already, found by their ids in little memory.

Eight bytes for each row's id, sixteen more for each that is on record; the records themselves stay on the disk until
the rows come by.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.records.read import list_segments, read_places, read_segment_as
from shipworthy.security.vault import Vault
from shipworthy.serving.earlier import Recorded


class Earlier(Recorded):
    """What is on record of a row."""

    inputs: Any = None


class _Named(msgspec.Struct):
    id: str | None = None


def hash_ids(ids: pl.Series) -> NDArray[np.uint64]:
    """64 bits of each id; two ids may share them, so they find and the id itself decides."""
    return ids.hash(1).to_numpy()


class Recall:
    """Knows which ids of one table are on record, and which stand in it more than once.

    Args:
        ids: all ids of the table, in series of some rows; null where a row has none.
        directory: `records/ENV`.
        vault: opens sealed segments.
        unique: whether no id can stand in several rows.

    Raises:
        AccessError: a segment is sealed, and its key is not here.
        IntegrityError: a record segment is damaged.
    """

    def __init__(self, ids: Iterable[pl.Series], directory: Path, vault: Vault | None, *, unique: bool = False) -> None:
        self._segments = list_segments(directory)
        hashes = [] if unique and not self._segments else [hash_ids(series.drop_nulls()) for series in ids]
        asked = np.sort(np.concatenate(hashes)) if hashes else np.empty(0, dtype=np.uint64)
        self._repeated = np.unique(asked[1:][asked[1:] == asked[:-1]])
        segments = self._segments if len(asked) else []
        found = [_find(number, segment, asked, vault) for number, segment in enumerate(segments)]
        every = np.concatenate(found) if found else np.empty((0, 3), dtype=np.uint64)
        self._places = every[np.argsort(every[:, 0], kind="stable")]
        self._vault = vault

    def may_repeat(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Where an id may stand in another row too."""
        return _is_in(hashes, self._repeated)

    def find(self, ids: pl.Series, hashes: NDArray[np.uint64]) -> dict[str, Earlier]:
        """The first record of each of `ids` that has one.

        Args:
            ids: of some rows.
            hashes: of these ids.
        """
        known = self._places[:, 0]
        wanted = np.unique(hashes[_is_in(hashes, known)])
        starts, ends = np.searchsorted(known, wanted), np.searchsorted(known, wanted, side="right")
        rows = [self._places[start:end, 1:] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
        if not rows:
            return {}
        places, asked, found = np.concatenate(rows), set(ids.to_list()), dict[str, Earlier]()
        for number in np.unique(places[:, 0]).tolist():
            inside = places[places[:, 0] == number, 1].tolist()
            for record in read_places(self._segments[number], Earlier, inside, self._vault):
                if record.id is not None and record.id in asked:
                    found.setdefault(record.id, record)
        return found


def _find(number: int, segment: Path, asked: NDArray[np.uint64], vault: Vault | None) -> NDArray[np.uint64]:
    """Hash, segment and place of each record whose id may be one of those asked for, in the segment's order."""
    names = [record.id for record in read_segment_as(segment, _Named, vault)]
    hashes = hash_ids(pl.Series(names, dtype=pl.String))
    places = np.flatnonzero(_is_in(hashes, asked) & np.array([name is not None for name in names], dtype=np.bool_))
    return np.column_stack([hashes[places], np.full(len(places), number, np.uint64), places.astype(np.uint64)])


def _is_in(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Whether each value is one of `known`, which ascend."""
    if not len(known):
        return np.zeros(len(values), dtype=np.bool_)
    places = np.minimum(np.searchsorted(known, values), len(known) - 1)
    found: NDArray[np.bool_] = known[places] == values
    return found
