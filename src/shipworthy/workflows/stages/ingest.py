"""Ingest: sources to a snapshot; what does not fit goes to quarantine with its reasons."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from shipworthy.contract.types import Contract
from shipworthy.data.prepare import prepare
from shipworthy.data.quality import profile_frame
from shipworthy.data.snapshot import take
from shipworthy.data.sources import SourceRead, read_source
from shipworthy.data.validate import Validated, judge_batch, validate
from shipworthy.kernel.digest import digest_json
from shipworthy.kernel.errors import DataError
from shipworthy.ledger.events import Event
from shipworthy.security.vault import Vault
from shipworthy.workflows.quarantine import keep_rows
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.stages.folders import artefact_entry, put_json, work_folder
from shipworthy.workflows.stages.rows import snapshot_node

Outputs = dict[str, Any]


def ingest(shipping: Shipping, sources: Mapping[str, str]) -> Outputs:
    """Sources to a snapshot; rows that do not fit are kept in quarantine with their reasons."""
    parts, contract = shipping.parts, shipping.contract
    project = parts.project
    reads = {}
    for name, source in contract.data.sources.items():
        shipping.tell("ingest", f"reading {source.path or name}")
        reads[name] = read_source(name, source, project.root, digest=sources.get(name))
    with work_folder(parts, "prepare") as work:
        frame = prepare(contract, reads, project.root, work=work, environment=shipping.environment)
    shipping.tell("ingest", f"checking {frame.height:,} rows")
    validated = validate(contract, frame, malformed=_malformed(reads))
    quarantine = _keep_quarantined(project.quarantine, validated, sources, shipping.seals_with)
    try:
        judge_batch(contract, validated, now=parts.now())
    except DataError as error:
        kept = f" The rows and their reasons are in {quarantine}." if quarantine else ""
        parts.ledger.append(
            Event("data.refused", f"system:{contract.system}", parts.actor, {"reasons": validated.reasons}, parts.rule)
        )
        raise DataError(f"{error}.{kept}") from None
    shipping.tell("ingest", f"writing the snapshot of {validated.accepted.height:,} rows")
    snapshot = take(contract, validated.accepted, project.tables, shipping.seals_with)
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
        {
            "parent": f"file:{contract.data.sources[name].path}@{digest}",
            "relation": "ingested",
            "child": snapshot_node(outputs),
        }
        for name, digest in sources.items()
    ]
    links.append({"parent": snapshot_node(outputs), "relation": "profiled", "child": profile})
    body = {
        **{key: value for key, value in outputs.items() if key != "detail"},
        "digest": snapshot.digest,
        "columns": {name: str(kind) for name, kind in validated.accepted.schema.items()},
        "artefacts": [artefact_entry(parts, profile, "profile")],
        "links": links,
    }
    shipping.record(Event("snapshot.taken", snapshot_node(outputs), parts.actor, body, parts.rule))
    return outputs


def _personal(contract: Contract) -> list[str]:
    """Columns whose values no profile may repeat."""
    return [name for name, column in (*contract.context.items(), *contract.features.items()) if column.personal]


def _malformed(reads: Mapping[str, SourceRead]) -> pl.DataFrame | None:
    found = [source.malformed for source in reads.values() if source.malformed.height]
    return pl.concat(found) if found else None


def _keep_quarantined(
    folder: Path, validated: Validated, sources: Mapping[str, str], vault: Vault | None
) -> Path | None:
    """Write the rows that were not accepted as CSV, under the digest of what was read."""
    if not validated.quarantined.height:
        return None
    lists = [name for name, kind in validated.quarantined.schema.items() if kind == pl.List(pl.String)]
    flat = validated.quarantined.with_columns(pl.col(name).list.join("; ") for name in lists)
    return keep_rows(folder, digest_json(dict(sources))[7:19], flat, vault)


def _ingest_detail(rows: int, validated: Validated) -> str:
    words = f"{rows:,} rows accepted, {validated.quarantined.height:,} quarantined"
    top = sorted(validated.reasons.items(), key=lambda item: -item[1])[:2]
    return f"{words} ({'; '.join(f'{reason}: {count:,}' for reason, count in top)})" if top else words
