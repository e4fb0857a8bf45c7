"""Edges are probed where the contract lets values through, and nowhere else."""

import numpy as np

from shipworthy.contract.parse import parse_contract
from shipworthy.training.edges import EdgeColumn
from shipworthy.training.reach import edge_columns

CONTRACT = """
shipworthy: 1
system: reach
purpose: Show what reaches the model.
owner: tests
risk: minimal
data: {sources: {rows: {path: rows.csv}}}
context: {id: {role: key, type: text}}
features:
  ranged: {type: float, range: [0, 10]}
  clipped: {type: int, range: [1, 5], outside: clip, missing: allow}
  reviewed: {type: float, range: [0, 1], outside: review}
  blanked: {type: float, range: [0, 1], outside: missing}
  code: {type: category, values: [a, b], unknown: missing}
  flag: {type: bool}
derived:
  ratio: {from: "ranged / reviewed", type: float}
  band: {from: "bucket(ranged, 2, 5)", type: category, values: [a, b, c], unknown: reject}
  word: {from: "where(flag, code, 'c')", type: category, values: [a, c]}
target: {column: y, type: regression}
training: {entry: "train.py:train"}
decision: {fallback: {otherwise: 0.0}}
gates: {performance: {mae: {better_than: baseline}}}
environments: {local: {}}
"""


def test_each_column_is_probed_within_what_the_server_lets_through() -> None:
    matrix = np.zeros((3, 9), np.float32)
    matrix[0, 6] = np.nan  # a quotient by zero, seen in the rows
    assert edge_columns(parse_contract(CONTRACT), matrix) == (
        EdgeColumn("ranged", 0.0, 10.0),
        EdgeColumn("clipped", 1.0, 5.0, is_integer=True, missing=True),
        EdgeColumn("reviewed"),
        EdgeColumn("blanked", 0.0, 1.0, missing=True),
        EdgeColumn("code", codes=2, missing=True),
        EdgeColumn("flag", codes=2),
        EdgeColumn("ratio", missing=True),
        EdgeColumn("band", codes=3),
        EdgeColumn("word", codes=2, missing=True),
    )
