"""Incremental reads: a query with a watermark brings what is new, which is added to the rows of before.

What is kept is a list of parts, oldest first, each a Parquet file under the digest of its rows. A part is written
before anything names it, and the list changes with one event of the ledger: killed in between, the next read starts
from the same list and brings the same rows once more.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from shipworthy.data.snapshot import content_digest
from shipworthy.data.sources.databases import Since, concat_exactly
from shipworthy.data.sources.found import Kept
from shipworthy.kernel.digest import digest_bytes, digest_json
from shipworthy.kernel.errors import AccessError, IntegrityError, SourceError, StorageError
from shipworthy.security.files import replace_durably
from shipworthy.security.vault import SEALED_SUFFIX, Vault

MOST_PARTS = 64  # more are made one, when something is new
_COUNT = "__shipworthy_count"
_WHOLE = (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.Int128, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where one source's frames are kept, each under the digest of its file; encrypted where the contract says so."""

    folder: Path
    vault: Vault | None  # opens what is encrypted
    seals: bool = False

    def put(self, frame: pl.DataFrame) -> str:
        """Keep a frame; durable when this returns.

        Raises:
            StorageError: the disk is full, or refuses.
        """
        buffer = io.BytesIO()
        frame.write_parquet(buffer)
        content = buffer.getvalue()
        digest = digest_bytes(content)
        path = self._paths(digest)[0 if self.seals else 1]
        if not path.exists():
            sealed = self.vault.seal(content, self._context(digest)) if self.seals and self.vault else content
            try:
                replace_durably(path, sealed, mode=0o600)
            except OSError as error:
                raise StorageError(
                    f"{path}: cannot be written ({error.strerror}); make room and run it again"
                ) from None
        return digest

    def get(self, digest: str) -> pl.DataFrame:
        """A frame that was kept.

        Raises:
            IntegrityError: it is gone or was changed.
            AccessError: it is encrypted, and its key is not here.
        """
        sealed, plain = self._paths(digest)
        path = sealed if sealed.exists() else plain  # as the contract wanted it at the time
        try:
            content = path.read_bytes()
        except OSError as error:
            raise IntegrityError(f"{path}: rows of before cannot be read ({error.strerror})", "missing") from None
        if path == sealed:
            if self.vault is None:
                raise AccessError(f"{path} is encrypted, and this process was given no key for it.")
            content = self.vault.open(content, self._context(digest), path)
        if digest_bytes(content) != digest:
            raise IntegrityError(f"{path}: was changed; restore it from a backup, or remove it to read anew")
        return pl.read_parquet(content)

    def has(self, digests: Sequence[str]) -> bool:
        """Whether the files are there."""
        return all(any(path.is_file() for path in self._paths(digest)) for digest in digests)

    def keep_only(self, digests: Sequence[str]) -> None:
        """Remove everything else."""
        kept = {path for digest in digests for path in self._paths(digest)}
        for path in self.folder.glob("*") if self.folder.is_dir() else ():
            if path not in kept:
                path.unlink(missing_ok=True)

    def _paths(self, digest: str) -> tuple[Path, Path]:
        """How a file is called: encrypted, and as it is."""
        plain = self.folder / f"{digest.removeprefix('sha256:')}.parquet"
        return plain.with_name(plain.name + SEALED_SUFFIX), plain

    def _context(self, digest: str) -> str:
        return f"source/{self.folder.name}/{digest}"


@dataclass(frozen=True, slots=True)
class Watermark:
    """How a source is read on."""

    column: str
    overlap: float | int | None  # seconds, or so many rows
    key: tuple[str, ...]  # columns that name a row; none: a row that differs is another row


@dataclass(frozen=True, slots=True)
class Advance:
    """What a read brought: the rows as they now stand, and how to come by them again."""

    kept: Kept
    frame: pl.DataFrame
    new_rows: int
    newest: Any  # the highest value of the watermark


Read = Callable[[Since | None], pl.DataFrame | None]


def advance(
    place: str, watermark: Watermark, definition: str, before: Kept | None, shelf: Shelf, read: Read
) -> Advance:
    """Read what is new since `before`, and keep it.

    A row of the overlap that is there already is not added again: as often as a row was seen, so often it stays. With a
    key, the row that was read later stands in the place of the one of before. Rows that are deleted at the source stay.

    Args:
        place: what messages name.
        watermark: how new rows are told.
        definition: digest of the question; if it is another than that of `before`, everything is read anew.
        before: what was kept; None at first.
        shelf: where it lies.
        read: the rows from a value on, or all.

    Raises:
        SourceError: there are no rows, the watermark is missing somewhere or of a kind that has no order, a key names
            two rows, or the columns are no longer those of before.
        IntegrityError: what was kept is gone or changed.
        StorageError: the disk is full.
    """
    if before is not None and before.definition != definition:
        before = None
    old = None if before is None else concat_exactly([shelf.get(part) for part in before.parts], place)
    start = None if old is None else _start(old[watermark.column], watermark, place)
    since = None if start is None else Since(watermark.column, start)
    fresh = read(since)
    if fresh is None and old is None:
        raise SourceError(f"{place}: the query gives no rows; it needs some")
    new = None if fresh is None else _new_rows(fresh, old, watermark, since, place)
    if before is not None and old is not None and (new is None or not new.height):
        frame = _standing(old, watermark)
        return Advance(before, frame, 0, frame[watermark.column].max())
    if new is None:
        raise AssertionError("rows are new, or of before")  # pragma: no cover
    whole = new if old is None else concat_exactly([old, new], place)
    earlier = () if before is None else before.parts
    digest = digest_json([None if before is None else before.digest, definition, content_digest(new)])
    if len(earlier) >= MOST_PARTS:
        whole = _current(whole, watermark)
        parts: tuple[str, ...] = (shelf.put(whole),)
    else:
        parts = (*earlier, shelf.put(new))
    frame = _standing(whole, watermark)
    return Advance(Kept(definition, digest, parts, frame.height), frame, new.height, frame[watermark.column].max())


def restore(place: str, watermark: Watermark, kept: Kept, shelf: Shelf) -> pl.DataFrame:
    """The rows as they stood after a read.

    Raises:
        IntegrityError: what was kept is gone or changed.
    """
    return _standing(concat_exactly([shelf.get(part) for part in kept.parts], place), watermark)


def _standing(rows: pl.DataFrame, watermark: Watermark) -> pl.DataFrame:
    """The rows that stand, in an order that does not tell in how many reads they came."""
    return _in_order(_current(rows, watermark), watermark)


def _in_order(rows: pl.DataFrame, watermark: Watermark) -> pl.DataFrame:
    return rows.sort(watermark.column, *(name for name in rows.columns if name != watermark.column))


def _current(rows: pl.DataFrame, watermark: Watermark) -> pl.DataFrame:
    """With a key, the last row of each."""
    return rows.unique(list(watermark.key), keep="last", maintain_order=True) if watermark.key else rows


def _new_rows(
    fresh: pl.DataFrame, old: pl.DataFrame | None, watermark: Watermark, since: Since | None, place: str
) -> pl.DataFrame:
    """The rows of a read that are not there yet, in the order of their watermark."""
    _judge(fresh, watermark, place)
    fresh = _in_order(fresh, watermark)
    if watermark.key:
        fresh = _latest(fresh, watermark, place)
    if old is None:
        return fresh
    if fresh.columns != old.columns:
        changed = sorted(set(fresh.columns) ^ set(old.columns)) or fresh.columns
        raise SourceError(
            f"{place}: the query's columns are no longer those of the rows kept from before ({', '.join(changed)}); "
            "name the columns in the query: a query that was changed is read anew from the start"
        )
    known = _current(old, watermark)
    if since is not None:
        known = known.filter(pl.col(watermark.column) >= pl.lit(since.value))
    both = concat_exactly([known, fresh], place)
    known, fresh = both[: known.height], both[known.height :]
    counted = pl.int_range(pl.len()).over(fresh.columns).alias(_COUNT)
    by = [*fresh.columns, _COUNT]
    new = fresh.with_columns(counted).join(
        known.with_columns(counted), on=by, how="anti", nulls_equal=True, maintain_order="left"
    )
    return new.drop(_COUNT)


def _judge(fresh: pl.DataFrame, watermark: Watermark, place: str) -> None:
    absent = [name for name in (watermark.column, *watermark.key) if name not in fresh.columns]
    if absent:
        raise SourceError(f"{place}: the query gives no column {absent[0]!r}; it gives {', '.join(fresh.columns)}")
    values = fresh[watermark.column]
    if values.dtype not in (*_WHOLE, pl.String, pl.Date) and not isinstance(values.dtype, pl.Datetime):
        raise SourceError(
            f"{place}: the watermark {watermark.column!r} is {values.dtype}; it must be a time, a date, a whole number "
            "or a text: cast it in the query"
        )
    missing = values.null_count()
    if missing:
        raise SourceError(
            f"{place}: {missing:,} of {fresh.height:,} rows have no {watermark.column!r}, so it cannot be told when "
            "they came; give each a value in the query (coalesce), or leave them out"
        )


def _latest(fresh: pl.DataFrame, watermark: Watermark, place: str) -> pl.DataFrame:
    """The last row of each key; two that differ and are equally late cannot be told apart."""
    by = [*watermark.key, watermark.column]
    twice = fresh.unique(maintain_order=True).filter(pl.struct(by).is_duplicated())
    if twice.height:
        shown = ", ".join(f"{name}={twice[name][0]!r}" for name in by)
        raise SourceError(f"{place}: two rows have {shown}; a key names one row at a time")
    return fresh.unique(list(watermark.key), keep="last", maintain_order=True)


def _start(values: pl.Series, watermark: Watermark, place: str) -> Any:
    """Where the next read begins: at least the overlap before the highest value; None: at the very first."""
    newest, overlap = values.max(), watermark.overlap
    if overlap is None:
        return newest
    if isinstance(overlap, int):
        return values.sort(descending=True)[overlap] if overlap < len(values) else None
    if isinstance(newest, datetime):
        return newest - timedelta(seconds=overlap)
    if isinstance(newest, date):
        return newest - timedelta(days=-(-overlap // 86400))
    times = values.str.to_datetime(strict=False, time_zone="UTC") if values.dtype == pl.String else None
    if times is None or times.null_count():
        raise SourceError(
            f"{place}: the watermark {watermark.column!r} is no time, so an overlap cannot be a duration; "
            "write a number of rows"
        )
    before = values.filter(times <= times.max() - timedelta(seconds=overlap))  # type: ignore[operator]
    return before.max() if len(before) else None  # as the database wrote it: its own order finds it
