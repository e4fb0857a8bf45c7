"""`ship`: sources to snapshot to candidate to payload to verdicts to a signed release, deployed to local.

Each stage's key hashes its code, its inputs and the contract's sections that it reads; what the ledger
knows under that key is not done again. Stop it anywhere and run it again: it carries on.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shipworthy.bundle.format import DeployedRelease
from shipworthy.contract.types import Contract
from shipworthy.kernel.digest import digest_bytes
from shipworthy.workflows.fingerprints import Fingerprints, code_files
from shipworthy.workflows.keys import ensure_data_key
from shipworthy.workflows.layout import Project
from shipworthy.workflows.project import Parts, hold_project, read_contract
from shipworthy.workflows.shipping import Shipping, StageReport, Tell, environment_versions
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
    findings: tuple[dict[str, Any], ...] = ()  # what of the snapshot is unlike those before it
    changes: tuple[dict[str, Any], ...] = ()  # of the sources' columns since the snapshot before

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
            "data": {"findings": list(self.findings), "changes": list(self.changes)},
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
        sources = source_digests(project, shipping.contract, fingerprints)
        code = {str(file.relative_to(project.root)): fingerprints.digest(file) for file in code_files(project.root)}
        fingerprints.save()
        return _ship(shipping, sources, code)


def source_digests(project: Project, contract: Contract, fingerprints: Fingerprints) -> dict[str, str]:
    """The content digest of each file source, by the source's name."""
    return {
        name: fingerprints.digest(project.root / source.path)
        for name, source in contract.data.sources.items()
        if source.path is not None
    }


def _ship(shipping: Shipping, sources: dict[str, str], code: dict[str, str]) -> ShipReport:
    contract = shipping.contract
    prepare = contract.data.prepare or ""
    prepared_by = {file: digest for file, digest in code.items() if prepare.startswith(f"{file}:")}
    ingested = shipping.stage(
        "ingest",
        {"sources": sources, "code": prepared_by, "contract": shipping.sections("ingest")},
        lambda: _ingest(shipping, sources),
    )
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
        {"candidate": trained["artefacts"], "snapshot": ingested["snapshot"], "contract": shipping.sections("payload")},
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
            tuple(shipping.stages), verdicts, *_seen(ingested),
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
        tuple(shipping.stages), verdicts, *_seen(ingested),
    )  # fmt: skip


def _seen(ingested: Outputs) -> tuple[tuple[dict[str, Any], ...], tuple[dict[str, Any], ...]]:
    """Findings about the snapshot, and changes of its sources' columns."""
    return tuple(ingested.get("findings", ())), tuple(ingested.get("changes", ()))


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


# The stages' files load the engines of data, models and serving; with nothing new `ship` loads none of them.


def _ingest(shipping: Shipping, sources: dict[str, str]) -> Outputs:
    from shipworthy.workflows.stages.ingest import ingest

    return ingest(shipping, sources)


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
