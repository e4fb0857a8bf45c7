"""Pack: a candidate to a payload, calibrated and given its threshold."""

from collections.abc import Mapping
from typing import Any

import msgspec

from shipworthy.data.columns import encode, target_array
from shipworthy.data.novelty import fit_novelty
from shipworthy.data.quality import build_baselines
from shipworthy.evaluation.skew import prove_no_skew
from shipworthy.ledger.events import Event
from shipworthy.monitoring.drift import event_times, reference_scores, with_swings
from shipworthy.release.payload import build_payload
from shipworthy.release.policy import Tuning, compile_policy, tune
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.stages.folders import artefact_entry, work_folder
from shipworthy.workflows.stages.rows import parted
from shipworthy.workflows.stages.train import model_files, unpack_answers

Outputs = dict[str, Any]


def build(shipping: Shipping, ingested: Mapping[str, Any], trained: Mapping[str, Any]) -> Outputs:
    """A candidate to a payload: calibrated and given its threshold on the calibrate part.

    Raises:
        ConversionError: the server would make other model inputs of a row than training did.
    """
    parts, contract = shipping.parts, shipping.contract
    frame, places = parted(parts, contract, ingested)
    matrix, target = encode(contract, frame), target_array(contract, frame)
    answers = unpack_answers(parts.artefacts.get_bytes(trained["artefacts"]["answers"]))
    tuning = tune(contract, answers["calibrate"], target[places.calibrate])
    scores = reference_scores(compile_policy(contract, tuning), answers["calibrate"])
    baselines = build_baselines(contract, matrix[places.train], scores)
    novelty = fit_novelty(contract, matrix[places.train], matrix[places.calibrate])
    baselines = msgspec.structs.replace(baselines, novelty=novelty)
    times = event_times(contract, frame)
    if times is not None:
        scored = None if scores is None else (scores, times[places.calibrate])
        baselines = with_swings(baselines, contract, (matrix[places.train], times[places.train]), scored)
    files = model_files(contract, trained["artefacts"])
    model = {name: parts.artefacts.get_bytes(digest) for name, digest in files.items()}
    digest = ingested["artefacts"].get("lookups")
    tables = None if digest is None else parts.artefacts.get_bytes(digest)
    with work_folder(parts, "payload") as work:
        payload = build_payload(contract, model, tuning, baselines, work / "payload", tables)
        skew = prove_no_skew(payload.schema.as_recorded(), payload.policy.fallback_rules, frame, matrix)
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
        "skew": skew.to_json(),
        "artefacts": artefacts,
        "detail": _payload_detail(payload.size_bytes, tuning, skew.rows),
    }
    body = {
        **outputs,
        "artefacts": [artefact_entry(parts, digest, f"payload/{name}") for name, digest in artefacts.items()],
        "links": [
            *({"parent": digest, "relation": "packed", "child": payload.digest} for digest in files.values()),
            *([] if digest is None else [{"parent": digest, "relation": "packed", "child": payload.digest}]),
            {"parent": f"run:{trained['run']}", "relation": "packed", "child": payload.digest},
        ],
    }
    shipping.record(Event("payload.built", payload.digest, parts.actor, body, parts.rule))
    return outputs


def _payload_detail(size_bytes: int, tuning: Tuning, rows: int) -> str:
    words = f"{size_bytes / 1e6:.2g} MB"
    if tuning.threshold is not None:
        words += f", threshold {tuning.threshold:.3g}"
    if tuning.calibration_error_after is not None:
        words += f", calibration error {tuning.calibration_error_after:.2g}"
    return f"{words}; {rows:,} rows as served"
