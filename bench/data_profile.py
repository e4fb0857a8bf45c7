"""The profile of a snapshot: its exact part and its sketches, beside what polars takes to describe the table.

`python -m bench.data_profile [--rows N]`. Goals for a million rows and 20 columns: the exact part (least, most,
missing, moments, histograms with fixed edges) in 0.3 s, KLL quantiles within 1 s. The best of some rounds, in turn.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import polars as pl

from shipworthy.data import profile

ROUNDS = 5


def draw(rows: int) -> pl.DataFrame:
    random = np.random.default_rng(5)
    numbers = {f"number{at}": random.normal(size=rows) for at in range(14)}
    whole = {f"whole{at}": random.integers(0, 50, rows) for at in range(3)}
    labels = random.choice(["car", "home", "school"], rows)
    names = [f"loan-{at}" for at in range(rows)]
    return pl.DataFrame({**numbers, **whole, "kind": labels, "is_new": random.random(rows) < 0.5, "key": names})


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    frame = draw(rows)
    numbers = [name for name in frame.columns if frame.schema[name].is_numeric()]
    edges = profile.edges_of(profile.profile_frame(frame.head(10_000)))
    cases: dict[str, Callable[[], object]] = {
        "polars describe": frame.describe,
        "exact part": lambda: profile._facts(frame, numbers, edges),
        "KLL": lambda: [profile._sketch(frame[name]) for name in numbers],
        "whole profile": lambda: profile.profile_frame(frame, edges),
        "whole, in batches of 100,000": lambda: profile.profile_batches(frame.iter_slices(100_000), edges),
    }
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(ROUNDS):
        for name, work in cases.items():
            best[name] = min(best[name], seconds(work))
    print(f"{rows:,} rows x {frame.width} columns, best of {ROUNDS}")
    for name, taken in best.items():
        print(f"{name:<30} {taken:6.3f} s   x {taken / best['polars describe']:.2f} of polars describe")


if __name__ == "__main__":
    main()
