"""Stream: large text files are validated some rows at a time, so that their text is never in memory as a whole.

What comes out is what `validate` makes of all rows at once. Where some rows at a time do not tell (a column is lacking,
dates are in doubt, most rows are malformed), nothing comes out, and the whole is to be read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import polars as pl

from shipworthy.contract.data_section import Source
from shipworthy.contract.types import Contract
from shipworthy.data.names import identifiers
from shipworthy.data.schema_change import (
    FITTING_SHARE,
    MOST_VALUES,
    SAMPLED_ROWS,
    Schema,
    SourceKind,
    category_values,
    column_kinds,
)
from shipworthy.data.sources.block import Block
from shipworthy.data.sources.delimited import CHUNK_BYTES
from shipworthy.data.sources.dialect import Dialect, declared, find_format, number_columns
from shipworthy.data.sources.files import changed, digest_files, file_name, find_files
from shipworthy.data.sources.read import PLACED_SCHEMA, FileRead, SourceRead, fitting, of_source, stream_text
from shipworthy.data.validate import Validated, completed, find_formats, hold_unique, joined, judge_rows, summed
from shipworthy.kernel.errors import DataError

LARGE_BYTES = 64 * 2**20  # from here on the text of all rows is worth not holding
FEW_ROWS = 2_000  # that tell whether new rows are of the kinds of those before them
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Before:
    """The first files of a source, whose rows stand in a snapshot already."""

    files: tuple[FileRead, ...]
    names: Mapping[str, str]  # as of `SourceRead`
    formats: Mapping[str, str]  # as of `Validated`
    kinds: Mapping[str, SourceKind]  # as of `Schema`
    held: Callable[[Sequence[str]], pl.DataFrame]  # columns of their accepted rows

    @property
    def rows(self) -> int:
        """Those that were parted in fields."""
        return sum(file.rows for file in self.files)


@dataclass(frozen=True, slots=True)
class Streamed:
    """A source whose rows were validated as they were read."""

    read: SourceRead  # its frame has as many rows as were read, and none of their columns
    validated: Validated  # rows have their numbers among those of all files
    schema: Schema


def stream_source(
    contract: Contract,
    name: str,
    root: Path,
    digests: Mapping[Path, str],
    *,
    before: Before | None = None,
    block_bytes: int = CHUNK_BYTES,
) -> Streamed | None:
    """The rows of a source of CSV or TSV files, validated; None where they have to be read as a whole.

    Args:
        contract: has no `data.prepare`, and no rule that looks at the source's own rows.
        name: of the source.
        root: the project's directory.
        digests: of each of its files, as it lies on the disk.
        before: its first files, which are not read; of the others alone are the rows that come out.
        block_bytes: about as many are read at a time.

    Raises:
        SourceError: as for `read_source`.
    """
    source = contract.data.sources[name]
    with of_source(name):
        path = root / (source.path or "")
        files = find_files(path)
        dialect = declared(source, number_columns(contract))
        fresh = files[0 if before is None else len(before.files) :]
        if any(find_format(file, dialect) not in ("csv", "tsv") for file in fresh):
            return None
        if set(files) != set(digests):
            raise changed(path)
        reading = _Reading(contract, path, files, digests, dialect, block_bytes, before)
        try:
            judged = reading.judged()
        except DataError:  # which the whole tells with all that belongs to it
            return None
        if judged is None:
            return None
        read = reading.source_read(name)
        return Streamed(read, completed(judged, list(read.names), reading.malformed()), reading.schema())


def is_large(source: Source, root: Path) -> bool:
    """Whether the files of a source are worth streaming."""
    return sum(file.stat().st_size for file in find_files(root / (source.path or ""))) >= LARGE_BYTES


@dataclass(slots=True)
class _Reading:
    """The files of a source under way."""

    contract: Contract
    path: Path
    files: tuple[Path, ...]
    digests: Mapping[Path, str]
    dialect: Dialect
    block_bytes: int
    before: Before | None
    names: Mapping[str, str] = field(default_factory=dict)
    parts: list[Validated] = field(default_factory=list)
    done: list[FileRead] = field(default_factory=list)
    lost: list[pl.DataFrame] = field(default_factory=list)
    sample: pl.DataFrame = field(default_factory=pl.DataFrame)
    every: int = 1  # row of the sample
    values: dict[str, set[str]] = field(default_factory=dict)  # of each category that has few

    def judged(self) -> Validated | None:
        """All rows by all rules; None where the whole is to be read."""
        if self.before is not None:
            self.names = self.before.names
            return self._judged_behind(self.before)
        formats: Mapping[str, str] | None = None
        for _ in range(3):  # with the dates' formats that the first rows tell; if those say little, that all rows tell
            formats = self._pass(formats)
            if formats is None:
                return None
            if self.parts and formats == self.parts[0].formats:
                return hold_unique(self.contract, joined(self.parts), self._rows_at)
        return None

    def _judged_behind(self, before: Before) -> Validated | None:
        """The rows of the files that are new; their dates are read by the format of the many before them."""
        if self._pass(before.formats, before.rows) is None:
            return None
        judged = joined(self.parts)
        return hold_unique(self.contract, judged, self._rows_at, first=before.rows, held_before=before.held)

    def _pass(self, formats: Mapping[str, str] | None, first: int = 0) -> Mapping[str, str] | None:
        """Judge every row by its own, if the formats are known or the first rows tell; the formats that all tell."""
        self.parts, self.done, self.lost, self.sample, self.every, self.values = [], [], [], pl.DataFrame(), 1, {}
        rows = 0
        for file in self._fresh():
            lines: list[pl.Series] = []
            start, malformed = rows, 0
            for frame, block in _ahead(self._blocks(file)):
                if not rows and formats is None:
                    formats = self._told(frame)
                if formats is not None:
                    self.parts.append(judge_rows(self.contract, frame, formats, first=first + rows))
                self._note(frame, rows)
                rows += frame.height
                malformed += block.malformed.height
                lines += [] if block.lines is None else [block.lines]
                if block.malformed.height:
                    placed = pl.lit(file_name(self.path, file)).alias("file")
                    self.lost.append(block.malformed.select(placed, pl.all()))
            if malformed > rows - start:
                return None
            self.done.append(self._file_read(file, rows - start, lines))
        return formats if self.before is not None else find_formats(self.contract, self.sample)

    def _fresh(self) -> tuple[Path, ...]:
        return self.files[0 if self.before is None else len(self.before.files) :]

    def _told(self, frame: pl.DataFrame) -> Mapping[str, str] | None:
        try:
            return find_formats(self.contract, frame)
        except DataError:
            return None

    def _blocks(self, file: Path) -> Iterator[tuple[pl.DataFrame, Block]]:
        for block in stream_text(file, self.block_bytes, self.dialect, self.digests[file]):
            frame = block.frame
            names = identifiers(frame.columns, file)
            frame.columns = list(names)
            self.names = self.names or names
            first = pl.DataFrame(schema=dict.fromkeys(self.names, pl.String))
            yield fitting(frame, first, file, self.files[0]), block

    def _file_read(self, file: Path, rows: int, lines: list[pl.Series]) -> FileRead:
        name, size = file_name(self.path, file), file.stat().st_size
        return FileRead(file, name, self.digests[file], size, rows, pl.concat(lines) if lines else None)

    def _note(self, frame: pl.DataFrame, first: int) -> None:
        """Keep every so many rows as they were read, and the values of categories that have few."""
        if not first:
            self.every = max(1, frame.height // SAMPLED_ROWS)
        taken = frame.gather_every(self.every, -first % self.every)
        self.sample = pl.concat([self.sample, taken]) if self.sample.width else taken
        while self.sample.height >= 2 * SAMPLED_ROWS:
            self.sample, self.every = self.sample.gather_every(2), 2 * self.every
        found = category_values(self.contract, frame)
        known = self.values if first else {key: set[str]() for key in found}
        both = {name: known[name] | set(values) for name, values in found.items() if name in known}
        self.values = {name: values for name, values in both.items() if len(values) <= MOST_VALUES}

    def _rows_at(self, rows: pl.Series) -> pl.DataFrame:
        """Rows as they were read, read once more."""
        found, before = [], 0
        for file in self._fresh():
            for frame, _ in self._blocks(file):
                inside = rows.filter((rows >= before) & (rows < before + frame.height)) - before
                found.append(frame[inside])
                before += frame.height
        return pl.concat(found)

    def malformed(self) -> pl.DataFrame:
        """The rows that could not be parted in fields, of all files."""
        return pl.concat(self.lost) if self.lost else pl.DataFrame(schema=PLACED_SCHEMA)

    def schema(self) -> Schema:
        """As of the whole, with kinds by a sample of about as many rows.

        Behind others, columns are taken to be of the kind of before that were validated as such, or may hold anything.
        """
        values = {name: tuple(sorted(found)) for name, found in self.values.items()}
        if self.before is None:
            return Schema(column_kinds(self.sample), values)
        known = {name: kind for name, kind in self.before.kinds.items() if self._is_settled(name, kind)}
        found = column_kinds(self.sample.drop(known), FEW_ROWS)
        return Schema({name: known[name] if name in known else found[name] for name in self.sample.columns}, values)

    def _is_settled(self, name: str, kind: SourceKind) -> bool:
        columns = {**self.contract.context, **self.contract.features}
        wanted = columns[name].type if name in columns else None
        reasons = summed(part.reasons for part in self.parts)
        strays = sum(count for reason, count in reasons.items() if reason.startswith(f"{name}: not "))
        is_read = (wanted, kind) in (("float", "number"), ("int", "whole number"), ("datetime", "datetime"))
        rows = sum(part.rows for part in self.parts)
        return kind == "text" or (is_read and strays <= (1 - FITTING_SHARE) * rows)

    def source_read(self, name: str) -> SourceRead:
        """What is known of the source beside its rows.

        Raises:
            SourceError: other files lie there than before.
        """
        rows = sum(file.rows for file in self.done)
        if find_files(self.path) != self.files:
            raise changed(self.path)
        return SourceRead(
            name=name,
            frame=pl.DataFrame(height=rows),
            path=self.path,
            digest=digest_files(self.path, self.digests.__getitem__),
            size_bytes=sum(file.size_bytes for file in self.done),
            rows=rows + sum(part.height for part in self.lost),
            malformed=self.malformed(),
            names=self.names,
            files=(*(() if self.before is None else self.before.files), *self.done),
        )


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The items, each made while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
