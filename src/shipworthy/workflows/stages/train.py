"""Train: a snapshot to a candidate, by the user's code in a process of its own."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shipworthy.bundle.format import ONNX, SOURCE, is_data_file
from shipworthy.contract.types import Contract
from shipworthy.data.columns import encode, target_array
from shipworthy.kernel.ids import make_id
from shipworthy.ledger.events import Event
from shipworthy.training.job import TrainingJob
from shipworthy.training.reach import edge_columns
from shipworthy.training.run import Candidate
from shipworthy.training.run import train as run_training
from shipworthy.workflows.project import Parts
from shipworthy.workflows.shipping import Shipping, environment_versions
from shipworthy.workflows.stages.folders import artefact_entry, work_folder
from shipworthy.workflows.stages.rows import parted, snapshot_node

Outputs = dict[str, Any]


def train(shipping: Shipping, ingested: Mapping[str, Any], code: Mapping[str, str]) -> Outputs:
    """A snapshot to a candidate: the user's code in its own process, its model as it is served, parity proven."""
    parts, contract = shipping.parts, shipping.contract
    frame, places = parted(parts, contract, ingested)
    matrix, target = encode(contract, frame), target_array(contract, frame)
    job = TrainingJob(
        root=parts.project.root,
        entry=contract.training.entry,
        columns=edge_columns(contract, matrix),
        categories=contract.model_categories,
        task=contract.target.type,
        classes=contract.target.values or (),
        target=contract.target.column,
        params=dict(contract.training.params),
        seed=contract.training.seed,
        timeout_s=contract.training.timeout,
        memory_bytes=contract.training.memory,
        python=contract.serving.python.file if contract.serving.python else None,
        python_memory_bytes=contract.serving.python.memory if contract.serving.python else 0,
        train=matrix[places.train],
        train_target=target[places.train],
        calibrate=matrix[places.calibrate],
        test=matrix[places.test],
    )
    with work_folder(parts, "train") as work:
        shipping.tell("train", f"training on {len(places.train):,} rows with {len(job.columns)} columns")
        candidate = run_training(job, work, shipping.environment)
        artefacts = {
            **_keep_model(parts, candidate),
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
        "entry": contract.training.entry,
        "params": dict(contract.training.params),
        "seed": contract.training.seed,
        "environment": environment_versions() | candidate.libraries,
        "artefacts": [artefact_entry(parts, digest, kind) for kind, digest in artefacts.items()],
        "links": [
            {"parent": snapshot_node(ingested), "relation": "trained", "child": f"run:{run}"},
            *(
                {"parent": f"file:{file}@{digest}", "relation": "ran", "child": f"run:{run}"}
                for file, digest in code.items()
            ),
            *(
                {"parent": f"run:{run}", "relation": "made", "child": digest}
                for digest in model_files(contract, artefacts).values()
            ),
        ],
    }
    shipping.record(Event("run.finished", f"run:{run}", parts.actor, body, parts.rule))
    return outputs


def model_files(contract: Contract, artefacts: Mapping[str, str]) -> dict[str, str]:
    """The digests of a trained model's files, by their names in a payload."""
    main = ONNX if contract.serving.python is None else SOURCE
    return {main: artefacts["model"]} | {name: digest for name, digest in artefacts.items() if is_data_file(name)}


def _keep_model(parts: Parts, candidate: Candidate) -> dict[str, str]:
    kinds = {ONNX: "model/onnx", SOURCE: "model/python"}
    return {
        "model" if name in kinds else name: parts.artefacts.put_bytes(
            path.read_bytes(), kinds.get(name, "model/data")
        ).digest
        for name, path in candidate.model.items()
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
