"""Alerts of a project: opened by findings, delivered to webhooks, taken on by people."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from shipworthy.kernel.errors import NotFoundError
from shipworthy.kernel.ids import make_id
from shipworthy.ledger.events import Event
from shipworthy.monitoring.alerts import acknowledge as take_on
from shipworthy.monitoring.alerts import plan_alerts
from shipworthy.monitoring.deliver import alert_document, deliver, record_attempt
from shipworthy.monitoring.findings import Finding
from shipworthy.security.access import Principal
from shipworthy.workflows.gate import permit
from shipworthy.workflows.project import Parts


def alert_events(
    parts: Parts,
    actor: str,
    environment: str,
    findings: Sequence[Finding],
    as_of: float,
    *,
    judged: Collection[str] = (),
    quiet_s: float = 0.0,
    channels: Sequence[str] = (),
) -> list[Event]:
    """The events that findings call for; to be appended together with the event of what was judged.

    Args:
        parts: of the project.
        actor: on whose behalf.
        environment: where they were seen.
        findings: of one window or one canary.
        as_of: event time, Unix seconds.
        judged: kinds of findings that could have been made; open alerts of those may close.
        quiet_s: an alert that has not been seen for so long closes.
        channels: the webhooks that the contract names.
    """
    steps = plan_alerts(
        findings,
        parts.ledger.latest("alert"),
        environment,
        as_of,
        lambda: make_id("a", int(parts.now() * 1000), parts.entropy(10)),
        judged=judged,
        quiet_s=quiet_s,
        channels=channels,
    )
    return [Event(verb, f"alert:{alert['alert']}", actor, alert, "control: monitor") for verb, alert in steps]


def deliver_due(
    parts: Parts, actor: str, alert_id: str, channel: str, secrets: Mapping[str, str], now: float, system: str
) -> str:
    """Tell one webhook of one alert, and record how that ended, in words.

    Raises:
        ConflictError: the alert changed meanwhile; it is looked at again.
    """
    alert = parts.ledger.find_latest("alert", alert_id)
    if alert is None:
        raise NotFoundError(f"there is no alert {alert_id!r}")
    attempt = deliver(alert_document(alert, system), channel, secrets)
    verb, body = record_attempt(alert, channel, attempt, now)
    parts.ledger.append(Event(verb, f"alert:{alert_id}", actor, body, "control: deliver"))
    told = body["deliveries"][channel]
    if attempt.error is None:
        return f"{alert['title']}: told {channel}"
    return f"{alert['title']}: {channel} not told ({attempt.error}); {told['state']} after {told['attempts']} attempts"


def acknowledge(parts: Parts, principal: Principal, alert_id: str) -> dict[str, Any]:
    """Say that `principal` has seen the alert and looks after it; the alert as it now is.

    Raises:
        AccessError: no role of the principal may.
        NotFoundError: there is no such alert.
        ConflictError: it is closed or acknowledged already, or somebody was faster.
    """
    rule = permit(parts, principal, "alerts acknowledge", name=f"alert:{alert_id}")
    alert = parts.ledger.find_latest("alert", alert_id)
    if alert is None:
        raise NotFoundError(f"there is no alert {alert_id!r}; `shipworthy alerts` lists those that there are")
    verb, body = take_on(alert, principal.name)
    parts.ledger.append(Event(verb, f"alert:{alert_id}", principal.actor, body, rule))
    return body
