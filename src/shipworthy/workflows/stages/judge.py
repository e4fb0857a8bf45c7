"""Judge: a payload to verdicts, on rows that training never saw and in the real server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipworthy.bundle.deployment import bundle_path
from shipworthy.bundle.verify import PAYLOAD, verify_payload
from shipworthy.evaluation.budget import measure_budget
from shipworthy.evaluation.faithfulness import measure_faithfulness
from shipworthy.evaluation.measure import measure, trivial_baseline
from shipworthy.evaluation.novelty import measure_novelty
from shipworthy.gates.evidence import Parity
from shipworthy.gates.judge import judge, lets_through
from shipworthy.ledger.events import Event
from shipworthy.training.parity import TOLERANCE as PARITY_TOLERANCE
from shipworthy.workflows.project import Parts
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.stages.folders import artefact_entry, put_json, unpacked
from shipworthy.workflows.stages.rows import background, parted

Outputs = dict[str, Any]


def judge_payload(
    shipping: Shipping,
    ingested: Mapping[str, Any],
    trained: Mapping[str, Any],
    built: Mapping[str, Any],
    champion: Mapping[str, Any] | None,
) -> Outputs:
    """A payload to verdicts: measured on rows that training never saw, and in the real server."""
    parts, contract = shipping.parts, shipping.contract
    frame, places = parted(parts, contract, ingested)
    test = frame[places.test]
    with unpacked(parts, "gates", built["artefacts"]) as payload:
        budget = None
        if contract.gates.budget is not None:
            shipping.tell("gates", f"asking the real server {contract.gates.budget.at_rps} times a second")
            (payload.parent / "budget").mkdir()
            budget = measure_budget(contract, payload, test, payload.parent / "budget")
        shipping.tell("gates", f"measuring on {test.height:,} test rows")
        evidence = measure(
            contract,
            payload,
            test,
            baseline=trivial_baseline(contract, frame[places.train]),
            champion=champion_payload(parts, champion),
            budget=budget,
            parity=_parity(trained),
            vault=parts.project.vault,
        )
        shipping.tell("gates", "comparing its reasons with exact ones")
        verified = verify_payload(payload, vault=parts.project.vault)
        reasons = measure_faithfulness(contract, verified, test, background(contract, frame, places))
        novelty = measure_novelty(contract, verified, test)
    verdicts = judge(contract, evidence)
    documents = [verdict.to_json() for verdict in verdicts]
    artefacts = {
        "verdicts": put_json(parts, documents, "verdicts"),
        "evidence": put_json(parts, evidence.to_json(), "evidence"),
    }
    passed = sum(verdict.lets_through for verdict in verdicts)
    outputs: Outputs = {
        "verdicts": documents,
        "servable": lets_through(verdicts, "local"),
        "reasons": None if reasons is None else reasons.to_json(),
        "novelty": None if novelty is None else novelty.to_json(),
        "artefacts": artefacts,
        "detail": f"{passed} of {len(verdicts)} pass on {test.height:,} test rows",
    }
    body = {
        "payload": built["payload"],
        "servable": outputs["servable"],
        "outcomes": {verdict.gate: verdict.outcome for verdict in verdicts},
        "champion": None if champion is None else champion["release"],
        "artefacts": [artefact_entry(parts, digest, kind) for kind, digest in artefacts.items()],
        "links": [{"parent": built["payload"], "relation": "judged", "child": artefacts["verdicts"]}],
    }
    shipping.record(Event("gates.judged", built["payload"], parts.actor, body, parts.rule))
    return outputs


def champion_payload(parts: Parts, champion: Mapping[str, Any] | None) -> Path | None:
    """Where the serving release's payload lies."""
    return None if champion is None else bundle_path(parts.project.releases, str(champion["digest"])) / PAYLOAD


def _parity(trained: Mapping[str, Any]) -> Parity:
    parity = trained["parity"]
    return Parity(
        test_rows=parity["rows"] - parity["edge_rows"],
        test_largest=parity["max_difference"],
        edge_rows=parity["edge_rows"],
        edge_largest=parity["max_difference"],
        tolerance=PARITY_TOLERANCE,
    )
