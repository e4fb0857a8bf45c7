"""Release: verdicts to a signed release, with everything that speaks for it bound together."""

from collections.abc import Mapping
from typing import Any

import msgspec

from shipworthy.bundle.format import Policy
from shipworthy.governance.card import CardFacts, DataFacts, TrainingFacts, model_card
from shipworthy.kernel.digest import canonical_json
from shipworthy.ledger.events import Event, format_time
from shipworthy.release.bill import bill_of_materials, describe_packages
from shipworthy.release.publish import Documents, place, publish
from shipworthy.workflows.shipping import Shipping, environment_versions
from shipworthy.workflows.sources import describe_stand_in
from shipworthy.workflows.stages.folders import unpacked

Outputs = dict[str, Any]


def release(
    shipping: Shipping,
    ingested: Mapping[str, Any],
    trained: Mapping[str, Any],
    built: Mapping[str, Any],
    judged: Mapping[str, Any],
) -> Outputs:
    """Verdicts to a signed release: payload, contract, code, verdicts, card and bill of materials bound together."""
    parts, contract = shipping.parts, shipping.contract
    version, created = parts.ledger.next_version(contract.system), format_time(parts.now())
    entry = contract.training.entry.partition(":")[0]
    documents = Documents(
        contract=shipping.contract_text.encode(),
        code=(parts.project.root / entry).read_bytes(),
        verdicts=canonical_json(judged["verdicts"]),
        card=model_card(_card_facts(shipping, ingested, trained, built, judged, version, created)).encode(),
        bill=bill_of_materials(
            system=contract.system,
            version=version,
            payload=built["payload"],
            model=trained["artefacts"]["model"],
            model_kind=trained["model_kind"],
            packages=describe_packages(_packages(trained)),
            created=created,
        ),
    )
    with unpacked(parts, "release", built["artefacts"]) as payload:
        signed = publish(
            payload,
            built["payload"],
            documents,
            system=contract.system,
            version=version,
            snapshot=ingested["snapshot"],
            run=trained["run"],
            author=parts.actor,
            created=created,
            key=parts.key,
            model_key=None if parts.model_key is None else parts.model_key(),
        )
        place(signed, parts.project.releases, shipping.seals_with)
    node = f"release:{signed.name}"
    body = {
        "system": contract.system,
        "version": version,
        "digest": signed.digest,
        "payload": built["payload"],
        "run": trained["run"],
        "snapshot": ingested["snapshot"],
        "created": created,
        "author": parts.actor,
        "verdicts": judged["artefacts"]["verdicts"],
        "links": [
            {"parent": built["payload"], "relation": "released", "child": node},
            {"parent": judged["artefacts"]["verdicts"], "relation": "allowed", "child": node},
        ],
    }
    shipping.record(Event("release.published", node, parts.actor, body, parts.rule))
    return {
        "release": signed.name,
        "digest": signed.digest,
        "payload": built["payload"],
        "detail": f"{signed.name}, signed by {parts.key.public.keyid[:12]}",
    }


def _packages(trained: Mapping[str, Any]) -> dict[str, str]:
    versions = {**environment_versions(), **trained["libraries"]}
    return {name: version for name, version in versions.items() if name != "python" and version != "absent"}


def _card_facts(
    shipping: Shipping,
    ingested: Mapping[str, Any],
    trained: Mapping[str, Any],
    built: Mapping[str, Any],
    judged: Mapping[str, Any],
    version: int,
    created: str,
) -> CardFacts:
    parts, contract = shipping.parts, shipping.contract
    policy = msgspec.json.decode(parts.artefacts.get_bytes(built["artefacts"]["policy.json"]), type=Policy)
    looks = sum(1 for entry in parts.ledger.events(verb="gates.judged"))
    return CardFacts(
        contract=contract,
        policy=policy,
        version=version,
        created=created,
        author=parts.actor,
        payload=built["payload"],
        data=DataFacts(
            snapshot=ingested["snapshot"],
            rows=ingested["rows"],
            quarantined=ingested["quarantined"],
            reasons=ingested["reasons"],
            sources=ingested["sources"],
            questions=[found["words"] for found in ingested.get("findings", ())],
            steps=[step["words"] for step in ingested.get("steps", ())],
            future=(ingested.get("future") or {}).get("words"),
            broken={name: describe_stand_in(broken) for name, broken in ingested.get("broken", {}).items()},
        ),
        training=TrainingFacts(
            run=trained["run"],
            model_kind=trained["model_kind"],
            rows=trained["rows"],
            seconds=trained["seconds"],
            parity_rows=trained["parity"]["rows"],
            parity_difference=trained["parity"]["max_difference"],
            libraries=_packages(trained),
        ),
        verdicts=judged["verdicts"],
        looks=looks,
        reasons=judged.get("reasons"),
        novelty=judged.get("novelty"),
        skew=built.get("skew"),
    )
