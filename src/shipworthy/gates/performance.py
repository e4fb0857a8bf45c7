"""Gates on metrics: better than the trivial baseline, within a limit, not worse than the champion, in each slice.

Multiplicity: every verdict must pass on its own, so an unfit payload passes all with at most `1 - confidence`
(Berger 1982, doi:10.1080/00401706.1982.10487790). A set of pure noise is refused by `better_than: baseline`
with at least that confidence.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shipworthy.contract.gates_section import ChampionLimit, MetricLimit
from shipworthy.contract.sections import LOSSES, Metric
from shipworthy.gates.evidence import Evidence
from shipworthy.gates.limit import MIN_ROWS, Limit, Side, decide, insufficient, judge_limit, percent, quantity
from shipworthy.gates.verdict import Verdict, strictest
from shipworthy.stats.estimates import Answers, Estimate, Sample, estimate, estimate_difference, point

MIN_PER_CLASS = 10  # rows of each of two classes; with fewer a single row moves the metric by several points
NAMES = {
    "log_loss": "log loss",
    "brier": "Brier score",
    "roc_auc": "area under the ROC curve",
    "average_precision": "average precision",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R2",
}


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One metric of one set of rows, ready to be judged.

    Attributes:
        gate: name of the verdict.
        metric: a name of `contract.types.Metric`.
        sample: truth of the rows.
        answers: of the payload under judgement.
        baseline: as in `Evidence.baseline`.
        unit: of the metric, or None.
        confidence: of each bound, in (0.5, 1).
        seed: of a bootstrap.
    """

    gate: str
    metric: str
    sample: Sample
    answers: Answers
    baseline: NDArray[np.float64]
    confidence: float
    unit: str | None = None
    seed: int = 0

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.sample.truth)

    @property
    def is_loss(self) -> bool:
        """Whether lower is better."""
        return self.metric in LOSSES


def judge_performance(
    evidence: Evidence, limits: dict[Metric, MetricLimit], *, confidence: float, unit: str | None = None
) -> tuple[Verdict, ...]:
    """One verdict for each metric with a limit, on all rows.

    Args:
        evidence: what was measured.
        limits: by metric.
        confidence: of each bound, in (0.5, 1).
        unit: of the target; the unit of mae and rmse.
    """
    rows = np.arange(evidence.rows)
    return tuple(
        judge_metric(trial_of(evidence, f"performance.{metric}", metric, rows, confidence, unit), limit)
        for metric, limit in limits.items()
    )


def judge_slices(
    evidence: Evidence,
    by: tuple[str, ...],
    limits: dict[Metric, MetricLimit],
    *,
    confidence: float,
    unit: str | None = None,
) -> tuple[Verdict, ...]:
    """One verdict for each metric in each group of each column; rows without a group are left out.

    A group with fewer than MIN_ROWS rows is insufficient: it is named, not skipped.
    """
    verdicts = []
    for column in by:
        groups = evidence.slices[column]
        for group in sorted({str(value) for value in groups if value is not None}):
            rows = np.flatnonzero(groups == group)
            for metric, limit in limits.items():
                gate = f"slices.{metric}.{column}={group}"
                verdicts.append(judge_metric(trial_of(evidence, gate, metric, rows, confidence, unit), limit))
    return tuple(verdicts)


def judge_champion(
    evidence: Evidence, limits: dict[Metric, ChampionLimit], *, confidence: float, unit: str | None = None
) -> tuple[Verdict, ...]:
    """One verdict for each metric: the payload is not worse than the serving release by more than the margin.

    Not applicable while nothing serves; insufficient if what serves cannot answer the same rows.
    """
    verdicts = []
    rows = np.arange(evidence.rows)
    for metric, limit in limits.items():
        gate = f"champion.{metric}"
        if evidence.champion is None:
            reason = "No release serves yet, so there is nothing to be compared with."
            verdicts.append(Verdict(gate, "not applicable", None, None, None, None, evidence.rows, reason))
            continue
        if evidence.champion.answers is None:
            reason = "The serving release takes other inputs or classes, so it cannot answer the same rows."
            verdicts.append(insufficient(gate, reason, rows=evidence.rows, limit=None))
            continue
        trial = trial_of(evidence, gate, metric, rows, confidence, unit)
        verdicts.append(judge_no_worse(trial, evidence.champion.answers, margin=limit.no_worse_by))
    return tuple(verdicts)


def trial_of(
    evidence: Evidence, gate: str, metric: str, rows: NDArray[np.intp], confidence: float, unit: str | None
) -> Trial:
    """The trial of `metric` on some `rows` of the evidence."""
    labels = evidence.answers.labels
    return Trial(
        gate=gate,
        metric=metric,
        sample=Sample(evidence.truth[rows], len(evidence.classes), evidence.positive),
        answers=Answers(evidence.answers.values[rows], None if labels is None else labels[rows]),
        baseline=evidence.baseline,
        confidence=confidence,
        unit=unit if metric in ("mae", "rmse") else None,
        seed=evidence.seed,
    )


def judge_metric(trial: Trial, limit: MetricLimit) -> Verdict:
    """All that the contract asks of one metric; the strictest outcome stands for them.

    Too few rows are insufficient whatever was measured.
    """
    why = too_few(trial)
    if why is not None:
        return insufficient(trial.gate, why, rows=trial.rows, limit=_limit_text(limit), unit=trial.unit)
    verdicts = []
    if limit.better_than is not None:
        verdicts.append(judge_better_than_baseline(trial))
    if limit.at_least is not None:
        verdicts.append(_judge_value(trial, "at_least", limit.at_least))
    if limit.at_most is not None:
        verdicts.append(_judge_value(trial, "at_most", limit.at_most))
    return strictest(tuple(verdicts))


def judge_better_than_baseline(trial: Trial) -> Verdict:
    """Pass if the bound of the paired difference to the trivial baseline shows an improvement; else fail.

    The baseline is the best answer that needs no inputs: class frequencies of the train part, their most
    frequent class (for F1 the positive one), mean or median, or guessing (`expected_by_chance`). With enough rows,
    not being able to tell a payload from it is a fail and not a lack of rows: pure noise is refused however many
    rows there are. In the verdict the interval is that of the difference, moved to the baseline's value so that
    all numbers share a scale.

    Source: one-sided paired test; the intervals of `stats.estimates`.
    """
    trivial, difference = _difference_to_baseline(trial)
    better = difference.high < 0 if trial.is_loss else difference.low > 0
    sure = max(-difference.high if trial.is_loss else difference.low, 0.0)
    value = trivial + difference.value
    name, unit = NAMES[trial.metric], trial.unit
    shown, needless = quantity(value, unit), quantity(trivial, unit)
    start = f"The {name} is {shown} on {trial.rows:,} rows, the trivial baseline's {needless}"
    if better:
        reason = f"{start}; with {percent(trial.confidence)} it is better by at least {quantity(sure, unit)}."
    else:
        reason = f"{start}: as far as these rows tell, the model is no better than answering without looking."
    return Verdict(
        gate=trial.gate,
        outcome="pass" if better else "fail",
        measured=value,
        interval=(trivial + difference.low, trivial + difference.high),
        limit=trivial,
        unit=unit,
        rows=trial.rows,
        reason=reason,
    )


def judge_no_worse(trial: Trial, champion: Answers, *, margin: float) -> Verdict:
    """Pass if the bound of the paired difference to the champion lies within `margin`.

    One-sided paired non-inferiority test: with a true difference of exactly `margin` it passes with
    `1 - confidence`. Fail if the payload is surely worse by more; otherwise insufficient. In the verdict the
    interval is that of the difference, moved to the champion's value.

    Args:
        trial: metric and rows of the payload under judgement.
        champion: its answers on the same rows in the same order.
        margin: largest tolerable worsening, >= 0, in units of the metric.
    """
    why = too_few(trial)
    if why is not None:
        return insufficient(trial.gate, why, rows=trial.rows, limit=None, unit=trial.unit)
    serving = point(trial.metric, trial.sample, champion)
    difference = estimate_difference(
        trial.metric, trial.sample, trial.answers, champion, confidence=trial.confidence, seed=trial.seed
    )
    side: Side = "at_most" if trial.is_loss else "at_least"
    worst = margin if trial.is_loss else -margin
    limit = Limit(trial.gate, _difference_words(trial, serving), side, worst, trial.confidence, trial.unit)
    verdict = judge_limit(limit, difference, trial.rows)
    return Verdict(
        gate=trial.gate,
        outcome=decide(limit, difference),
        measured=serving + difference.value,
        interval=(serving + difference.low, serving + difference.high),
        limit=serving + worst,
        unit=trial.unit,
        rows=trial.rows,
        reason=verdict.reason,
    )


def too_few(trial: Trial) -> str | None:
    """Why the rows cannot decide on the metric, or None."""
    if trial.rows < MIN_ROWS:
        return f"There are {trial.rows:,} rows; a verdict needs at least {MIN_ROWS}."
    sample = trial.sample
    if trial.metric == "r2" and np.ptp(sample.truth.astype(np.float64)) == 0:
        return "The true value is the same in all rows, so there is nothing to explain."
    if sample.classes == 0 or trial.metric == "accuracy":
        return None
    counts = np.sort(np.bincount(sample.truth.astype(np.int64), minlength=sample.classes))
    if counts[-2] < MIN_PER_CLASS:
        return f"The second most frequent class has {counts[-2]} rows; a verdict needs at least {MIN_PER_CLASS}."
    return None


def _judge_value(trial: Trial, side: Side, value: float) -> Verdict:
    measured = estimate(trial.metric, trial.sample, trial.answers, confidence=trial.confidence, seed=trial.seed)
    words = f"The {NAMES[trial.metric]}"
    return judge_limit(Limit(trial.gate, words, side, value, trial.confidence, trial.unit), measured, trial.rows)


def _difference_to_baseline(trial: Trial) -> tuple[float, Estimate]:
    expected = expected_by_chance(trial)
    if expected is not None:
        found = estimate(trial.metric, trial.sample, trial.answers, confidence=trial.confidence, seed=trial.seed)
        return expected, Estimate(found.value - expected, found.low - expected, found.high - expected)
    trivial_answers = baseline_answers(trial)
    difference = estimate_difference(
        trial.metric, trial.sample, trial.answers, trivial_answers, confidence=trial.confidence, seed=trial.seed
    )
    return point(trial.metric, trial.sample, trivial_answers), difference


def expected_by_chance(trial: Trial) -> float | None:
    """What guessing gets where it beats every constant answer, else None.

    A random order has an average precision above the positive share; guessing classes by their frequencies has a
    macro F1 of one over the number of classes, the most that is possible without looking.
    """
    if trial.metric == "average_precision":
        return random_average_precision(trial.sample)
    if trial.metric == "f1" and trial.sample.positive is None:
        return 1 / len(np.unique(trial.sample.truth))
    return None


def baseline_answers(trial: Trial) -> Answers:
    """What the trivial baseline answers on the trial's rows."""
    rows, baseline = trial.rows, trial.baseline
    if trial.sample.classes == 0:
        mean, median = baseline
        return Answers(np.full(rows, median if trial.metric == "mae" else mean))
    label = int(np.argmax(baseline))
    if trial.metric == "f1" and trial.sample.positive is not None:
        label = trial.sample.positive
    return Answers(np.tile(baseline, (rows, 1)), np.full(rows, label))


def random_average_precision(sample: Sample) -> float:
    """Expected average precision of a random order of the rows.

    Source: Bestgen (2015), doi:10.1080/09296174.2014.1001636.
    """
    rows = len(sample.truth)
    positives = int(np.sum(sample.truth == sample.positive))
    harmonic = float(np.sum(1 / np.arange(1, rows + 1))) / rows
    return harmonic + (positives - 1) / (rows - 1) * (1 - harmonic)


def _difference_words(trial: Trial, serving: float) -> str:
    name = NAMES[trial.metric]
    return f"The {name}'s change from the serving release's {quantity(serving, trial.unit)}"


def _limit_text(limit: MetricLimit) -> str:
    parts = [
        None if limit.better_than is None else f"better than {limit.better_than}",
        None if limit.at_least is None else f"at least {limit.at_least:g}",
        None if limit.at_most is None else f"at most {limit.at_most:g}",
    ]
    return ", ".join(part for part in parts if part is not None)
