"""The same values in a table and in a request: one model row, bit for bit, or refused on both sides."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
import pytest

from shipworthy.bundle.format import ONNX
from shipworthy.bundle.verify import verify_payload
from shipworthy.contract.parse import parse_contract
from shipworthy.data.columns import encode
from shipworthy.data.quality import build_baselines
from shipworthy.data.validate import Validated, validate
from shipworthy.release.payload import build_payload
from shipworthy.release.policy import Tuning
from shipworthy.serving.decode import InvalidRequestError, RequestDecoder, Sample
from shipworthy.serving.runtimes.load import load_runtime
from shipworthy.serving.servable import make_servable
from shipworthy.training.models import to_onnx

SEEDS = range(int(os.environ.get("SHIPWORTHY_SOAK", "3")))
ROWS = 2000
CONTRACT = """
shipworthy: 1
system: parcels
purpose: Foresee whether a parcel comes late.
owner: depot
risk: minimal
data: {sources: {parcels: {path: parcels.csv}}}
context:
  parcel: {role: key, type: text, request: required}
  sent_at: {role: time, type: datetime, zone: America/New_York}
  depot: {role: slice, type: category, values: [north, south, "NA"]}
  load: {role: slice, type: float, range: [0, 10]}
features:
  weight: {type: float, range: [0.1, 1000]}
  volume: {type: float, range: [-5, 100], outside: clip}
  value: {type: float, range: [0, 1.0e6], outside: missing}
  distance: {type: float, range: [0, 9000], outside: review, missing: allow}
  free: {type: float, missing: allow}
  stops: {type: int, range: [0, 40]}
  legs: {type: int, range: [1, 9], outside: clip}
  serial: {type: int, missing: allow}
  fragile: {type: bool}
  insured: {type: bool, missing: allow}
  service: {type: category, values: [standard, express, "-"]}
  carrier: {type: category, values: ["1", A A, "é"], unknown: missing}
  region: {type: category, values: [n, s], unknown: review, missing: allow}
  note: {type: text, missing: allow}
  due: {type: datetime, zone: Europe/Vienna}
  packed: {type: datetime, missing: allow}
derived:
  density: {from: "weight / volume", type: float, range: [0, 500], outside: clip}
  log_density: {from: "log(density) + coalesce(free, 0) ** 3", type: float}
  due_hour: {from: "hour(due)", type: int, range: [0, 23], outside: reject}
  due_weekday: {from: "weekday(due)", type: int}
  packed_month: {from: "month(packed) + 12 * year(packed)", type: int}
  sent_hour: {from: "hour(sent_at)", type: int}
  hurry: {from: "packed > due or sent_at > due", type: bool}
  heavy: {from: "weight > 100 and (insured or service in ['express'])", type: bool}
  square: {from: "serial * serial * 1.5 - free * free", type: float}
  size:
    {from: 'where(weight < 20, "light", lower(carrier))', type: category, values: [light, a a, é, "1"], unknown: review}
  bulk: {from: "bucket(volume, 1, 10, 50)", type: category, values: [flat, small, middle, large]}
  kind: {from: 'left(upper(strip(note)), 2)', type: category, values: [FI, "NO", "A:", "1"], unknown: reject}
  odd: {from: 'size == "a a" or missing(bulk) or contains(note, "n")', type: bool}
  letters: {from: "length(replace(note, ':', '::') + service)", type: int}
  due_day: {from: "day_of_year(due) + 1000 * week(packed) + 100000 * quarter(sent_at)", type: int}
  waiting: {from: "days_between(sent_at, due)", type: float, range: [-1000, 1000]}
  strain: {from: "where(heavy, density, stops // 3)", type: float, range: [0, 200], outside: reject}
checks:
  - {name: note is no warning, expect: 'note != "lost"'}
  - {name: stops need distance, expect: stops <= 30 or distance > 10}
  - {name: load and weight, expect: load < 9 or weight < 500}
target: {column: late, type: binary, values: ["0", "1"], positive: "1"}
training: {entry: train.py:train}
decision: {fallback: {rules: [{if: hurry, then: "1"}], otherwise: "0"}}
gates: {performance: {log_loss: {better_than: baseline}}}
"""
FLOATS = [
    0.0, -0.0, 5e-324, 1e-45, 1.1754943508222875e-38, 0.1, 0.09999999999999999, 1000.0, 1000.0000000000001, 16777217.0,
    1e5, -5.0, 100, 101, 7, 3.4028234663852886e38, 3.4028235e38, 1e39, -1e300, 1e300, 1.7976931348623157e308, 2**70, 9,
]  # fmt: skip
INTS = [
    0, 1, 5, 9, 10, 40, 41, -1, 5.0, 1e3, 3.7, -0.0, 2**24 + 1, 2**53, 2**53 + 1, float(2**53), 2.0**60, 2**63 - 1,
    2**63, -(2**63), -(2**63) - 1, 10**30, 1e300,
]  # fmt: skip
WORDS = ["", " ", "NA", "-", "null", "none", "?", "nan", "N/A"]
LABELS = [
    "standard", "express", " express", "express\t", "\u00a0express", "\x1cexpress", "Express", "1", " 1 ", "01", "1.0",
    "A A", "A  A", "é", "e\u0301", "n", "s", "S", "north", "lost", "x" * 300, "\u2028n", "a:b", '"', "\\", *WORDS,
]  # fmt: skip
DAYS = [
    "2026-03-29", "2026-10-25", "2026-03-08", "2026-11-01", "2026-02-29", "2024-02-29", "1999-12-31", "2026-13-01",
    "1000-01-01", "0999-12-31", "1890-06-01", "9999-12-31", "2026-07-04", "2050-07-04", "0000-01-01",
]  # fmt: skip
TIMES = ["00:00:00", "01:30:00", "02:00:00", "02:30:00", "02:59:59", "03:00:00", "23:59:59", "24:00:00", "12:60:00"]
FRACTIONS = ["", ".5", ".123456", ".1234567", ".999999999"]
OFFSETS = ["Z", "z", "+00:00", "-05:00", "+0530", "+14", "-23:59", "+24:00", "+05:60"]


def moments(pattern: str) -> Callable[[random.Random], Any]:
    """Texts of one format, as one column of a file has: plain ones, clock changes, days and hours that are not."""

    def draw(chance: random.Random) -> Any:
        if chance.random() < 0.04:
            return chance.choice([None, *WORDS])
        usual = chance.random() < 0.6
        day = f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}" if usual else chance.choice(DAYS)
        hour = f"{chance.randint(0, 23):02}:{chance.randint(0, 59):02}:00" if usual else chance.choice(TIMES)
        text = {
            "day": day,
            "minute": f"{day} {hour[:5]}",
            "local": f"{day}T{hour}{chance.choice(FRACTIONS)}",
            "offset": f"{day}T{hour}{chance.choice(FRACTIONS)}{chance.choice(OFFSETS[:3] if usual else OFFSETS)}",
        }[pattern]
        return f" {text}\t" if chance.random() < 0.05 else text

    return draw


def cell(usual: Callable[[random.Random], Any], odd: list[Any]) -> Callable[[random.Random], Any]:
    """Mostly what is usual, so that many rows are accepted."""
    return lambda chance: chance.choice([None, *odd]) if chance.random() < 0.06 else usual(chance)


def cells(chance: random.Random) -> dict[str, Callable[[random.Random], Any]]:
    patterns = ["day", "minute", "local", "offset"]
    truth = cell(lambda c: c.random() < 0.5, [])
    return {
        "sent_at": moments(chance.choice(patterns)),
        "depot": cell(lambda c: c.choice(["north", "south", "NA"]), LABELS),
        "load": cell(lambda c: c.uniform(0, 9), FLOATS),
        "weight": cell(lambda c: c.uniform(0.1, 200), FLOATS),
        "volume": cell(lambda c: c.uniform(1, 90), FLOATS),
        "value": cell(lambda c: round(c.uniform(0, 2e6), 2), FLOATS),
        "distance": cell(lambda c: c.uniform(0, 9500), FLOATS),
        "free": cell(lambda c: c.gauss(0, 1) * 10 ** c.uniform(-40, 20), FLOATS),
        "stops": cell(lambda c: c.randint(0, 40), INTS),
        "legs": cell(lambda c: c.randint(1, 12), INTS),
        "serial": cell(lambda c: c.randint(-(2**62), 2**62), INTS),
        "fragile": truth,
        "insured": truth,
        "service": cell(lambda c: c.choice(["standard", "express", "-"]), LABELS),
        "carrier": cell(lambda c: c.choice(["1", "A A", "é", "other"]), LABELS),
        "region": cell(lambda c: c.choice(["n", "s", "w"]), LABELS),
        "note": cell(lambda c: c.choice(["fine", "none", "a:b"]), LABELS),
        "due": moments(chance.choice(patterns)),
        "packed": moments(chance.choice(patterns)),
    }


def as_text(value: Any) -> str | None:
    """As a text file has it."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def draw_rows(chance: random.Random) -> list[dict[str, Any]]:
    drawn = cells(chance)
    return [
        {"parcel": f"p{number}", **{name: draw(chance) for name, draw in drawn.items()}, "late": str(number % 2)}
        for number in range(ROWS)
    ]


def judged(rows: list[dict[str, Any]], contract: Any) -> tuple[Validated, dict[int, str]]:
    frame = pl.DataFrame({name: pl.Series([as_text(row[name]) for row in rows], dtype=pl.String) for name in rows[0]})
    validated = validate(contract, frame)
    quarantined = validated.quarantined
    return validated, dict(zip(quarantined["row"] - 1, quarantined["reasons"], strict=True))


def ask(decoder: RequestDecoder, contract: Any, row: dict[str, Any], chance: random.Random) -> Sample | str:
    """What the server makes of the row as JSON; what is missing is sent as null or not at all."""

    def part(names: Any) -> dict[str, Any]:
        return {name: row[name] for name in names if row[name] is not None or chance.random() < 0.5}

    document = {"inputs": part(contract.features), "context": part(contract.context)}
    body = json.dumps(document, ensure_ascii=chance.random() < 0.5).encode()
    try:
        return decoder.decode(body)
    except InvalidRequestError as error:
        return "; ".join(f"{problem.field}: {problem.expected}: {problem.got}" for problem in error.errors)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_table_and_the_server_agree_on_every_row(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    contract = parse_contract(CONTRACT)
    rows = draw_rows(chance)
    validated, reasons = judged(rows, contract)
    matrix = encode(contract, validated.accepted)
    assert 0.2 * ROWS < len(matrix) < 0.9 * ROWS
    truth = np.array([int(row["late"]) for number, row in enumerate(rows) if number not in reasons])
    usable = np.clip(matrix, -1e30, 1e30)
    model = lightgbm.LGBMClassifier(n_estimators=20, n_jobs=1, verbose=-1).fit(usable, truth)
    graph = to_onnx(model, contract.model_columns, "binary", contract.target.values or ())
    baselines = build_baselines(contract, matrix, np.full(len(matrix), 0.5))
    payload = build_payload(contract, {ONNX: graph}, Tuning(rows=1, threshold=0.5), baselines, tmp_path / "payload")
    servable = make_servable(verify_payload(payload.directory), "parcels:1", payload.digest, load_runtime)

    differences = []
    place = 0
    asked = []
    for number, row in enumerate(rows):
        sample = ask(servable.decoder, contract, row, chance)
        if number in reasons or isinstance(sample, str):
            if number not in reasons or not isinstance(sample, str):
                differences.append((row, reasons.get(number, "accepted"), sample if isinstance(sample, str) else "ok"))
        else:
            served = np.array(sample.floats, dtype=np.float32)
            asked.append(served)
            if served.tobytes() != matrix[place].tobytes() and not _same_with_nan(served, matrix[place]):
                apart = [
                    (name, row.get(name), repr(table), repr(server))
                    for name, table, server in zip(contract.model_columns, matrix[place], served, strict=True)
                    if table.tobytes() != server.tobytes() and not (np.isnan(table) and np.isnan(server))
                ]
                differences.append((row, apart, ""))
        place += number not in reasons
    assert not differences, (len(differences), differences[:3])
    assert np.array_equal(servable.runtime.run(np.stack(asked)), servable.runtime.run(matrix))


def _same_with_nan(one: Any, other: Any) -> bool:
    """Bit for bit, but for the payload of NaN."""
    missing = np.isnan(one)
    return bool((missing == np.isnan(other)).all() and one[~missing].tobytes() == other[~missing].tobytes())
