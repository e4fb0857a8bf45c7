"""Blocks: rows as a reader of files hands them on, with what it could not read kept apart."""

from dataclasses import dataclass, field

import polars as pl

BATCH_ROWS = 32_768  # some tens of MB of a usual table
MALFORMED_SCHEMA: dict[str, type[pl.DataType]] = {
    "line": pl.Int64,
    "text": pl.String,
    "reason": pl.String,
}


def no_malformed() -> pl.DataFrame:
    """Of rows that were all read."""
    return pl.DataFrame(schema=MALFORMED_SCHEMA)


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows of a file, or all."""

    frame: pl.DataFrame  # with the file's own column names
    malformed: pl.DataFrame = field(default_factory=no_malformed)  # line, text, reason
    lines: pl.Series | None = None  # where each row begins, from 1; None: rows of a file that has no lines

    @classmethod
    def whole(cls, frame: pl.DataFrame) -> "Block":
        """Rows of a source that has no malformed ones."""
        return cls(frame)
