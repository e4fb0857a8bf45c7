"""Sources elsewhere: files of web servers, objects of stores and queries; found first, read when they are needed."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from shipworthy.contract.data_section import Source
from shipworthy.data.names import identifiers
from shipworthy.data.snapshot import content_digest
from shipworthy.data.sources import http, objects
from shipworthy.data.sources.address import Address, find_address
from shipworthy.data.sources.attempts import Deadline
from shipworthy.data.sources.databases import Query, concat_exactly, query_columns, read_query
from shipworthy.data.sources.downloads import Download, Downloads, judge_copy
from shipworthy.data.sources.found import Found, Kept
from shipworthy.data.sources.incremental import Shelf, Watermark, advance
from shipworthy.data.sources.read import SourceRead, read_source
from shipworthy.kernel.digest import digest_json
from shipworthy.kernel.errors import SourceError, UsageError

MOST_BYTES = 10 * 10**9  # of what is fetched, unless the contract says otherwise
_LOOK_S = 10.0  # `check` waits no longer


@dataclass(frozen=True, slots=True)
class Places:
    """Where a source's copies and kept rows lie, and what its secrets are."""

    environ: Mapping[str, str] = field(repr=False)
    downloads: Downloads
    shelf: Shelf
    numbers: Collection[str] = ()  # columns that the contract calls numbers, for files that write them in their own way


def find_remote(name: str, source: Source, places: Places, before: Kept | None, deadline: Deadline) -> Found:
    """Look what a source holds now: fetch what changed, or ask the database.

    Args:
        name: of the source.
        source: has a `url`.
        places: where copies and kept rows lie.
        before: rows that a query with a watermark brought up to now.
        deadline: for the whole of it.

    Raises:
        UsageError: a secret is not set, or the address cannot be used.
        UnavailableError: no answer, or one that says so; it may be there a little later.
        DeadlineError: it takes too long.
        SourceError: it is not there, is refused, or does not answer as it must.
        StorageError: the disk is full.
    """
    address = _address(name, source, places.environ)
    if address.kind == "database":
        return _query(name, source, address, places, before, deadline)
    most = MOST_BYTES if source.size is None else source.size.at_most
    if address.kind == "http":
        found = [http.fetch(address, places.downloads, deadline, most_bytes=most)]
    else:
        wanted = objects.find_objects(address, source.store, places.environ)
        found = objects.fetch(wanted, places.downloads, deadline, most_bytes=most)
    times = [download.modified for download in found if download.modified is not None]
    origins = {f"url:{download.place}": download.digest for download in found}
    digest = found[0].digest if found[0].place == address.written else digest_json(origins)
    return Found(
        digest, partial(_read_files, name, source, found, digest, places.numbers), max(times, default=None), origins
    )


def look_at(
    name: str, source: Source, environ: Mapping[str, str], clock: Callable[[], float]
) -> tuple[str, tuple[str, ...] | None]:
    """Whether a source can be reached, in words, and its columns where they can be told without reading it.

    Raises:
        UsageError, UnavailableError, DeadlineError, SourceError: as for `find_remote`.
    """
    address = _address(name, source, environ)
    deadline = Deadline(clock() + min(source.timeout, _LOOK_S), clock)
    if address.kind == "http":
        return http.reach(address, deadline), None
    if address.kind == "objects":
        return objects.reach(objects.find_objects(address, source.store, environ), deadline), None
    query = Query(address.written, source.query or "", environ, timeout_s=deadline.left_s)
    columns = tuple(identifiers(query_columns(query), Path(address.written)))
    return f"reachable, {len(columns)} columns", columns


def newest_time(value: Any) -> float | None:
    """Unix seconds of a watermark; None of one that is no time. Without a zone it is UTC.

    >>> newest_time("1970-01-02"), newest_time(7)
    (86400.0, None)
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    return None


def _address(name: str, source: Source, environ: Mapping[str, str]) -> Address:
    address = find_address(source.url or "", environ)
    if (address.kind == "database") != (source.query is not None):
        wrong = "is a database, and needs a query" if source.query is None else "is no database, and takes no query"
        raise UsageError(f"{address.written}: {wrong} (data.sources.{name}.query)")
    return address


def _query(
    name: str, source: Source, address: Address, places: Places, before: Kept | None, deadline: Deadline
) -> Found:
    query = Query(address.written, source.query or "", places.environ)
    if source.watermark is None:
        frame = read_query(query, deadline)
        if frame is None:
            raise SourceError(f"{address.written}: the query gives no rows; it needs some")
        read = _from_frame(name, frame, address.written)
        return Found(read.digest, lambda: read, None, {f"url:{address.written}": read.digest})
    watermark = watermark_of(source)
    definition = digest_json([query.digest, watermark.column, list(watermark.key)])
    found = advance(
        address.written,
        watermark,
        definition,
        before,
        places.shelf,
        lambda since: read_query(replace(query, since=since), deadline),
    )
    read = _from_frame(name, found.frame, address.written, found.kept.digest)
    origins = {f"url:{address.written}": found.kept.digest}
    return Found(read.digest, lambda: read, newest_time(found.newest), origins, found.kept, found.new_rows)


def watermark_of(source: Source) -> Watermark:
    """How a query is read on."""
    return Watermark(source.watermark or "", source.overlap, source.key or ())


def _from_frame(name: str, frame: pl.DataFrame, place: str, digest: str | None = None) -> SourceRead:
    names = identifiers(frame.columns, Path(place))
    frame = frame.with_columns(pl.col(pl.Null).cast(pl.String))  # a column without a value is of no kind
    frame = frame.rename({original: name for name, original in names.items()})
    return SourceRead(
        name=name,
        frame=frame,
        path=Path(place),
        digest=digest or content_digest(frame),
        size_bytes=int(frame.estimated_size()),
        rows=frame.height,
        names=names,
    )


def _read_files(name: str, source: Source, found: list[Download], digest: str, numbers: Collection[str]) -> SourceRead:
    reads = [_read_file(name, source, download, numbers) for download in found]
    first = reads[0]
    for read, download in zip(reads, found, strict=True):
        if set(read.frame.columns) != set(first.frame.columns) and not _is_json(download):
            other = sorted(set(read.frame.columns) ^ set(first.frame.columns))
            raise SourceError(
                f"{download.place}: its columns are not those of {found[0].place} ({', '.join(other)}); "
                "name objects of one kind"
            )
    columns = list(dict.fromkeys(column for read in reads for column in read.frame.columns))
    frames = [
        read.frame.select(
            pl.col(column) if column in read.frame.columns else pl.lit(None).alias(column) for column in columns
        )
        for read in reads
    ]
    return SourceRead(
        name=name,
        frame=concat_exactly(frames, source.url or name),
        path=found[0].path,
        digest=digest,
        size_bytes=sum(download.size_bytes for download in found),
        rows=sum(read.rows for read in reads),
        malformed=pl.concat([read.malformed for read in reads]),
        names={column: original for read in reads for column, original in read.names.items()},
        files=[file for read in reads for file in read.files],
    )


def _read_file(name: str, source: Source, download: Download, numbers: Collection[str]) -> SourceRead:
    judge_copy(download)
    copy = source.model_copy(update={"path": str(download.path.absolute()), "url": None})
    try:
        read = read_source(name, copy, Path(), digest=download.digest, numbers=numbers)
    except SourceError as error:  # which names the copy
        raise SourceError(str(error).replace(str(download.path.absolute()), download.place)) from None
    return replace(
        read,
        malformed=read.malformed.with_columns(file=pl.lit(download.place)),
        files=[replace(file, name=download.place) for file in read.files],
    )


def _is_json(download: Download) -> bool:
    return ".jsonl" in download.path.name or ".ndjson" in download.path.name
