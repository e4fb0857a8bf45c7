"""Label noise: how many labels are contradicted, with confidence, by models that did not see them.

Source: Northcutt, Jiang, Chuang, Confident learning: estimating uncertainty in dataset labels, JAIR 70 (2021).
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode, target_array
from shipworthy.data.findings.leaks import out_of_fold
from shipworthy.stats.intervals import wilson_interval

SAMPLE_ROWS = 5_000  # two seconds
LEAST_ROWS = 400
CLASS_ROWS = 50  # of each class: with fewer, what is usual of it is not known
ROUNDS = 80  # of all classes together
SURE = 0.8  # mean probability of the own class: below it the outcome is chance as much as its label is wrong
NOTABLE = 0.01  # share of the labels from which on a person is asked


@dataclass(frozen=True, slots=True)
class Noise:
    """The estimate, with what it stands on."""

    share: float  # of the labels that are contradicted
    low: float  # 95 % interval, of the sample of rows alone (Wilson)
    high: float
    rows: int
    confidence: float  # the lowest mean probability that a class gets in its own rows

    @property
    def is_notable(self) -> bool:
        """Whether a person should look: many are contradicted, by models that are sure elsewhere."""
        return self.low >= NOTABLE and self.confidence >= SURE

    def __str__(self) -> str:
        """A question for a person."""
        return (
            f"about {self.share:.1%} of the labels ({self.low:.1%} to {self.high:.1%}, of {self.rows:,} rows) are "
            "contradicted by models that are sure of most others; look at some of them"
        )


def estimate_noise(contract: Contract, accepted: pl.DataFrame) -> Noise | None:
    """The share of labels that out-of-fold models contradict; None of numbers, or where there is too little to say.

    A label is contradicted where another class has at least the probability that it has on average in its own rows,
    and more than the label's own class.
    """
    classes = contract.target.values or ()
    sample = accepted.gather_every(max(1, -(-accepted.height // SAMPLE_ROWS)))
    if not classes or sample.height < LEAST_ROWS:
        return None
    truth = target_array(contract, sample).astype(np.int64)
    if np.bincount(truth, minlength=len(classes)).min() < CLASS_ROWS:
        return None
    matrix, rounds = encode(contract, sample).astype(np.float64), max(ROUNDS // len(classes), 10)
    chances = out_of_fold(matrix, truth, len(classes), rounds)
    usual = np.array([chances[truth == label, label].mean() for label in range(len(classes))])
    sure = np.where(chances >= usual, chances, -1.0)
    told = sure.argmax(axis=1)
    wrong = int(((sure.max(axis=1) > 0) & (told != truth)).sum())
    low, high = wilson_interval(wrong, len(truth), 0.95)
    return Noise(wrong / len(truth), low, high, len(truth), float(usual.min()))
