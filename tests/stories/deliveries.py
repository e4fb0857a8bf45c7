"""A small project of deliveries, made up: vans are looked up by plate, the weather as it was known at the time."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from tests.stories.loans import TRAIN

CONTRACT = """\
shipworthy: 1
system: deliveries
purpose: Tell whether a delivery will be late.
owner: depots
risk: minimal
data:
  sources:
    deliveries: {path: deliveries.csv}
    vans: {path: vans.csv}
    weather: {path: weather.csv}
  lookups:
    vans: {key: [plate]}
    weather: {key: [depot], time: observed_at, delay: 10min, age: {at_most: 3h}}
context:
  order: {role: key, type: text}
  due: {role: time, type: datetime, request: required}
features:
  plate: {type: text}
  depot: {type: category, values: [north, south, west]}
  stops: {type: int, range: [0, 100]}
  capacity: {type: int, range: [1, 50], lookup: vans}
  electric: {type: bool, lookup: vans.is_electric}
  wind: {type: float, unit: m/s, range: [0, 60], missing: allow, lookup: weather}
  sky: {type: category, values: [clear, rain], unknown: missing, missing: allow, lookup: weather}
derived:
  load: {from: "stops / capacity", type: float}
target: {column: late, type: binary, values: ["0", "1"], positive: "1"}
training: {entry: train.py:train, split: {by: time}, seed: 3}
decision:
  actions: {"1": warn, "0": go}
  threshold: {at: 0.5}
  fallback: {rules: [{if: "wind > 30", then: warn}], otherwise: go}
gates:
  performance: {log_loss: {better_than: baseline}}
environments: {local: {}}
"""
START = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 20
DEPOTS = ("north", "south", "west")


def vans(count: int = 40) -> pl.DataFrame:
    """Each van with what it takes."""
    random = np.random.default_rng(1)
    return pl.DataFrame(
        {
            "plate": [f"{at:03}" for at in range(count)],
            "capacity": random.integers(2, 30, count),
            "is_electric": random.choice(["yes", "no"], count),
        }
    )


def weather(days: int = DAYS) -> pl.DataFrame:
    """About an observation an hour at each depot, some with gaps of half a day, in no order."""
    random = np.random.default_rng(2)
    rows = days * 24 * len(DEPOTS)
    minutes = random.integers(0, days * 24 * 60, rows)
    frame = pl.DataFrame(
        {
            "depot": random.choice(DEPOTS, rows),
            "observed_at": [START + timedelta(minutes=int(minute)) for minute in minutes],
            "wind": random.gamma(2.0, 5.0, rows).clip(0, 59).round(1),
            "sky": random.choice(["clear", "rain", "hail"], rows, p=[0.6, 0.37, 0.03]),
        }
    )
    gap = (pl.col("observed_at").dt.day() % 4 == 0) & (pl.col("observed_at").dt.hour() < 12)
    return frame.filter(~gap).unique(["depot", "observed_at"], keep="first", maintain_order=True)


def deliveries(rows: int, days: int = DAYS, seed: int = 5) -> pl.DataFrame:
    """Deliveries without what is looked up; some are late by chance, most by their load."""
    random = np.random.default_rng(seed)
    fleet = vans()
    chosen = random.integers(0, fleet.height, rows)
    stops = random.integers(0, 60, rows)
    load = stops / fleet["capacity"].to_numpy()[chosen]
    due = [START + timedelta(seconds=int(second)) for second in random.integers(0, days * 86400, rows)]
    return pl.DataFrame(
        {
            "order": [f"order-{seed}-{at}" for at in range(rows)],
            "due": due,
            "plate": fleet["plate"].gather(chosen),
            "depot": random.choice(DEPOTS, rows),
            "stops": stops,
            "late": (random.uniform(size=rows) < 1 / (1 + np.exp(3 - load))).astype(int),
        }
    )


def write_deliveries(folder: Path, rows: int = 3_000) -> Path:
    """The project with its three tables."""
    folder.mkdir()
    clock = "%Y-%m-%dT%H:%M:%SZ"
    deliveries(rows).with_columns(pl.col("due").dt.strftime(clock)).write_csv(folder / "deliveries.csv")
    vans().write_csv(folder / "vans.csv")
    weather().with_columns(pl.col("observed_at").dt.strftime(clock)).write_csv(folder / "weather.csv")
    (folder / "shipworthy.yaml").write_text(CONTRACT)
    (folder / "train.py").write_text(TRAIN)
    return folder
