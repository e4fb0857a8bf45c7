"""Drift: what callers send, and what is answered, compared with the rows that the model was trained on.

A finding must be both sure and large. Sure: its p-value counts the error of window and reference alike, and passes
a level that all tests of the window share. Large: with many rows any difference is sure, also one that no model
would notice, so it must exceed the sizes below; and as a week is never distributed as a year, it must exceed what
windows of the training time did, each beside the whole.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.bundle.format import Baselines, ColumnBaseline, Policy
from shipworthy.contract.types import Contract, Monitor
from shipworthy.data.columns import bounded, encode
from shipworthy.monitoring.findings import Finding, Severity
from shipworthy.monitoring.windows import model_rows
from shipworthy.serving.policy import calibrate
from shipworthy.stats.profile import QUANTILES, histogram
from shipworthy.stats.two_sample import (
    alpha_per_test,
    homogeneity,
    largest_difference,
    largest_gap,
    mean_shift,
    proportions,
)

Floats = NDArray[np.float64]

LEAST_SHIFT_SD = 0.1  # of a mean: a year of age; less moves hardly a decision across its threshold
LEAST_SHARE = 0.03  # of rows that change their side of an edge, or their category: +5 points surely pass it
LEAST_MISSING = 0.01  # of rows: a feed that loses one row of a hundred is broken, and was not before
LEAST_BEYOND = 0.005  # of rows: a unit error in one of a hundred passes, the reference's own 0.1 % tails do not
BROKEN_SHARE = 0.2  # of rows that newly lack a value or have an absurd one: somebody should be woken
SWING_MARGIN = 1.5  # half as much again as the largest swing of a past window; the next one is often a little larger
MAX_PAST_WINDOWS = 200  # looked at for swings; more cost seconds and hardly raise the largest
KINDS_OF_WINDOW = 2  # inputs and quality share the budget of false alarms evenly
NAMED_INPUTS = 3  # in the cause of a moved score


def window_alpha(monitor: Monitor) -> float:
    """The chance of a false alarm that one window may take, so that all monitors keep the contract's budget."""
    budget = monitor.false_alarms
    return alpha_per_test(budget.at_most, budget.per, monitor.every, KINDS_OF_WINDOW)


def reference_scores(policy: Policy, answers: Floats) -> Floats | None:
    """The scores that a monitor compares records with: as they are answered, so after calibration.

    Args:
        policy: the payload's.
        answers: the model's outputs on rows that it was not trained on, (n, classes) or (n,).

    Returns:
        Shape (n,): the positive class's probability, or the number; None for several classes.
    """
    if policy.task == "regression":
        return answers
    if policy.task == "multiclass":
        return None
    return calibrate(policy, answers)[:, policy.classes.index(policy.positive or policy.classes[-1])]


def with_swings(
    baselines: Baselines,
    contract: Contract,
    trained: tuple[NDArray[np.float32], Floats],
    scored: tuple[Floats, Floats] | None,
) -> Baselines:
    """The baselines, with how far windows of the same length swung in the time of training, each beside the whole.

    Without a `monitor` section there are no windows, and no swings.

    Args:
        baselines: of the same rows.
        contract: says how long a window is, and how many rows it needs.
        trained: the training rows as `data.columns.encode` makes them, and their event times, Unix seconds.
        scored: the scores of `baselines` and their event times; None if it has none.
    """
    if contract.monitor is None:
        return baselines
    matrix, times = trained
    swings: dict[str, dict[str, float]] = {}
    for rows in _past_windows(contract.monitor, times):
        for test in _column_tests(baselines, contract, matrix[rows]):
            seen = swings.setdefault(test.finding.about, {})
            seen[test.finding.aspect] = max(seen.get(test.finding.aspect, 0.0), _stored(test.finding.effect))
    score_swing = 0.0
    if scored is not None:
        scores, answered = scored
        tests = [_score_test(baselines, scores[rows]) for rows in _past_windows(contract.monitor, answered)]
        score_swing = max((_stored(test.finding.effect) for test in tests if test is not None), default=0.0)
    return msgspec.structs.replace(baselines, swings=swings, score_swing=score_swing)


def event_times(contract: Contract, frame: pl.DataFrame) -> Floats | None:
    """Unix seconds of each accepted row, NaN where missing; None without a time column."""
    name = next(iter(contract.context_by_role("time")), None)
    if name is None or name not in frame.columns:
        return None
    return (frame[name].dt.epoch("us").cast(pl.Float64) / 1e6).fill_null(float("nan")).to_numpy()


def _past_windows(monitor: Monitor, times: Floats) -> Iterator[NDArray[np.intp]]:
    """The rows of each whole window that had enough of them; evenly chosen where there are very many.

    The first and the last are cut where training began and ended, and would swing for that reason alone.
    """
    known = np.flatnonzero(np.isfinite(times))
    numbers = np.floor(times[known] / monitor.every)
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-np.inf))
    windows = [rows for rows in np.split(known[order], starts[1:])[1:-1] if len(rows) >= monitor.rows.at_least]
    step = max(1, -(-len(windows) // MAX_PAST_WINDOWS))
    yield from windows[::step]


def _stored(effect: float) -> float:
    """JSON has no infinity; a constant that once moved has a swing that nothing exceeds."""
    return min(effect, 1e12)


def find_drift(
    baselines: Baselines, contract: Contract, frame: pl.DataFrame, alpha: float, *, release: str | None = None
) -> tuple[Finding, ...]:
    """What moved in a window, largest first; the score last, with the inputs that moved most as its cause.

    Args:
        baselines: of the payload that answers.
        contract: says how what was sent becomes the model's columns.
        frame: a window of the journal.
        alpha: chance that a window in which nothing moved gives a finding, in (0, 1): `window_alpha`.
        release: only the scores of this release are compared; None compares all.
    """
    if not frame.height:
        return ()
    tests = _column_tests(baselines, contract, encode(contract, _settled(contract, model_rows(contract, frame))))
    answered = frame if release is None else frame.filter(pl.col("release") == release)
    score = _score_test(baselines, answered["score"].drop_nulls().to_numpy().astype(np.float64))
    level = alpha / max(len(tests) + (score is not None), 1)
    found = sorted((test.finding for test in tests if test.stands(level)), key=lambda finding: -finding.effect)
    if score is not None and score.stands(level):
        found.append(_explained(score.finding, found))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Test:
    """A finding that stands if it is sure and large."""

    finding: Finding

    def stands(self, level: float) -> bool:
        p_value = self.finding.p_value
        return p_value is not None and p_value <= level and self.finding.effect >= 1


def _column_tests(baselines: Baselines, contract: Contract, matrix: NDArray[np.float32]) -> list[_Test]:
    places = {name: at for at, name in enumerate(contract.model_columns)}
    tests: list[_Test | None] = []
    for baseline in baselines.columns:
        if baseline.name in places and baseline.rows:
            swings = baselines.swings.get(baseline.name, {})
            column = _Column(baseline, contract, matrix[:, places[baseline.name]], swings)
            tests += [column.values_test(), column.missing_test(), column.range_test()]
    return [test for test in tests if test is not None]


def _beyond_swing(effect: float, swing: float) -> float:
    """How many times the least size that matters, where past windows swung so much."""
    return effect / max(1.0, SWING_MARGIN * swing)


def _settled(contract: Contract, rows: pl.DataFrame) -> pl.DataFrame:
    """What the model saw of what was sent, as the training rows were left: clipped, or missing beyond the range."""
    ranged = {name: feature for name, feature in contract.features.items() if feature.range is not None}
    return rows.with_columns(
        bounded(pl.col(name), feature.range, feature.outside)
        for name, feature in ranged.items()
        if feature.range is not None
    )


class _Column:
    """One model input in a window, beside its baseline."""

    def __init__(
        self, baseline: ColumnBaseline, contract: Contract, values: NDArray[np.float32], swings: Mapping[str, float]
    ) -> None:
        self.baseline = baseline
        self.swings = swings
        self.name = baseline.name
        self.rows = len(values)
        self.known: Floats = values[~np.isnan(values)].astype(np.float64)
        column = contract.features.get(self.name) or contract.derived[self.name]
        self.is_derived = self.name in contract.derived
        self.is_bool = column.type == "bool"
        self.categories = contract.model_categories.get(self.name)
        self.unit = f" {column.unit}" if column.unit else ""

    def values_test(self) -> _Test | None:
        """Whether known values are distributed as they were; None without any in the reference."""
        reference = self.baseline.counts
        if not sum(reference) or not len(self.known):
            return None
        counts = self._counts()
        p_value = homogeneity(reference, counts, ordered=self.categories is None)
        at, difference = largest_difference(reference, counts)
        measured = f"{self._bin(at)}: {_change(reference, counts, at)} of rows"
        if self.categories is not None or self.is_bool:
            cause = f"{self.name} is {self._bin(at)} {'more' if difference > 0 else 'less'} often than in training"
            return self._test("values", p_value, abs(difference) / LEAST_SHARE, measured, f"{cause}: {measured}.")
        _, gap = largest_gap(reference, counts)
        shift, mean = self._shift(), self.baseline.mean or 0.0
        effect = max(abs(shift) / LEAST_SHIFT_SD, abs(gap) / LEAST_SHARE, abs(difference) / LEAST_SHARE)
        cause = f"{self.name} is spread otherwise than in training"
        if abs(shift) >= LEAST_SHIFT_SD:
            measured = self._mean_words(mean, shift)
            cause = f"{self.name} is {'higher' if shift > 0 else 'lower'} than in training"
        return self._test("values", p_value, effect, measured, f"{cause}: {measured}.")

    def missing_test(self) -> _Test:
        """Whether values are missing as often as they were."""
        base = self.baseline
        missing = self.rows - len(self.known)
        p_value = proportions((base.missing, base.rows), (missing, self.rows))
        before, now = base.missing / base.rows, missing / self.rows
        measured = f"missing {_percent(before)} -> {_percent(now)} of rows"
        words = "not known or missing" if self.categories is not None else "missing"
        cause = f"{self.name} is {words} {'more' if now > before else 'less'} often than in training: {measured}."
        broken = now - before >= BROKEN_SHARE
        return self._test("missing", p_value, abs(now - before) / LEAST_MISSING, measured, cause, broken)

    def range_test(self) -> _Test | None:
        """Whether more values lie beyond the reference's least and greatest edge; None for what has no order."""
        base = self.baseline
        if not base.edges or self.categories is not None or self.is_bool or not len(self.known):
            return None
        low, high = base.edges[0], base.edges[-1]
        total = sum(base.counts)
        above = min(base.counts[-1], int((1 - QUANTILES[-1]) * total + 1e-9))  # the last bin holds the edge itself
        strange = self.known[(self.known < low) | (self.known > high)]
        before, now = (base.counts[0] + above) / total, len(strange) / len(self.known)
        p_value = proportions((base.counts[0] + above, total), (len(strange), len(self.known)))
        measured = (
            f"below {_number(low)} or above {_number(high)}{self.unit}: {_percent(before)} -> {_percent(now)} of rows"
        )
        shift = self._shift()
        if abs(shift) >= LEAST_SHIFT_SD:
            measured += f", {self._mean_words(base.mean or 0.0, shift)}"
        cause = f"{self.name} has values that training hardly knew: {measured}{self._unit_error(strange)}."
        width = high - low
        absurd = (self.known < low - width) | (self.known > high + width)
        broken = bool(width) and float(absurd.mean()) >= BROKEN_SHARE
        return self._test("range", p_value, max(now - before, 0.0) / LEAST_BEYOND, measured, cause, broken)

    def _counts(self) -> tuple[int, ...]:
        if self.categories is not None:
            return tuple(np.bincount(self.known.astype(np.int64), minlength=len(self.baseline.counts)).tolist())
        return histogram(self.known, self.baseline.edges)

    def _shift(self) -> float:
        base = self.baseline
        if base.mean is None or base.sd is None or self.categories is not None:
            return 0.0
        return mean_shift(base.mean, base.sd, self.known)

    def _mean_words(self, mean: float, shift: float) -> str:
        return f"mean {_number(mean)} -> {_number(float(self.known.mean()))}{self.unit} ({shift:+.2g} sd)"

    def _bin(self, at: int) -> str:
        if self.categories is not None:
            return self.categories[at]
        edges = self.baseline.edges
        if self.is_bool:
            return "true" if at >= len(edges) and edges[-1] > 0 else "false"
        low = f"from {_number(edges[at - 1])}" if at else ""
        high = f"under {_number(edges[at])}" if at < len(edges) else ""
        return f"{low} {high}".strip() + self.unit

    def _unit_error(self, strange: Floats) -> str:
        """A hint where strange values are a power of ten away from usual ones."""
        usual = self.baseline.reference
        if not usual or not len(strange):
            return ""
        ratio = float(np.median(strange)) / usual
        power = round(np.log10(ratio)) if ratio > 0 else 0
        if power == 0 or abs(np.log10(ratio) - power) > 0.1:
            return ""
        times = f"{10**power:,} times" if power > 0 else f"a {10**-power:,}th of"
        return f"; they are about {times} the usual value, which looks like another unit"

    def _test(
        self, aspect: str, p_value: float, effect: float, measured: str, cause: str, broken: bool = False
    ) -> _Test:
        source = f"the columns from which {self.name} is derived" if self.is_derived else f"what feeds {self.name}"
        follow = {
            "values": f"Look at {source}; if the change is real and here to stay, train on newer rows.",
            "missing": f"Look at {source}: a value that got lost is mended there, not by training.",
            "range": f"Look at {source}: a wrong unit or a broken sensor is mended there; if the values are right, "
            "train on rows that have them.",
        }
        effect = _beyond_swing(effect, self.swings.get(aspect, 0.0))
        severity: Severity = "critical" if broken else "warning"
        return _Test(
            Finding("drift", self.name, aspect, p_value, effect, measured, self.rows, cause, follow[aspect], severity)
        )


def _score_test(baselines: Baselines, scores: Floats) -> _Test | None:
    if not baselines.score_edges or not len(scores):
        return None
    reference, counts = baselines.score_counts, histogram(scores, baselines.score_edges)
    sizes = (largest_gap(reference, counts)[1], largest_difference(reference, counts)[1])
    before, now = _middle(baselines.score_edges, reference), float(np.median(scores))
    measured = f"median score {_number(before)} -> {_number(now)}"
    return _Test(
        Finding(
            kind="drift",
            about="score",
            aspect="values",
            p_value=homogeneity(reference, counts, ordered=True),
            effect=_beyond_swing(max(map(abs, sizes)) / LEAST_SHARE, baselines.score_swing),
            measured=measured,
            rows=len(scores),
            cause=f"The answers moved, and no single input did: {measured}.",
            next="Compare with the outcomes as they come; if value or accuracy falls, train on newer rows.",
        )
    )


def _explained(score: Finding, moved: Sequence[Finding]) -> Finding:
    """The score's finding, with the inputs that moved most as its cause."""
    if not moved:
        return score
    names = list(dict.fromkeys(finding.about for finding in moved))[:NAMED_INPUTS]
    cause = f"The answers moved with the inputs, of which {', '.join(names)} moved most: {score.measured}."
    return dataclasses.replace(score, cause=cause)


def _middle(edges: tuple[float, ...], counts: tuple[int, ...]) -> float:
    """The edge under which about half of the counted rows lie."""
    below = np.cumsum(counts[:-1]) / sum(counts)
    return edges[int(np.abs(below - 0.5).argmin())]


def _change(first: Sequence[int], second: Sequence[int], at: int) -> str:
    return f"{_percent(first[at] / sum(first))} -> {_percent(second[at] / sum(second))}"


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"


def _number(value: float) -> str:
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"
