"""Split: which accepted rows train, calibrate and test. The same rows and seed give the same parts.

At random and by subject a row's place follows from what it holds (its key, if there is one), never from where it
stands: when rows come or go, the others stay in their parts, but for few at the borders. So a champion's training
rows do not become the test rows on which it is compared; the calibrate part lies between the two.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.contract.types import Contract
from shipworthy.data.columns import target_array
from shipworthy.kernel.errors import DataError


@dataclass(frozen=True, slots=True)
class Split:
    """Row numbers (from 0) of each part: in the order of time, or shuffled.

    So the last rows of a part are a fair judge of a model that was fitted on those before.
    """

    train: NDArray[np.int64]
    calibrate: NDArray[np.int64]
    test: NDArray[np.int64]
    dropped: int = 0  # rows whose truth was not known yet when the next part began


def split(contract: Contract, frame: pl.DataFrame, seed: int) -> Split:
    """Part accepted rows as `training.split` says.

    By time, equal times stay together, and a row is dropped whose truth (`target.known_after`) was not known
    when the next part began. By subject, all rows of a subject stay together. At random, each class is parted
    in the same shares.

    Raises:
        DataError: a part is empty, a class is lacking in the training part, or the column that the split
            needs is not in the contract.
    """
    by = contract.training.split.by
    if by == "time":
        parts = _by_time(contract, frame)
    elif by == "subject":
        parts = _by_subject(contract, frame, seed)
    else:
        parts = _at_random(contract, frame, seed)
    _judge(contract, frame, parts)
    return parts


def _column(contract: Contract, role: str) -> str:
    names = [name for name, column in contract.context.items() if column.role == role]
    if not names:
        raise DataError(f"training.split.by is {role}, but no context column has the role {role}; declare one")
    return names[0]


def _sizes(contract: Contract, rows: int) -> tuple[int, int]:
    """How many rows calibrate and test; at least one where their share is above 0."""
    shares = contract.training.split
    calibrate, test = round(shares.calibrate * rows), round(shares.test * rows)
    return max(calibrate, int(shares.calibrate > 0)), max(test, int(shares.test > 0))


def _by_time(contract: Contract, frame: pl.DataFrame) -> Split:
    name = _column(contract, "time")
    moments = frame[name].to_physical().to_numpy().astype(np.int64)  # microseconds
    order = np.argsort(moments, kind="stable")
    sorted_moments = moments[order]
    calibrate, test = _sizes(contract, len(order))
    gap = round((contract.target.known_after or 0.0) * 1e6)
    last = len(order)
    test_from = _start(sorted_moments, last - test)
    calibrate_from = _start(sorted_moments, max(test_from - calibrate, 0)) if calibrate else test_from
    known_for_test = _known(sorted_moments, test_from, gap)
    known_for_calibrate = _known(sorted_moments, calibrate_from, gap) if calibrate else known_for_test
    return Split(
        train=order[: min(known_for_calibrate, calibrate_from)],
        calibrate=order[calibrate_from : max(known_for_test, calibrate_from)],
        test=order[test_from:],
        dropped=int(calibrate_from - min(known_for_calibrate, calibrate_from))
        + int(test_from - max(known_for_test, calibrate_from)),
    )


def _start(moments: NDArray[np.int64], at: int) -> int:
    """The first row of the time that stands at `at`: equal times are not parted."""
    if at >= len(moments):
        return len(moments)
    return int(np.searchsorted(moments, moments[at], side="left"))


def _known(moments: NDArray[np.int64], start: int, gap: int) -> int:
    """How many rows have a truth that was known when the row `start` came."""
    if start >= len(moments) or not gap:
        return start
    return min(start, int(np.searchsorted(moments, moments[start] - gap, side="right")))


def _by_subject(contract: Contract, frame: pl.DataFrame, seed: int) -> Split:
    name = _column(contract, "subject")
    subjects = frame[name].unique().sort()
    shuffled = subjects.gather(np.argsort(_places([subjects], seed)))
    numbers = pl.int_range(len(shuffled), eager=True)
    found = frame.select(pl.col(name).replace_strict(shuffled, numbers, return_dtype=pl.Int64)).to_series().to_numpy()
    ahead = np.concatenate(([0], np.cumsum(np.bincount(found))[:-1]))  # rows of the subjects before each
    return _cut(contract, ahead[found])


def _at_random(contract: Contract, frame: pl.DataFrame, seed: int) -> Split:
    keys = [name for name, column in contract.context.items() if column.role == "key"]
    known = [name for name in keys or (*contract.features, *contract.context) if name in frame.columns]
    shuffled = _places([frame[name] for name in known], seed)
    if contract.target.type == "regression":
        return _cut(contract, shuffled)
    codes = target_array(contract, frame)
    parts = [_cut(contract, shuffled, np.flatnonzero(codes == code)) for code in np.unique(codes)]
    train, calibrate, test = (np.concatenate([getattr(part, name) for part in parts]) for name in _PARTS)
    mixed = [part[np.argsort(shuffled[part])] for part in (train, calibrate, test)]
    return Split(mixed[0], mixed[1], mixed[2])


_PARTS = ("train", "calibrate", "test")


def _places(columns: Sequence[pl.Series], seed: int) -> NDArray[np.int64]:
    """A number for each row by which rows are shuffled: of its values and the seed, and of how many equal rows
    stand before it. It is the same on every machine."""
    places = np.full(len(columns[0]), seed % 2**64, dtype=np.uint64)
    for column in columns:
        places = _mixed(places ^ _bits(column))
    order = np.argsort(places, kind="stable")
    ranked = places[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    repeated = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    places[order] ^= repeated.astype(np.uint64) * _ODD
    return _mixed(_mixed(places)).view(np.int64)


_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2**64 over the golden ratio: neighbours become far apart


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    product = (numbers + np.uint64(1)) * _ODD
    return product ^ (product >> np.uint64(29))


def _bits(column: pl.Series) -> NDArray[np.uint64]:
    """A number for each value, equal for equal values; 0 for a missing one."""
    if column.dtype.is_float():
        known = column.fill_nan(None)
        numbers = known.fill_null(0.0).to_numpy().astype(np.float64) + 0.0  # -0.0 is 0.0
        return numbers.view(np.uint64) + _one_if_known(known)
    if column.dtype.is_integer() or column.dtype.is_temporal() or column.dtype == pl.Boolean:
        whole = column.to_physical().cast(pl.Int64)
        return whole.fill_null(0).to_numpy().view(np.uint64) + _one_if_known(whole)
    pieces = column.cast(pl.String).to_frame().iter_slices(_CHUNK_ROWS)
    return np.concatenate([_sums(piece.to_series()) for piece in pieces] or [np.empty(0, dtype=np.uint64)])


_CHUNK_ROWS = 65_536  # of texts that are looked at together
_LONG = 64  # bytes of a text, from which on it is summed on its own
_CRC32 = np.array([zlib.crc32(bytes([byte])) for byte in range(256)], dtype=np.uint64)
_CRC32 ^= _CRC32[0]
_ALL = np.uint64(0xFFFFFFFF)


def _sums(texts: pl.Series) -> NDArray[np.uint64]:
    """1 and the CRC-32 of each text, 0 for a missing one; texts of equal sums are only not told apart."""
    lengths = texts.str.len_bytes().fill_null(0).to_numpy().astype(np.int64)
    content = np.frombuffer(str(texts.fill_null("").str.join("").item()).encode(), dtype=np.uint8)
    starts = np.cumsum(lengths) - lengths
    sums = np.full(len(lengths), _ALL)
    for at in range(min(int(lengths.max(initial=0)), _LONG)):
        rows = np.flatnonzero(lengths > at)
        sums[rows] = _CRC32[(sums[rows] ^ content[starts[rows] + at]) & np.uint64(255)] ^ (sums[rows] >> np.uint64(8))
    sums ^= _ALL
    for row in np.flatnonzero(lengths > _LONG):
        sums[row] = zlib.crc32(content[starts[row] : starts[row] + lengths[row]].tobytes())
    return np.where(texts.is_null().to_numpy(), np.uint64(0), sums + np.uint64(1))


def _one_if_known(column: pl.Series) -> NDArray[np.uint64]:
    return column.is_not_null().to_numpy().astype(np.uint64)


def _cut(contract: Contract, places: NDArray[np.int64], rows: NDArray[np.int64] | None = None) -> Split:
    """Part `rows` (all of them when None) in the order of their `places`; equal places stay together."""
    rows = np.arange(len(places)) if rows is None else rows
    order = rows[np.argsort(places[rows], kind="stable")]
    calibrate, test = _sizes(contract, len(order))
    ranked = places[order]
    calibrate_from, test_from = (_start(ranked, len(order) - size) for size in (test + calibrate, test))
    return Split(order[:calibrate_from], order[calibrate_from:test_from], order[test_from:])


def _judge(contract: Contract, frame: pl.DataFrame, parts: Split) -> None:
    shares = contract.training.split
    asked = {"train": True, "calibrate": shares.calibrate > 0, "test": shares.test > 0}
    for name in _PARTS:
        if asked[name] and not len(getattr(parts, name)):
            gap = " or a shorter target.known_after" if parts.dropped else ""
            raise DataError(
                f"the {name} part is empty: {frame.height} rows, {parts.dropped} of them in the gap between parts; "
                f"it takes more rows, other shares in training.split{gap}"
            )
    if contract.target.type == "regression":
        return
    seen = set(np.unique(target_array(contract, frame.select(contract.target.column)[parts.train])).tolist())
    for code, label in enumerate(contract.target.values or ()):
        if code not in seen:
            raise DataError(
                f"class {label!r} of {contract.target.column} has no row in the training part; "
                "gather more rows, merge the class with another, or split otherwise (training.split.by)"
            )
