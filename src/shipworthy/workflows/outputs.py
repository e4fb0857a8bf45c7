"""Where answers go: a file, a Delta table or a table of a database; there whole or not at all."""

import hashlib
import io
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl
from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import DeltaError

from shipworthy.data.names import identifiers
from shipworthy.data.sources.databases import Target, count_rows, is_database, judge_target, write_table
from shipworthy.kernel.digest import digest_json
from shipworthy.kernel.errors import ConflictError, StorageError, UsageError
from shipworthy.workflows.drafts import Draft

SUFFIXES = (".csv", ".jsonl", ".parquet", ".delta")
RUN_KEY = "shipworthy.run"  # in the commit of a Delta table
_WHOLE, _WHOLE_TABLE = "whole.parquet", "whole.delta"

Kind = Literal["csv", "jsonl", "parquet", "delta", "table"]


@dataclass(frozen=True, slots=True)
class Output:
    """Where the answers of one table go."""

    kind: Kind
    name: str  # as it was named; without secrets
    path: Path  # of a file or a Delta table
    target: Target | None  # of a table in a database

    def encode(self, frame: pl.DataFrame, *, is_first: bool) -> bytes:
        """A part of the answers, as a draft keeps it."""
        if self.kind == "csv":
            return frame.write_csv(include_header=is_first).encode()
        if self.kind == "jsonl":
            return frame.write_ndjson().encode()
        buffer = io.BytesIO()
        frame.write_ipc(buffer)
        return buffer.getvalue()

    def suited(self, frame: pl.DataFrame) -> pl.DataFrame:
        """`frame` as the output can hold it: a Delta table's columns have plain names, and texts are texts."""
        if self.kind not in ("delta", "table"):
            return frame
        texts = [name for name, kind in frame.schema.items() if kind in (pl.Categorical, pl.Enum, pl.Null)]
        frame = frame.cast(dict.fromkeys(texts, pl.String))
        if self.kind == "delta":
            frame.columns = list(identifiers(frame.columns, self.path))
        return frame

    def part_name(self, draft: Draft) -> str:
        """The file of a draft that the next part goes to."""
        return f"answers.{self.kind}" if self.kind in ("csv", "jsonl") else draft.next_name(".arrow")

    def is_there(self, run: str, rows: int, digest: str) -> bool:
        """Whether the answers of this run stand at their place: a run may be killed behind its last step."""
        if self.target is not None:
            return count_rows(self.target) == rows
        if self.kind == "delta":
            return DeltaTable.is_deltatable(str(self.path)) and any(
                entry.get(RUN_KEY) == run for entry in DeltaTable(str(self.path)).history()
            )
        return self.path.is_file() and _digest(self.path) == digest

    def make_whole(self, draft: Draft) -> str:
        """Bring all parts in the form in which they will be put in place, on the medium; the digest."""
        if self.kind in ("delta", "table"):
            return digest_json([part.checksum for part in draft.parts])
        whole = self._whole(draft)
        if self.kind == "parquet":
            answers = pl.scan_ipc(draft.files, glob=False, hive_partitioning=False)
            try:
                answers.sink_parquet(whole, compression="snappy")  # half the work of zstd for a third more bytes
            except pl.exceptions.PolarsError as error:
                raise StorageError(f"{self.name}: cannot be written ({error}); free space") from None
        with open(whole, "rb") as file:
            os.fsync(file.fileno())
        return _digest(whole)

    def put_in_place(self, draft: Draft, schema: Mapping[str, pl.DataType], *, replace: bool) -> None:
        """What the draft holds takes the output's name.

        Raises:
            ConflictError: something of this name was made meanwhile.
            StorageError: the place refuses.
        """
        if self.target is not None:
            write_table(self.target, schema, _frames(draft), replace=replace)
        elif self.kind == "delta":
            self._commit(draft)
        else:
            os.replace(self._whole(draft), self.path)
            _sync(self.path.parent)

    def _whole(self, draft: Draft) -> Path:
        return draft.path(_WHOLE) if self.kind == "parquet" else draft.path(f"answers.{self.kind}")

    def _commit(self, draft: Draft) -> None:
        """A new version of the table that is there; else a new table, made in the draft and moved when it is whole."""
        is_new = not self.path.exists()
        table = draft.path(_WHOLE_TABLE) if is_new else self.path
        options: dict[str, Any] = {
            "commit_properties": CommitProperties(custom_metadata={RUN_KEY: draft.plan.run}),
            "schema_mode": "overwrite",
        }
        if is_new:
            shutil.rmtree(table, ignore_errors=True)
        try:
            answers = pl.scan_ipc(draft.files, glob=False, hive_partitioning=False)
            answers.sink_delta(str(table), mode="overwrite", delta_write_options=options)
        except (DeltaError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"{self.path}: the Delta table was not written: {error}") from None
        if is_new:
            for path in (*table.rglob("*"), table):
                _sync(path)
            os.rename(table, self.path)
            _sync(self.path.parent)


def judge_output(source: str, destination: str, table: str | None, environ: Mapping[str, str]) -> Output:
    """The output of this name, if it may be written.

    Args:
        source: what is scored.
        destination: a path, or the URL of a database.
        table: of the database.
        environ: where secrets stand.

    Raises:
        UsageError: it is of a kind that is not written, or the source itself.
    """
    if is_database(destination):
        if table is None:
            raise UsageError(f"{destination}: name the table that is made with --table NAME")
        target = Target(destination, table, environ)
        judge_target(target)
        return Output("table", f"{destination} {table}", Path(), target)
    if table is not None:
        raise UsageError("--table names a table of a database; OUT is a file")
    path = Path(destination)
    if path.suffix.lower() not in SUFFIXES:
        names = f"{', '.join(SUFFIXES)}, or to a database by its URL"
        raise UsageError(f"{destination}: answers are written to {names}; name the file so")
    if path.exists() and Path(source).exists() and path.samefile(source):
        raise UsageError(f"{destination}: is the file to score; name another")
    kind: Kind = path.suffix.lower()[1:]  # type: ignore[assignment]
    return Output(kind, destination, path, None)


def judge_free(output: Output) -> None:
    """Refuse to write where something is.

    Raises:
        ConflictError: names it.
    """
    if output.target is not None:
        if count_rows(output.target) is not None:
            raise ConflictError(f"{output.name} exists; add --replace, or name another with --table")
    elif output.path.exists():
        raise ConflictError(f"{output.name} exists; add --replace, or name another file")


def _frames(draft: Draft) -> Iterator[pl.DataFrame]:
    for path in draft.files:
        with path.open("rb") as file:
            yield pl.read_ipc(file)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
