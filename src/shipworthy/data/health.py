"""Health: whether a batch is like the snapshots before it, in volume, missing values, distribution and freshness. Pure.

Each figure of a batch is one more value of a short series: a row count by its logarithm, a share by its arcsine root,
a delay by its root, a mean as it is.
A finding must be sure (no forecast from its own past explains it, at a level that keeps the budget of false alarms)
and large (of a size that matters).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from shipworthy.contract.data_section import FalseAlarms
from shipworthy.kernel.digest import Json
from shipworthy.stats.history import MAX_HISTORY, MIN_HISTORY, judge_next
from shipworthy.stats.two_sample import alpha_per_test

Aspect = Literal["volume", "quarantined", "freshness", "missing", "values"]

LEAST_VOLUME = math.log(1.1)  # a tenth of the rows more or less
LEAST_SHARE = 0.03  # of rows that change their side of an edge, or their category
LEAST_MISSING = 0.01  # of rows newly missing, or newly quarantined
LEAST_SHIFT_SD = 0.1  # of a mean, in sd of the column
LEAST_DELAY = math.log(2.0)  # twice the usual time
DELAY_NOISE = 0.1  # of the usual time: no schedule is kept more closely
SHORTEST_DELAY_S = 60.0
SHORTEST_EVERY_S = 3600.0  # who ships more often does so by hand, and not for the whole time of the budget
WATCHED_VALUES = 20  # of a category
TABLE = "the batch"  # what a finding about the whole table is about
MEAN = None  # the part of a number's values that is their mean; no category is called so
_FAMILIES = 2  # batches and silences share the budget evenly


@dataclass(frozen=True, slots=True)
class Observation:
    """One snapshot, or a batch that may become one, as history keeps it."""

    at: float  # Unix s, when it was taken
    rows: int  # accepted
    quarantined: int
    newest: float | None  # Unix s of the newest row, where there is a time column
    sources: Mapping[str, int]  # rows read of each
    columns: Mapping[str, Mapping[str, Any]]  # profile of each, as `data.profile.profile_json` writes it


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One thing that is not as the snapshots before it would have it."""

    about: str  # a column, a source, or `the batch`
    aspect: Aspect
    p_value: float
    effect: float  # how many times the least size that matters
    measured: str  # what was usual, and what was seen
    cause: str  # in a sentence

    def to_json(self) -> dict[str, Json]:
        """A JSON document of this anomaly."""
        return {
            "about": self.about,
            "aspect": self.aspect,
            "p_value": self.p_value,
            "effect": self.effect if math.isfinite(self.effect) else None,
            "measured": self.measured,
            "cause": self.cause,
        }


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found, and on how much of a past."""

    anomalies: tuple[Anomaly, ...]  # largest first
    snapshots: int  # of the past
    tests: int  # made; 0 where there is too little past

    @property
    def is_judged(self) -> bool:
        """Whether there was enough of a past."""
        return self.tests > 0

    def to_json(self) -> dict[str, Json]:
        """A JSON document of this judgement."""
        return {
            "state": "judged" if self.is_judged else "insufficient history",
            "snapshots": self.snapshots,
            "needed": MIN_HISTORY,
            "tests": self.tests,
            "anomalies": [anomaly.to_json() for anomaly in self.anomalies],
        }


def judge_batch_history(past: Sequence[Observation], batch: Observation, budget: FalseAlarms) -> Judgement:
    """What of a batch the snapshots before it do not explain.

    Args:
        past: oldest first.
        batch: the one that is judged.
        budget: of false alarms. It is shared by the batches of its time, whose rhythm is that of the past. Within a
            batch, half goes to its few figures as a whole, half to the many of its columns (Bonferroni in each).
    """
    recent = list(past[-MAX_HISTORY:])
    labels = _labels([*recent[-1:], batch])
    series, figures = [_figures(seen, labels) for seen in recent], _figures(batch, labels)
    lengths = {key: _known_length(series, key) for key in figures}
    judged = {key: length for key, length in lengths.items() if length >= MIN_HISTORY}
    if not judged:
        return Judgement((), len(past), 0)
    level = alpha_per_test(budget.at_most, budget.per, _rhythm(recent, batch), _FAMILIES)
    of_table = sum(_is_of_table(key) for key in judged)
    levels = {key: level / 2 / (of_table if _is_of_table(key) else len(judged) - of_table) for key in judged}
    found: dict[tuple[str, Aspect], Anomaly] = {}
    for length in set(judged.values()):
        keys = [key for key in judged if judged[key] == length]
        for anomaly in _judge(series[-length:], figures, keys, _with_usual_spread(batch, recent[-1]), levels):
            place = (anomaly.about, anomaly.aspect)
            if place not in found or anomaly.effect > found[place].effect:
                found[place] = anomaly
    return Judgement(tuple(sorted(found.values(), key=lambda anomaly: -anomaly.effect)), len(past), len(judged))


def judge_silence(
    about: str, times: Sequence[float], now: float, budget: FalseAlarms, sources: int = 1
) -> Anomaly | None:
    """Whether a source has been silent for longer than its past explains; None also where that is too short.

    Args:
        about: the source.
        times: Unix s at which it had something new, ascending.
        now: Unix s.
        budget: of false alarms; one silence is one test.
        sources: how many are watched.
    """
    roots = np.array([_root(gap) for gap in np.diff(np.asarray(times[-MAX_HISTORY - 1 :], dtype=np.float64))])
    if len(roots) < MIN_HISTORY:
        return None
    usual = float(np.median(roots))
    forecast = judge_next(roots[:, None], np.array([_root(now - times[-1])]), np.array([DELAY_NOISE / 2 * usual]))
    expected, silent = _seconds(float(forecast.expected[0])), max(now - times[-1], SHORTEST_DELAY_S)
    p_value = float(forecast.p_values[0]) / 2  # only too late is a fault
    later = math.log(silent / expected)
    level = alpha_per_test(budget.at_most, budget.per, max(_seconds(usual), SHORTEST_EVERY_S), _FAMILIES * sources)
    if later < LEAST_DELAY or p_value > level:
        return None
    measured = f"something new after {span(expected)}, nothing for {span(silent)}"
    cause = f"{about} is stale: usually it has {measured}."
    return Anomaly(about, "freshness", p_value, later / LEAST_DELAY, measured, cause)


def span(seconds: float) -> str:
    """A duration as people say it.

    >>> span(90), span(7200), span(200_000)
    ('90 s', '2 h', '2.3 d')
    """
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{seconds:.0f} s"


def _with_usual_spread(batch: Observation, before: Observation) -> Observation:
    """The batch with the sd that its columns had before: what is judged must not widen its own measure."""
    columns = {
        name: {**column, "sd": before.columns.get(name, column).get("sd", column.get("sd"))}
        for name, column in batch.columns.items()
    }
    return replace(batch, columns=columns)


# --- figures of one observation


@dataclass(frozen=True, slots=True)
class _Key:
    """Which series a figure belongs to."""

    about: str
    aspect: Aspect
    part: str | float | None = ""  # an edge or a category; MEAN


def _is_of_table(key: _Key) -> bool:
    return key.aspect in ("volume", "quarantined", "freshness")


def _labels(observations: Sequence[Observation]) -> dict[str, list[str]]:
    """The most frequent values of each category of any of the observations."""
    labels: dict[str, list[str]] = {}
    for seen in observations:
        for name, column in seen.columns.items():
            counts = column.get("most_frequent", {}) if column.get("all_values") else {}
            frequent = sorted(counts, key=lambda value: (-counts[value], value))[:WATCHED_VALUES]
            labels[name] = list(dict.fromkeys([*labels.get(name, ()), *frequent]))
    return labels


def _figures(seen: Observation, labels: Mapping[str, Sequence[str]]) -> dict[_Key, float]:
    """Every figure that is watched, on a scale where changes add up."""
    found = {_Key(TABLE, "volume"): math.log(max(seen.rows, 1))}
    read = seen.rows + seen.quarantined
    found[_Key(TABLE, "quarantined")] = _angle(seen.quarantined, read)
    if seen.newest is not None:
        found[_Key(TABLE, "freshness")] = _root(seen.at - seen.newest)
    for name, rows in seen.sources.items() if len(seen.sources) > 1 else ():  # a single one has the batch's rows
        found[_Key(name, "volume", "source")] = math.log(max(rows, 1))
    for name, column in seen.columns.items():
        found[_Key(name, "missing")] = _angle(column["missing"], column["rows"])
        found |= {_Key(name, "values", part): _angle(*share) for part, share in _shares(column, labels.get(name, ()))}
        if column.get("mean") is not None and column.get("sd") is not None:
            found[_Key(name, "values", MEAN)] = float(column["mean"])
    return found


def _shares(column: Mapping[str, Any], labels: Sequence[str]) -> Iterator[tuple[str | float, tuple[int, int]]]:
    """Rows at or above each edge of a number, or of each label; and the rows with a value."""
    known = column["rows"] - column["missing"]
    if not known:
        return
    counts, edges = column.get("counts"), column.get("edges")
    if counts and edges:
        above = known - np.cumsum(counts)[:-1]
        yield from ((float(edge), (int(rows), known)) for edge, rows in zip(edges, above, strict=True))
    elif column.get("all_values"):
        yield from ((label, (column["most_frequent"].get(label, 0), known)) for label in labels)


def _root(seconds: float) -> float:
    """A delay on a scale where late ones stand out and a few very late ones do not hide the next: roots of hours."""
    return math.sqrt(max(seconds, SHORTEST_DELAY_S) / 3600)


def _seconds(root: float) -> float:
    return max(root, math.sqrt(SHORTEST_DELAY_S / 3600)) ** 2 * 3600


def _angle(part: int, whole: int) -> float:
    """The arcsine root of a share, whose sampling sd is 1 / (2 sqrt(whole)) wherever the share lies."""
    return math.asin(math.sqrt(min(part / whole, 1.0))) if whole else 0.0


def _share(angle: float) -> float:
    return math.sin(min(max(angle, 0.0), math.pi / 2)) ** 2


def _known_length(series: Sequence[Mapping[_Key, float]], key: _Key) -> int:
    """In how many of the newest observations the figure is there without a gap."""
    length = 0
    for figures in reversed(series):
        if key not in figures:
            break
        length += 1
    return length


def _rhythm(past: Sequence[Observation], batch: Observation) -> float:
    """Seconds from one batch to the next: by the newest rows where they move on, else by when they were taken."""
    seen = [*past, batch]
    newest = [each.newest for each in seen if each.newest is not None]
    for times in (newest, [each.at for each in seen]):
        gaps = np.diff(np.asarray(times, dtype=np.float64))
        if len(gaps) and float(np.median(gaps)) > 0:
            return max(float(np.median(gaps)), SHORTEST_EVERY_S)
    return SHORTEST_EVERY_S


# --- judging


def _judge(
    series: Sequence[Mapping[_Key, float]],
    figures: Mapping[_Key, float],
    keys: Sequence[_Key],
    batch: Observation,
    levels: Mapping[_Key, float],
) -> Iterator[Anomaly]:
    past = np.array([[seen[key] for key in keys] for seen in series])
    now = np.array([figures[key] for key in keys])
    noise = np.array([_noise(key, batch, past[:, at]) for at, key in enumerate(keys)])
    forecast = judge_next(past, now, noise)
    for at, key in enumerate(keys):
        expected, value, p_value = float(forecast.expected[at]), float(now[at]), float(forecast.p_values[at])
        if p_value <= levels[key]:
            effect, measured, cause = _told(key, expected, value, batch)
            if effect >= 1:
                yield Anomaly(key.about, key.aspect, p_value, effect, measured, cause)


def _noise(key: _Key, batch: Observation, past: NDArray[np.float64]) -> float:
    """What sampling alone moves a figure by, one sd."""
    match key.aspect:
        case "freshness":
            return DELAY_NOISE / 2 * float(np.median(past))  # of a root half as much as of the delay itself
        case "volume":
            return 1 / math.sqrt(max(batch.sources[key.about] if key.part else batch.rows, 1))
        case "quarantined":
            return 0.5 / math.sqrt(max(batch.rows + batch.quarantined, 1))
        case "missing":
            return 0.5 / math.sqrt(max(batch.rows, 1))
        case "values":
            column = batch.columns[key.about]
            known = math.sqrt(max(column["rows"] - column["missing"], 1))
            return float(column["sd"]) / known if key.part is MEAN else 0.5 / known


def _told(key: _Key, expected: float, value: float, batch: Observation) -> tuple[float, str, str]:
    """How large a deviation is, in least sizes that matter; its figures, and the sentence that has them."""
    match key.aspect:
        case "volume":
            measured = f"{math.exp(expected):,.0f} -> {math.exp(value):,.0f} rows"
            cause = f"{key.about} has {'more' if value > expected else 'fewer'} rows than is usual: {measured}."
            return abs(value - expected) / LEAST_VOLUME, measured, cause
        case "freshness":
            usual, seen = _seconds(expected), _seconds(value)
            measured = f"newest row {span(usual)} -> {span(seen)} old"
            return math.log(seen / usual) / LEAST_DELAY, measured, f"the rows are older than is usual: {measured}."
        case "quarantined" | "missing":
            before, now = _share(expected), _share(value)
            measured = f"{key.aspect} {_percent(before)} -> {_percent(now)} of rows"
            much = "more" if now > before else "less"
            what = "rows are quarantined" if key.aspect == "quarantined" else f"{key.about} is missing"
            return abs(now - before) / LEAST_MISSING, measured, f"{what} {much} often than is usual: {measured}."
        case "values":
            before, now = (expected, value) if key.part is MEAN else (_share(expected), _share(value))
            if key.part is MEAN:
                sd = float(batch.columns[key.about]["sd"])
                measured = f"mean {before:,.4g} -> {now:,.4g}"
                effect = abs(now - before) / (LEAST_SHIFT_SD * sd) if sd else math.inf
            else:
                measured = f"{_part(key.part)}: {_percent(before)} -> {_percent(now)} of values"
                effect = abs(now - before) / LEAST_SHARE
            return effect, measured, f"{key.about} is distributed otherwise than is usual: {measured}."


def _part(part: str | float | None) -> str:
    return f"from {part:,.4g} on" if isinstance(part, float) else repr(part)


def _percent(share: float) -> str:
    return f"{share * 100:.1f} %"
