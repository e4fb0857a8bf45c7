"""The portfolio: what the ledger says of a system, as pages and callers want to see it. Pure: bodies in, facts out."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Body = Mapping[str, Any]
Found = dict[str, Any]

SEVERITY = {"fail": 0, "insufficient": 1, "not applicable": 2, "pass": 3}  # the worst first
URGENCY = {"critical": 0, "warning": 1}
IS_MOVING = ("running", "held")  # states of a rollout that is not over
MAX_WINDOWS = 60  # of a chart: more cannot be told apart in its width


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledgered:
    """Bodies of one system's things, as the ledger holds them."""

    releases: Sequence[Body] = ()
    verdicts: Mapping[str, Sequence[Body]] = field(default_factory=dict)  # release -> its gates' verdicts
    deployments: Mapping[str, Body | None] = field(default_factory=dict)  # environment -> the current one
    approvals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # environment -> role -> how many it owes
    attestations: Sequence[Body] = ()
    rollouts: Sequence[Body] = ()
    windows: Sequence[Body] = ()
    alerts: Sequence[Body] = ()
    clocks: Sequence[Body] = ()
    waiting: Mapping[str, int] = field(default_factory=dict)  # environment -> answers that wait for a person


def name_of(release: Body) -> str:
    """A release as people write it: `flights:3`."""
    return f"{release['system']}:{release['version']}"


def colour_of(release: str) -> int:
    """The number of a release's colour, the same on every bar and chart; -1 for what is no release.

    >>> colour_of("flights:1"), colour_of("flights:3"), colour_of("all releases")
    (0, 2, -1)
    """
    version = release.rpartition(":")[2]
    return int(version) - 1 if version.isdecimal() else -1


def release_rows(facts: Ledgered) -> list[Found]:
    """Every release, newest first: who signed what, what its gates said, where it serves."""
    return [
        {
            "release": name_of(release),
            "version": release["version"],
            "digest": release["digest"],
            "created": release["created"],
            "author": release["author"],
            "verdicts": summarise_verdicts(facts.verdicts.get(name_of(release), ())),
            "serves": _places(facts, name_of(release)),
        }
        for release in reversed(facts.releases)
    ]


def summarise_verdicts(verdicts: Iterable[Body]) -> Found:
    """How many gates said what, the worst that was said, and which gates did not let it through.

    >>> summarise_verdicts([{"gate": "value", "outcome": "pass"}, {"gate": "slices", "outcome": "insufficient"}])
    {'counts': {'insufficient': 1, 'pass': 1}, 'worst': 'insufficient', 'open': ['slices']}
    """
    found = list(verdicts)
    counts = Counter(str(verdict["outcome"]) for verdict in found)
    ordered = sorted(counts, key=lambda outcome: SEVERITY.get(outcome, 0))
    return {
        "counts": {outcome: counts[outcome] for outcome in ordered},
        "worst": ordered[0] if ordered else None,
        "open": [verdict["gate"] for verdict in found if verdict["outcome"] in ("fail", "insufficient")],
    }


def _places(facts: Ledgered, release: str) -> list[Found]:
    return [
        {"environment": environment, "share": item["share"]}
        for environment, deployment in facts.deployments.items()
        for item in (deployment or {}).get("releases", ())
        if item["release"] == release and item["share"] > 0
    ]


def environment_states(facts: Ledgered) -> list[Found]:
    """Every environment: what serves with which share, its rollout, its last windows, what it owes and waits for."""
    return [_environment(facts, name) for name in facts.deployments]


def _environment(facts: Ledgered, name: str) -> Found:
    deployment = facts.deployments[name]
    inputs = windows_of(facts.windows, name, "inputs")
    quality = windows_of(facts.windows, name, "quality")
    clock = next((clock for clock in facts.clocks if clock["environment"] == name), None)
    return {
        "environment": name,
        "generation": None if deployment is None else deployment["generation"],
        "releases": [
            {"release": item["release"], "share": item["share"]}
            for item in sorted((deployment or {}).get("releases", ()), key=lambda item: -item["share"])
        ],
        "rollout": last_rollout(facts.rollouts, name),
        "inputs": dict(inputs[-1]) if inputs else None,
        "quality": next((dict(window) for window in reversed(quality) if window.get("known")), None),
        "as_of": None if clock is None else clock["as_of"],
        "alerts": sum(1 for alert in open_alerts(facts.alerts) if alert["environment"] == name),
        "owed": approvals_owed(facts, name),
        "waiting": facts.waiting.get(name),
    }


def last_rollout(rollouts: Iterable[Body], environment: str) -> Found | None:
    """The rollout that moves in an environment, or the last that ended there."""
    found = [rollout for rollout in rollouts if rollout["environment"] == environment]
    found.sort(key=lambda rollout: (rollout["state"] in IS_MOVING, rollout["number"]))
    return dict(found[-1]) if found else None


def approvals_owed(facts: Ledgered, environment: str) -> Found | None:
    """What the newest release still owes before it may serve an environment; None where nothing is owed.

    One person counts once for each role.
    """
    required = facts.approvals.get(environment, {})
    if not required or not facts.releases:
        return None
    newest = facts.releases[-1]
    if any(place["environment"] == environment for place in _places(facts, name_of(newest))):
        return None
    given = {
        (attestation["role"], attestation["principal"])
        for attestation in facts.attestations
        if attestation["attests"] == "approval"
        and attestation["environment"] == environment
        and attestation["release_digest"] == newest["digest"]
    }
    counts = Counter(role for role, _ in given)
    owed = [{"role": role, "count": need - counts[role]} for role, need in required.items() if counts[role] < need]
    return {"release": name_of(newest), "owed": owed} if owed else None


def open_alerts(alerts: Iterable[Body]) -> list[Found]:
    """Alerts that are not closed: not yet acknowledged first, then critical ones, then the newest."""
    found = sorted((alert for alert in alerts if alert["state"] != "closed"), key=_seen, reverse=True)
    found.sort(key=lambda alert: (alert["state"] != "open", URGENCY.get(alert["severity"], 2)))
    return [dict(alert) for alert in found]


def _seen(alert: Body) -> float:
    return unix_time(alert["last_seen"])


def windows_of(windows: Iterable[Body], environment: str, kind: str) -> list[Body]:
    """The windows of one kind in an environment, in event time; of two with the same start the later judged."""
    found = sorted(
        (window for window in windows if window["environment"] == environment and window["window"] == kind),
        key=lambda window: (unix_time(window["start"]), str(window.get("as_of", ""))),
    )
    return list({unix_time(window["start"]): window for window in found}.values())


def unix_time(text: str | float) -> float:
    """RFC 3339 text, or a number that is one already, in Unix s.

    >>> unix_time("2013-01-01T12:00:00Z")
    1357041600.0
    """
    return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else float(text)


@dataclass(frozen=True, slots=True)
class Line:
    """One release's (or kind of answer's) values over the windows."""

    name: str
    values: tuple[float | None, ...]
    band: tuple[tuple[float, float] | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """What a chart is drawn from."""

    name: str  # such as `accuracy`
    times: tuple[float, ...]  # starts of the windows, Unix s
    lines: tuple[Line, ...]
    unit: str = ""


def figures(windows: Iterable[Body], environment: str) -> list[Figure]:
    """What became of an environment: answers by release, accuracy, value, p99, errors, reviews; in this order.

    Of numbers the mean error stands for the accuracy. Without windows each figure is there, with no times.
    """
    found = list(windows)
    inputs = windows_of(found, environment, "inputs")[-MAX_WINDOWS:]
    quality = windows_of(found, environment, "quality")[-MAX_WINDOWS:]
    unit = next((str(row["unit"]) for window in quality for row in window["quality"] if row.get("unit")), "")
    return [
        _answers(inputs),
        _per_release("mae", quality, "mae")
        if any("mae" in row for window in quality for row in window["quality"])
        else _per_release("accuracy", quality, "accuracy", "accuracy_interval"),
        _per_release("value", quality, "value_per_decision", "value_interval", unit=unit),
        _whole("p99", inputs, lambda window: window.get("p99_ms"), "ms"),
        _whole("errors", inputs, lambda window: _percent(window.get("errors"))),
        _whole("reviews", inputs, _to_people),
    ]


def _starts(windows: Sequence[Body]) -> tuple[float, ...]:
    return tuple(unix_time(window["start"]) for window in windows)


def _answers(windows: Sequence[Body]) -> Figure:
    names = sorted(
        {name for window in windows for name in window["releases"]}, key=lambda name: (colour_of(name), name)
    )
    lines = (Line(name, tuple(float(window["releases"].get(name, 0)) for window in windows)) for name in names)
    return Figure("answers", _starts(windows), tuple(lines))


def _whole(name: str, windows: Sequence[Body], value: Callable[[Body], float | None], unit: str = "%") -> Figure:
    """One line for all releases together."""
    known = [(window, found) for window in windows if (found := value(window)) is not None]
    line = Line("all releases", tuple(float(found) for _, found in known))
    return Figure(name, _starts([window for window, _ in known]), (line,) if known else (), unit)


def _percent(share: float | None) -> float | None:
    return None if share is None else 100.0 * share


def _to_people(window: Body) -> float | None:
    """Percent of a window's answers that a person is to look at."""
    return _percent(window["handling"].get("review", 0) / window["rows"]) if window["rows"] else None


def _per_release(name: str, windows: Sequence[Body], key: str, interval: str = "", *, unit: str = "") -> Figure:
    by_window = [{row["release"]: row for row in window["quality"] if row.get(key) is not None} for window in windows]
    releases = sorted({release for rows in by_window for release in rows}, key=lambda name: (colour_of(name), name))
    lines = []
    for release in releases:
        rows = [known.get(release) for known in by_window]
        values = tuple(None if row is None else float(row[key]) for row in rows)
        band = tuple(_bounds(row, interval) for row in rows) if interval else ()
        lines.append(Line(release, values, band if any(band) else ()))
    return Figure(name, _starts(windows), tuple(lines), unit)


def _bounds(row: Body | None, key: str) -> tuple[float, float] | None:
    bounds = None if row is None else row.get(key)
    if bounds is None or None in tuple(bounds):
        return None
    return float(bounds[0]), float(bounds[1])


def moments(rollouts: Iterable[Body], environment: str) -> list[Found]:
    """When releases of an environment began to be tried and how it ended, in event time."""
    found = []
    for rollout in rollouts:
        if rollout["environment"] == environment:
            found.append({"at": float(rollout["started"]), "words": f"{rollout['release']} is tried"})
            if rollout["state"] not in IS_MOVING and rollout.get("judged") is not None:
                found.append({"at": float(rollout["judged"]), "words": f"{rollout['release']} {rollout['state']}"})
    return sorted(found, key=lambda moment: moment["at"])


def headline(states: Sequence[Body], alerts: Sequence[Body], releases: Sequence[Body]) -> Found:
    """How a system is, in a word and a sentence: what a person should look at first.

    Args:
        states: of `environment_states`.
        alerts: of `open_alerts`.
        releases: of `release_rows`.
    """
    unseen = [alert for alert in alerts if alert["state"] == "open"]
    critical = [alert for alert in unseen if alert["severity"] == "critical"]
    moving = [state for state in states if (state["rollout"] or {}).get("state") in IS_MOVING]
    owed = [state for state in states if state["owed"]]
    if not releases:
        return {"tone": "quiet", "word": "no release", "sentence": "Nothing has been released yet."}
    if not any(state["releases"] for state in states):
        return {"tone": "quiet", "word": "not deployed", "sentence": "No environment serves a release yet."}
    if critical or unseen:
        first, count = (critical or unseen)[0], len(unseen)
        word = f"{count} alert{'s' if count > 1 else ''}"
        return {"tone": "bad" if critical else "warn", "word": word, "sentence": first["title"]}
    if moving:
        rollout = moving[0]["rollout"]
        sentence = f"{rollout['release']} is tried on {rollout['share']:.0%} of {rollout['environment']}."
        return {"tone": "info", "word": "rollout", "sentence": sentence}
    if owed:
        sentence = f"{owed[0]['owed']['release']} waits for approval in {owed[0]['environment']}."
        return {"tone": "info", "word": "approval owed", "sentence": sentence}
    return {"tone": "good", "word": "well", "sentence": "Nothing asks for attention."}
