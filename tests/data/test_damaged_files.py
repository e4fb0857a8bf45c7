"""Damaged files: whatever happened to a file on its way, it is read or refused in plain words."""

import io
import os
import random
import zipfile
from pathlib import Path

import polars as pl
import pytest

from shipworthy.data.sources.read import read_file
from shipworthy.kernel.errors import SourceError

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "500"))
FRAME = pl.DataFrame({"a": [1, 2, 3], "b": ["x", None, "zz"], "c": [1.5, 2.0, None]})
SEEDS = 100  # in one test, so that a soak may be run in parts


def whole_files() -> dict[str, bytes]:
    buffers = {kind: io.BytesIO() for kind in ("parquet", "arrow", "stream", "excel")}
    FRAME.write_parquet(buffers["parquet"])
    FRAME.write_ipc(buffers["arrow"])
    FRAME.write_ipc_stream(buffers["stream"])
    FRAME.write_excel(buffers["excel"])
    return {kind: buffer.getvalue() for kind, buffer in buffers.items()}


def damaged(chance: random.Random, content: bytes) -> bytes:
    """Bits turned, pieces lost, bytes put in between."""
    found = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 8])):
        what = chance.random()
        if what < 0.6:
            found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
        elif what < 0.8:
            found = found[: chance.randrange(8, max(len(found), 9))] + found[-chance.randrange(1, 40) :]
        else:
            at = chance.randrange(len(found))
            found[at:at] = chance.randbytes(4)
    return bytes(found)


def damaged_inside(chance: random.Random, workbook: bytes) -> bytes:
    """A sound archive with one damaged part."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(workbook)) as old, zipfile.ZipFile(buffer, "w") as new:
        parts = [name for name in old.namelist() if name.startswith("xl/")]
        chosen = chance.choice(parts)
        for name in old.namelist():
            new.writestr(name, damaged(chance, old.read(name)) if name == chosen else old.read(name))
    return buffer.getvalue()


@pytest.mark.parametrize("start", range(0, REPETITIONS, SEEDS))
def test_a_damaged_file_is_read_or_refused_in_plain_words(tmp_path: Path, start: int) -> None:
    files, path, refused = whole_files(), tmp_path / "rows.data", 0
    for seed in range(start, start + SEEDS):
        chance = random.Random(seed)
        kind = chance.choice([*files, "part"])
        path.write_bytes(damaged_inside(chance, files["excel"]) if kind == "part" else damaged(chance, files[kind]))
        try:
            read_file("rows", path)
        except SourceError as error:
            refused += 1
            assert str(error).startswith(str(path)), (seed, kind)  # noqa: PT017
            assert "\n" not in str(error), (seed, kind)  # noqa: PT017
    assert refused > SEEDS / 4
