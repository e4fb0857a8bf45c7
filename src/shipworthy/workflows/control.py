"""Control: what is due by now, and doing it once.

`due` is a pure function from what the ledger says to acts. Each act is a compare-and-swap in the ledger, so it may
be tried again by anybody: kill control anywhere and the next start carries on.

Two clocks: `now` is the wall's, which deliveries wait by; `as_of` is the time of the events that are judged. In
production they are the same; a replay of last year sets `as_of` itself.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shipworthy.bundle.format import Baselines
from shipworthy.kernel.errors import ConflictError, UsageError
from shipworthy.ledger.events import Event, format_time
from shipworthy.monitoring.deliver import due_channels
from shipworthy.monitoring.windows import Journal
from shipworthy.workflows.alerting import deliver_due
from shipworthy.workflows.attest import Bound, open_release
from shipworthy.workflows.deploy import champion_entry, running_rollout
from shipworthy.workflows.judging import judge_canary
from shipworthy.workflows.project import Parts
from shipworthy.workflows.segments import record_closed_segments
from shipworthy.workflows.tokens import is_access_behind, refresh_access
from shipworthy.workflows.traffic import live_generation, repair
from shipworthy.workflows.watching import WindowKind, judge_window, read_baselines

ACTOR = "service:control"
LOOKS_PER_STEP = 12  # how often a canary is looked at before its step may end at the earliest
SHORTEST_LOOK_S = 1.0
MOST_ROUNDS = 10_000  # of one step: far more than a year of hourly windows


@dataclass(frozen=True, slots=True)
class Repair:
    """Write the deployment file that the ledger knows."""


@dataclass(frozen=True, slots=True)
class JudgeRollout:
    """Judge the canary on what was answered and came true by `at`."""

    number: int
    at: float  # Unix seconds


@dataclass(frozen=True, slots=True)
class JudgeWindow:
    """Judge what was answered in [start, end)."""

    window: WindowKind
    start: float  # Unix seconds
    end: float


@dataclass(frozen=True, slots=True)
class Deliver:
    """Tell a channel of an alert."""

    alert: str
    channel: str


@dataclass(frozen=True, slots=True)
class Admit:
    """Write the access file that the ledger and the table of permissions say, where the server's is another."""


Action = Repair | Admit | JudgeRollout | JudgeWindow | Deliver


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What `due` decides on: one environment, as the ledger and the record log have it."""

    is_live_behind: bool  # the server's file is not the ledger's deployment
    is_access_behind: bool = False  # nor is its access file what the ledger's tokens say
    rollout: Mapping[str, Any] | None
    look_s: float  # between two looks at a canary
    every_s: float | None  # of the monitor; None: nothing is watched
    known_after_s: float
    starts: Sequence[float] = ()  # of the windows that hold a record, ascending, Unix seconds
    judged_until: Mapping[str, float] = field(default_factory=dict)  # kind of window -> end of the last one
    alerts: Sequence[Mapping[str, Any]] = ()
    channels: Sequence[str] = ()


def due(state: State, now: float, as_of: float) -> tuple[Action, ...]:
    """What is to be done, in order: the traffic first, then what is watched, then who is told.

    Args:
        state: of one environment.
        now: wall clock, Unix seconds.
        as_of: the time of the events that may be judged, Unix seconds.

    >>> due(State(is_live_behind=True, rollout=None, look_s=1, every_s=None, known_after_s=0), 0, 0)
    (Repair(),)
    """
    actions: list[Action] = [Repair()] if state.is_live_behind else []
    actions += [Admit()] if state.is_access_behind else []
    if state.rollout is not None and as_of - float(state.rollout["judged"]) >= state.look_s:
        actions.append(JudgeRollout(int(state.rollout["number"]), as_of))
    actions += _windows_due(state, "inputs", as_of)
    actions += _windows_due(state, "quality", as_of - state.known_after_s)
    actions += [
        Deliver(str(alert["alert"]), channel)
        for alert in state.alerts
        for channel in due_channels(alert, now, state.channels)
    ]
    return tuple(actions)


def _windows_due(state: State, window: WindowKind, until: float) -> Iterator[Action]:
    if state.every_s is None:
        return
    judged = state.judged_until.get(window, -math.inf)
    for start in state.starts:
        if judged <= start and start + state.every_s <= until:
            yield JudgeWindow(window, start, start + state.every_s)


@dataclass(frozen=True, slots=True)
class Done:
    """One act as it went."""

    environment: str
    act: str
    words: str


class Control:
    """The control loop's memory: the record log as far as it was read. All else is in the ledger.

    Args:
        parts: of the project.
        secrets: where `${NAME}` in a webhook's address is looked up.
        is_manual: whether time goes on only as it is told, as in a replay, instead of with the wall's clock.
    """

    def __init__(self, parts: Parts, secrets: Mapping[str, str], *, is_manual: bool = False) -> None:
        self._parts = parts
        self._secrets = secrets
        self._is_manual = is_manual
        self._journals: dict[tuple[str, str], Journal] = {}
        self._bounds: dict[str, Bound] = {}
        self._baselines: dict[str, Baselines] = {}

    def step(self, environment: str, as_of: float | None = None) -> list[Done]:
        """Do what is due in an environment; with `as_of`, Unix seconds, that is its clock from now on.

        Raises:
            UsageError: `as_of` lies before what was judged already.
            StorageError, IntegrityError: ledger or records cannot be read.
        """
        now = self._parts.now()
        self._set_clock(environment, as_of)
        at = as_of if as_of is not None else self._clock(environment, now)
        done: list[Done] = []
        for _ in range(MOST_ROUNDS):
            state = self._look(environment)
            actions = due(state, now, at) if state is not None else ()
            if not actions:
                break
            for action in actions:
                done += self._do(environment, action, now)
        record_closed_segments(self._parts, environment)
        return done

    def _clock(self, environment: str, now: float) -> float:
        if not self._is_manual:
            return now
        known = self._parts.ledger.find_latest("clock", environment)
        return 0.0 if known is None or known["as_of"] is None else float(known["as_of"])

    def environments(self) -> list[str]:
        """Where something is deployed, by the newest deployments."""
        names = {str(entry.body["environment"]) for entry in self._parts.ledger.events(verb="deployment.set")}
        return sorted(names)

    # --- looking

    def _look(self, environment: str) -> State | None:
        parts, champion = self._parts, champion_entry(self._parts.ledger, environment)
        if champion is None:
            return None
        current = parts.ledger.current_deployment(environment) or {}
        contract = self._bound(champion.release).contract
        journal = self._journal(environment, champion.release)
        rollout = running_rollout(parts.ledger, environment)
        return State(
            is_live_behind=live_generation(parts.project, environment) != current["generation"],
            is_access_behind=is_access_behind(parts, environment),
            rollout=rollout,
            look_s=self._look_s(rollout),
            every_s=None if contract.monitor is None else contract.monitor.every,
            known_after_s=contract.target.known_after or 0.0,
            starts=() if contract.monitor is None else journal.starts(contract.monitor.every),
            judged_until=self._judged_until(environment),
            alerts=[alert for alert in parts.ledger.latest("alert") if alert["environment"] == environment],
            channels=contract.alerts.webhooks,
        )

    def _look_s(self, rollout: Mapping[str, Any] | None) -> float:
        if rollout is None:
            return SHORTEST_LOOK_S
        declared = self._bound(str(rollout["release"])).environment(str(rollout["environment"])).rollout
        return SHORTEST_LOOK_S if declared is None else max(declared.hold.at_least / LOOKS_PER_STEP, SHORTEST_LOOK_S)

    def _judged_until(self, environment: str) -> dict[str, float]:
        until: dict[str, float] = {}
        for body in self._parts.ledger.latest("window"):
            if body["environment"] == environment:
                end = datetime.fromisoformat(body["end"]).timestamp()
                until[body["window"]] = max(until.get(body["window"], end), end)
        return until

    def _bound(self, release: str) -> Bound:
        if release not in self._bounds:
            self._bounds[release] = open_release(self._parts.project, self._parts.ledger, release)
        return self._bounds[release]

    def _journal(self, environment: str, release: str) -> Journal:
        contract = self._bound(release).contract
        declared = contract.environments[environment].rollout if environment in contract.environments else None
        key = (environment, contract.model_dump_json(include={"context", "features", "target", "value"}))
        if key not in self._journals:
            project = self._parts.project
            self._journals[key] = Journal(
                contract,
                project.records(environment),
                project.outcomes(environment),
                unit="subject" if declared is None else declared.unit,
                vault=project.vault,
            )
        self._journals[key].refresh()
        return self._journals[key]

    # --- doing

    def _set_clock(self, environment: str, as_of: float | None) -> None:
        """Keep the time that was told; that it is the wall's again, once nobody tells one."""
        known = self._parts.ledger.find_latest("clock", environment)
        before = None if known is None else known["as_of"]
        if as_of == before or (as_of is None and self._is_manual):
            return
        if as_of is not None and before is not None and as_of < before:
            raise UsageError(
                f"{environment} was judged as of {format_time(before)} already; {format_time(as_of)} is before"
            )
        body = {
            "environment": environment,
            "as_of": as_of,
            "revision": 1 if known is None else int(known["revision"]) + 1,
        }
        self._parts.ledger.append(Event("clock.set", f"clock:{environment}", ACTOR, body, "control: as of"))

    def _do(self, environment: str, action: Action, now: float) -> list[Done]:
        try:
            match action:
                case Repair():
                    repair(self._parts, environment)
                    return [Done(environment, "repair", "wrote the deployment file that the ledger knows")]
                case Admit():
                    refresh_access(self._parts, environment)
                    return [Done(environment, "admit", "wrote the access file that the ledger knows")]
                case JudgeRollout(at=at):
                    return self._judge_rollout(environment, at)
                case JudgeWindow():
                    return self._judge_window(environment, action)
                case Deliver(alert=alert, channel=channel):
                    return [Done(environment, "deliver", self._deliver(environment, alert, channel, now))]
        except ConflictError:  # somebody was faster: it is done, look again
            return []

    def _deliver(self, environment: str, alert: str, channel: str, now: float) -> str:
        champion = champion_entry(self._parts.ledger, environment)
        system = "" if champion is None else champion.release.rpartition(":")[0]
        return deliver_due(self._parts, ACTOR, alert, channel, self._secrets, now, system)

    def _judge_rollout(self, environment: str, at: float) -> list[Done]:
        rollout = running_rollout(self._parts.ledger, environment)
        if rollout is None:
            return []
        bound = self._bound(str(rollout["release"]))
        journal = self._journal(environment, bound.name)
        frame = journal.frame(float(rollout["step_started"]), at, as_of=at)
        declared, look_s = bound.environment(environment).rollout, self._look_s(rollout)
        words = judge_canary(
            self._parts, ACTOR, declared, rollout, frame, at, look_s, channels=bound.contract.alerts.webhooks
        )
        return [Done(environment, "rollout", words)]

    def _judge_window(self, environment: str, action: JudgeWindow) -> list[Done]:
        champion = champion_entry(self._parts.ledger, environment)
        if champion is None:
            return []
        bound = self._bound(champion.release)
        known_by = action.end + (bound.contract.target.known_after or 0.0)
        frame = self._journal(environment, bound.name).frame(action.start, action.end, as_of=known_by)
        opened = judge_window(
            self._parts,
            ACTOR,
            environment,
            bound,
            self._baselines_of(bound),
            {name: self._bound(name).verdicts for name in frame["release"].unique().to_list()},
            action.window,
            frame,
            action.start,
            action.end,
        )
        days = f"{format_time(action.start)[:10]} to {format_time(action.end)[:10]}"
        words = f"{action.window} {days}: {frame.height:,} predictions"
        return [Done(environment, "window", words), *(Done(environment, "alert", title) for title in opened)]

    def _baselines_of(self, bound: Bound) -> Baselines:
        if bound.name not in self._baselines:
            self._baselines[bound.name] = read_baselines(self._parts.project, bound)
        return self._baselines[bound.name]
