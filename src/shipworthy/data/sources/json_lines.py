"""JSON lines: one object on each line; values keep the types that they carry."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from shipworthy.data.sources.block import Block
from shipworthy.data.sources.encodings import judge_utf8
from shipworthy.data.sources.files import first_line, shown
from shipworthy.kernel.errors import SourceError


def read_json_lines(content: bytes, path: Path, before: int = 0) -> Block:
    """The rows of `content`, before which `before` lines of the file stand.

    A column of numbers and texts is one of texts; other kinds do not go together.

    Raises:
        SourceError: a line is not one object of JSON, or a number is beyond what a float64 holds; names the line.
    """
    judge_utf8(content, path, before)
    try:
        frame = pl.read_ndjson(content, infer_schema_length=None)
    except pl.exceptions.PolarsError as error:
        raise SourceError(_problem(content, path, before) or f"{path}: {first_line(error)}") from error
    return Block(frame, lines=_lines(content, before, frame.height))


def json_blocks(pieces: Iterable[bytes], path: Path) -> Iterator[Block]:
    """The rows of a file that comes in pieces.

    Raises:
        SourceError: as for `read_json_lines`, when the block comes.
    """
    rest, before = b"", 0
    known: dict[str, tuple[str, int]] = {}
    for piece in _and_last(pieces):
        content = rest + piece
        end = content.rfind(b"\n") + 1 if piece else len(content)
        block, rest = content[:end], content[end:]
        if block.strip():
            found = read_json_lines(block, path, before)
            families = _families(found.frame)
            if any(kind != known.get(name, (kind,))[0] for name, kind in families.items()):
                raise SourceError(_problem(block, path, before, known) or f"{path}: kinds of values do not go together")
            known = {**{name: (kind, before + 1) for name, kind in families.items()}, **known}
            yield found
        before += block.count(b"\n")


def _and_last(pieces: Iterable[bytes]) -> Iterator[bytes]:
    yield from filter(None, pieces)
    yield b""


def _lines(content: bytes, before: int, rows: int) -> pl.Series:
    """The line of each row: blank lines are none."""
    if content.count(b"\n") + (not content.endswith(b"\n")) == rows:
        return pl.int_range(before + 1, before + rows + 1, eager=True)
    numbers = [number for number, line in enumerate(content.split(b"\n"), before + 1) if line.strip()]
    return pl.Series(np.asarray(numbers, dtype=np.int64))


def _families(frame: pl.DataFrame) -> dict[str, str]:
    """Columns of truths and of numbers: these two do not go together."""
    truths = {name: "bool" for name, kind in frame.schema.items() if kind == pl.Boolean}
    return truths | {name: "number" for name, kind in frame.schema.items() if kind.is_numeric()}


def _problem(content: bytes, path: Path, before: int, known: Mapping[str, tuple[str, int]] | None = None) -> str | None:
    """What is wrong, with its line: of one line, or of two that do not go together.

    `known` are kinds of columns, and from which line on, of what stands before `content`.
    """
    kinds = dict(known or {})
    for number, line in enumerate(content.split(b"\n"), before + 1):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        try:
            value = json.loads(line, parse_constant=_refuse_word, parse_float=_float)
        except ValueError as error:
            return f"{place}: is not JSON ({error}): {shown(line)}; write one object on each line"
        if not isinstance(value, dict):
            return f"{place}: is not an object: {shown(line)}; write one object on each line"
        for name, field in value.items():
            kind = _kind(field)
            first, at = kinds.setdefault(name, (kind, number)) if kind else ("", 0)
            if kind != first and "text" not in (kind, first):
                return (
                    f"{place}: {shown(name)} is a {kind}, {shown(json.dumps(field))}, and from line {at} on a {first}; "
                    "write one kind of value in each column"
                )
    return None


def _kind(field: Any) -> str:
    if field is None:
        return ""
    if isinstance(field, bool):
        return "bool"
    if isinstance(field, int | float):
        return "number"
    return "text" if isinstance(field, str) else "object" if isinstance(field, dict) else "list"


def _refuse_word(word: str) -> None:
    raise ValueError(f"{word} is no number of JSON")


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text[:40]} is beyond what a float64 holds")
    return number
