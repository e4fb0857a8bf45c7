"""Findings: what a person should be asked about accepted rows before a model learns from them.

Each is a question, never a refusal, and each rule is set so that honest columns are rarely asked about. Large tables
are sampled evenly, so that it takes seconds at most; the same rows give the same findings.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.contract.sections import Kind
from shipworthy.contract.types import Contract
from shipworthy.data.findings.contamination import find_contamination
from shipworthy.data.findings.leaks import SAMPLE_ROWS, find_suspects, find_tellers
from shipworthy.data.findings.noise import estimate_noise
from shipworthy.data.split import Split
from shipworthy.data.values import EXACT_WHOLE
from shipworthy.kernel.digest import Json

Floats = NDArray[np.float64]
Kinds = Literal["leak", "constant", "duplicate", "sentinel", "proxy", "contamination", "label noise"]

CODE_ROWS = 3  # that hold a code: one alone may be a slip
FEW_VALUES = 10  # with fewer others a far value is as likely one of few
APART = 0.5  # how far a code stands from the others, in spans of all others
FAR = 5.0  # the same of a value that does not look like a code: measured ones rarely stand so alone
PROXY_SHARE = 0.6  # of the way from chance to certainty, in telling groups apart
PROXY_ROWS = 200  # with fewer, groups are told apart by chance
PROXY_BINS = 20  # of equal size, in which a number tells groups
GROUP_ROWS = 20  # of a protected group, to speak of it


@dataclass(frozen=True, slots=True)
class Finding:
    """One question about the data."""

    kind: Kinds
    columns: tuple[str, ...]
    words: str  # the question, with what was seen and what to do

    def to_json(self) -> dict[str, Json]:
        """For events and `--json`."""
        return {"kind": self.kind, "columns": list(self.columns), "words": self.words}


def find_all(
    contract: Contract, accepted: pl.DataFrame, places: Split | None = None, *, is_quick: bool = False
) -> list[Finding]:
    """The questions that accepted rows raise, leaks first.

    Args:
        contract: whose features, context and target are looked at; values of `personal` columns are not repeated.
        accepted: rows with the contract's types.
        places: which rows train and which test; None: not known, and contamination is not looked for.
        is_quick: leave out the noise of labels, which takes models of their own.
    """
    sample = accepted.gather_every(max(1, -(-accepted.height // SAMPLE_ROWS)))
    found = [
        *_leaks(contract, sample),
        *_constants(contract, accepted),
        *_twins(contract, sample),
        *_codes(contract, sample),
        *_proxies(contract, sample),
    ]
    if places is not None:
        found += [Finding("contamination", c.columns, str(c)) for c in find_contamination(contract, accepted, places)]
    noise = None if is_quick else estimate_noise(contract, sample)
    if noise is not None and noise.is_notable:
        found.append(Finding("label noise", (contract.target.column,), f"{contract.target.column}: {noise}"))
    return found


def _public(contract: Contract, *kinds: Kind) -> list[str]:
    return [name for name, column in contract.features.items() if column.type in kinds and not column.personal]


def _leaks(contract: Contract, sample: pl.DataFrame) -> Iterator[Finding]:
    kinds = {name: contract.features[name].type for name in _public(contract, "float", "int", "bool", "category")}
    find = find_tellers if contract.target.type == "regression" else find_suspects
    for found in find(sample, kinds, contract.target.column):
        yield Finding("leak", (found.column,), str(found))


def _constants(contract: Contract, accepted: pl.DataFrame) -> Iterator[Finding]:
    for name in contract.features:
        series = accepted[name]
        if series.null_count() == len(series):
            yield Finding("constant", (name,), f"{name}: is missing in every row; leave it out")
        elif not series.null_count() and len(series) > 1 and series.n_unique() == 1:
            yield Finding("constant", (name,), f"{name}: is the same in every row; leave it out")


def _twins(contract: Contract, sample: pl.DataFrame) -> Iterator[Finding]:
    """Columns of which one tells the other in every row: the same values, other units or other labels."""
    names = list(contract.features)
    prints = {name: _print(sample[name]) for name in names}
    taken: set[str] = set()
    for at, name in enumerate(names):
        for other in names[at + 1 :]:
            mine, theirs = prints[name], prints[other]
            if other not in taken and mine is not None and theirs is not None and np.array_equal(mine, theirs):
                taken.add(other)
                yield Finding(
                    "duplicate", (name, other), f"{other}: says what {name} says, in every row; leave one out"
                )


def _print(series: pl.Series) -> Floats | None:
    """What is alike for columns that tell each other; None where there is too little to tell."""
    distinct = series.drop_nulls().n_unique()
    if distinct < 2 or len(series) < PROXY_ROWS:
        return None
    if not series.dtype.is_numeric():
        return _codes_of(series)
    values = series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    known = values[~np.isnan(values)]
    scaled = (values - known.mean()) / known.std()
    first = scaled[~np.isnan(scaled)][0]
    printed = np.where(np.isnan(scaled), 1e9, scaled if first >= 0 else -scaled)
    return np.round(printed, 6).astype(np.float64)


def _codes_of(series: pl.Series) -> Floats:
    """Each value as the place where it was first seen: alike for labels that stand for one another."""
    physical = series.cast(pl.String).fill_null("\0")
    _, firsts, codes = np.unique(physical.to_numpy().astype(str), return_index=True, return_inverse=True)
    return firsts[codes].astype(float)


def _codes(contract: Contract, sample: pl.DataFrame) -> Iterator[Finding]:
    """Numbers that stand for something else: the least or greatest, often, and far from all others."""
    for name in _public(contract, "float", "int"):
        counts = sample[name].drop_nulls().value_counts().sort(name)
        values, rows = counts[name].cast(pl.Float64).to_numpy(), counts["count"].to_numpy()
        for end, others in ((0, values[1:]), (-1, values[:-1])):
            if len(others) < FEW_VALUES or rows[end] < CODE_ROWS or values[end] == 0:
                continue
            gap = abs(values[end] - others[0 if end == 0 else -1])
            if gap > (APART if looks_like_code(values[end]) else FAR) * (others[-1] - others[0]):
                yield Finding(
                    "sentinel",
                    (name,),
                    f"{name}: {values[end]:g} in {rows[end]:,} of {sample.height:,} rows, far from all others "
                    f"({others[0]:g} to {others[-1]:g}): if it is a code, narrow the range, or write it as missing",
                )


def looks_like_code(value: float) -> bool:
    """Whether people write a number such as this for what they do not know: one digit again and again, or a round one.

    >>> [looks_like_code(value) for value in (-99, 666, 9999, 1e6, -1, 73.96, 120, 5)]
    [True, True, True, True, True, False, False, False]
    """
    if not float(value).is_integer() or abs(value) >= EXACT_WHOLE:
        return False
    digits = str(abs(int(value)))
    repeated = len(set(digits)) == 1 and (len(digits) > 1 or value < 0)
    return repeated or (len(digits) > 3 and digits == "1" + "0" * (len(digits) - 1))


def _proxies(contract: Contract, sample: pl.DataFrame) -> Iterator[Finding]:
    for protected in contract.context_by_role("protected"):
        for name in _public(contract, "float", "int", "bool", "category"):
            share = told_apart(sample[name], sample[protected])
            if share >= PROXY_SHARE:
                yield Finding(
                    "proxy",
                    (name, protected),
                    f"{name}: tells {protected}? By it alone the groups are told apart {share:.0%} of the way from "
                    "chance to certainty; a model that sees it sees them: leave it out unless the decision needs it",
                )


def told_apart(series: pl.Series, groups: pl.Series) -> float:
    """How well a column alone tells groups apart on rows it was not fitted on: 0 by chance, 1 always.

    Balanced accuracy, so that a large group does not count for more, scaled by what chance gives.
    """
    counts = groups.drop_nulls().value_counts().filter(pl.col("count") >= GROUP_ROWS)
    labels = counts[groups.name].sort().to_list()
    rows = groups.is_in(labels).fill_null(False)
    if len(labels) < 2 or rows.sum() < PROXY_ROWS:
        return 0.0
    truth = groups.filter(rows).replace_strict(labels, list(range(len(labels))), return_dtype=pl.Int64).to_numpy()
    values = _bins(series.filter(rows))
    fit = np.random.default_rng(0).permutation(len(truth)) % 2 == 0
    table = np.zeros((int(values.max()) + 1, len(labels)))
    np.add.at(table, (values[fit], truth[fit]), 1)
    told = (table / np.maximum(table.sum(axis=0), 1)).argmax(axis=1)[values[~fit]]
    right = [float((told[truth[~fit] == label] == label).mean()) for label in range(len(labels))]
    chance = 1 / len(labels)
    return max(0.0, (float(np.mean(right)) - chance) / (1 - chance))


def _bins(series: pl.Series) -> NDArray[np.int64]:
    if not series.dtype.is_numeric():
        return np.unique(series.cast(pl.String).fill_null("\0").to_numpy().astype(str), return_inverse=True)[1]
    values = series.cast(pl.Float64).fill_null(float("inf")).to_numpy()
    edges = np.unique(np.quantile(values, np.linspace(0, 1, PROXY_BINS + 1)[1:-1], method="lower"))
    return np.searchsorted(edges, values, side="left")
