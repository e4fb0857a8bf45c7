"""`data health`: each source and the table beside their past, as the ledger has it; only headers are read anew."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shipworthy.contract.types import Contract
from shipworthy.data.health import Anomaly, Observation, judge_silence
from shipworthy.data.schema_change import SchemaChange
from shipworthy.kernel.errors import NotFoundError, SourceError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.ledger.events import Entry, format_time
from shipworthy.ledger.store import Ledger
from shipworthy.workflows.check import source_columns
from shipworthy.workflows.layout import Project
from shipworthy.workflows.observing import Past, affected, read_past, schema_changes


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """One source: how much it gave, and since when nothing new."""

    name: str
    rows: tuple[int | None, ...]  # at each snapshot, oldest first; None where it was not kept
    changed: float | None  # Unix s of the newest snapshot to which it had something new
    silence: Anomaly | None
    problem: str  # why it cannot be read now; empty where it can, or was not asked


@dataclass(frozen=True, slots=True)
class ColumnHealth:
    """One column of the table: figures at each snapshot, oldest first; None where there is none."""

    name: str
    type: str
    missing: tuple[float | None, ...]  # share of rows
    centre: tuple[float | None, ...]  # mean of a number; share of the most frequent value of others
    centre_of: str  # `mean`, or the value


@dataclass(frozen=True, slots=True)
class HealthReport:
    """What is known of a system's data."""

    system: str
    as_of: float  # Unix s
    snapshots: tuple[Observation, ...]  # oldest first, as far back as is judged
    newest: Mapping[str, Any]  # body of the newest snapshot's event
    sources: tuple[SourceHealth, ...]
    columns: tuple[ColumnHealth, ...]
    judgement: Mapping[str, Any] | None  # of the newest snapshot; None if it was taken before there were any
    changes: tuple[SchemaChange, ...]  # since the newest snapshot, not yet ingested
    taken_changes: tuple[Mapping[str, Any], ...]  # with which the newest snapshot was taken
    affected: Mapping[str, Sequence[str]]  # releases and consumers of what breaks
    refused: Mapping[str, Any] | None  # the last batch, if it was not taken

    def problems(self) -> list[str]:
        """Everything that is wrong, a sentence each, the gravest first."""
        found = []
        if self.refused is not None:
            words = self.refused.get("error") or "the reasons are in the quarantine"
            found.append(f"the last batch was refused: {words}")
        found += [f"{source.name} cannot be read: {source.problem}" for source in self.sources if source.problem]
        for change in (*self.taken_changes, *(change.to_json() for change in self.changes)):
            is_told = self.refused is not None and change["words"] in str(self.refused.get("error"))
            if change["impact"] == "breaking" and not is_told:
                found.append(f"{change['source']}: {change['words']}; it breaks {', '.join(change['breaks'])}")
        silent = self.refused is None  # else it has something new, which was not taken
        found += [source.silence.cause for source in self.sources if silent and source.silence is not None]
        found += [anomaly["cause"] for anomaly in (self.judgement or {}).get("anomalies", ())]
        return found

    def to_json(self) -> dict[str, Any]:
        """The document that `data health --json` prints."""
        last = self.snapshots[-1]
        return {
            "system": self.system,
            "as_of": format_time(self.as_of),
            "healthy": not self.problems(),
            "problems": self.problems(),
            "table": {
                "snapshot": self.newest["digest"],
                "version": self.newest["version"],
                "taken": format_time(last.at),
                "newest_row": _time(last.newest),
                "rows": last.rows,
                "quarantined": last.quarantined,
                "history": [
                    {
                        "taken": format_time(seen.at),
                        "rows": seen.rows,
                        "quarantined": seen.quarantined,
                        "newest_row": _time(seen.newest),
                    }
                    for seen in self.snapshots
                ],
            },
            "sources": [
                {
                    "source": source.name,
                    "rows": source.rows[-1],
                    "history": list(source.rows),
                    "changed": _time(source.changed),
                    "stale": None if source.silence is None else source.silence.to_json(),
                    "problem": source.problem or None,
                }
                for source in self.sources
            ],
            "columns": [
                {
                    "column": column.name,
                    "type": column.type,
                    "missing": list(column.missing),
                    "centre_of": column.centre_of,
                    "centre": list(column.centre),
                }
                for column in self.columns
            ],
            "judgement": None if self.judgement is None else dict(self.judgement),
            "changes": [*map(dict, self.taken_changes), *(change.to_json() for change in self.changes)],
            "affected": {name: list(found) for name, found in self.affected.items()},
            "refused": None if self.refused is None else self.refused.get("error"),
        }


def health(project: Project, ledger: Ledger, contract: Contract, now: float) -> HealthReport:
    """How a system's data is, and how it was.

    Args:
        project: its sources' headers are read, nothing else.
        ledger: holds the past.
        contract: says what is needed of the sources, and the budget of false alarms.
        now: Unix s.

    Raises:
        NotFoundError: there is no snapshot yet.
    """
    past = read_past(ledger, ArtefactStore(project.blobs, project.vault), contract.system)
    if not past:
        raise NotFoundError(f"{contract.system} has no snapshot yet; run `shipworthy ship --project {project.root}`")
    newest = past[-1].body
    names, problems = _headers(project, contract)
    changes = schema_changes(project, contract, past[-1].schemas, names)
    taken = [change for change in newest.get("changes", ()) if change["impact"] == "breaking"]
    refused = _refused_since(ledger, contract, newest)
    told = newest.get("observed", {})
    breaks = affected(project, ledger, changes, now)
    return HealthReport(
        system=contract.system,
        as_of=now,
        snapshots=tuple(each.seen for each in past),
        newest=newest,
        sources=tuple(_source(contract, name, past, now, problems.get(name, "")) for name in contract.data.sources),
        columns=tuple(_column(name, past) for name in _in_order(contract, past[-1].seen.columns)),
        judgement=told.get("judgement"),
        changes=tuple(changes),
        taken_changes=tuple(taken),
        affected={name: sorted({*breaks[name], *told.get(name, ())}) for name in ("releases", "consumers")},
        refused=refused,
    )


def _headers(project: Project, contract: Contract) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The column names of each file now, and why the others cannot be read."""
    names: dict[str, tuple[str, ...]] = {}
    problems: dict[str, str] = {}
    for name, source in contract.data.sources.items():
        data = contract.data.model_copy(update={"sources": {name: source}})
        try:
            names |= source_columns(project, contract.model_copy(update={"data": data}))
        except SourceError as error:
            problems[name] = str(error)
    return names, problems


def _refused_since(ledger: Ledger, contract: Contract, newest: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The last refusal, if it came after the newest snapshot."""
    entries: list[Entry] = [
        *ledger.events(verb="data.refused", object=f"system:{contract.system}"),
        *ledger.events(verb="snapshot.taken", object=f"snapshot:{newest['digest']}"),
    ]
    last = max(entries, key=lambda entry: entry.seq)
    return last.body if last.verb == "data.refused" else None


def _source(contract: Contract, name: str, past: Sequence[Past], now: float, problem: str) -> SourceHealth:
    digests = [each.digests.get(name) for each in past]
    changed = [
        each.seen.at
        for at, (each, digest) in enumerate(zip(past, digests, strict=True))
        if digest is not None and (at == 0 or digest != digests[at - 1])
    ]
    budget, sources = contract.data.watch.false_alarms, len(contract.data.sources)
    return SourceHealth(
        name,
        tuple(each.seen.sources.get(name) for each in past),
        changed[-1] if changed else None,
        judge_silence(name, changed, now, budget, sources) if changed else None,
        problem,
    )


def _in_order(contract: Contract, names: Collection[str]) -> list[str]:
    """As the contract has them; what it does not name comes last."""
    known = [*contract.context, *contract.features, *contract.derived, contract.target.column]
    return [*(name for name in known if name in names), *(name for name in names if name not in known)]


def _column(name: str, past: Sequence[Past]) -> ColumnHealth:
    profiles = [each.seen.columns.get(name) for each in past]
    newest = profiles[-1] or {}
    frequent = newest.get("most_frequent") or {}
    top = min(frequent, key=lambda value: (-frequent[value], value), default=None)
    return ColumnHealth(
        name,
        str(newest.get("type", "")),
        tuple(None if profile is None else _ratio(profile["missing"], profile["rows"]) for profile in profiles),
        tuple(_centre(profile, top) for profile in profiles),
        "mean" if "mean" in newest else top or "",
    )


def _centre(profile: Mapping[str, Any] | None, top: str | None) -> float | None:
    if profile is None:
        return None
    if "mean" in profile:
        mean = profile["mean"]
        return None if mean is None or not math.isfinite(mean) else float(mean)
    values = profile.get("most_frequent")
    if top is None or values is None:
        return None
    return _ratio(values.get(top, 0), profile["rows"] - profile["missing"])


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else format_time(seconds)
