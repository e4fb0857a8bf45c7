"""From a candidate to a payload: the exact files that a server loads and a budget measures."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from shipworthy.bundle.deployment import write_payload
from shipworthy.bundle.format import LOOKUPS, Baselines, Policy, Schema
from shipworthy.contract.types import Contract
from shipworthy.release.policy import Tuning, compile_policy
from shipworthy.release.schema import compile_schema


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload on disk; the same inputs give the same digest."""

    directory: Path
    digest: str  # of its manifest.json
    size_bytes: int  # of all its files but the manifest
    schema: Schema
    policy: Policy


def build_payload(
    contract: Contract,
    model: Mapping[str, bytes],
    tuning: Tuning,
    baselines: Baselines,
    destination: Path,
    lookups: bytes | None = None,
) -> Payload:
    """Write model, schema, policy, baselines and manifest into the new or empty folder `destination`.

    Args:
        contract: what the system promises.
        model: its files by name, proven equal to the trained model: `model.onnx`, or `model.py` and its data.
        tuning: what the calibrate part fixed.
        baselines: of the training rows.
        destination: where the files are written, synced.
        lookups: the tables of the contract's lookups (`data.lookups.pack_tables`); None where it has none.

    Raises:
        StorageError: the disk refused.
    """
    schema, policy = compile_schema(contract), compile_policy(contract, tuning)
    files = {
        **model,
        "schema.json": msgspec.json.encode(schema),
        "policy.json": msgspec.json.encode(policy),
        "baselines.json": msgspec.json.encode(baselines),
        **({} if lookups is None else {LOOKUPS: lookups}),
    }
    digest = write_payload(destination, contract.system, contract.target.type, files)
    return Payload(destination, digest, sum(map(len, files.values())), schema, policy)
