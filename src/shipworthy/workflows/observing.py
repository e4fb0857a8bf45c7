"""Observing: a batch beside the snapshots before it, before anything is trained on it; findings, changes and alerts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from shipworthy.bundle.deployment import bundle_path
from shipworthy.contract.parse import parse_contract
from shipworthy.contract.types import Contract
from shipworthy.data.health import Anomaly, Judgement, Observation, judge_batch_history
from shipworthy.data.profile import Profile, profile_frame, profile_json
from shipworthy.data.schema_change import Schema, SchemaChange, find_changes
from shipworthy.kernel.errors import ShipworthyError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.events import Entry, Event
from shipworthy.ledger.store import Ledger
from shipworthy.monitoring.findings import Finding, Severity
from shipworthy.release.publish import CONTRACT
from shipworthy.stats.history import MAX_HISTORY
from shipworthy.workflows.alerting import alert_events
from shipworthy.workflows.check import source_columns
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts
from shipworthy.workflows.tokens import tokens

BROKEN_EFFECT = 20.0  # times the least size that matters: a fifth of the rows newly lacks a value
HALVED_EFFECT = 6.0  # of the volume: little more than half as many rows, or hardly less than twice as many
NEXT = {
    "volume": "Look at what fills the source: rows that got lost, or came twice, are mended there.",
    "quarantined": "Read the reasons in the quarantine; mend the source, or the contract if the world changed.",
    "freshness": "Look at what fills the source: it has stopped, or is late.",
    "missing": "Look at what feeds the column: a value that got lost is mended there, not by training.",
    "values": "Look at what feeds the column: a wrong unit is mended there; if the change is real, train on it.",
    "schema": "Name the column in the contract as it is called now, or mend the source.",
}


@dataclass(frozen=True, slots=True)
class Past:
    """One snapshot as the ledger and its profile have it."""

    body: Mapping[str, Any]  # of its event
    seen: Observation

    @property
    def schemas(self) -> dict[str, Schema]:
        """The columns of its sources, where they were kept."""
        return kept_schemas(self.body)

    @property
    def digests(self) -> Mapping[str, str]:
        """The digest of each source."""
        return dict(_observed(self.body).get("digests", self.body.get("sources", {})))


@dataclass(frozen=True, slots=True)
class Observed:
    """A batch, held against its past."""

    profile: Profile
    observation: Observation
    judgement: Judgement

    def to_json(self) -> dict[str, Any]:
        """What the snapshot's event keeps, beside the schemas and their changes."""
        seen = self.observation
        return {
            "at": seen.at,
            "newest": seen.newest,
            "read": dict(seen.sources),
            "judgement": self.judgement.to_json(),
        }


def read_past(ledger: Ledger, artefacts: ArtefactStore, system: str) -> list[Past]:
    """The newest snapshots of a system, oldest first, with their profiles; what cannot be read is left out of them."""
    entries = [entry for entry in ledger.events(verb="snapshot.taken") if entry.body.get("system") == system]
    return [_past(artefacts, entry) for entry in entries[-MAX_HISTORY - 1 :]]


def observe(
    contract: Contract,
    past: Sequence[Past],
    accepted: pl.DataFrame,
    quarantined: int,
    rows: Mapping[str, int],
    at: float,
    profile: Profile | None = None,
) -> Observed:
    """Profile a batch and judge it.

    Args:
        contract: says what is personal, and the budget of false alarms.
        past: of `read_past`.
        accepted: the rows that may become a snapshot.
        quarantined: how many others there were.
        rows: read of each source.
        at: Unix s.
        profile: of those rows, where it is known; of `accepted` then only times are looked at.
    """
    if profile is None:
        edges = {name: tuple(found) for name, found in _edges(past).items()}
        profile = profile_frame(accepted, edges, personal_columns(contract))
    observation = Observation(at, accepted.height, quarantined, _newest(contract, accepted), rows, _columns(profile))
    judgement = judge_batch_history([each.seen for each in past], observation, contract.data.watch.false_alarms)
    return Observed(profile, observation, judgement)


def schema_changes(
    project: Project,
    contract: Contract,
    before: Mapping[str, Schema],
    now: Mapping[str, Schema | Sequence[str]],
) -> list[SchemaChange]:
    """What changed in the columns of the sources since a snapshot, the breaking changes first.

    Args:
        project: holds the code of `data.prepare`.
        contract: says what is needed.
        before: the columns then.
        now: the columns of each source now; of a source of which only their names are known, no types are compared.
    """
    code = _prepare_code(project, contract)
    changes = [
        change
        for source, columns in now.items()
        if source in before
        for change in find_changes(contract, source, before[source], columns, code)
    ]
    return sorted(changes, key=lambda change: change.impact != "breaking")


def changes_since(project: Project, ledger: Ledger, contract: Contract) -> list[SchemaChange]:
    """What became of the columns of the file sources since the newest snapshot, by their headers alone.

    Raises:
        SourceError: a file is missing or its head cannot be read.
    """
    bodies = [entry.body for entry in ledger.events(verb="snapshot.taken")]
    newest = next((body for body in reversed(bodies) if body.get("system") == contract.system), None)
    if newest is None:
        return []
    return schema_changes(project, contract, kept_schemas(newest), source_columns(project, contract))


def affected(project: Project, ledger: Ledger, changes: Sequence[SchemaChange], now: float) -> dict[str, list[str]]:
    """Which deployed releases use what breaks, and whose tokens ask them: `{"releases", "consumers"}`."""
    columns = {change.column for change in changes if change.impact == "breaking"}
    if not columns:
        return {"releases": [], "consumers": []}
    releases, consumers = [], set()
    for environment in _environments(ledger):
        used = [
            str(release["release"])
            for release in (ledger.current_deployment(environment) or {}).get("releases", ())
            if _uses(project, release, columns)
        ]
        releases += [f"{name} in {environment}" for name in used]
        if used:
            consumers |= {
                str(token["principal"] or token["name"])
                for token in tokens(ledger, now)
                if token["state"] == "valid" and token["environment"] in ("*", environment) and _may_predict(token)
            }
    return {"releases": releases, "consumers": sorted(consumers)}


def data_alerts(
    parts: Parts, contract: Contract, observed: Observed | None, changes: Iterable[SchemaChange]
) -> list[Event]:
    """The events of alerts that a batch calls for; the open one closes with the first batch that is as usual.

    Args:
        parts: of the project.
        contract: names the webhooks.
        observed: the batch; None if it was refused before it could be judged, which closes nothing.
        changes: of its sources' columns.
    """
    anomalies, rows = ((), 0) if observed is None else (observed.judgement.anomalies, observed.observation.rows)
    return alert_events(
        parts,
        parts.actor,
        "local",  # where every release goes first; data belongs to no environment
        data_findings(anomalies, changes, rows),
        parts.now(),
        judged=() if observed is None else ("data",),
        channels=contract.alerts.webhooks,
    )


def data_findings(anomalies: Iterable[Anomaly], changes: Iterable[SchemaChange], rows: int) -> list[Finding]:
    """What was seen, as monitors say it; compatible changes are none."""
    found = [_anomaly_finding(anomaly, rows) for anomaly in anomalies]
    for change in changes:
        if change.impact == "breaking":
            cause = f"{change.source}: {change.words}; it breaks {', '.join(change.breaks)}."
            found.append(
                Finding(
                    "data", change.column, "schema", None, BROKEN_EFFECT, change.words, rows, cause, NEXT["schema"],
                    "critical",
                )
            )  # fmt: skip
    return found


def personal_columns(contract: Contract) -> list[str]:
    """Columns whose values no profile may repeat."""
    return [name for name, column in (*contract.context.items(), *contract.features.items()) if column.personal]


def kept_schemas(body: Mapping[str, Any]) -> dict[str, Schema]:
    """The columns of the sources of a snapshot, by its event."""
    return {name: Schema.from_json(found) for name, found in _observed(body).get("schemas", {}).items()}


def _past(artefacts: ArtefactStore, entry: Entry) -> Past:
    body, observed = entry.body, _observed(entry.body)
    seen = Observation(
        at=float(observed.get("at", datetime.fromisoformat(entry.time).timestamp())),
        rows=int(body["rows"]),
        quarantined=int(body.get("quarantined", 0)),
        newest=observed.get("newest"),
        sources=observed.get("read", {}),
        columns=_kept_profile(artefacts, body),
    )
    return Past(body, seen)


def _observed(body: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = body.get("observed", {})
    return found


def _kept_profile(artefacts: ArtefactStore, body: Mapping[str, Any]) -> dict[str, Any]:
    digest = next((item["digest"] for item in body.get("artefacts", ()) if item["kind"] == "profile"), None)
    try:
        return {} if digest is None else dict(json.loads(artefacts.get_bytes(digest)))
    except ShipworthyError:  # lost, changed or sealed: `verify` tells of it, and the history is shorter
        return {}


def _edges(past: Sequence[Past]) -> dict[str, Sequence[float]]:
    newest = past[-1].seen.columns if past else {}
    return {name: column["edges"] for name, column in newest.items() if column.get("edges")}


def _newest(contract: Contract, accepted: pl.DataFrame) -> float | None:
    for name in contract.context_by_role("time"):
        last = accepted[name].max() if name in accepted.columns else None
        if isinstance(last, datetime):
            return last.timestamp()
    return None


def _columns(profile: Profile) -> dict[str, Mapping[str, Any]]:
    return {name: dict(column) for name, column in profile_json(profile).items() if isinstance(column, dict)}


def _prepare_code(project: Project, contract: Contract) -> str:
    """Everything that `data.prepare` says or runs, in which the names of columns may stand."""
    told = [text for step in contract.data.steps for text in step.texts]
    for file in contract.data.prepare_files:
        with suppress(OSError, UnicodeDecodeError):  # `prepare` itself says so
            told.append((project.root / file).read_text(encoding="utf-8"))
    return "\n".join(told)


def _environments(ledger: Ledger) -> list[str]:
    return sorted({str(entry.body["environment"]) for entry in ledger.events(verb="deployment.set")})


def _uses(project: Project, release: Mapping[str, Any], columns: set[str]) -> bool:
    """Whether a deployed release's own contract has one of the columns."""
    file = bundle_path(project.releases, str(release["digest"])) / CONTRACT
    try:
        contract = parse_contract(file.read_text(encoding="utf-8-sig"), CONTRACT)
    except (OSError, ShipworthyError):
        return False
    return not columns.isdisjoint({*contract.features, *contract.context, contract.target.column})


def _may_predict(token: Mapping[str, Any]) -> bool:
    return any(scope.partition(":")[0] in ("*", "predict") for scope in token["scopes"] or ())


def _anomaly_finding(anomaly: Anomaly, rows: int) -> Finding:
    severity: Severity = "critical" if anomaly.effect >= BROKEN_EFFECT else "warning"
    if anomaly.aspect == "volume" and anomaly.effect >= HALVED_EFFECT:
        severity = "critical"
    return Finding(
        "data", anomaly.about, anomaly.aspect, anomaly.p_value, anomaly.effect, anomaly.measured, rows, anomaly.cause,
        NEXT[anomaly.aspect], severity,
    )  # fmt: skip
