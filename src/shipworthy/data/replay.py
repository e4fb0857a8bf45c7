"""Replay: rows that a person fixed join those of the sources, each once.

A row is known by what the contract has once: its key, a column that is `unique`, columns of `data.unique`. Where it
has none of these, it is known by all that it holds.
"""

from dataclasses import replace

import polars as pl

from shipworthy.contract.types import Contract
from shipworthy.data.validate import Validated, unique_columns


def source_columns(contract: Contract) -> list[str]:
    """The columns that a row comes with: all of the contract that are not derived."""
    return [*contract.context, *contract.features, contract.target.column]


def is_known(contract: Contract, rows: pl.DataFrame, held: pl.DataFrame) -> pl.Series:
    """Which accepted `rows` are among the accepted rows `held`, as booleans."""
    uniques = [list(columns) for columns, _ in unique_columns(contract)]
    numbered = rows.with_row_index("__at")
    matching = [
        numbered.join(held.select(on), on=on, how="semi", nulls_equal=not uniques)["__at"]
        for on in uniques or [source_columns(contract)]
    ]
    found = pl.concat(matching).unique()
    return pl.repeat(False, rows.height, dtype=pl.Boolean, eager=True).scatter(found, True)


def join_replayed(contract: Contract, validated: Validated, replayed: pl.DataFrame) -> tuple[Validated, int]:
    """`validated` with those accepted `replayed` rows that it does not have, and how many it has.

    Args:
        contract: says what a row is known by.
        validated: of the sources.
        replayed: rows that were validated by the same contract.
    """
    known = is_known(contract, replayed, validated.accepted)
    joined = pl.concat([validated.accepted, replayed.filter(~known)])
    return replace(validated, accepted=joined), int(known.sum())
