"""Judging a canary: the rows of its step to judgements, to the next move of traffic, all in one transaction."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl

from shipworthy.bundle.format import DeployedRelease
from shipworthy.contract.types import Rollout
from shipworthy.kernel.errors import IntegrityError
from shipworthy.ledger.events import Event
from shipworthy.monitoring.findings import Finding
from shipworthy.rollout.judge import Judgement, Samples, judge, limits_of
from shipworthy.rollout.plan import Move, next_move, plan_of
from shipworthy.workflows.alerting import alert_events
from shipworthy.workflows.deploy import end_rollout
from shipworthy.workflows.project import Parts
from shipworthy.workflows.traffic import set_traffic

RULE = "control: rollout"


def judge_canary(
    parts: Parts,
    actor: str,
    declared: Rollout | None,
    rollout: Mapping[str, Any],
    frame: pl.DataFrame,
    at: float,
    look_s: float,
    *,
    channels: Sequence[str] = (),
) -> str:
    """Judge the step under way and move the traffic accordingly; what happened, in words.

    Args:
        parts: of the project.
        actor: on whose behalf.
        declared: the rollout as the release's own contract declares it.
        rollout: body of its latest event.
        frame: rows answered since the step began, as `monitoring.windows` cuts them.
        at: as of when, Unix seconds.
        look_s: length of a look in s.
        channels: the webhooks that are told of a rollback.

    Raises:
        ConflictError: somebody else moved the traffic meanwhile; nothing was changed.
    """
    if declared is None:
        raise IntegrityError(f"{rollout['release']} is being rolled out, but its contract declares no rollout")
    since = float(rollout["step_started"])
    judgements = judge(_samples(frame, rollout, since, look_s), limits_of(declared))
    move = next_move(plan_of(declared), int(rollout["step"]), at - since, judgements)
    judged = {**rollout, "judged": at, "judgements": [judgement.to_json() for judgement in judgements]}
    words = f"{rollout['release']} at {rollout['share']:.0%}: {move.reason}"
    match move.kind:
        case "roll back":
            finding = _worse(rollout, judgements)
            also = alert_events(parts, actor, str(rollout["environment"]), [finding], at, channels=channels)
            end_rollout(parts, actor, RULE, judged, "rolled back", move.reason, also=also)
        case "promote":
            end_rollout(parts, actor, RULE, judged, "promoted", move.reason)
        case "advance":
            _advance(parts, actor, judged, move, at)
        case "wait for a person":
            findings = [] if rollout["state"] == "held" else [_undecided(rollout, move)]
            _record(parts, actor, judged | {"state": "held", "reason": move.reason}, findings, at, channels)
        case _:
            _record(parts, actor, judged | {"reason": move.reason}, [], at, ())
    return words


def _samples(frame: pl.DataFrame, rollout: Mapping[str, Any], since: float, look_s: float) -> Samples:
    rows = frame.filter(pl.col("release").is_in([rollout["release"], rollout["champion"]]))
    return Samples(
        look=((rows["time"] - since) / look_s).floor().cast(pl.Int64).to_numpy(),
        is_canary=(rows["release"] == rollout["release"]).to_numpy(),
        unit=rows["unit"].rank("dense").cast(pl.Int64).to_numpy(),
        is_error=(rows["source"] == "fallback").to_numpy(),
        latency_ms=rows["latency_ms"].to_numpy(),
        worth=rows["worth"].cast(pl.Float64).fill_null(np.nan).to_numpy(),
    )


def _advance(parts: Parts, actor: str, judged: Mapping[str, Any], move: Move, at: float) -> None:
    environment = str(judged["environment"])
    current = parts.ledger.current_deployment(environment) or {"releases": []}
    shares = {judged["release"]: move.share, judged["champion"]: 1 - move.share}
    entries = [msgspec.convert(item, DeployedRelease) for item in current["releases"]]
    body = {
        **judged,
        "step": move.step,
        "share": move.share,
        "step_started": at,
        "reason": move.reason,
        "revision": int(judged["revision"]) + 1,
    }
    moved = Event("rollout.judged", f"rollout:{environment}:{judged['number']}", actor, body, RULE)
    releases = [msgspec.structs.replace(entry, share=shares[entry.release]) for entry in entries]
    set_traffic(parts, actor, RULE, environment, releases, also=(moved,), reason=move.reason)


def _record(
    parts: Parts, actor: str, judged: Mapping[str, Any], findings: Sequence[Finding], at: float, channels: Sequence[str]
) -> None:
    environment = str(judged["environment"])
    body = {**judged, "revision": int(judged["revision"]) + 1}
    event = Event("rollout.judged", f"rollout:{environment}:{judged['number']}", actor, body, RULE)
    parts.ledger.append_all([event, *alert_events(parts, actor, environment, findings, at, channels=channels)])


def _worse(rollout: Mapping[str, Any], judgements: Sequence[Judgement]) -> Finding:
    worst = next(judgement for judgement in judgements if judgement.outcome == "worse")
    return Finding(
        kind="rollout",
        about=str(rollout["release"]),
        aspect=worst.metric,
        p_value=None,
        effect=0.0 if worst.measured is None else abs(worst.measured),
        measured=f"rolled back, {_loss(worst)}",
        rows=sum(worst.rows),
        cause=f"{rollout['release']} was worse than {rollout['champion']} and was rolled back: {worst.reason}",
        next="Look at what the release was trained and tested on; its gates had passed.",
        severity="critical",
    )


def _loss(worst: Judgement) -> str:
    """By how much the canary was worse, in a few words."""
    measured = worst.measured or 0.0
    if worst.metric == "value":
        return f"{measured:+.2f} {worst.unit} a decision"
    return f"{measured:+.2%} {'errors' if worst.metric == 'errors' else 'on the slowest 1 % of answers'}"


def _undecided(rollout: Mapping[str, Any], move: Move) -> Finding:
    return Finding(
        kind="rollout",
        about=str(rollout["release"]),
        aspect="undecided",
        p_value=None,
        effect=0.0,
        measured=move.reason,
        rows=0,
        cause=f"The canary of {rollout['release']} is undecided at the end of its step: {move.reason}",
        next=f"Decide: shipworthy rollback --env {rollout['environment']}, or let it run longer.",
    )
