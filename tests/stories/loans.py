"""A small project of loans, made up: what every test breaks in its own way."""

from pathlib import Path

import numpy as np
import polars as pl

CONTRACT = """\
shipworthy: 1
system: loans
purpose: Tell whether a loan will be repaid.
owner: lending
risk: limited
data:
  sources: {loans: {path: loans.csv}}
  accept: {quarantined: {at_most: 10%}}
context:
  loan_id: {role: key, type: text}
features:
  income: {type: float, range: [0, 1000], outside: reject}
  debt: {type: float, range: [0, 1000], missing: allow}
  purpose: {type: category, values: [car, home, school]}
derived:
  ratio: {from: "debt / income", type: float}
target: {column: repaid, type: binary, values: ["0", "1"], positive: "1"}
training: {entry: train.py:train, seed: 3}
decision:
  actions: {"1": approve, "0": refer}
  review: {confidence_below: 0.6}
  fallback: {otherwise: refer}
gates:
  performance: {log_loss: {better_than: baseline}}
environments: {local: {}}
"""
TRAIN = """\
import numpy as np
from sklearn.linear_model import LogisticRegression


from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline


def train(frame, params, context):
    inputs, truth = frame.select(context.features).to_numpy(), frame[context.target].to_numpy()
    return make_pipeline(SimpleImputer(), LogisticRegression(max_iter=500)).fit(inputs, truth)
"""
ROWS = 3_000


def write_project(folder: Path, *, learnable: bool = True, rows: int = ROWS) -> Path:
    """A small project whose target follows income and debt, or nothing at all."""
    folder.mkdir()
    random = np.random.default_rng(5)
    income, debt = random.uniform(1, 100, rows).round(2), random.uniform(0, 80, rows).round(2)
    chance = 1 / (1 + np.exp(-(income - debt) / 15)) if learnable else np.full(rows, 0.5)
    frame = pl.DataFrame(
        {
            "loan_id": [f"loan-{at}" for at in range(rows)],
            "income": income,
            "debt": debt,
            "purpose": random.choice(["car", "home", "school"], rows),
            "repaid": (random.uniform(size=rows) < chance).astype(int),
        }
    )
    frame.write_csv(folder / "loans.csv")
    (folder / "shipworthy.yaml").write_text(CONTRACT)
    (folder / "train.py").write_text(TRAIN)
    return folder
