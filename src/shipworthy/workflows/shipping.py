"""A `ship` under way: its stages, what each reads of the contract, and what the ledger knows of them."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from shipworthy import __version__
from shipworthy.contract.types import Contract
from shipworthy.kernel.digest import Json, digest_json
from shipworthy.kernel.errors import ShipworthyError
from shipworthy.ledger.events import Event
from shipworthy.ledger.store import Ledger
from shipworthy.security.vault import Vault
from shipworthy.workflows.project import Parts

TAKEN, REMOVED = "snapshot.taken", "snapshot.removed"  # what happens to a version of the data
ENGINE_PACKAGES = ("lightgbm", "numpy", "onnx", "onnxruntime", "polars", "scikit-learn", "skl2onnx")
SECTIONS: dict[str, tuple[str, ...]] = {  # what each stage reads of the contract
    "ingest": ("system", "data", "context", "features", "derived", "checks", "target", "encryption"),
    "train": ("features", "derived", "target", "training"),
    "payload": (
        "system", "features", "context", "derived", "target", "training", "decision", "value", "serving", "records",
        "monitor", "encryption",
    ),
    "gates": ("features", "context", "derived", "target", "training", "decision", "value", "gates", "cost"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage as it went."""

    name: str
    reused: bool
    seconds: float
    detail: str


Tell = Callable[[str, str], None]  # (stage, what it is doing), as it happens


@dataclass(slots=True)
class Shipping:
    """One `ship` under way: its parts, what is shipped, and the stages so far."""

    parts: Parts
    contract: Contract
    contract_text: str
    tell: Tell
    environment: Mapping[str, str]  # of the process: what the training code may see
    stages: list[StageReport]
    events: list[Event] = field(default_factory=list)  # of the stage under way

    def record(self, event: Event) -> None:
        """Let `event` be recorded together with the end of the stage: a stage that is stopped happened not at all."""
        self.events.append(event)

    def stage(self, name: str, inputs: Mapping[str, Json], work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The outputs of stage `name`: those that the ledger knows for these inputs, else those of `work`."""
        key = digest_json({"stage": name, "shipworthy": __version__, "inputs": dict(inputs)})
        started = time.perf_counter()
        known = self.parts.ledger.find_stage(key)
        if known is not None and self._is_there(known["outputs"]) and is_final(known["outputs"]):
            self._finish(name, True, started, known["outputs"])
            return dict(known["outputs"])
        self.tell(name, "")
        try:
            outputs = work()
        except ShipworthyError as error:
            self._record_failure(name, key, inputs, error, time.perf_counter() - started)
            raise
        seconds = time.perf_counter() - started
        body = {"key": key, "name": name, "outputs": outputs, "seconds": round(seconds, 3)}
        ended = Event("stage.finished", f"stage:{name}", self.parts.actor, body, self.parts.rule)
        events, self.events = self.events, []
        self.parts.ledger.append_all([*events, ended])
        self._finish(name, False, started, outputs)
        return outputs

    def _record_failure(
        self, name: str, key: str, inputs: Mapping[str, Json], error: ShipworthyError, seconds: float
    ) -> None:
        """Say in the ledger that the stage failed: the kind of error, not its words, which may repeat a value."""
        body = {"key": key, "name": name, "error": error.code, "seconds": round(seconds, 3)}
        body["inputs"] = [*self._input_nodes(inputs)]
        with suppress(ShipworthyError):  # what failed first is what is told
            self.parts.ledger.append(Event("stage.failed", f"stage:{name}", self.parts.actor, body, self.parts.rule))

    def _input_nodes(self, inputs: Mapping[str, Json]) -> Iterator[str]:
        """What a stage was to read, as lineage names it."""
        sources = inputs.get("sources")
        for name, digest in (sources if isinstance(sources, Mapping) else {}).items():
            yield f"file:{self.contract.data.sources[name].path or name}@{digest}"
        for kind in ("snapshot", "payload"):
            if isinstance(inputs.get(kind), str):
                yield f"{kind}:{inputs[kind]}"

    def _is_there(self, outputs: Mapping[str, Any]) -> bool:
        """Whether nothing of what the stage made was removed since."""
        made = all(self.parts.artefacts.has(digest) for digest in outputs.get("artefacts", {}).values())
        return made and not ("snapshot" in outputs and is_removed(self.parts.ledger, outputs))

    def _finish(self, name: str, reused: bool, started: float, outputs: Mapping[str, Any]) -> None:
        self.stages.append(StageReport(name, reused, time.perf_counter() - started, str(outputs.get("detail", ""))))

    @property
    def seals_with(self) -> Vault | None:
        """What encrypts what is kept; None where the contract wants nothing encrypted."""
        return self.parts.project.vault if self.contract.encryption == "at_rest" else None

    def sections(self, stage: str) -> Json:
        """The contract's sections that `stage` declares to read, as JSON."""
        whole = self.contract.model_dump(mode="json", by_alias=True)
        whole["data"].pop("keep")  # how long versions stay makes no row another
        return {name: whole[name] for name in SECTIONS[stage]}


def is_removed(ledger: Ledger, snapshot: Mapping[str, Any]) -> bool:
    """Whether the version in which an ingest stage left its rows was removed and has not been taken again.

    Args:
        ledger: of the project.
        snapshot: the outputs of the stage.
    """
    last = None
    for entry in ledger.events(object=f"snapshot:{snapshot['snapshot']}"):
        if entry.verb in (TAKEN, REMOVED) and entry.body.get("version") == snapshot["version"]:
            last = entry.verb
    return last == REMOVED


def is_final(outputs: Mapping[str, Any]) -> bool:
    """Whether a stage's outputs would be the same again: a budget that was missed may have met a busy machine.

    And for a source that could not be read, rows of another read may stand in by then.

    >>> is_final({"verdicts": [{"gate": "budget.p99", "outcome": "fail"}]})
    False
    """
    verdicts = outputs.get("verdicts", ())
    missed = any(verdict["gate"].startswith("budget.") and verdict["outcome"] == "fail" for verdict in verdicts)
    return not missed and not outputs.get("unread")


def environment_versions() -> dict[str, str]:
    """Versions of what a training's result depends on."""
    versions = {"python": platform.python_version()}
    for package in ENGINE_PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    return versions
