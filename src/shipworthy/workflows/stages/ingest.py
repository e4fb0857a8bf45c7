"""Ingest: sources to a snapshot; what does not fit goes to quarantine with its reasons."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from shipworthy.data.health import Judgement
from shipworthy.data.prepare import prepare
from shipworthy.data.profile import pack_profile, profile_json
from shipworthy.data.schema_change import SchemaChange, read_schema
from shipworthy.data.snapshot import take
from shipworthy.data.sources import SourceRead, read_source
from shipworthy.data.validate import Validated, judge_batch, validate
from shipworthy.kernel.digest import digest_json
from shipworthy.kernel.errors import DataError
from shipworthy.ledger.events import Event
from shipworthy.security.vault import Vault
from shipworthy.workflows.observing import (
    Observed,
    affected,
    data_alerts,
    observe,
    read_past,
    schema_changes,
)
from shipworthy.workflows.quarantine import keep_rows
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.stages.folders import artefact_entry, put_json, work_folder
from shipworthy.workflows.stages.rows import snapshot_node

Outputs = dict[str, Any]

TOP_CAUSES = 3  # in a refusal; its event has all


def ingest(shipping: Shipping, sources: Mapping[str, str]) -> Outputs:
    """Sources to a snapshot; rows that do not fit are kept in quarantine with their reasons."""
    parts, contract = shipping.parts, shipping.contract
    project = parts.project
    reads = {}
    for name, source in contract.data.sources.items():
        shipping.tell("ingest", f"reading {source.path or name}")
        reads[name] = read_source(name, source, project.root, digest=sources.get(name))
    past = read_past(parts.ledger, parts.artefacts, contract.system)
    schemas = {name: read_schema(contract, source.frame) for name, source in reads.items()}
    changes = schema_changes(project, contract, past[-1].schemas if past else {}, schemas)
    try:
        with work_folder(parts, "prepare") as work:
            frame = prepare(contract, reads, project.root, work=work, environment=shipping.environment)
        shipping.tell("ingest", f"checking {frame.height:,} rows")
        validated = validate(contract, frame, malformed=_malformed(reads))
    except DataError as error:
        raise _refused(shipping, f"{error}{_changed(changes)}", {}, None, changes) from None
    quarantine = _keep_quarantined(project.quarantine, validated, sources, shipping.seals_with)
    kept = f" The rows and their reasons are in {quarantine}." if quarantine else ""
    try:
        judge_batch(contract, validated, now=parts.now())
    except DataError as error:
        raise _refused(shipping, f"{error}{_changed(changes)}.{kept}", validated.reasons, None, changes) from None
    shipping.tell("ingest", f"profiling {validated.accepted.height:,} rows")
    rows = {name: source.rows for name, source in reads.items()}
    observed = observe(contract, past, validated.accepted, validated.quarantined.height, rows, parts.now())
    if observed.judgement.anomalies and contract.data.accept.anomalies == "refuse":
        words = f"{_unlike(observed.judgement)} (data.accept.anomalies: refuse).{kept}"
        raise _refused(shipping, words, validated.reasons, observed, changes)
    shipping.tell("ingest", f"writing the snapshot of {validated.accepted.height:,} rows")
    snapshot = take(contract, validated.accepted, project.tables, shipping.seals_with)
    profile = put_json(parts, profile_json(observed.profile), "profile")
    sketches = put_json(parts, pack_profile(observed.profile), "sketches")
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
        "findings": [anomaly.to_json() for anomaly in observed.judgement.anomalies],
        "changes": [change.to_json() for change in changes],
        "artefacts": {"profile": profile, "sketches": sketches},
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
        "observed": {
            **observed.to_json(),
            "digests": {name: source.digest for name, source in reads.items()},
            "schemas": {name: schema.to_json() for name, schema in schemas.items()},
            **affected(project, parts.ledger, changes, parts.now()),
        },
        "artefacts": [artefact_entry(parts, profile, "profile"), artefact_entry(parts, sketches, "sketches")],
        "links": links,
    }
    shipping.record(Event("snapshot.taken", snapshot_node(outputs), parts.actor, body, parts.rule))
    for alert in data_alerts(parts, contract, observed, changes):
        shipping.record(alert)
    return outputs


def _refused(
    shipping: Shipping, words: str, reasons: Mapping[str, int], observed: Observed | None, changes: list[SchemaChange]
) -> DataError:
    """The error of a batch that is not taken, after it was put on record and whom it concerns was alerted."""
    parts, contract = shipping.parts, shipping.contract
    body = {
        "reasons": dict(reasons),
        "error": words,
        "changes": [change.to_json() for change in changes],
        "observed": None if observed is None else observed.to_json(),
    }
    refused = Event("data.refused", f"system:{contract.system}", parts.actor, body, parts.rule)
    parts.ledger.append_all([refused, *data_alerts(parts, contract, observed, changes)])
    return DataError(words)


def _changed(changes: list[SchemaChange]) -> str:
    breaking = [change.told() for change in changes if change.impact == "breaking"]
    return f". Since the last snapshot: {'; '.join(breaking)}" if breaking else ""


def _unlike(judgement: Judgement) -> str:
    causes = [anomaly.cause.rstrip(".") for anomaly in judgement.anomalies[:TOP_CAUSES]]
    more = f" and {len(judgement.anomalies) - TOP_CAUSES} more" if len(judgement.anomalies) > TOP_CAUSES else ""
    return f"the batch is unlike the {judgement.snapshots} snapshots before it: {'; '.join(causes)}{more}"


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
