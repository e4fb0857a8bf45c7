"""Alerts: what findings become for a person on call, and how an alert lives, purely.

Few alerts: all drift of an environment is one, about `inputs`; all that is odd in a batch of data is one, about
`data`; all that a release broke is one, about the release.
What is seen again adds to the open alert; what has not been seen for a while closes it; what comes back afterwards
is a new one. Time is as-of time: a replayed year has its alerts in that year.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from shipworthy.kernel.errors import ConflictError
from shipworthy.ledger.events import format_time
from shipworthy.monitoring.findings import Finding

Body = dict[str, Any]
Step = tuple[str, Body]  # the verb of an event, and the alert as it then is

QUIET_WINDOWS = 3  # without a finding before an alert closes: one quiet window is often luck
NAMED = 3  # columns in a title
INPUTS = "inputs"  # what the alert of all drift is about
DATA = "data"  # what the alert of a batch is about
_GATHERED = {"drift": INPUTS, "data": DATA}  # kinds of which all findings are one alert
CAUSES = 5  # sentences in a cause; the window's findings hold all


def plan_alerts(
    findings: Sequence[Finding],
    known: Sequence[Mapping[str, Any]],
    environment: str,
    as_of: float,
    make_id: Callable[[], str],
    *,
    judged: Collection[str],
    quiet_s: float,
    channels: Sequence[str] = (),
) -> list[Step]:
    """The events that a judged window calls for; each body is the whole alert as it then is.

    Planning the same window again plans nothing, so that it may be done after a crash.

    Args:
        findings: of the window.
        known: the latest word on every alert, of any environment and state.
        environment: where the window was seen.
        as_of: Unix seconds of event time, the window's end.
        make_id: a new alert's id, such as `a_…`.
        judged: the kinds of findings that this window could have given; alerts of other kinds stay as they are.
        quiet_s: an alert that has not been seen for so long closes: QUIET_WINDOWS times the window's length.
        channels: the contract's webhooks, as it writes them; each new alert is due there.
    """
    alive = {
        (alert["kind"], alert["about"]): alert
        for alert in known
        if alert["environment"] == environment and alert["state"] != "closed"
    }
    steps: list[Step] = []
    groups = _groups(findings)
    for (kind, about), group in groups.items():
        alert = alive.get((kind, about))
        if alert is None:
            steps.append(("alert.opened", _opened(kind, about, group, environment, as_of, make_id(), channels)))
        elif alert["last_seen"] < format_time(as_of):
            steps.append(("alert.seen", _seen(alert, group, as_of, channels)))
    for key, alert in alive.items():
        if key not in groups and key[0] in judged and as_of - _seconds(alert["last_seen"]) >= quiet_s:
            steps.append(("alert.closed", _closed(alert, as_of, channels)))
    return steps


def acknowledge(alert: Mapping[str, Any], by: str) -> Step:
    """Somebody looks after it: it stays until the findings are gone, and reaches nobody again unless it gets worse.

    Raises:
        ConflictError: it is closed, or somebody acknowledged it already.
    """
    if alert["state"] == "closed":
        raise ConflictError(f"alert {alert['alert']} is closed; there is nothing to acknowledge.")
    if alert["state"] == "acknowledged":
        raise ConflictError(f"alert {alert['alert']} is acknowledged already, by {alert['acknowledged_by']}.")
    return "alert.acknowledged", _next(alert, state="acknowledged", acknowledged_by=by)


def due_everywhere(channels: Sequence[str]) -> dict[str, Body]:
    """The deliveries of an alert that nobody has been told of."""
    return {channel: {"state": "due", "attempts": 0, "next_at": 0.0, "error": None} for channel in channels}


def _groups(findings: Sequence[Finding]) -> dict[tuple[str, str], list[Finding]]:
    """Findings by the alert that they belong to, strongest first."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: (finding.severity != "critical", -finding.effect)):
        about = _GATHERED.get(finding.kind, finding.about)
        groups.setdefault((finding.kind, about), []).append(finding)
    return groups


def _opened(
    kind: str,
    about: str,
    group: Sequence[Finding],
    environment: str,
    as_of: float,
    name: str,
    channels: Sequence[str],
) -> Body:
    return {
        "alert": name,
        "environment": environment,
        "kind": kind,
        "about": about,
        **_words(kind, about, group),
        "opened": format_time(as_of),
        "last_seen": format_time(as_of),
        "count": 1,
        "state": "open",
        "acknowledged_by": None,
        "deliveries": due_everywhere(channels),
        "revision": 1,
    }


def _seen(alert: Mapping[str, Any], group: Sequence[Finding], as_of: float, channels: Sequence[str]) -> Body:
    """The alert after another window; one that got worse calls again, also if it was acknowledged."""
    words = _words(alert["kind"], alert["about"], group)
    changes = {**words, "last_seen": format_time(as_of), "count": alert["count"] + 1}
    if alert["severity"] == "critical":
        changes["severity"] = "critical"  # a calmer window does not calm the alert, or it would call at every turn
    elif words["severity"] == "critical":
        changes |= {"state": "open", "acknowledged_by": None, "deliveries": due_everywhere(channels)}
    return _next(alert, **changes)


def _closed(alert: Mapping[str, Any], as_of: float, channels: Sequence[str]) -> Body:
    """The last word goes where the first one went."""
    return _next(alert, state="closed", closed=format_time(as_of), deliveries=due_everywhere(channels))


def _next(alert: Mapping[str, Any], **changes: Any) -> Body:
    return {**alert, **changes, "revision": alert["revision"] + 1}


def _words(kind: str, about: str, group: Sequence[Finding]) -> Body:
    return {
        "severity": group[0].severity,
        "title": _title(kind, about, group),
        "cause": " ".join(dict.fromkeys(finding.cause for finding in group[:CAUSES])),
        "next": group[0].next,
    }


def _title(kind: str, about: str, group: Sequence[Finding]) -> str:
    if kind == "drift":
        return _drift_title(group)
    if kind == "data":
        return _data_title(group)
    return f"{about}: {group[0].measured}"


def _drift_title(group: Sequence[Finding]) -> str:
    names = list(dict.fromkeys(_columns(group)))
    if not names:
        return f"the answers moved: {group[0].measured}"
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    strongest = [finding for finding in group if finding.about == names[0]]
    told = next((finding for finding in strongest if finding.aspect == "values"), strongest[0])
    return f"{shown} moved: {told.measured}" if len(names) == 1 else f"{shown} moved; {told.about}: {told.measured}"


def _data_title(group: Sequence[Finding]) -> str:
    names = list(dict.fromkeys(finding.about for finding in group))
    more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
    what = group[0].measured if group[0].aspect == "schema" else f"{names[0]}, {group[0].measured}"
    return f"data: {what}{more}"


def _columns(group: Sequence[Finding]) -> Iterator[str]:
    return (finding.about for finding in group if finding.about != "score")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
