"""Validation against its peers, and the way from a CSV to a validated snapshot against parsing and writing alone.

`python -m bench.validate [--rows N] [--repeats N] [--cases NAME …]` prints seconds and CPU seconds, each the best of
some runs taken in turns, and ratios within one run. Twenty columns, one row in a hundred bad. Peers have the same rules
on the same frame and name the bad rows as well: pandera on polars (`lazy=True`), Great Expectations on pandas
(`COMPLETE`). Nothing else may run.
"""

import argparse
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.data.snapshot import take
from shipworthy.data.sources.files import digest_file
from shipworthy.data.stream import stream_source
from shipworthy.data.validate import validate

FLOATS, WHOLE, LABELS = 10, 4, 3
COLOURS = ["red", "green", "blue", "black"]
GOAL_PANDERA, GOAL_GX, GOAL_INGEST = 1.0, 20.0, 1.5
CASES = ("pandera", "great expectations", "ingest")


def draw(rows: int) -> pl.DataFrame:
    random = np.random.default_rng(1)
    bad = random.uniform(size=rows) < 0.01
    columns: dict[str, Any] = {"id": [f"r{at:09d}" for at in range(rows)]}
    columns |= {f"x{at}": random.normal(50, 10, rows).round(3) for at in range(FLOATS)}
    columns |= {f"n{at}": random.integers(0, 1000, rows) for at in range(WHOLE)}
    columns |= {f"c{at}": random.choice(COLOURS, rows) for at in range(LABELS)}
    start = np.datetime64("2020-01-01T00:00:00", "us")
    columns["at"] = start + np.arange(rows) * np.timedelta64(1_000_000, "us")
    columns["y"] = random.integers(0, 2, rows)
    frame = pl.DataFrame(columns)
    return frame.with_columns(x0=pl.when(pl.Series(bad)).then(-1.0).otherwise("x0"))


def contract() -> Contract:
    features: dict[str, Any] = {f"x{at}": {"type": "float", "range": [0, 1000]} for at in range(FLOATS)}
    features |= {f"n{at}": {"type": "int", "range": [0, 999]} for at in range(WHOLE)}
    features |= {f"c{at}": {"type": "category", "values": COLOURS} for at in range(LABELS)}
    sections = {
        "shipworthy": 1,
        "system": "bench",
        "purpose": "bench",
        "owner": "bench",
        "risk": "minimal",
        "data": {"sources": {"rows": {"path": "rows.csv"}}},
        "context": {"id": {"role": "key", "type": "text"}, "at": {"role": "time", "type": "datetime"}},
        "features": features,
        "target": {"column": "y", "type": "binary", "values": ["0", "1"], "positive": "1"},
        "training": {"entry": "train.py:train"},
        "decision": {"fallback": {"otherwise": "0"}},
        "gates": {"performance": {"log_loss": {"better_than": "baseline"}}},
    }
    return parse_contract(json.dumps(sections))


def best(repeats: int, *works: Callable[[], Any]) -> list[tuple[float, float]]:
    """Seconds and CPU seconds of each work's quickest run, in turns; the first turn warms up and does not count."""
    seen: list[list[tuple[float, float]]] = [[] for _ in works]
    for turn in range(repeats + 1):
        for number, work in enumerate(works):
            started, cpu = time.perf_counter(), time.process_time()
            work()
            if turn:
                seen[number].append((time.perf_counter() - started, time.process_time() - cpu))
    return [(min(wall for wall, _ in runs), min(cpu for _, cpu in runs)) for runs in seen]


def with_pandera(frame: pl.DataFrame) -> Callable[[], int]:
    import pandera.polars as pa

    columns = {f"x{at}": pa.Column(pl.Float64, pa.Check.in_range(0, 1000)) for at in range(FLOATS)}
    columns |= {f"n{at}": pa.Column(pl.Int64, pa.Check.in_range(0, 999)) for at in range(WHOLE)}
    columns |= {f"c{at}": pa.Column(pl.String, pa.Check.isin(COLOURS)) for at in range(LABELS)}
    columns |= {"id": pa.Column(pl.String, unique=True), "at": pa.Column(pl.Datetime("us"))}
    columns["y"] = pa.Column(pl.Int64, pa.Check.isin([0, 1]))
    schema = pa.DataFrameSchema(columns)

    def run() -> int:
        try:
            schema.validate(frame, lazy=True)
        except pa.errors.SchemaErrors as error:
            return int(error.failure_cases.height)
        return 0

    return run


def with_great_expectations(frame: pl.DataFrame) -> Callable[[], int]:
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    import pandas as pd

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    table = pd.DataFrame({name: frame[name].to_numpy() for name in frame.columns})
    asset = context.data_sources.add_pandas("rows").add_dataframe_asset("rows")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": table})
    rules = gx.expectations
    ranges = {f"x{at}": (0, 1000) for at in range(FLOATS)} | {f"n{at}": (0, 999) for at in range(WHOLE)}
    suite = gx.ExpectationSuite(name="rows")
    for name in frame.columns:
        suite.add_expectation(rules.ExpectColumnValuesToNotBeNull(column=name))
    for name, (low, high) in ranges.items():
        suite.add_expectation(rules.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high))
    for at in range(LABELS):
        suite.add_expectation(rules.ExpectColumnValuesToBeInSet(column=f"c{at}", value_set=COLOURS))
    suite.add_expectation(rules.ExpectColumnValuesToBeInSet(column="y", value_set=[0, 1]))
    suite.add_expectation(rules.ExpectColumnValuesToBeUnique(column="id"))

    def run() -> int:
        found = batch.validate(suite, result_format="COMPLETE")
        return sum(int(result.result.get("unexpected_count") or 0) for result in found.results)

    return run


def tell(name: str, theirs: tuple[float, float], ours: tuple[float, float], goal: float) -> None:
    """One line: how many times as long, or as much CPU, the other takes as ours does."""
    told = "met" if theirs[0] / ours[0] >= goal else "missed"
    print(
        f"{name:22} {theirs[0]:8.3f} s ({theirs[1]:7.3f} CPU)   ours {ours[0]:7.3f} s ({ours[1]:7.3f} CPU)   "
        f"ratio {theirs[0] / ours[0]:6.2f} ({theirs[1] / ours[1]:6.2f})   goal {goal:.2f}: {told}"
    )


def measure_peers(rows: int, repeats: int, cases: list[str]) -> None:
    frame, rules = draw(rows), contract()
    bad = validate(rules, frame).quarantined.height
    for name, make, goal in (
        ("pandera", with_pandera, GOAL_PANDERA),
        ("great expectations", with_great_expectations, GOAL_GX),
    ):
        if name not in cases:
            continue
        try:
            work = make(frame)
        except ImportError as error:
            print(f"{name:22} is not installed ({error.name}): pip install 'shipworthy[bench]'")
            continue
        found = work()
        if found != bad:
            raise SystemExit(f"{name} finds {found} bad rows, not {bad}")
        theirs, ours = best(repeats, work, lambda: validate(rules, frame))
        tell(name, theirs, ours, goal)


def measure_ingest(rows: int, repeats: int) -> None:
    rules = contract()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(rows).with_columns(pl.col("at").dt.strftime("%Y-%m-%d %H:%M:%S")).write_csv(folder / "rows.csv")
        numbers, digest = iter(range(1000)), digest_file(folder / "rows.csv")

        def alone() -> None:
            pl.read_csv(folder / "rows.csv").write_delta(folder / f"alone-{next(numbers)}")

        def whole() -> None:
            streamed = stream_source(rules, "rows", folder, {folder / "rows.csv": digest})
            if streamed is None:
                raise SystemExit("the rows were not read some at a time")
            take(rules, streamed.validated.accepted, folder / f"whole-{next(numbers)}")

        theirs, ours = best(repeats, alone, whole)
        tell("polars parse and write", theirs, ours, 1 / GOAL_INGEST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # of peers
    print(f"{chosen.rows:,} rows x {FLOATS + WHOLE + LABELS + 3} columns, 1 % bad, {os.cpu_count()} cores")
    measure_peers(chosen.rows, chosen.repeats, chosen.cases)
    if "ingest" in chosen.cases:
        measure_ingest(chosen.rows, chosen.repeats)


if __name__ == "__main__":
    main()
