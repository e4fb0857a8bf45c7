"""Contamination: what the test part shares with the train part, so that it flatters the model.

Equal rows are only counted where chance does not make them equal: a row of coarse values alone is often seen twice.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from shipworthy.contract.types import Contract
from shipworthy.data.split import Split

LEAST_SHARE = 0.001  # of the test rows, to speak of it
LEAST_ROWS = 3
BY_CHANCE = 0.1  # of the equal rows, that chance may explain
RARE = 0.01  # share of the rows that hold a value, from which down it says something of its row
DEPENDENCE = 0.8  # of a row's information that is left where its columns depend on each other
SUBJECT_SHARE = 0.01  # of the test rows


@dataclass(frozen=True, slots=True)
class Contamination:
    """Test rows that the train part knows."""

    columns: tuple[str, ...]  # of the subject; empty: all
    rows: int
    of: int  # test rows

    def __str__(self) -> str:
        """A question for a person."""
        share = f"{self.rows:,} of {self.of:,} test rows ({self.rows / self.of:.1%})"
        if self.columns:
            return (
                f"{self.columns[0]}: {share} are of a subject that also trains, so the test flatters the model; "
                "split by it (training.split.by: subject)"
            )
        return (
            f"test rows: {share} are equal to a train row in all features and the target, and chance does not make "
            "them so; remove the copies, or split by what they have in common (training.split.by: subject)"
        )


def find_contamination(contract: Contract, accepted: pl.DataFrame, places: Split) -> Iterator[Contamination]:
    """What the test part shares with the train part.

    Args:
        contract: its features and target make a row; its subject is looked for where the split is at random.
        accepted: all rows.
        places: which of them train and which test.
    """
    tested = len(places.test)
    rows = _copies(contract, accepted, places)
    if rows >= max(LEAST_ROWS, LEAST_SHARE * tested):
        yield Contamination((), rows, tested)
    if contract.training.split.by != "random":
        return  # by subject none is in both; by time it is what serving meets
    for name in contract.context_by_role("subject"):
        train, test = accepted[name][places.train], accepted[name][places.test]
        shared = int(test.drop_nulls().is_in(train.drop_nulls().unique().implode()).sum())
        if shared >= max(LEAST_ROWS, SUBJECT_SHARE * tested):
            yield Contamination((name,), shared, tested)


def _copies(contract: Contract, accepted: pl.DataFrame, places: Split) -> int:
    names = [*contract.features, contract.target.column]
    hashes = accepted.select(names).hash_rows()  # no copies of the rows, which may be many
    is_known = hashes[places.test].is_in(hashes[places.train].unique().implode())
    twice = accepted.select(names)[places.test[is_known.to_numpy()]]
    if not twice.height:
        return 0
    rows = accepted.select(names)[np.concatenate((places.train, places.test))]
    bits = np.zeros(twice.height)
    for name in names:
        shares = rows[name].value_counts(name="seen").select(pl.col(name), pl.col("seen") / rows.height)
        joined = twice.select(name).join(shares, on=name, how="left", nulls_equal=True, maintain_order="left")
        seen = joined["seen"].to_numpy()
        bits -= np.where(seen <= RARE, np.log2(seen), 0.0)  # coarse columns often say the same as each other
    by_chance = np.minimum(len(places.train) * 2 ** (-DEPENDENCE * bits), 1.0).sum()
    return twice.height if by_chance <= BY_CHANCE * twice.height else 0
