"""Ingest: sources to a snapshot; what does not fit goes to quarantine with its reasons."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from shipworthy.contract.types import Contract
from shipworthy.data.accept import judge_batch
from shipworthy.data.findings.find import find_all
from shipworthy.data.health import Judgement
from shipworthy.data.lookups import join_lookups, main_reads, pack_tables
from shipworthy.data.origins import trace, trace_columns
from shipworthy.data.prepare.point_in_time import Proof, watched_sources
from shipworthy.data.prepare.run import Prepared, prepare, prove_point_in_time
from shipworthy.data.profile import pack_profile, profile_json
from shipworthy.data.references import find_orphans, judge_orphans
from shipworthy.data.replay import join_replayed
from shipworthy.data.schema_change import SchemaChange, read_schema
from shipworthy.data.snapshot import take
from shipworthy.data.sources.read import PLACES, SourceRead
from shipworthy.data.split import Split, split
from shipworthy.data.validate import Validated, validate
from shipworthy.kernel.digest import digest_bytes, digest_json
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
from shipworthy.workflows.replay import node_of, replayed_digests, validated_replays
from shipworthy.workflows.shipping import Shipping
from shipworthy.workflows.sources import Gathered, read_all
from shipworthy.workflows.stages.folders import artefact_entry, put_json, work_folder
from shipworthy.workflows.stages.rows import snapshot_node
from shipworthy.workflows.stages.standing import KIND, find_standing, note_standing
from shipworthy.workflows.stages.streams import stream_large

Outputs = dict[str, Any]

TOP_CAUSES = 3  # in a refusal; its event has all


def ingest(shipping: Shipping, gathered: Gathered) -> Outputs:
    """Sources to a snapshot; rows that do not fit are kept in quarantine with their reasons."""
    parts, contract = shipping.parts, shipping.contract
    project = parts.project
    past = read_past(parts.ledger, parts.artefacts, contract.system)
    standing = find_standing(shipping, gathered, past)
    streamed = stream_large(shipping, gathered, standing)
    reads, unread = read_all(shipping, gathered)
    standing = standing if streamed else None
    sources = gathered.digests
    schemas = {each.read.name: each.schema for each in streamed} or {
        name: read_schema(contract, source.frame) for name, source in reads.items()
    }
    changes = schema_changes(project, contract, past[-1].schemas if past else {}, schemas)
    main = main_reads(contract, reads)
    orphans = find_orphans(contract, {name: source.frame for name, source in reads.items()})
    with _refusals_recorded(shipping, changes, {"orphans": [found.to_json() for found in orphans]}):
        judge_orphans(orphans)
    with _refusals_recorded(shipping, changes):
        prepared, proof = _prepared(shipping, main)
    if proof is not None and proof.ahead and contract.data.accept.future == "refuse":
        raise _refused(shipping, proof.told(), changes, {"future": proof.to_json()})
    main = _with_rejected(main, prepared)
    malformed = _malformed({**reads, **main}, prepared)
    with _refusals_recorded(shipping, changes):
        looked_up = join_lookups(contract, prepared.frame, reads, now=parts.now())
        prepared = replace(prepared, frame=looked_up.frame)
        tables = pack_tables(looked_up.tables) if looked_up.tables else None
    frame = prepared.frame
    with _refusals_recorded(shipping, changes):
        shipping.tell("ingest", f"checking {frame.height:,} rows")
        validated = streamed[0].validated if streamed else validate(contract, frame, malformed=malformed)
    validated, replayed = _with_replayed(shipping, validated)
    placed = _placed(prepared, validated.quarantined, main, malformed)
    placed = placed if standing is None else standing.quarantined(placed)
    quarantine = _keep_quarantined(project.quarantine, placed, sources, shipping.seals_with)
    kept = f". The rows and their reasons are in {quarantine}." if quarantine else ""
    fresh, validated = validated, validated if standing is None else standing.whole(contract, validated)
    profile = None if standing is None else standing.profile(contract, fresh.accepted)
    classes = None if profile is None else profile[contract.target.column].values
    steps = [step.to_json() for step in prepared.steps]
    with _refusals_recorded(shipping, changes, {"reasons": validated.reasons, "steps": steps}, kept):
        judge_batch(contract, validated, now=parts.now(), last_rows=_last_rows(shipping), classes=classes)
    shipping.tell("ingest", f"profiling {fresh.accepted.height:,} rows")
    rows = {name: source.rows for name, source in reads.items()}
    observed = observe(contract, past, validated.accepted, validated.quarantined.height, rows, parts.now(), profile)
    anomalies = observed.judgement.anomalies
    if anomalies and contract.data.accept.anomalies == "refuse":
        words = f"{_unlike(observed.judgement)} (data.accept.anomalies: refuse){kept}"
        raise _refused(shipping, words, changes, {"reasons": validated.reasons}, observed)
    shipping.tell("ingest", f"writing the snapshot of {validated.accepted.height:,} rows")
    if standing is None:
        snapshot = take(contract, validated.accepted, project.tables, shipping.seals_with)
        shipping.tell("ingest", "looking for what a person should be asked")
        findings = [found.to_json() for found in find_all(contract, validated.accepted, _places(contract, validated))]
    else:
        snapshot, findings = standing.extended(fresh.accepted), standing.findings
    traced = main if standing is None else standing.fresh(main)
    origins = trace(contract, traced, prepared, fresh, project.root, None if standing is None else standing.origins)
    made = {
        "profile": put_json(parts, profile_json(observed.profile), "profile"),
        "sketches": put_json(parts, pack_profile(observed.profile), "sketches"),
        "origins": parts.artefacts.put_bytes(origins, "origins").digest,
    }
    if tables is not None:
        made["lookups"] = parts.artefacts.put_bytes(tables, "lookups").digest
    if streamed:
        note = note_standing(shipping, streamed[0], validated.checks, snapshot.rows, standing)
        made[KIND] = put_json(parts, note, KIND)
    outputs: Outputs = {
        "snapshot": snapshot.digest,
        "version": snapshot.version,
        "rows": snapshot.rows,
        "system": contract.system,
        "quarantined": validated.quarantined.height,
        "reasons": dict(validated.reasons),
        "noted": dict(validated.noted),
        "formats": dict(validated.formats),
        "findings": findings,
        **({"steps": steps} if steps else {}),
        **({"future": proof.to_json()} if proof is not None else {}),
        **({} if standing is None else {"findings_of": standing.noted["looked"]["rows"]}),
        **({"replayed": replayed} if replayed else {}),
        **({"lookups": {name: found.to_json() for name, found in looked_up.counts.items()}} if tables else {}),
        **({"orphans": [found.to_json() for found in orphans]} if orphans else {}),
        "quarantine": str(quarantine.relative_to(project.root)) if quarantine else None,
        "sources": dict(sources),
        "anomalies": [anomaly.to_json() for anomaly in anomalies],
        "changes": [change.to_json() for change in changes],
        "artefacts": made,
        "detail": _ingest_detail(snapshot.rows, validated, replayed.get("joined", 0))
        + ("" if standing is None else f"; {fresh.accepted.height:,} rows added, findings are those of before"),
    }
    if gathered.broken:
        outputs["broken"] = {name: broken.to_json() for name, broken in gathered.broken.items()}
    if unread:
        outputs["unread"] = unread
    links = [
        {"parent": parent, "relation": "ingested", "child": snapshot_node(outputs)} for parent in gathered.origins()
    ]
    links += [
        {"parent": node_of(digest), "relation": "ingested", "child": snapshot_node(outputs)}
        for digest in replayed.get("digests", ())
    ]
    for prepared_by in contract.data.prepare_files:
        digest = digest_bytes((project.root / prepared_by).read_bytes())
        links.append({"parent": f"file:{prepared_by}@{digest}", "relation": "ran", "child": snapshot_node(outputs)})
    links.append({"parent": snapshot_node(outputs), "relation": "profiled", "child": made["profile"]})
    if tables is not None:
        looked_in = {lookup.source or name for name, lookup in contract.data.lookups.items()}
        links += [
            {"parent": parent, "relation": "looked up", "child": made["lookups"]}
            for parent in gathered.origins(looked_in)
        ]
    body = {
        **{key: value for key, value in outputs.items() if key != "detail"},
        "digest": snapshot.digest,
        "schema": {name: str(kind) for name, kind in fresh.accepted.schema.items()},
        "columns": trace_columns(contract, reads, {name: found.missing for name, found in observed.profile.items()}),
        "observed": {
            **observed.to_json(),
            "digests": {name: source.digest for name, source in reads.items()},
            "schemas": {name: schema.to_json() for name, schema in schemas.items()},
            **affected(project, parts.ledger, changes, parts.now()),
        },
        "artefacts": [artefact_entry(parts, digest, kind) for kind, digest in made.items()],
        "links": links,
    }
    shipping.record(Event("snapshot.taken", snapshot_node(outputs), parts.actor, body, parts.rule))
    for alert in data_alerts(parts, contract, observed, changes):
        shipping.record(alert)
    return outputs


@contextmanager
def _refusals_recorded(
    shipping: Shipping, changes: list[SchemaChange], body: Mapping[str, Any] | None = None, where: str = ""
) -> Iterator[None]:
    """A refused batch is an event; what was accepted before stays the newest snapshot."""
    try:
        yield
    except DataError as error:
        raise _refused(shipping, f"{error}{_changed(changes)}{where}", changes, body or {}) from None


def _refused(
    shipping: Shipping,
    words: str,
    changes: list[SchemaChange],
    body: Mapping[str, Any],
    observed: Observed | None = None,
) -> DataError:
    """The error of a batch that is not taken, after it was put on record and whom it concerns was alerted."""
    parts, contract = shipping.parts, shipping.contract
    told = {
        "reasons": {},
        **body,
        # other words may repeat a row's value, which no log may keep
        "error": _changed(changes).removeprefix(". ") or None if observed is None else words,
        "changes": [change.to_json() for change in changes],
        "observed": None if observed is None else observed.to_json(),
    }
    refused = Event("data.refused", f"system:{contract.system}", parts.actor, told, parts.rule)
    parts.ledger.append_all([refused, *data_alerts(parts, contract, observed, changes)])
    return DataError(words)


def _changed(changes: list[SchemaChange]) -> str:
    breaking = [change.told() for change in changes if change.impact == "breaking"]
    return f". Since the last snapshot: {'; '.join(breaking)}" if breaking else ""


def _unlike(judgement: Judgement) -> str:
    causes = [anomaly.cause.rstrip(".") for anomaly in judgement.anomalies[:TOP_CAUSES]]
    more = f" and {len(judgement.anomalies) - TOP_CAUSES} more" if len(judgement.anomalies) > TOP_CAUSES else ""
    return f"the batch is unlike the {judgement.snapshots} snapshots before it: {'; '.join(causes)}{more}"


def _with_replayed(shipping: Shipping, validated: Validated) -> tuple[Validated, dict[str, Any]]:
    """The sources' rows with those that people fixed and the sources lack, and what became of these."""
    parts, contract = shipping.parts, shipping.contract
    found = validated_replays(parts.project, parts.ledger, contract, shipping.seals_with)
    if found is None:
        return validated, {}
    joined, known = join_replayed(contract, validated, found.accepted)
    return joined, {
        "digests": replayed_digests(parts.ledger),
        "joined": found.accepted.height - known,
        "known": known,  # in the sources by now
        "refused": found.quarantined.height,  # by a contract that was changed
    }


def _last_rows(shipping: Shipping) -> int | None:
    """How many rows the newest snapshot of the system has; None if there is none."""
    taken = [found for found in shipping.parts.ledger.snapshots() if found["system"] == shipping.contract.system]
    return int(taken[-1]["rows"]) if taken else None


def _places(contract: Contract, validated: Validated) -> Split | None:
    """How the rows will be parted; None where they cannot be, which the training says."""
    try:
        return split(contract, validated.accepted, contract.training.seed)
    except DataError:
        return None


def _prepared(shipping: Shipping, reads: Mapping[str, SourceRead]) -> tuple[Prepared, Proof | None]:
    """The one frame, and whether its features see the future, where the sources say when rows became known."""
    contract, root, environment = shipping.contract, shipping.parts.project.root, shipping.environment
    with work_folder(shipping.parts, "prepare") as work:
        prepared = prepare(contract, reads, root, work=work, environment=environment)
        if contract.data.steps and watched_sources(contract):
            shipping.tell("ingest", "preparing again, on what was known at a time")
        proof = prove_point_in_time(contract, reads, prepared.frame, root, work=work, environment=environment)
    return prepared, proof


def _placed(
    prepared: Prepared, quarantined: pl.DataFrame, reads: Mapping[str, SourceRead], lost: pl.DataFrame | None
) -> pl.DataFrame:
    """The quarantined rows with file and line of each, where they are known: what SQL or a function made has none."""
    row, *others = quarantined.columns
    numbers = quarantined[row].drop_nulls() - 1
    places = pl.DataFrame(schema=PLACES).clear(len(numbers))
    for name, rows in prepared.rows.items():  # without a step the numbers are those of the source
        places = reads[name].places(rows.gather(numbers) if prepared.steps else numbers)
    if lost is not None:
        places = pl.concat([places, lost.select("file", "line")])
    names = {name: _free(name, quarantined) for name in places.columns}
    return quarantined.select(row).hstack(places.rename(names)).hstack(quarantined.select(others))


def _free(name: str, frame: pl.DataFrame) -> str:
    while name in frame.columns:
        name += "_"
    return name


def _with_rejected(reads: Mapping[str, SourceRead], prepared: Prepared) -> dict[str, SourceRead]:
    """The sources, with the rows that a step could not read among their malformed ones."""
    return {
        name: replace(read, malformed=pl.concat([read.malformed, prepared.rejected[name]]))
        if name in prepared.rejected
        else read
        for name, read in reads.items()
    }


def _malformed(reads: Mapping[str, SourceRead], prepared: Prepared) -> pl.DataFrame | None:
    """Rows that the sources could not part in fields, and those that a step could not read."""
    found = [source.malformed for source in reads.values() if source.malformed.height]
    found += [rows for table, rows in prepared.rejected.items() if table not in reads]
    return pl.concat(found) if found else None


def _keep_quarantined(folder: Path, rows: pl.DataFrame, sources: Mapping[str, str], vault: Vault | None) -> Path | None:
    """Write the rows that were not accepted as CSV, under the digest of what was read."""
    if not rows.height:
        return None
    lists = [name for name, kind in rows.schema.items() if kind == pl.List(pl.String)]
    flat = rows.with_columns(pl.col(name).list.join("; ") for name in lists)
    return keep_rows(folder, digest_json(dict(sources))[7:19], flat, vault)


def _ingest_detail(rows: int, validated: Validated, replayed: int) -> str:
    fixed = f" ({replayed:,} of them replayed)" if replayed else ""
    words = f"{rows:,} rows accepted{fixed}, {validated.quarantined.height:,} quarantined"
    top = sorted(validated.reasons.items(), key=lambda item: -item[1])[:2]
    return f"{words} ({'; '.join(f'{reason}: {count:,}' for reason, count in top)})" if top else words
