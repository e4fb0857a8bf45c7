"""The work of each of `ship`'s stages; `workflows.ship` decides which has to be done."""

import io
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from shipworthy.bundle.deployment import bundle_path, write_bundle, write_deployment
from shipworthy.bundle.format import DeployedRelease, Deployment, Policy
from shipworthy.bundle.verify import PAYLOAD, RELEASE
from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode, target_array
from shipworthy.data.prepare import prepare
from shipworthy.data.quality import build_baselines, profile_frame
from shipworthy.data.snapshot import Snapshot, read, take
from shipworthy.data.sources import SourceRead, read_source
from shipworthy.data.split import Split, split
from shipworthy.data.validate import Validated, judge_batch, validate
from shipworthy.evaluation.budget import measure_budget
from shipworthy.evaluation.measure import measure, trivial_baseline
from shipworthy.gates.evidence import Parity
from shipworthy.gates.judge import judge, lets_through
from shipworthy.governance.card import CardFacts, DataFacts, TrainingFacts, model_card
from shipworthy.kernel.digest import canonical_json, digest_json
from shipworthy.kernel.errors import DataError, IntegrityError
from shipworthy.kernel.ids import make_id
from shipworthy.ledger.events import Event, format_time
from shipworthy.release.bill import bill_of_materials, describe_packages
from shipworthy.release.payload import build_payload
from shipworthy.release.policy import Tuning, tune
from shipworthy.release.publish import Documents, place, publish
from shipworthy.training.job import TrainingJob
from shipworthy.training.parity import TOLERANCE as PARITY_TOLERANCE
from shipworthy.training.reach import edge_columns
from shipworthy.training.run import Candidate
from shipworthy.training.run import train as run_training
from shipworthy.workflows.project import Parts
from shipworthy.workflows.shipping import Shipping, environment_versions

Outputs = dict[str, Any]


# --- ingest


def ingest(shipping: Shipping, sources: Mapping[str, str]) -> Outputs:
    """Sources to a snapshot; rows that do not fit are kept in quarantine with their reasons."""
    parts, contract = shipping.parts, shipping.contract
    project = parts.project
    reads = {}
    for name, source in contract.data.sources.items():
        shipping.tell("ingest", f"reading {source.path or name}")
        reads[name] = read_source(name, source, project.root, digest=sources.get(name))
    frame = prepare(contract, reads, project.root)
    shipping.tell("ingest", f"checking {frame.height:,} rows")
    validated = validate(contract, frame, malformed=_malformed(reads))
    quarantine = _keep_quarantined(project.quarantine, validated, sources)
    try:
        judge_batch(contract, validated, now=parts.now())
    except DataError as error:
        kept = f" The rows and their reasons are in {quarantine}." if quarantine else ""
        parts.ledger.append(
            Event("data.refused", f"system:{contract.system}", parts.actor, {"reasons": validated.reasons})
        )
        raise DataError(f"{error}.{kept}") from None
    shipping.tell("ingest", f"writing the snapshot of {validated.accepted.height:,} rows")
    snapshot = take(contract, validated.accepted, project.tables)
    profile = put_json(parts, profile_frame(validated.accepted.drop(_personal(contract))), "profile")
    outputs: Outputs = {
        "snapshot": snapshot.digest,
        "version": snapshot.version,
        "rows": snapshot.rows,
        "system": contract.system,
        "quarantined": validated.quarantined.height,
        "reasons": dict(validated.reasons),
        "noted": dict(validated.noted),
        "formats": dict(validated.formats),
        "quarantine": str(quarantine.relative_to(project.root)) if quarantine else None,
        "sources": dict(sources),
        "artefacts": {"profile": profile},
        "detail": _ingest_detail(snapshot.rows, validated),
    }
    links = [
        {"parent": f"file:{contract.data.sources[name].path}@{digest}", "relation": "ingested", "child": _node(outputs)}
        for name, digest in sources.items()
    ]
    links.append({"parent": _node(outputs), "relation": "profiled", "child": profile})
    body = {
        **{key: value for key, value in outputs.items() if key != "detail"},
        "digest": snapshot.digest,
        "artefacts": [_artefact(parts, profile, "profile")],
        "links": links,
    }
    parts.ledger.append(Event("snapshot.taken", _node(outputs), parts.actor, body))
    return outputs


def _personal(contract: Contract) -> list[str]:
    """Columns whose values no profile may repeat."""
    return [name for name, column in (*contract.context.items(), *contract.features.items()) if column.personal]


def _node(ingested: Mapping[str, Any]) -> str:
    return f"snapshot:{ingested['snapshot']}"


def _malformed(reads: Mapping[str, SourceRead]) -> pl.DataFrame | None:
    found = [source.malformed for source in reads.values() if source.malformed.height]
    return pl.concat(found) if found else None


def _keep_quarantined(folder: Path, validated: Validated, sources: Mapping[str, str]) -> Path | None:
    """Write the rows that were not accepted as CSV, under the digest of what was read."""
    if not validated.quarantined.height:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{digest_json(dict(sources))[7:19]}.csv"
    lists = [name for name, kind in validated.quarantined.schema.items() if kind == pl.List(pl.String)]
    flat = validated.quarantined.with_columns(pl.col(name).list.join("; ") for name in lists)
    draft = path.with_suffix(".tmp")
    flat.write_csv(draft)
    draft.replace(path)
    return path


def _ingest_detail(rows: int, validated: Validated) -> str:
    words = f"{rows:,} rows accepted, {validated.quarantined.height:,} quarantined"
    top = sorted(validated.reasons.items(), key=lambda item: -item[1])[:2]
    return f"{words} ({'; '.join(f'{reason}: {count:,}' for reason, count in top)})" if top else words


# --- the parts of a snapshot


def snapshot_of(parts: Parts, contract: Contract, ingested: Mapping[str, Any]) -> Snapshot:
    """The snapshot that the ingest stage took."""
    return Snapshot(ingested["snapshot"], ingested["version"], ingested["rows"], parts.project.tables / contract.system)


def parted(parts: Parts, contract: Contract, ingested: Mapping[str, Any]) -> tuple[pl.DataFrame, Split]:
    """The snapshot's rows and how they are parted; the same each time."""
    frame = read(snapshot_of(parts, contract, ingested))
    return frame, split(contract, frame, contract.training.seed)


# --- train


def train(shipping: Shipping, ingested: Mapping[str, Any], code: Mapping[str, str]) -> Outputs:
    """A snapshot to a candidate: the user's code in its own process, its model in ONNX, parity proven."""
    parts, contract = shipping.parts, shipping.contract
    frame, places = parted(parts, contract, ingested)
    matrix, target = encode(contract, frame), target_array(contract, frame)
    job = TrainingJob(
        root=parts.project.root,
        entry=contract.training.entry,
        columns=edge_columns(contract, matrix),
        categories=categories(contract),
        task=contract.target.type,
        classes=contract.target.values or (),
        target=contract.target.column,
        params=dict(contract.training.params),
        seed=contract.training.seed,
        timeout_s=contract.training.timeout,
        memory_bytes=contract.training.memory,
        train=matrix[places.train],
        train_target=target[places.train],
        calibrate=matrix[places.calibrate],
        test=matrix[places.test],
    )
    with work_folder(parts, "train") as work:
        shipping.tell("train", f"training on {len(places.train):,} rows with {len(job.columns)} columns")
        candidate = run_training(job, work, shipping.environment)
        artefacts = {
            "model": parts.artefacts.put_bytes(candidate.model_path.read_bytes(), "model/onnx").digest,
            "answers": parts.artefacts.put_bytes(_pack_answers(candidate), "answers/npz").digest,
            "log": parts.artefacts.put_bytes(candidate.log.read_bytes(), "training-log").digest,
        }
    run = make_id("run", int(parts.now() * 1000), parts.entropy(10))
    outputs: Outputs = {
        "run": run,
        "model_kind": candidate.model_kind,
        "rows": {"train": len(places.train), "calibrate": len(places.calibrate), "test": len(places.test)},
        "parity": _parity_json(candidate),
        "seconds": round(candidate.seconds, 3),
        "cpu_seconds": round(candidate.cpu_seconds, 3),
        "max_rss_bytes": candidate.max_rss_bytes,
        "libraries": dict(candidate.libraries),
        "artefacts": artefacts,
        "detail": (
            f"{candidate.model_kind}; {candidate.parity.rows:,} answers equal"
            f" within {candidate.parity.max_difference:.0e}"
        ),
    }
    body = {
        **outputs,
        "snapshot": ingested["snapshot"],
        "code": dict(code),
        "params": dict(contract.training.params),
        "seed": contract.training.seed,
        "environment": environment_versions() | candidate.libraries,
        "artefacts": [_artefact(parts, digest, kind) for kind, digest in artefacts.items()],
        "links": [
            {"parent": _node(ingested), "relation": "trained", "child": f"run:{run}"},
            *(
                {"parent": f"file:{file}@{digest}", "relation": "ran", "child": f"run:{run}"}
                for file, digest in code.items()
            ),
            {"parent": f"run:{run}", "relation": "made", "child": artefacts["model"]},
        ],
    }
    parts.ledger.append(Event("run.finished", f"run:{run}", parts.actor, body))
    return outputs


def categories(contract: Contract) -> dict[str, tuple[str, ...]]:
    """The categorical model inputs and their values."""
    return {
        name: contract.features[name].values or ()
        for name in contract.model_columns
        if name in contract.features and contract.features[name].type == "category"
    }


def _parity_json(candidate: Candidate) -> dict[str, Any]:
    parity = candidate.parity
    return {
        "rows": parity.rows,
        "edge_rows": len(candidate.edges),
        "max_difference": parity.max_difference,
        "labels_differing": parity.labels_differing,
    }


def _pack_answers(candidate: Candidate) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, calibrate=candidate.calibrate_answers, test=candidate.test_answers)
    return buffer.getvalue()


def unpack_answers(content: bytes) -> dict[str, NDArray[np.float64]]:
    """The trained model's own answers on the calibrate and the test part."""
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


# --- payload


def build(shipping: Shipping, ingested: Mapping[str, Any], trained: Mapping[str, Any]) -> Outputs:
    """A candidate to a payload: calibrated and given its threshold on the calibrate part."""
    parts, contract = shipping.parts, shipping.contract
    frame, places = parted(parts, contract, ingested)
    matrix, target = encode(contract, frame), target_array(contract, frame)
    answers = unpack_answers(parts.artefacts.get_bytes(trained["artefacts"]["answers"]))
    tuning = tune(contract, answers["calibrate"], target[places.calibrate])
    baselines = build_baselines(contract, matrix[places.train], _scores(contract, answers["calibrate"]))
    model = parts.artefacts.get_bytes(trained["artefacts"]["model"])
    with work_folder(parts, "payload") as work:
        payload = build_payload(contract, model, tuning, baselines, work / "payload")
        artefacts = {
            file.name: parts.artefacts.put_file(file, f"payload/{file.name}").digest
            for file in sorted(payload.directory.iterdir())
        }
    outputs: Outputs = {
        "payload": payload.digest,
        "size_bytes": payload.size_bytes,
        "threshold": tuning.threshold,
        "calibration_error": [tuning.calibration_error_before, tuning.calibration_error_after],
        "calibrate_rows": tuning.rows,
        "artefacts": artefacts,
        "detail": _payload_detail(payload.size_bytes, tuning),
    }
    body = {
        **outputs,
        "artefacts": [_artefact(parts, digest, f"payload/{name}") for name, digest in artefacts.items()],
        "links": [
            {"parent": trained["artefacts"]["model"], "relation": "packed", "child": payload.digest},
            {"parent": f"run:{trained['run']}", "relation": "packed", "child": payload.digest},
        ],
    }
    parts.ledger.append(Event("payload.built", payload.digest, parts.actor, body))
    return outputs


def _scores(contract: Contract, answers: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """What a monitor will watch of the answers: the positive class's probability, or the number."""
    if contract.target.type == "regression":
        return answers
    if contract.target.type == "binary":
        values = contract.target.values or ()
        return answers[:, values.index(contract.target.positive or values[-1])]
    return None


def _payload_detail(size_bytes: int, tuning: Tuning) -> str:
    words = f"{size_bytes / 1e6:.2g} MB"
    if tuning.threshold is not None:
        words += f", threshold {tuning.threshold:.3g}"
    if tuning.calibration_error_after is not None:
        words += f", calibration error {tuning.calibration_error_after:.2g}"
    return words


@contextmanager
def unpacked(parts: Parts, stage: str, artefacts: Mapping[str, str]) -> Iterator[Path]:
    """A payload's files in a folder, as a server would find them."""
    with work_folder(parts, stage) as work:
        folder = work / "payload"
        folder.mkdir()
        for name, digest in artefacts.items():
            (folder / name).write_bytes(parts.artefacts.get_bytes(digest))
        yield folder


# --- gates


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
        )
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
        "artefacts": artefacts,
        "detail": f"{passed} of {len(verdicts)} pass on {test.height:,} test rows",
    }
    body = {
        "payload": built["payload"],
        "servable": outputs["servable"],
        "outcomes": {verdict.gate: verdict.outcome for verdict in verdicts},
        "champion": None if champion is None else champion["release"],
        "artefacts": [_artefact(parts, digest, kind) for kind, digest in artefacts.items()],
        "links": [{"parent": built["payload"], "relation": "judged", "child": artefacts["verdicts"]}],
    }
    parts.ledger.append(Event("gates.judged", built["payload"], parts.actor, body))
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


# --- release and deployment


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
        )
        place(signed, parts.project.releases)
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
    parts.ledger.append(Event("release.published", node, parts.actor, body))
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
    )


def deploy_local(parts: Parts, system: str, released: Mapping[str, Any], current: Mapping[str, Any] | None) -> int:
    """Give all of local's traffic to a release; its bundle first, then the signed deployment file."""
    live = parts.project.live("local")
    source = bundle_path(parts.project.releases, released["digest"])
    copy_bundle(source, live, released["digest"])
    generation = 1 if current is None else int(current["generation"]) + 1
    deployed = DeployedRelease(
        release=released["release"], digest=released["digest"], payload=released["payload"], share=1.0
    )
    deployment = Deployment(
        system=system,
        environment="local",
        generation=generation,
        salt=parts.entropy(8).hex() if current is None else str(current["salt"]),
        releases=(deployed,),
    )
    node = f"deployment:local:{generation}"
    body = {
        **msgspec.to_builtins(deployment),
        "links": [{"parent": f"release:{released['release']}", "relation": "deployed", "child": node}],
    }
    parts.ledger.append(Event("deployment.set", node, parts.actor, body))
    write_deployment(live, deployment, parts.key)
    return generation


def write_local(parts: Parts, current: Mapping[str, Any]) -> None:
    """Write the deployment that the ledger knows, which a stopped or damaged machine did not."""
    live = parts.project.live("local")
    deployment = msgspec.convert({key: value for key, value in current.items() if key != "links"}, Deployment)
    for release in deployment.releases:
        copy_bundle(bundle_path(parts.project.releases, release.digest), live, release.digest)
    write_deployment(live, deployment, parts.key)


def copy_bundle(source: Path, live: Path, digest: str) -> None:
    """Put a bundle below `live/ENV`, durable before it returns."""
    payload = {file.name: file.read_bytes() for file in (source / PAYLOAD).iterdir()}
    companions = {file.name: file.read_bytes() for file in source.iterdir() if file.is_file() and file.name != RELEASE}
    written = write_bundle(live, (source / RELEASE).read_bytes(), payload, companions)
    if written != bundle_path(live, digest):
        raise IntegrityError(f"{source} is not the bundle of {digest}; run `shipworthy verify`")


# --- folders and artefacts


@contextmanager
def work_folder(parts: Parts, stage: str) -> Iterator[Path]:
    """An empty folder for what a stage has not finished; kept when it fails, for its log, until the next try."""
    folder = parts.project.work / stage
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _artefact(parts: Parts, digest: str, kind: str) -> dict[str, Any]:
    return {"digest": digest, "kind": kind, "size_bytes": parts.artefacts.path_of(digest).stat().st_size}


def put_json(parts: Parts, value: Any, kind: str) -> str:
    """Keep `value` as an artefact in canonical JSON; its digest."""
    return parts.artefacts.put_bytes(canonical_json(value), kind).digest
