"""What the data room costs, side by side with what it is made of.

`python -m bench.data [--section NAME] [--rows N] [--rounds R]` prints ratios of one run, medians of rounds.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import polars as pl

from shipworthy.contract.types import Contract
from shipworthy.data.diff import diff
from shipworthy.data.snapshot import read, take

CONTRACT = cast(Contract, SimpleNamespace(system="bench"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--section", choices=sorted(SECTIONS), action="append", help="which to run; default: all")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    arguments = parser.parse_args()
    for name in arguments.section or SECTIONS:
        root = Path(tempfile.mkdtemp(prefix="bench-"))
        try:
            SECTIONS[name](root, arguments.rows, arguments.rounds)
        finally:
            shutil.rmtree(root)


def table(rows: int, seed: int = 1) -> pl.DataFrame:
    """A key, 12 floats, 3 whole numbers, 3 categories and a time."""
    chance = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "id": [f"row-{at}" for at in range(rows)],
            **{f"n{at:02d}": chance.normal(size=rows) for at in range(12)},
            **{f"i{at}": chance.integers(0, 1000, rows) for at in range(3)},
            **{f"c{at}": chance.choice(["boat", "car", "home", "school"], rows) for at in range(3)},
            "at": pl.Series(chance.integers(0, 10**15, rows)).cast(pl.Datetime("us", "UTC")),
        }
    )


def median(rounds: int, act: Callable[[], object]) -> float:
    """Seconds, the median of several."""
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        act()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def differences(root: Path, rows: int, rounds: int) -> None:
    """Two versions: 1 % of rows removed, 1 % added, 1 % changed, and one column shifted in every row."""
    old = table(rows)
    chance = np.random.default_rng(2)
    edited = old.with_columns(
        pl.when(pl.Series(chance.random(rows) < 0.01)).then(pl.col("n03") + 1).otherwise(pl.col("n03")).alias("n03")
    ).filter(pl.Series(chance.random(rows) > 0.01))
    new = pl.concat([edited, table(rows // 100, 3).with_columns(pl.col("id") + "-new")])
    shifted = new.with_columns(pl.col("n05") + 0.2).sample(fraction=1.0, shuffle=True, seed=1)
    base = median(rounds, lambda: old.join(new, on="id", how="full"))
    for name, after in (("one row in 100 edited", new), ("every row changed, in another order", shifted)):
        taken = [take(CONTRACT, frame, root / name) for frame in (old, after)]
        loaded = median(rounds, lambda taken=taken: [read(snapshot) for snapshot in taken])  # type: ignore[misc]
        by_key = median(rounds, lambda after=after: diff(old, after, ["id"]))  # type: ignore[misc]
        as_is = median(rounds, lambda after=after: diff(old, after))  # type: ignore[misc]
        print(
            f"diff of two versions of {rows:,} rows x {old.width} columns, {name}: {by_key:.2f} s by the key, "
            f"{as_is:.2f} s without one; to read both and check their digests {loaded:.2f} s; "
            f"a full join of polars alone {base:.2f} s"
        )


def versions(root: Path, rows: int, rounds: int) -> None:
    """A version that adds 1 % to the one before, against one written whole."""
    frame = table(rows)
    first = frame[: rows - rows // 100]
    whole, added = [], []
    for at in range(rounds):
        tables = root / str(at)
        whole.append(median(1, lambda tables=tables: take(CONTRACT, first, tables)))  # type: ignore[misc]
        added.append(median(1, lambda tables=tables: take(CONTRACT, frame, tables)))  # type: ignore[misc]
    one, two = statistics.median(whole), statistics.median(added)
    size = sum(path.stat().st_size for path in (root / "0").rglob("*.parquet"))
    print(
        f"a snapshot of {rows:,} rows x {frame.width} columns: {one:.2f} s whole, {two:.2f} s when 1 % is new "
        f"({two / one:.0%}), {size / 1e6:.0f} MB for both"
    )


SECTIONS: dict[str, Callable[[Path, int, int], None]] = {"diff": differences, "versions": versions}


if __name__ == "__main__":
    main()
