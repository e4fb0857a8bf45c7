"""Watching: a window of records to findings, to the event that says so and the alerts that follow."""

from collections.abc import Sequence
from typing import Any, Literal

import polars as pl

from shipworthy.bundle.deployment import bundle_path
from shipworthy.bundle.format import Baselines
from shipworthy.bundle.verify import verify_bundle
from shipworthy.contract.types import Contract, Monitor
from shipworthy.ledger.events import Event, format_time
from shipworthy.monitoring.alerts import QUIET_WINDOWS
from shipworthy.monitoring.drift import find_drift, window_alpha
from shipworthy.monitoring.findings import Finding
from shipworthy.monitoring.quality import Promises, judge_quality, measure_quality
from shipworthy.monitoring.windows import summarise
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.alerting import alert_events
from shipworthy.workflows.attest import Bound
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts

RULE = "control: monitor"

WindowKind = Literal["inputs", "quality"]


def judge_window(
    parts: Parts,
    actor: str,
    environment: str,
    bound: Bound,
    baselines: Baselines,
    promises: Promises,
    window: WindowKind,
    frame: pl.DataFrame,
    start: float,
    end: float,
) -> list[str]:
    """Judge one window; the titles of the alerts that it opened.

    Args:
        parts: of the project.
        actor: on whose behalf.
        environment: whose records.
        bound: the release with the most traffic; its contract says what was promised.
        baselines: of its payload.
        promises: the verdicts by which each release that answered was let through.
        window: what is judged: the inputs and answers, or what came true of them.
        frame: the window's rows, as `monitoring.windows` cuts them.
        start: Unix seconds, event time.
        end: Unix seconds, event time.

    Raises:
        ConflictError: somebody else has judged it; nothing was changed.
    """
    findings, found = _look(window, bound, baselines, promises, frame)
    first, last = format_time(start), format_time(end)
    body = {
        "environment": environment,
        "window": window,
        "start": first,
        "end": last,
        "as_of": last,
        "rows": frame.height,
        "findings": [finding.to_json() for finding in findings],
        "revision": 1,
        **found,
    }
    judged = Event("window.judged", f"window:{environment}:{window}:{first}", actor, body, RULE)
    alerts = alert_events(
        parts,
        actor,
        environment,
        findings,
        end,
        judged=("drift",) if window == "inputs" else ("quality",),
        quiet_s=QUIET_WINDOWS * (end - start),
        channels=bound.contract.alerts.webhooks,
    )
    parts.ledger.append_all([judged, *alerts])
    return [f"{event.body['title']}: {event.body['cause']}" for event in alerts if event.verb == "alert.opened"]


def read_baselines(project: Project, bound: Bound) -> Baselines:
    """What the release's payload was trained on, as its signed bundle has it."""
    digest = str(bound.release["digest"])
    keys, place = load_public_keys(project.public_keys), bundle_path(project.releases, digest)
    bundle = verify_bundle(place, keys, digest, project.vault)
    return bundle.payload.baselines


def _look(
    window: WindowKind, bound: Bound, baselines: Baselines, promises: Promises, frame: pl.DataFrame
) -> tuple[Sequence[Finding], dict[str, Any]]:
    contract, monitor = bound.contract, bound.contract.monitor
    if window == "inputs":
        enough = monitor is not None and frame.height >= monitor.rows.at_least
        findings = _drift(contract, monitor, baselines, frame, bound.name) if enough and monitor is not None else ()
        return findings, summarise(frame)
    measured = measure_quality(contract, frame)
    found: dict[str, Any] = {
        "known": sum(quality.known for quality in measured),
        "quality": [quality.to_json() for quality in measured],
    }
    if monitor is None or found["known"] < monitor.rows.at_least:
        return (), found
    return judge_quality(contract, frame, promises, window_alpha(monitor)), found


def _drift(
    contract: Contract, monitor: Monitor, baselines: Baselines, frame: pl.DataFrame, release: str
) -> Sequence[Finding]:
    return find_drift(baselines, contract, frame, window_alpha(monitor), release=release)
