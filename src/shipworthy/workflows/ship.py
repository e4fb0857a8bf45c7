"""`ship`: sources to snapshot to candidate to payload to verdicts to a signed release, deployed to local.

Each stage's key hashes its code, its inputs and the contract's sections that it reads; what the ledger
knows under that key is not done again. Stop it anywhere and run it again: it carries on.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from shipworthy.bundle.format import DeployedRelease
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import ShipworthyError
from shipworthy.workflows.fingerprints import Fingerprints, code_files
from shipworthy.workflows.keys import ensure_data_key
from shipworthy.workflows.project import Parts, hold_project, read_contract
from shipworthy.workflows.shipping import Shipping, StageReport, Tell, environment_versions
from shipworthy.workflows.sources import Gathered, gathering, settle
from shipworthy.workflows.traffic import repair, set_traffic

Outputs = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ShipReport:
    """What `ship` did; `release` is None when a gate refused."""

    system: str
    snapshot: str
    run: str
    release: str | None
    deployment: dict[str, Any]
    stages: tuple[StageReport, ...]
    verdicts: tuple[dict[str, Any], ...]
    broken: Mapping[str, Mapping[str, Any]]  # sources that could not be used as they are, and what stood in for them
    lookups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # what was found in each, in rows
    findings: tuple[dict[str, Any], ...] = ()  # questions about the data
    anomalies: tuple[dict[str, Any], ...] = ()  # what of the snapshot is unlike those before it
    changes: tuple[dict[str, Any], ...] = ()  # of the sources' columns since the snapshot before
    steps: tuple[dict[str, Any], ...] = ()  # of `data.prepare`, with what each did to how many rows
    future: Mapping[str, Any] | None = None  # whether features see it; None where no source says when rows were known

    def to_json(self) -> dict[str, Any]:
        """The document that `ship --json` prints."""
        return {
            "system": self.system,
            "snapshot": self.snapshot,
            "run": self.run,
            "release": self.release,
            "deployment": self.deployment,
            "stages": [{"name": s.name, "reused": s.reused, "seconds": round(s.seconds, 3)} for s in self.stages],
            "verdicts": list(self.verdicts),
            "broken_sources": {name: dict(found) for name, found in self.broken.items()},
            "findings": list(self.findings),
            "anomalies": list(self.anomalies),
            "changes": list(self.changes),
            "steps": list(self.steps),
            "future": self.future,
            **({"lookups": {name: dict(found) for name, found in self.lookups.items()}} if self.lookups else {}),
        }


def ship(parts: Parts, environment: Mapping[str, str], tell: Tell) -> ShipReport:
    """Take the project from its sources to a signed release in `local`, doing only what changed.

    Raises:
        ContractError, SourceError, DataError, TrainingError, ConversionError: the stage cannot be done; nothing is
            half-done.
        ConflictError: another command holds the project.
    """
    with hold_project(parts.project, "ship"):
        project = parts.project
        text = project.contract_text()
        contract = read_contract(project)
        if contract.encryption == "at_rest":
            ensure_data_key(parts)
            parts = replace(parts, artefacts=parts.artefacts.sealing())
        shipping = Shipping(parts, contract, text, tell, environment, [])
        fingerprints = Fingerprints.load(project.state / "cache" / "digests.json", time.time_ns())
        code = {str(file.relative_to(project.root)): fingerprints.digest(file) for file in code_files(project.root)}
        with gathering(shipping, fingerprints) as gathered:
            fingerprints.save()
            try:
                return _ship(shipping, gathered, code)
            finally:
                if contract.lineage.openlineage is not None:
                    _tell_lineage(shipping)


def take_snapshot(shipping: Shipping, gathered: Gathered, code: Mapping[str, str]) -> Outputs:
    """The outputs of the ingest, done now or before; from then on what was read has been read.

    Args:
        shipping: what is shipped.
        gathered: its sources.
        code: digest of each Python file of the project.
    """
    files = shipping.contract.data.prepare_files
    prepared_by = {file: digest for file, digest in code.items() if file in files}
    replayed = [str(entry.body["digest"]) for entry in shipping.parts.ledger.events(verb="data.replayed")]
    ingested = shipping.stage(
        "ingest",
        {
            "sources": gathered.digests,
            "code": prepared_by,
            "contract": shipping.sections("ingest"),
            **({"broken": gathered.stand_ins} if gathered.broken else {}),
            **({"replayed": replayed} if replayed else {}),
        },
        lambda: _ingest(shipping, gathered),
    )
    settle(shipping, gathered, ingested.get("unread", ()))
    return ingested


def _ship(shipping: Shipping, gathered: Gathered, code: dict[str, str]) -> ShipReport:
    contract = shipping.contract
    ingested = take_snapshot(shipping, gathered, code)
    broken = {name: {**found.to_json(), "reason": found.reason} for name, found in gathered.broken.items()}
    python = contract.serving.python
    trained = shipping.stage(
        "train",
        {
            "snapshot": ingested["snapshot"],
            "code": code,
            "environment": environment_versions(),
            "contract": shipping.sections("train"),
            **({} if python is None else {"python": python.model_dump(mode="json")}),
        },
        lambda: _train(shipping, ingested, code),
    )
    built = shipping.stage(
        "payload",
        {
            "candidate": trained["artefacts"],
            "snapshot": ingested["snapshot"],
            "contract": shipping.sections("payload"),
            **({"lookups": _lookups(shipping, ingested)} if contract.data.lookups else {}),
        },
        lambda: _pack(shipping, ingested, trained),
    )
    champion = _champion(shipping, built["payload"])
    judged = shipping.stage(
        "gates",
        {
            "payload": built["payload"],
            "snapshot": ingested["snapshot"],
            "champion": None if champion is None else champion["payload"],
            "contract": shipping.sections("gates"),
        },
        lambda: _judge(shipping, ingested, trained, built, champion),
    )
    verdicts = tuple(judged["verdicts"])
    if not judged["servable"]:
        return ShipReport(
            contract.system, ingested["snapshot"], trained["run"], None, {"state": "refused"},
            tuple(shipping.stages), verdicts, broken, **_seen(ingested),
        )  # fmt: skip
    released = shipping.stage(
        "release",
        {
            "payload": built["payload"],
            "verdicts": judged["artefacts"]["verdicts"],
            "contract": digest_bytes(shipping.contract_text.encode()),
        },
        lambda: _release(shipping, ingested, trained, built, judged),
    )
    deployment = _deploy_if_new(shipping, released)
    return ShipReport(
        contract.system, ingested["snapshot"], trained["run"], released["release"], deployment,
        tuple(shipping.stages), verdicts, broken, **_seen(ingested),
    )  # fmt: skip


def _lookups(shipping: Shipping, ingested: Outputs) -> dict[str, Any]:
    """What the release carries to look features up: the tables, and how their rows are found."""
    declared = {name: found.model_dump(mode="json") for name, found in shipping.contract.data.lookups.items()}
    return {"tables": ingested["artefacts"]["lookups"], "declared": declared}


def _seen(ingested: Outputs) -> dict[str, Any]:
    """What the ingest saw in the data, as the report has it."""
    lists = {name: tuple(ingested.get(name, ())) for name in ("findings", "anomalies", "changes", "steps")}
    return {**lists, "future": ingested.get("future"), "lookups": ingested.get("lookups", {})}


def _champion(shipping: Shipping, payload: str) -> Mapping[str, Any] | None:
    """Whom the payload under judgement succeeds: what last had all traffic, and was not that payload itself.

    That is asked of the first environment after local where anything was deployed, else of local. Once the payload
    serves itself it is still the one before, so that shipping again asks the same question.
    """
    served: dict[str, list[Mapping[str, Any]]] = {}
    for entry in shipping.parts.ledger.events(verb="deployment.set"):
        served.setdefault(str(entry.body["environment"]), []).append(entry.body)
    beyond_local = [name for name in shipping.contract.environments if name != "local" and name in served]
    for deployment in reversed(served.get(beyond_local[0] if beyond_local else "local", [])):
        release: Any = deployment["releases"][0]
        if release["share"] >= 1 and release["payload"] != payload:
            return dict(release)
    return None


def _deploy_if_new(shipping: Shipping, released: Mapping[str, Any]) -> dict[str, Any]:
    current = shipping.parts.ledger.current_deployment("local")
    if current is not None and [r["digest"] for r in current["releases"]] == [released["digest"]]:
        repair(shipping.parts, "local")  # it may have stopped between ledger and file
        return {"state": "deployed", "environment": "local", "generation": current["generation"]}
    started = time.perf_counter()
    deployed = DeployedRelease(
        release=released["release"], digest=released["digest"], payload=released["payload"], share=1.0
    )
    generation = set_traffic(shipping.parts, shipping.parts.actor, shipping.parts.rule, "local", (deployed,))
    shipping.stages.append(
        StageReport("deploy", False, time.perf_counter() - started, f"local, generation {generation}")
    )
    return {"state": "deployed", "environment": "local", "generation": generation}


def _tell_lineage(shipping: Shipping) -> None:
    """Tell the contract's receiver what was done; one that is away is told of later, and holds nothing up."""
    from shipworthy.workflows.tell_lineage import tell_lineage  # HTTP, which others do without

    parts = shipping.parts
    with suppress(ShipworthyError):
        told = tell_lineage(parts.project, parts.ledger, shipping.environment, parts.now, contract=shipping.contract)
        if told is not None and told.is_news:
            shipping.tell("lineage", str(told))


# The stages' files load the engines of data, models and serving; with nothing new `ship` loads none of them.


def _ingest(shipping: Shipping, gathered: Gathered) -> Outputs:
    from shipworthy.workflows.stages.ingest import ingest

    return ingest(shipping, gathered)


def _train(shipping: Shipping, ingested: Outputs, code: dict[str, str]) -> Outputs:
    from shipworthy.workflows.stages.train import train

    return train(shipping, ingested, code)


def _pack(shipping: Shipping, ingested: Outputs, trained: Outputs) -> Outputs:
    from shipworthy.workflows.stages.pack import build

    return build(shipping, ingested, trained)


def _judge(
    shipping: Shipping, ingested: Outputs, trained: Outputs, built: Outputs, champion: Mapping[str, Any] | None
) -> Outputs:
    from shipworthy.workflows.stages.judge import judge_payload

    return judge_payload(shipping, ingested, trained, built, champion)


def _release(shipping: Shipping, ingested: Outputs, trained: Outputs, built: Outputs, judged: Outputs) -> Outputs:
    from shipworthy.workflows.stages.release import release

    return release(shipping, ingested, trained, built, judged)
