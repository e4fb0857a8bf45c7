"""A project whose ledger tells of half a year: three releases, a promotion, a rollback, late truths, alerts."""

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shipworthy.kernel.digest import digest_bytes
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.events import Event, format_time
from shipworthy.ledger.store import open_ledger
from shipworthy.security.keys import SigningKey
from shipworthy.workflows.layout import CONTRACT_FILE, Project
from shipworthy.workflows.project import Parts

CONTRACT = """\
shipworthy: 1
system: flights
purpose: Warn passengers two hours ahead that their flight will arrive late.
owner: operations
risk: limited
data:
  sources: {flights: {path: flights.csv}}
context:
  scheduled: {role: time, type: datetime, zone: America/New_York}
features:
  distance: {type: float, unit: miles, range: [0, 5000]}
target: {column: late, type: binary, values: ["0", "1"], positive: "1", known_after: 7d}
training:
  entry: train.py:train
  split: {by: time, calibrate: 10%, test: 20%}
  seed: 7
decision:
  actions: {"1": warn, "0": calm}
  threshold: {maximise: value}
  fallback: {otherwise: calm}
value: {unit: USD, warn: {"1": 40, "0": -8}, calm: {"1": -15, "0": 0}}
gates:
  performance: {log_loss: {better_than: baseline}}
environments:
  local: {}
  production:
    approvals: {ml-engineer: 1, risk: 1}
    rollout:
      steps: [10%, 50%, 100%]
      unit: request
      hold: {at_least: 1d, at_most: 14d}
      false_rollback: {at_most: 1%}
      no_worse: {errors: {by: 0.5%}, value: {by: 1 USD}}
monitor: {every: 7d, rows: {at_least: 1000}, false_alarms: {at_most: 1, per: 90d}}
"""
SIGNER = SigningKey.from_seed("signer", bytes(range(32)))
WEEK_S = 7 * 86400.0
FIRST = datetime(2013, 4, 1, tzinfo=UTC).timestamp()  # start of the first window
WEEKS = 18
SIGNED = datetime(2026, 3, 2, 9, 30, tzinfo=UTC).timestamp()  # wall time
CHANGES = {6: 2, 12: 3}  # week -> the release whose canary begins
OPEN_ALERT, CRITICAL_ALERT = "a_000000000000000000000drift", "a_00000000000000000000value"

Opener = Callable[[], AbstractContextManager[Parts]]


def make_project(root: Path, now: Callable[[], float]) -> Opener:
    """A project with a contract and an empty ledger; opens its parts."""
    project = Project(root)
    root.mkdir(parents=True, exist_ok=True)
    (root / CONTRACT_FILE).write_text(CONTRACT)
    counter = iter(range(1 << 20))

    @contextmanager
    def open_parts():
        with open_ledger(project.ledger_url({}), project.log, SIGNER, now) as ledger:
            yield Parts(
                project=project,
                ledger=ledger,
                artefacts=ArtefactStore(project.blobs),
                key=SIGNER,
                actor="user:olga",
                now=now,
                entropy=lambda size: digest_bytes(str(next(counter)).encode())[7:].encode()[:size],
            )

    return open_parts


def live(parts: Parts) -> None:
    """Write half a year into the ledger."""
    for version in (1, 2, 3):
        _release(parts, version)
    _deploy(parts, "local", 1, {3: 1.0})
    for generation, shares in enumerate(({1: 1.0}, {1: 0.9, 2: 0.1}, {2: 1.0}, {2: 0.9, 3: 0.1}), start=1):
        _deploy(parts, "production", generation, shares)
    _rollout(parts, 1, 2, "promoted", 6, "no worse on errors and value at every step")
    _rollout(parts, 2, 3, "running", 16, "10% of traffic, sticky by request")
    for role, who in (("ml-engineer", "mia"), ("risk", "ruth")):
        _attest(parts, 2, role, who)
    _attest(parts, 3, "risk", "ruth")
    for week in range(WEEKS):
        _window(parts, week)
    for alert in _alerts():
        parts.ledger.append(Event("alert.opened", f"alert:{alert['alert']}", "service:control", alert))
    as_of = FIRST + WEEKS * WEEK_S
    clock = {"environment": "production", "as_of": as_of, "revision": 1}
    parts.ledger.append(Event("clock.set", "clock:production", "service:control", clock))


def digest(name: str) -> str:
    return digest_bytes(name.encode())


def _release(parts: Parts, version: int) -> None:
    outcomes = ["pass", "pass", "insufficient" if version == 3 else "pass"]
    gates = ["performance.log_loss", "budget.p99", "slices.log_loss"]
    verdicts = [
        {"gate": gate, "outcome": outcome, "measured": 0.4, "interval": [0.3, 0.5], "limit": 0.6, "unit": None,
         "rows": 900, "reason": "as asked"}
        for gate, outcome in zip(gates, outcomes, strict=True)
    ]  # fmt: skip
    kept = parts.artefacts.put_bytes(json.dumps(verdicts).encode(), "verdicts")
    body = {
        "system": "flights",
        "version": version,
        "digest": digest(f"release{version}"),
        "payload": digest(f"payload{version}"),
        "created": format_time(SIGNED + version * 86400),
        "author": "user:dan",
        "verdicts": kept.digest,
    }
    parts.ledger.append(Event("release.published", f"release:flights:{version}", "user:dan", body))


def _deploy(parts: Parts, environment: str, generation: int, shares: dict[int, float]) -> None:
    releases = [
        {"release": f"flights:{version}", "digest": digest(f"release{version}"), "payload": "", "share": share}
        for version, share in shares.items()
    ]
    body = {"system": "flights", "environment": environment, "generation": generation, "releases": releases}
    parts.ledger.append(Event("deployment.set", f"deployment:{environment}:{generation}", "user:mia", body))


def _rollout(parts: Parts, number: int, version: int, state: str, week: int, reason: str) -> None:
    judged = FIRST + (week + 2) * WEEK_S
    judgements = [
        {"metric": "errors", "outcome": "no worse", "measured": 0.0002, "interval": [-0.001, 0.0014], "limit": 0.005,
         "unit": None, "rows": {"canary": 1204, "champion": 10733}, "reason": "0.02 points more errors"},
        {"metric": "value", "outcome": "undecided", "measured": -0.4, "interval": [-1.9, 1.1], "limit": -1.0,
         "unit": "USD", "rows": {"canary": 840, "champion": 7544}, "reason": "0.40 USD less, between -1.90 and 1.10"},
    ]  # fmt: skip
    body = {
        "environment": "production",
        "number": number,
        "system": "flights",
        "release": f"flights:{version}",
        "champion": f"flights:{version - 1}",
        "step": 0,
        "share": 0.1,
        "state": state,
        "started": FIRST + week * WEEK_S,
        "step_started": FIRST + week * WEEK_S,
        "judged": judged,
        "judgements": judgements,
        "reason": reason,
        "revision": 1,
    }
    parts.ledger.append(Event("rollout.started", f"rollout:production:{number}", "user:mia", body))


def _attest(parts: Parts, version: int, role: str, who: str) -> None:
    name = digest(f"attestation{version}{role}")
    body = {
        "digest": name,
        "attests": "approval",
        "release": f"flights:{version}",
        "release_digest": digest(f"release{version}"),
        "environment": "production",
        "role": role,
        "principal": who,
        "reason": "looked at the card",
        "revision": 1,
    }
    parts.ledger.append(Event("release.attested", f"attestation:{name}", f"user:{who}", body))


def _window(parts: Parts, week: int) -> None:
    """A week's inputs, and its quality as far as the truth came: late for the last two weeks."""
    start = FIRST + week * WEEK_S
    rows = 6100 + int(700 * math.sin(week * 1.7)) + week * 60
    shares = {1: 1.0} if week < 6 else {1: 0.9, 2: 0.1} if week < 8 else {2: 1.0} if week < 16 else {2: 0.9, 3: 0.1}
    answered = {f"flights:{version}": round(rows * share) for version, share in shares.items()}
    head = {
        "environment": "production",
        "start": format_time(start),
        "end": format_time(start + WEEK_S),
        "as_of": format_time(start + 2 * WEEK_S),
        "rows": rows,
        "revision": 1,
    }
    body: dict[str, Any] = {
        **head,
        "window": "inputs",
        "releases": answered,
        "source": {"model": rows - 9, "fallback": 9},
        "handling": {"automatic": rows - 240, "review": 240},
        "errors": 9 / rows,
        "p99_ms": 2.1 + 0.5 * math.sin(week * 2.3),
        "findings": [],
    }
    name = f"production:inputs:{head['start']}"
    parts.ledger.append(Event("window.judged", f"window:{name}", "service:control", body))
    if week >= WEEKS - 2:
        return
    quality = [_quality(release, count, week) for release, count in answered.items()]
    body = {**head, "window": "quality", "known": sum(row["known"] for row in quality), "quality": quality}
    name = f"production:quality:{head['start']}"
    parts.ledger.append(Event("window.judged", f"window:{name}", "service:control", body))


def _quality(release: str, rows: int, week: int) -> dict[str, Any]:
    better = 0.012 if release == "flights:2" else 0.0
    value = 3.1 + 60 * better + 0.5 * math.sin(week * 1.1)
    half = 60 / math.sqrt(rows)
    return {
        "release": release,
        "rows": rows,
        "known": int(rows * 0.97),
        "accuracy": 0.748 + better + 0.012 * math.sin(week * 0.9),
        "accuracy_interval": [
            0.738 + better + 0.012 * math.sin(week * 0.9),
            0.758 + better + 0.012 * math.sin(week * 0.9),
        ],
        "log_loss": 0.53,
        "value_per_decision": value,
        "value_interval": [value - half, value + half],
        "value_total": value * rows,
        "unit": "USD",
    }


def _alerts() -> list[dict[str, Any]]:
    def alert(name: str, **facts: Any) -> dict[str, Any]:
        return {
            "alert": name,
            "environment": "production",
            "opened": format_time(FIRST + 15 * WEEK_S),
            "last_seen": format_time(FIRST + 17 * WEEK_S),
            "count": 2,
            "state": "open",
            "acknowledged_by": None,
            "deliveries": {},
            "revision": 1,
            **facts,
        }

    return [
        alert(
            OPEN_ALERT,
            kind="drift",
            about={"column": "distance"},
            severity="warning",
            title="distance has moved",
            cause="Flights over 2,000 miles were 4 % of the reference and are 11 % of the week from 15 July.",
            next="Look at the sources of flights.csv; if the routes did change, ship with newer data.",
        ),
        alert(
            CRITICAL_ALERT,
            kind="quality",
            about={"release": "flights:2"},
            severity="critical",
            title="flights:2 earns less than its gate promised",
            cause="A decision was worth 1.90 USD (1.2 to 2.6) in the last week; the gate asked for 2.50 USD.",
            next="Run: shipworthy quality --env production; roll back if the release before still earns more.",
            count=1,
        ),
        alert(
            "a_0000000000000000000closed",
            kind="records",
            about={},
            severity="warning",
            title="A record segment was torn",
            cause="The machine stopped while it wrote.",
            next="Nothing: the tail was cut.",
            state="closed",
        ),
    ]
