"""What was measured on a payload: the arrays and figures that every gate reads, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from shipworthy.contract.sections import Task
from shipworthy.kernel.digest import Json
from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.estimates import Answers

SUM_TOLERANCE = 1e-3  # float32 softmax over many classes is off by less


@dataclass(frozen=True, slots=True)
class Champion:
    """The serving release's answers on the same rows in the same order."""

    payload: str  # digest
    answers: Answers | None  # None: it takes other inputs or classes and cannot answer these rows


@dataclass(frozen=True, slots=True)
class Flips:
    """How many decisions changed when the inputs were made noisy."""

    flipped: int
    rows: int


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the served model's answers are from the trained model's."""

    test_rows: int
    test_largest: float  # largest absolute difference of any output
    edge_rows: int
    edge_largest: float
    tolerance: float


@dataclass(frozen=True, slots=True, eq=False)
class BudgetMeasurement:
    """What serving took in the real server under open-loop load.

    Attributes:
        latencies_ms: shape (requests,), ms from the *intended* send time to the whole answer; a request that
            was not answered, or not with status 200, is infinite.
        at_rps: requests per second asked for.
        rps: requests per second really sent.
        errors: requests without a good answer.
        seconds: how long the load lasted.
        cpu_seconds: processor time of the server's processes during the load.
        memory_bytes: peak resident memory, the server's processes summed.
        size_bytes: of the payload's files.
        wrong: answers that differ from those of the offline policy on the same row.
    """

    latencies_ms: NDArray[np.float64]
    at_rps: float
    rps: float
    errors: int
    seconds: float
    cpu_seconds: float
    memory_bytes: int
    size_bytes: int
    wrong: int = 0

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return len(self.latencies_ms)

    @property
    def p50_ms(self) -> float:
        """Median latency in ms."""
        return _order_statistic(self.latencies_ms, 0.5)

    @property
    def p99_ms(self) -> float:
        """99th percentile of the latency in ms."""
        return _order_statistic(self.latencies_ms, 0.99)

    def cost_per_1k(self, usd_per_core_hour: float) -> float:
        """USD of processor time for 1,000 answers at `usd_per_core_hour`."""
        answered = max(self.requests - self.errors, 1)
        return self.cpu_seconds / answered * 1000 * usd_per_core_hour / 3600

    def to_json(self) -> dict[str, Json]:
        """The figures without the latency of each request."""
        finite = np.isfinite(self.latencies_ms).any()
        return {
            "p50_ms": _rounded(self.p50_ms) if finite else None,
            "p99_ms": _rounded(self.p99_ms) if finite else None,
            "at_rps": self.at_rps,
            "rps": _rounded(self.rps),
            "requests": self.requests,
            "errors": self.errors,
            "wrong": self.wrong,
            "seconds": _rounded(self.seconds),
            "cpu_seconds": _rounded(self.cpu_seconds),
            "memory_bytes": self.memory_bytes,
            "size_bytes": self.size_bytes,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """All that the gates may know of a payload, measured on rows that training never saw.

    Attributes:
        task: kind of target.
        classes: class labels in the order of the model's outputs; empty for a regression.
        positive: index of the positive class of a binary target, else None.
        truth: shape (n,), index of the true class, or the true number.
        answers: of the payload under judgement: calibrated probabilities and decided classes, or numbers.
        baseline: what needs no model. Classification: shape (classes,), frequencies in the train part;
            regression: shape (2,), mean and median of the train part.
        decisions: shape (n,), index into `actions` of what each row was answered; -1 for a plain number.
        actions: names of the actions.
        champion: the serving release on the same rows, or None.
        protected: per protected column shape (n,) of group names, None where unknown.
        slices: per sliced column the same.
        flips: None when robustness was not measured.
        budget: None when the server was not measured.
        parity: None when not compared.
        seed: of the bootstraps; the same evidence always gets the same verdicts.

    Raises:
        EvidenceError: shapes differ, a number is not finite, or probabilities are none.
    """

    task: Task
    classes: tuple[str, ...]
    positive: int | None
    truth: NDArray[np.int64] | NDArray[np.float64]
    answers: Answers
    baseline: NDArray[np.float64]
    decisions: NDArray[np.int64]
    actions: tuple[str, ...]
    champion: Champion | None = None
    protected: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    slices: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)
    flips: Flips | None = None
    budget: BudgetMeasurement | None = None
    parity: Parity | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_baseline(self)
        _check_truth(self)
        _check_answers(self, self.answers, "the payload's answers")
        if self.champion is not None and self.champion.answers is not None:
            _check_answers(self, self.champion.answers, "the champion's answers")
        columns = {"decisions": self.decisions, **self.protected, **self.slices}
        for name, column in columns.items():
            if column.shape != (self.rows,):
                raise EvidenceError(f"{name} has shape {column.shape}; it must be ({self.rows},), one for each row")

    @property
    def rows(self) -> int:
        """How many test rows there are."""
        return len(self.truth)

    def to_json(self) -> dict[str, Json]:
        """A summary without the rows, to keep beside the verdicts."""
        names, counts = np.unique(self.decisions, return_counts=True)
        return {
            "task": self.task,
            "rows": self.rows,
            "classes": list(self.classes),
            "baseline": [float(value) for value in self.baseline],
            "decisions": {
                self.actions[int(name)]: int(count) for name, count in zip(names, counts, strict=True) if name >= 0
            },
            "champion": None if self.champion is None else self.champion.payload,
            "protected": sorted(self.protected),
            "slices": sorted(self.slices),
            "flips": None if self.flips is None else {"flipped": self.flips.flipped, "rows": self.flips.rows},
            "budget": None if self.budget is None else self.budget.to_json(),
            "parity": None if self.parity is None else _parity_json(self.parity),
            "seed": self.seed,
        }


def _parity_json(parity: Parity) -> dict[str, Json]:
    return {
        "test_rows": parity.test_rows,
        "test_largest": float(parity.test_largest),
        "edge_rows": parity.edge_rows,
        "edge_largest": float(parity.edge_largest),
        "tolerance": parity.tolerance,
    }


def _check_baseline(evidence: Evidence) -> None:
    expected = 2 if evidence.task == "regression" else len(evidence.classes)
    if evidence.baseline.shape != (expected,) or not np.isfinite(evidence.baseline).all():
        raise EvidenceError(
            f"baseline is {evidence.baseline.tolist()}; it must be {expected} finite numbers"
            " (class frequencies, or mean and median of the train part)"
        )


def _check_truth(evidence: Evidence) -> None:
    truth = evidence.truth
    if truth.ndim != 1:
        raise EvidenceError(f"truth has shape {truth.shape}; it must be one value for each row")
    if evidence.task == "regression":
        if not np.isfinite(truth.astype(np.float64)).all():
            raise EvidenceError("truth holds a number that is not finite; leave rows without a known truth out")
        return
    if not np.issubdtype(truth.dtype, np.integer):
        raise EvidenceError(f"truth has type {truth.dtype}; a classification's must be class indexes")
    if len(truth) and not (int(truth.min()) >= 0 and int(truth.max()) < len(evidence.classes)):
        raise EvidenceError(f"truth holds a class index outside 0 to {len(evidence.classes) - 1}")


def _check_answers(evidence: Evidence, answers: Answers, whose: str) -> None:
    regression = evidence.task == "regression"
    expected = (evidence.rows,) if regression else (evidence.rows, len(evidence.classes))
    values = answers.values
    if values.shape != expected:
        raise EvidenceError(f"{whose} have shape {values.shape}; they must have {expected}")
    if not np.isfinite(values).all():
        row = int(np.argwhere(~np.isfinite(values))[0][0])
        raise EvidenceError(f"{whose} hold a number that is not finite at row {row}; the model cannot be judged")
    if regression or not values.size:
        return
    if values.min() < 0 or values.max() > 1 or np.abs(values.sum(axis=1) - 1).max() > SUM_TOLERANCE:
        raise EvidenceError(f"{whose} are no probabilities: each must be 0 to 1 and each row must sum to 1")
    if answers.labels is None or answers.labels.shape != (evidence.rows,):
        raise EvidenceError(f"{whose} lack the decided class of each row")


def _order_statistic(values: NDArray[np.float64], share: float) -> float:
    if not len(values):
        return float("nan")
    rank = max(int(np.ceil(share * len(values))) - 1, 0)
    return float(np.partition(values, rank)[rank])


def _rounded(value: float) -> float | None:
    return round(value, 4) if np.isfinite(value) else None
