"""Quality: how good the answers of a window turned out to be, release by release, and whether that was promised.

What is judged are the limits that a release met when it was let through, by the gates' own rule: a finding needs the
whole interval beyond the limit. A fallback's answer counts in value, as it was a decision, and in no metric.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.contract.sections import LOSSES
from shipworthy.contract.types import Contract
from shipworthy.data.columns import class_codes
from shipworthy.gates.limit import MIN_ROWS, Limit, Side, judge_limit, quantity
from shipworthy.gates.performance import MIN_PER_CLASS, NAMES
from shipworthy.gates.value import GATE as VALUE_GATE
from shipworthy.gates.verdict import Verdict
from shipworthy.kernel.digest import Json
from shipworthy.monitoring.findings import Finding
from shipworthy.stats.estimates import Answers, Estimate, Sample, estimate, point
from shipworthy.stats.intervals import MIN_DEGREES, mean_interval

Floats = NDArray[np.float64]
Promises = Mapping[str, Sequence[Mapping[str, Any]]]  # release -> its verdicts, as `Verdict.to_json` writes them

JUDGED = ("log_loss", "brier", "accuracy", "roc_auc", "mae", "rmse")  # the others' intervals need a bootstrap


@dataclass(frozen=True, slots=True)
class ReleaseQuality:
    """How good one release's answers in a window turned out to be; None is what cannot be said.

    Attributes:
        release: `loans:1`.
        rows: its answers in the window, the fallback's among them.
        known: those whose truth is known.
        metrics: of the model's answers with a known truth: accuracy, log_loss, roc_auc; or mae, rmse.
        accuracy_interval: each bound with the contract's `gates.confidence`.
        value_per_decision: mean worth of the decisions with a known truth, in `unit`.
        value_interval: each bound with the contract's `gates.confidence`.
        value_total: sum of the same decisions.
        unit: currency.
    """

    release: str
    rows: int
    known: int
    metrics: dict[str, float | None]
    accuracy_interval: tuple[float, float] | None
    value_per_decision: float | None
    value_interval: tuple[float, float] | None
    value_total: float | None
    unit: str | None

    def to_json(self) -> dict[str, Json]:
        """A JSON document of this quality."""
        return {
            "release": self.release,
            "rows": self.rows,
            "known": self.known,
            **self.metrics,
            "accuracy_interval": _pair(self.accuracy_interval),
            "value_per_decision": self.value_per_decision,
            "value_interval": _pair(self.value_interval),
            "value_total": self.value_total,
            "unit": self.unit,
        }


def measure_quality(contract: Contract, frame: pl.DataFrame) -> tuple[ReleaseQuality, ...]:
    """The quality of each release that answered in a window, by name.

    Args:
        contract: says classes and currency.
        frame: a window of the journal, with what is known of its outcomes.
    """
    return tuple(_measure(contract, part) for part in _parts(contract, frame))


def judge_quality(contract: Contract, frame: pl.DataFrame, promises: Promises, alpha: float) -> tuple[Finding, ...]:
    """A finding for each limit that a release surely misses, worst first for each release.

    Args:
        contract: says classes and currency.
        frame: a window of the journal, with what is known of its outcomes.
        promises: the verdicts by which each release was let through: their limits are what was promised. A release
            without any is not judged.
        alpha: chance that a window in which every promise is kept gives a finding, in (0, 1): `window_alpha`.
    """
    trials = [
        trial
        for part in _parts(contract, frame)
        for verdict in promises.get(part.release, ())
        if (trial := _trial(contract, part, verdict)) is not None
    ]
    findings = []
    for trial in trials:
        judged = trial.judge(1 - alpha / len(trials))
        if judged.outcome == "fail":
            findings.append(_finding(trial, judged))
    return tuple(sorted(findings, key=lambda finding: (finding.about, -finding.effect)))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One release's rows of a window, as arrays."""

    release: str
    rows: int
    known: int
    sample: Sample  # of the model's answers with a known truth
    answers: Answers
    worth: Floats  # of all decisions with a known truth


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """One promise of one release, with the rows that may break it."""

    part: _Part
    metric: str
    limit: float
    unit: str | None
    measured_then: float | None

    def judge(self, confidence: float) -> Verdict:
        is_value = self.metric == VALUE_GATE
        words = "the mean worth of a decision" if is_value else f"the {NAMES[self.metric]}"
        side: Side = "at_most" if self.metric in LOSSES else "at_least"
        limit = Limit(
            self.metric,
            f"{words[0].upper()}{words[1:]} of {self.part.release}",
            side,
            self.limit,
            confidence,
            self.unit,
            "decisions" if is_value else "answers",
        )
        if is_value:
            worth = self.part.worth
            return judge_limit(limit, Estimate(float(worth.mean()), *mean_interval(worth, confidence)), len(worth))
        found = estimate(self.metric, self.part.sample, self.part.answers, confidence=confidence)
        return judge_limit(limit, found, len(self.part.sample.truth))


def _trial(contract: Contract, part: _Part, verdict: Mapping[str, Any]) -> _Trial | None:
    """What a verdict promised, if there are rows enough to hold the release to it."""
    gate, limit, then = str(verdict.get("gate")), verdict.get("limit"), verdict.get("measured")
    measured = float(then) if isinstance(then, int | float) else None
    if not isinstance(limit, int | float):
        return None
    if gate == VALUE_GATE:
        unit = contract.value.unit if contract.value is not None else None
        return _Trial(part, gate, float(limit), unit, measured) if len(part.worth) >= MIN_ROWS else None
    section, _, metric = gate.partition(".")
    if section != "performance" or metric not in JUDGED or not _is_enough(part.sample):
        return None
    unit = contract.target.unit if metric in ("mae", "rmse") else None
    return _Trial(part, metric, _promised(contract, metric, float(limit), part.sample), unit, measured)


def _promised(contract: Contract, metric: str, limit: float, sample: Sample) -> float:
    """The limit that the window's rows must meet: of *better than the baseline*, the best constant on the same rows.

    What a constant answer loses depends on how often each class occurs, so the test rows' figure says nothing here.
    """
    declared = next((each for name, each in contract.gates.performance.items() if name == metric), None)
    if declared is None or declared.better_than is None:
        return limit
    own = _constant(metric, sample)
    fixed = declared.at_most if metric in LOSSES else declared.at_least
    if fixed is None:
        return own
    return min(own, fixed) if metric in LOSSES else max(own, fixed)


def _constant(metric: str, sample: Sample) -> float:
    """What the best answer that ignores the inputs reaches on these rows."""
    truth = sample.truth
    if sample.classes == 0:
        centre = np.median(truth) if metric == "mae" else np.mean(truth)
        errors = np.abs(truth - centre)
        return float(errors.mean() if metric == "mae" else np.sqrt(np.mean(errors**2)))
    shares = np.bincount(truth.astype(np.int64), minlength=sample.classes) / len(truth)
    match metric:
        case "log_loss":
            return float(-sum(share * math.log(share) for share in shares if share > 0))
        case "brier":
            spread = float((shares * (1 - shares)).sum())
            return spread / 2 if sample.classes == 2 else spread
        case "roc_auc":
            return 0.5
        case _:
            return float(shares.max())


def _is_enough(sample: Sample) -> bool:
    rows = len(sample.truth)
    if sample.classes != 2:
        return rows >= MIN_ROWS
    ones = int(np.sum(sample.truth == 1))
    return rows >= MIN_ROWS and min(ones, rows - ones) >= MIN_PER_CLASS


def _finding(trial: _Trial, verdict: Verdict) -> Finding:
    is_value = trial.metric == VALUE_GATE
    measured, low, high = verdict.measured or 0.0, *(verdict.interval or (math.nan, math.nan))
    bound = high if trial.metric not in LOSSES else low
    scale = abs(trial.limit) or 1.0
    then = f", {quantity(trial.measured_then, trial.unit)} when released" if trial.measured_then is not None else ""
    name = "value per decision" if is_value else NAMES[trial.metric]
    return Finding(
        kind="quality",
        about=trial.part.release,
        aspect=trial.metric,
        p_value=None,
        effect=abs(bound - trial.limit) / scale,
        measured=f"{name} {quantity(measured, trial.unit)}, promised {quantity(trial.limit, trial.unit)}{then}",
        rows=verdict.rows,
        cause=verdict.reason,
        next="Look at the drift of the same time; roll back to the release before, or train on newer rows.",
        severity="critical" if is_value else "warning",
    )


# --- a window as arrays


def _parts(contract: Contract, frame: pl.DataFrame) -> Iterator[_Part]:
    for (release,), rows in sorted(frame.partition_by("release", as_dict=True).items()):
        told = _with_truth(contract, rows)
        answered = told.filter(pl.col("prediction").is_not_null())  # a fallback predicts nothing
        sample, answers = _arrays(contract, answered)
        worth = told["worth"].drop_nulls().to_numpy().astype(np.float64)
        yield _Part(str(release), rows.height, told.height, sample, answers, worth)


def _with_truth(contract: Contract, rows: pl.DataFrame) -> pl.DataFrame:
    """The rows whose truth is known, with its class's index; a truth that is no class counts as unknown."""
    if contract.target.type == "regression":
        return rows.filter(pl.col("outcome").is_finite())
    values = contract.target.values or ()
    coded = rows.with_columns(
        class_codes(pl.col("outcome"), values).alias("truth"), class_codes(pl.col("prediction"), values).alias("label")
    )
    return coded.filter(pl.col("truth").is_not_null())


def _arrays(contract: Contract, rows: pl.DataFrame) -> tuple[Sample, Answers]:
    target = contract.target
    if target.type == "regression":
        return Sample(_numbers(rows["outcome"])), Answers(_numbers(rows["prediction"]))
    values = target.values or ()
    rows = rows.filter(pl.col("label").is_not_null())
    truth, labels = (rows[name].to_numpy().astype(np.int64) for name in ("truth", "label"))
    if target.type == "multiclass":
        shares = np.stack([_numbers(rows[f"probability.{name}"]) for name in values], axis=1)
        return Sample(truth, len(values)), Answers(shares, labels)
    positive = values.index(target.positive or values[-1])
    shares = np.empty((rows.height, 2))
    shares[:, positive] = _numbers(rows["score"])
    shares[:, 1 - positive] = 1 - shares[:, positive]
    return Sample(truth, 2, positive), Answers(shares, labels)


def _numbers(values: pl.Series) -> Floats:
    return values.to_numpy().astype(np.float64)


# --- what is measured


def _measure(contract: Contract, part: _Part) -> ReleaseQuality:
    confidence, worth = contract.gates.confidence, part.worth
    rows, is_number = len(part.sample.truth), contract.target.type == "regression"
    names = ("mae", "rmse") if is_number else ("accuracy", "log_loss")
    metrics = {name: point(name, part.sample, part.answers) if rows else None for name in names}
    if contract.target.type == "binary":
        area = point("roc_auc", part.sample, part.answers) if rows else math.nan
        metrics["roc_auc"] = None if math.isnan(area) else area
    accuracy = None
    if rows and not is_number:
        accuracy = estimate("accuracy", part.sample, part.answers, confidence=confidence).interval
    return ReleaseQuality(
        release=part.release,
        rows=part.rows,
        known=part.known,
        metrics=metrics,
        accuracy_interval=accuracy,
        value_per_decision=float(worth.mean()) if len(worth) else None,
        value_interval=mean_interval(worth, confidence) if len(worth) > MIN_DEGREES else None,
        value_total=float(worth.sum()) if len(worth) else None,
        unit=contract.value.unit if contract.value is not None else None,
    )


def _pair(interval: tuple[float, float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
