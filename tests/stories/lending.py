"""A small lending system in production, made up: two roles approve, a canary is judged, days are watched."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from shipworthy.faces.replay import DAY_S, Event
from tests.stories.loans import TRAIN

CONTRACT = """\
shipworthy: 1
system: lending
purpose: Tell whether a loan will be repaid.
owner: lending
risk: limited
data:
  sources: {loans: {path: loans.csv}}
context:
  loan_id: {role: key, type: text}
  customer: {role: subject, type: text}
  applied_at: {role: time, type: datetime}
features:
  income: {type: float, range: [0, 1000]}
  debt: {type: float, range: [0, 1000]}
target: {column: repaid, type: binary, values: ["0", "1"], positive: "1", known_after: 1d}
training: {entry: train.py:train, split: {by: random}, seed: 3}
decision:
  actions: {"1": approve, "0": refer}
  threshold: {at: 0.5}
  fallback: {otherwise: refer}
value: {unit: EUR, approve: {"1": 10, "0": -20}, refer: {"1": 0, "0": 0}}
gates:
  performance: {log_loss: {better_than: baseline}}
environments:
  local: {}
  production:
    approvals: {ml-engineer: 1, risk: 1}
    rollout:
      steps: [50%, 100%]
      hold: {at_least: 2d, at_most: 12d}
      no_worse: {errors: {by: 5%}, value: {by: 1.5 EUR}}
monitor: {every: 1d, rows: {at_least: 200}, false_alarms: {at_most: 1, per: 90d}}
alerts: {webhooks: ["${ALERT_WEBHOOK}"]}
"""
START = 1_372_636_800.0  # 2013-07-01T00:00:00Z
A_DAY = 1_000  # applications


def write_lending(folder: Path) -> Path:
    """The project with 3,000 past loans."""
    folder.mkdir()
    history = applications(3_000, seed=5)
    history.with_columns(applied_at=pl.lit("2013-06-01T00:00:00Z")).write_csv(folder / "loans.csv")
    (folder / "shipworthy.yaml").write_text(CONTRACT)
    (folder / "train.py").write_text(TRAIN)
    return folder


def change(folder: Path, old: str, new: str) -> None:
    """Edit the contract."""
    contract = folder / "shipworthy.yaml"
    text = contract.read_text()
    assert old in text
    contract.write_text(text.replace(old, new))


def applications(count: int, seed: int, income: float = 100.0) -> pl.DataFrame:
    """Loans whose repayment follows income and debt."""
    random = np.random.default_rng(seed)
    earned, owed = random.uniform(1, income, count).round(2), random.uniform(0, 80, count).round(2)
    chance = 1 / (1 + np.exp(-(earned - owed) / 15))
    return pl.DataFrame(
        {
            "loan_id": [f"loan-{seed}-{at}" for at in range(count)],
            "customer": [f"customer-{seed}-{at // 2}" for at in range(count)],
            "income": earned,
            "debt": owed,
            "repaid": (random.uniform(size=count) < chance).astype(int).astype(str),
        }
    )


def traffic(days: int, seed: int = 11, income: float = 100.0) -> list[Event]:
    """So many days of applications, evenly through each day; each truth is known a day later."""
    return list(_events(applications(days * A_DAY, seed, income)))


def _events(frame: pl.DataFrame) -> Iterator[Event]:
    for at, (loan, customer, income, debt, repaid) in enumerate(frame.iter_rows()):
        moment = START + at * DAY_S / A_DAY
        stamp = pl.Series([int(moment * 1e6)]).cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%SZ")[0]
        request = {
            "id": loan,
            "inputs": {"income": income, "debt": debt},
            "context": {"loan_id": loan, "customer": customer, "applied_at": stamp},
        }
        yield Event(moment, moment + DAY_S, request, repaid)
