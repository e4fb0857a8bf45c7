"""Leaks: columns that know too much, perhaps because they are filled only after the truth is known.

The rule: among the rows that share a value (or lack it, or have another than the usual one) nearly all are of one
class, although by the other columns at least four times as many would not be, and chance does not explain it.
Columns that stand out so in themselves are kept from the model that speaks for the others, so that two copies of one
leak do not excuse each other.

Of a target that is a number: a column tells nearly all of its variance although the other columns leave ten times as
much open; or the target is one number wherever the column is missing, or known, and the other columns do not tell so.

What it cannot find: a leak that is only strong, not certain, or, of classes, one that is a smooth number. No rule over
the data alone can tell it from an honest column, nor an honest code that decides alone from a leak; a person who knows
when each column is filled can. So these are questions, and nothing is left out.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.contract.columns import Column
from shipworthy.contract.sections import Kind
from shipworthy.data.findings.boosting import load_lightgbm
from shipworthy.data.values import cleaned, typed

SAMPLE_ROWS = 10_000  # enough for a group of 1 % to have 100 rows; two seconds at most
LEAST_ROWS = 200  # with fewer, certainty is often chance
GROUP_ROWS = 20  # that share a value, to speak of it
MOST_VALUES = 50  # of a column, the most frequent ones
DOUBT_LEFT = 0.25  # of what the other columns leave in doubt
CERTAIN = 0.9  # share of a group's rows that are of its class
CHANCE = 0.01  # that any of the groups looked at is so certain by chance
TOLD = 0.9  # share of a number's variance
LEFT_OPEN = 0.1  # of what the other columns leave open
BINS = 50  # of equal size, in which a column tells a number
FOLDS = 5
SEED = 7
_MODEL = {
    "num_leaves": 15, "learning_rate": 0.1, "min_data_in_leaf": 20, "verbosity": -1, "num_threads": 1, "seed": SEED,
    "deterministic": True, "force_row_wise": True,
}  # fmt: skip
ROUNDS = 60

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A column that knows too much, by the group of rows that shows it best."""

    column: str
    group: str  # such as `is 3`, `is not 0`, `is missing`
    label: str  # the class that nearly all rows of the group have
    rows: int  # of the group
    others: int  # of them of other classes
    expected: float  # how many of other classes the other columns expect there

    def __str__(self) -> str:
        """A question for a person."""
        most = "all" if not self.others else f"{self.rows - self.others:,}"
        return (
            f"{self.column}: known only afterwards? Where it {self.group} ({self.rows:,} rows), {most} are of class "
            f'"{self.label}", though by the other columns about {self.expected:,.0f} would not be; leave it out unless '
            "it is known when the question is asked"
        )


@dataclass(frozen=True, slots=True)
class Teller:
    """A column that tells a number too well."""

    column: str
    told: float  # share of the target's variance, 0 to 1
    others: float  # share that all other columns tell
    where: str = ""  # only there, such as `is missing`

    def __str__(self) -> str:
        """A question for a person."""
        if self.where:
            found = f"Where it {self.where}, the target is one number, which the other columns do not tell"
        else:
            found = f"It tells {self.told:.1%} of the target's variance, all other columns {self.others:.1%}"
        return (
            f"{self.column}: known only afterwards? {found}; leave it out unless it is known when the question is asked"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    column: str
    words: str
    rows: NDArray[np.bool_]
    label: int
    others: int


def find_suspects(frame: pl.DataFrame, kinds: Mapping[str, Kind], target: str) -> list[Suspect]:
    """The columns that know too much, the most surprising first; the same ones each time.

    Args:
        frame: as it was read; rows without a truth are passed over.
        kinds: the features and what each holds; texts and datetimes are passed over.
        target: the column of classes.
    """
    known = frame.filter(_read(frame, target, "category").is_not_null())
    known = known.gather_every(max(1, known.height // SAMPLE_ROWS))
    labels, truth = _truth(known, target)
    looked = [name for name, kind in kinds.items() if kind in ("float", "int", "bool", "category")]
    if known.height < LEAST_ROWS or len(labels) < 2 or len(looked) < 2:
        return []
    columns = {name: _read(known, name, kinds[name]) for name in looked}
    shares = np.bincount(truth, minlength=len(labels)) / len(truth)
    groups = [group for series in columns.values() for group in _groups(series, truth)]
    candidates = [group for group in groups if _is_certain(group, (1 - shares[group.label]) * group.rows.sum(), groups)]
    named = {group.column for group in candidates}
    honest = [name for name in looked if name not in named]
    if not candidates or not honest:
        return []
    matrix = np.column_stack([numbers(columns[name]) for name in honest])
    probabilities = out_of_fold(matrix, truth, len(labels))
    found: dict[str, Suspect] = {}
    for group in candidates:
        expected = float((1 - probabilities[group.rows, group.label]).sum())
        if _is_certain(group, expected, groups):
            rows = int(group.rows.sum())
            suspect = Suspect(group.column, group.words, labels[group.label], rows, group.others, expected)
            if group.column not in found or _surprise(suspect) > _surprise(found[group.column]):
                found[group.column] = suspect
    return sorted(found.values(), key=_surprise, reverse=True)


def find_tellers(frame: pl.DataFrame, kinds: Mapping[str, Kind], target: str) -> list[Teller]:
    """The columns that tell a target of numbers too well, the best first; the same ones each time.

    Args:
        frame: as it was read; rows without a truth are passed over.
        kinds: the features and what each holds; texts and datetimes are passed over.
        target: the column of numbers.
    """
    known = frame.filter(_read(frame, target, "float").is_not_null())
    known = known.gather_every(max(1, known.height // SAMPLE_ROWS))
    looked = [name for name, kind in kinds.items() if kind in ("float", "int", "bool", "category")]
    truth = _read(known, target, "float").to_numpy() if known.height else np.zeros(0)
    if known.height < LEAST_ROWS or len(looked) < 2 or not truth.var() > 0:
        return []
    columns = {name: _read(known, name, kinds[name]) for name in looked}
    told = {name: _told(series, truth) for name, series in columns.items()}
    gaps = {name: gap for name, series in columns.items() if (gap := _gap(series, truth)) is not None}
    candidates = [name for name in looked if told[name] >= TOLD or name in gaps]
    honest = [name for name in looked if name not in candidates]
    if not candidates or not honest:
        return []
    guesses = out_of_fold(np.column_stack([numbers(columns[name]) for name in honest]), truth)[:, 0]
    errors = (truth - guesses) ** 2
    others = 1 - float(errors.mean() / truth.var())
    found = []
    for name in candidates:
        if told[name] >= TOLD and 1 - told[name] <= LEFT_OPEN * (1 - others):
            found.append(Teller(name, told[name], max(others, 0.0)))
        elif name in gaps and errors[gaps[name][1]].mean() >= LEFT_OPEN * truth.var():
            found.append(Teller(name, told[name], max(others, 0.0), gaps[name][0]))
    return sorted(found, key=lambda teller: -teller.told)


def _told(series: pl.Series, truth: Floats) -> float:
    """The share of the truth's variance between groups of the column: its values, or bins of equal size."""
    values = numbers(series)
    filled = np.where(np.isnan(values), np.inf, values)
    if len(np.unique(filled)) > BINS:
        filled = np.searchsorted(
            np.unique(np.quantile(filled, np.linspace(0, 1, BINS + 1)[1:-1], method="lower")), filled
        )
    _, codes, counts = np.unique(filled, return_inverse=True, return_counts=True)
    means = np.bincount(codes, weights=truth) / counts
    return float(1 - ((truth - means[codes]) ** 2).sum() / (len(truth) - len(counts)) / truth.var())


def _gap(series: pl.Series, truth: Floats) -> tuple[str, NDArray[np.bool_]] | None:
    """Where the column is missing, or known, and all truths there are one number, which is not so elsewhere."""
    missing = series.is_null().to_numpy()
    for words, rows in (("is missing", missing), ("is known", ~missing)):
        if GROUP_ROWS <= rows.sum() < len(rows) and np.ptp(truth[rows]) == 0:
            return words, rows
    return None


def _surprise(suspect: Suspect) -> float:
    return suspect.expected - suspect.others


def _is_certain(group: _Group, expected: float, groups: Sequence[_Group]) -> bool:
    """Whether a group holds far fewer rows of other classes than expected."""
    rows = int(group.rows.sum())
    if group.others > min(DOUBT_LEFT * expected, (1 - CERTAIN) * rows):
        return False
    return at_most(group.others, expected) <= CHANCE / len(groups)


def at_most(count: int, expected: float) -> float:
    """The chance of `count` or fewer where `expected` are, by Poisson.

    >>> round(at_most(0, 3.0), 4), round(at_most(2, 3.0), 4)
    (0.0498, 0.4232)
    """
    if expected <= 0:
        return 1.0
    logs = [k * math.log(expected) - expected - math.lgamma(k + 1) for k in range(count + 1)]
    return math.fsum(map(math.exp, logs))


# --- groups


def _groups(series: pl.Series, truth: Codes) -> Iterator[_Group]:
    for words, rows in _parts(series):
        if GROUP_ROWS <= rows.sum() < len(rows):
            counts = np.bincount(truth[rows])
            label = int(counts.argmax())
            yield _Group(series.name, words, rows, label, int(counts.sum() - counts[label]))


def _parts(series: pl.Series) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Rows that share a value, lack it, or have another than the most frequent one, which often says `not filled`."""
    if series.null_count():
        yield "is missing", series.is_null().to_numpy()
        yield "is known", series.is_not_null().to_numpy()
    counts = series.drop_nulls().value_counts(sort=True)
    counts = counts.filter(counts["count"] >= GROUP_ROWS)
    values = counts[series.name].to_list()[:MOST_VALUES]
    for value in sorted(values):
        yield f"is {_shown(value)}", (series == value).fill_null(False).to_numpy()
    if values:
        yield f"is not {_shown(values[0])}", (series != values[0]).fill_null(False).to_numpy()


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- reading


def _read(frame: pl.DataFrame, name: str, kind: Kind) -> pl.Series:
    column = Column(type=kind)
    known = frame.select(cleaned(name, column, frame.schema[name]))
    return known.select(typed(name, column, known.schema[name])).to_series()


def _truth(frame: pl.DataFrame, target: str) -> tuple[list[str], Codes]:
    texts = _read(frame, target, "category")
    labels = texts.unique().sort().to_list()
    codes = texts.replace_strict(labels, list(range(len(labels))), return_dtype=pl.Int64)
    return labels, codes.to_numpy()


def numbers(series: pl.Series) -> Floats:
    """A column as a model sees it: a label is its place among the sorted ones, missing is NaN."""
    if series.dtype == pl.String:
        labels = series.drop_nulls().unique().sort().to_list()
        series = series.replace_strict(labels, list(range(len(labels))), default=None, return_dtype=pl.Float64)
    return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def out_of_fold(matrix: Floats, truth: NDArray[Any], classes: int = 0, rounds: int = ROUNDS) -> Floats:
    """What models say of rows that they did not see: shape (rows, classes), or (rows, 1) of a target of numbers."""
    lgb = load_lightgbm()
    folds = np.random.default_rng(SEED).permutation(len(truth)) % FOLDS
    goals = {0: {"objective": "l2"}, 2: {"objective": "binary"}}
    settings = _MODEL | goals.get(classes, {"objective": "multiclass", "num_class": classes})
    found = np.zeros((len(truth), max(classes, 1)))
    for fold in range(FOLDS):
        held = folds == fold
        model = lgb.train(settings, lgb.Dataset(matrix[~held], label=truth[~held], params=_MODEL), rounds)
        answers = np.asarray(model.predict(matrix[held]))
        if classes == 2:
            answers = np.column_stack([1 - answers, answers])
        found[held] = answers.reshape(held.sum(), -1)
    return found
