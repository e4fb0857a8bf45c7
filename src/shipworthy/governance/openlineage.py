"""OpenLineage: each run that the ledger knows as its START and its COMPLETE or FAIL event. Pure.

The same ledger gives the same events, whenever it is asked. They carry names, counts, digests and expressions, never a
value of a row, nor the words of an error, which may repeat one.

Source: OpenLineage 2-0-2 (openlineage.io/spec), its naming of datasets, and UUIDv7 (RFC 9562).
"""

import hashlib
import re
import urllib.parse
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shipworthy import __version__
from shipworthy.ledger.events import Entry, format_time

SPEC = "https://openlineage.io/spec"
SCHEMA_URL = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
PRODUCER = f"urn:shipworthy:{__version__}"
FACETS: dict[str, tuple[str, str]] = {  # facet -> its schema's version and name
    "columnLineage": ("1-2-0", "ColumnLineageDatasetFacet"),
    "dataQualityAssertions": ("1-1-0", "DataQualityAssertionsDatasetFacet"),
    "dataQualityMetrics": ("1-0-1", "DataQualityMetricsDatasetFacet"),
    "datasetType": ("1-0-1", "DatasetTypeDatasetFacet"),
    "errorMessage": ("1-0-1", "ErrorMessageRunFacet"),
    "executionParameters": ("1-0-0", "ExecutionParametersRunFacet"),
    "jobType": ("2-0-4", "JobTypeJobFacet"),
    "outputStatistics": ("1-0-2", "OutputStatisticsOutputDatasetFacet"),
    "ownership": ("1-0-1", "OwnershipJobFacet"),
    "processing_engine": ("1-1-1", "ProcessingEngineRunFacet"),
    "schema": ("1-2-0", "SchemaDatasetFacet"),
    "sourceCodeLocation": ("1-1-0", "SourceCodeLocationJobFacet"),
    "storage": ("1-0-1", "StorageDatasetFacet"),
    "tags": ("1-0-0", "TagsRunFacet"),
    "version": ("1-0-1", "DatasetVersionDatasetFacet"),
}
ENDS = ("stage.finished", "stage.failed", "scored.file")  # the verbs that end a run
_FILE = re.compile(r"[a-z]+:(.+)@(sha256:[0-9a-f]{64})")

Facets = dict[str, Any]
Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """What names of jobs and datasets begin with."""

    system: str
    owner: str
    root: str  # of the project, absolute
    find_snapshot: Callable[[str], Mapping[str, Any] | None]  # digest -> body of its `snapshot.taken`

    @property
    def namespace(self) -> str:
        """Of jobs, and of datasets that only Shipworthy has."""
        return f"shipworthy://{self.system}"


@dataclass(frozen=True, slots=True)
class _Run:
    """One run, as the ledger has it."""

    job: str
    end: Entry
    seconds: float
    inputs: list[Event]
    outputs: list[Event]
    run_facets: Facets
    job_facets: Facets
    error: str | None = None


def run_events(entries: Iterable[Entry], setting: Setting) -> Iterator[tuple[int, list[Event]]]:
    """The two events of each run among `entries`, with the number of the entry that ended it.

    Args:
        entries: in order; of a run that ended, also what was recorded together with its end.
        setting: the names.
    """
    before: Entry | None = None
    for entry in entries:
        if entry.verb in ENDS:
            run = _run(entry, before, setting)
            if run is not None:
                yield entry.seq, _events(run, setting)
        before = entry


def run_id(entry: Entry, started: float) -> str:
    """The UUIDv7 of the run that `entry` ended: when it began in ms, and 74 bits of the entry's digest."""
    digest = int.from_bytes(hashlib.sha256(entry.to_bytes()).digest()[:10])
    moment = int(started * 1000) & ((1 << 48) - 1)
    number = moment << 80 | 0x7 << 76 | (digest >> 62 & 0xFFF) << 64 | 0b10 << 62 | digest & ((1 << 62) - 1)
    return str(uuid.UUID(int=number))


def _events(run: _Run, setting: Setting) -> list[Event]:
    ended = datetime.fromisoformat(run.end.time).timestamp()
    started = ended - run.seconds
    identity = run_id(run.end, started)
    job_facets = _facets(
        jobType={"processingType": "BATCH", "integration": "SHIPWORTHY", "jobType": "STAGE"},
        ownership={"owners": [{"name": setting.owner, "type": "OWNER"}]},
        **run.job_facets,
    )
    job = {"namespace": setting.namespace, "name": f"{setting.system}.{run.job}", "facets": job_facets}
    run_facets = _facets(processing_engine={"name": "shipworthy", "version": __version__}, **run.run_facets)
    failed = {} if run.error is None else _facets(errorMessage={"message": run.error, "programmingLanguage": "PYTHON"})
    begun = [_bare(dataset) for dataset in run.inputs]
    return [
        _event("START", started, identity, run_facets, job, begun, []),
        _event(
            "COMPLETE" if run.error is None else "FAIL",
            ended, identity, run_facets | failed, job, run.inputs, run.outputs,
        ),
    ]  # fmt: skip


def _event(
    kind: str, moment: float, identity: str, facets: Facets, job: Event, inputs: list[Event], outputs: list[Event]
) -> Event:
    return {
        "eventType": kind,
        "eventTime": format_time(moment),
        "run": {"runId": identity, "facets": facets},
        "job": job,
        "inputs": inputs,
        "outputs": outputs,
        "producer": PRODUCER,
        "schemaURL": SCHEMA_URL,
    }


def _facets(**facets: Mapping[str, Any]) -> Facets:
    """Each facet with who made it and its schema."""
    return {
        name: {
            "_producer": PRODUCER,
            "_schemaURL": f"{SPEC}/facets/{FACETS[name][0]}/{FACETS[name][1]}.json#/$defs/{FACETS[name][1]}",
            **facet,
        }
        for name, facet in facets.items()
    }


# --- what each stage read and made


def _run(entry: Entry, before: Entry | None, setting: Setting) -> _Run | None:
    if entry.verb == "scored.file":
        return _scored(entry, setting)
    stage = str(entry.body["name"])
    if entry.verb == "stage.failed":
        return _failed(entry, before, setting, stage)
    described = _STAGES.get(stage)
    return None if described is None or before is None else described(entry, before, setting)


def _ingested(end: Entry, taken: Entry, setting: Setting) -> _Run:
    body = taken.body
    places = {name: _file(link["parent"], setting) for name, link in _sources(body)}
    inputs = list(places.values())
    if len(inputs) == 1:
        inputs[0]["inputFacets"] = _facets(dataQualityAssertions={"assertions": _assertions(body)})
    output = _snapshot(str(body["digest"]), body, setting)
    output["outputFacets"] = _facets(outputStatistics={"rowCount": body["rows"]})
    lineage = _column_lineage(body.get("columns", ()), output, places)
    if lineage:
        output["facets"] |= _facets(columnLineage={"fields": lineage})
    code = [link["parent"] for link in body["links"] if link["relation"] == "ran"]
    return _Run("ingest", end, end.body["seconds"], inputs, [output], {}, _code(code, setting))


def _sources(body: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The links to what was read, by the sources' names; a snapshot's event lists both in one order."""
    links = [link for link in body["links"] if link["relation"] == "ingested"]
    names = body["sources"] if len(body["sources"]) == len(links) else [link["parent"] for link in links]
    return list(zip(names, links, strict=True))


def _trained(end: Entry, finished: Entry, setting: Setting) -> _Run:
    body = finished.body
    digest = str(body["snapshot"])
    taken = setting.find_snapshot(digest)
    source, model = _snapshot(digest, taken, setting), _own("model", str(body["artefacts"][0]["digest"]), setting)
    model["facets"] |= _facets(datasetType={"datasetType": "MODEL"})
    read = [column["name"] for column in (taken or {}).get("columns", ()) if column.get("model")]
    if read:
        fields = [_field(source, name, "DIRECT", "TRANSFORMATION") for name in read]
        model["facets"] |= _facets(
            schema={"fields": [{"name": "prediction"}]},
            columnLineage={"fields": {"prediction": {"inputFields": fields}}},
        )
    parameters = {"seed": body["seed"], **body["params"]}
    facets = {
        "executionParameters": {"parameters": [{"key": key, "value": str(value)} for key, value in parameters.items()]},
        "tags": {"tags": [{"key": "run", "value": body["run"], "source": "shipworthy"}]},
    }
    entry = str(body.get("entry", "")).partition(":")[0]
    code = [f"file:{file}@{digest}" for file, digest in body["code"].items() if file == entry]
    return _Run("train", end, end.body["seconds"], [source], [model], facets, _code(code, setting))


def _packed(end: Entry, built: Entry, setting: Setting) -> _Run:
    models = [link["parent"] for link in built.body["links"] if link["relation"] == "packed"]
    inputs = [_own("model", digest, setting) for digest in models[:1]]
    return _Run("payload", end, end.body["seconds"], inputs, [_own("payload", built.object, setting)], {}, {})


def _judged(end: Entry, judged: Entry, setting: Setting) -> _Run:
    body = judged.body
    payload = _own("payload", str(body["payload"]), setting)
    assertions = [
        {"assertion": gate, "success": outcome in ("pass", "not applicable"), "actual": outcome, "severity": "error"}
        for gate, outcome in body["outcomes"].items()
    ]
    payload["inputFacets"] = _facets(dataQualityAssertions={"assertions": assertions})
    verdicts = next(link["child"] for link in body["links"] if link["relation"] == "judged")
    return _Run("gates", end, end.body["seconds"], [payload], [_own("verdicts", verdicts, setting)], {}, {})


def _released(end: Entry, published: Entry, setting: Setting) -> _Run:
    body = published.body
    inputs = [_own("payload", body["payload"], setting), _own("verdicts", body["verdicts"], setting)]
    release = _own("release", published.object.removeprefix("release:"), setting)
    tags = [{"key": "digest", "value": body["digest"], "source": "shipworthy"}]
    return _Run("release", end, end.body["seconds"], inputs, [release], {"tags": {"tags": tags}}, {})


def _scored(end: Entry, setting: Setting) -> _Run:
    body = end.body
    environment = end.object.removeprefix("score:")
    table = _place(str(body.get("from", "table")), setting)
    table["facets"] = _facets(version={"datasetVersion": body["input"]})
    answers = _place(str(body.get("to", "answers")), setting)
    answers["outputFacets"] = _facets(outputStatistics={"rowCount": body["rows"]})
    releases = [_own("release", name, setting) for name in body["releases"]]
    tags = {"environment": environment, "refused": str(body["refused"])}
    facets = {"tags": {"tags": [{"key": key, "value": value, "source": "shipworthy"} for key, value in tags.items()]}}
    return _Run("score", end, body["seconds"], [table, *releases], [answers], facets, {})


def _failed(end: Entry, before: Entry | None, setting: Setting, stage: str) -> _Run:
    inputs = [_node(str(node), setting) for node in end.body["inputs"]]
    if before is not None and before.verb == "data.refused" and before.seq == end.seq - 1 and len(inputs) == 1:
        inputs[0]["inputFacets"] = _facets(dataQualityAssertions={"assertions": _assertions(before.body)})
    code = str(end.body["error"])
    return _Run(stage, end, end.body["seconds"], inputs, [], {}, {}, f"{stage} failed ({code})")


_STAGES: dict[str, Callable[[Entry, Entry, Setting], _Run]] = {
    "ingest": _ingested,
    "train": _trained,
    "payload": _packed,
    "gates": _judged,
    "release": _released,
}


# --- datasets


def _own(name: str, version: str, setting: Setting) -> Event:
    """A dataset that only Shipworthy has, at one version."""
    facets = _facets(version={"datasetVersion": version})
    return {"namespace": setting.namespace, "name": name, "facets": facets}


def _file(node: str, setting: Setting) -> Event:
    """The dataset of a source as a link names it: `file:PATH@DIGEST`."""
    found = _FILE.fullmatch(node)
    place, digest = (found[1], found[2]) if found else (node, node)
    return _place(place, setting) | {"facets": _facets(version={"datasetVersion": digest})}


def _node(node: str, setting: Setting) -> Event:
    """The dataset of what a stage was to read, as its failure names it."""
    if _FILE.fullmatch(node):
        return _file(node, setting)
    kind, _, digest = node.partition(":")
    if kind == "snapshot":
        return _snapshot(digest, setting.find_snapshot(digest), setting)
    return _own(kind, digest, setting)


def _place(place: str, setting: Setting) -> Event:
    """The dataset at a file's path or an address, named as OpenLineage names it; a password is left out."""
    if "$" in place or "://" not in place:
        relative = place.startswith("/") or "$" in place
        name = place if relative else f"{setting.root.rstrip('/')}/{place}"
        return {"namespace": setting.namespace if "$" in place else "file", "name": name}
    parts = urllib.parse.urlsplit(place)
    scheme = {"postgresql": "postgres"}.get(parts.scheme.partition("+")[0], parts.scheme.partition("+")[0])
    port = ":5432" if scheme == "postgres" and ":" not in parts.netloc.rpartition("@")[2] else ""
    host = parts.netloc.rpartition("@")[2] + port
    if scheme == "sqlite":
        return {"namespace": "file", "name": parts.path.removeprefix("/") or place}
    return {"namespace": f"{scheme}://{host}", "name": parts.path.lstrip("/") or "/"}


def _snapshot(digest: str, taken: Mapping[str, Any] | None, setting: Setting) -> Event:
    """The system's table at the version of a snapshot."""
    dataset = _place(f".shipworthy/tables/{setting.system}", setting)
    dataset["facets"] = _facets(
        version={"datasetVersion": digest},
        datasetType={"datasetType": "TABLE"},
        storage={"storageLayer": "delta", "fileFormat": "parquet"},
    )
    columns = (taken or {}).get("columns", ())
    if taken is not None and columns:
        missing = {column["name"]: {"nullCount": column["missing"]} for column in columns}
        dataset["facets"] |= _facets(
            schema={"fields": [{"name": column["name"], "type": column["type"]} for column in columns]},
            dataQualityMetrics={"rowCount": taken["rows"], "columnMetrics": missing},
        )
    return dataset


def _bare(dataset: Event) -> Event:
    """A dataset as it was known when the run began."""
    return {name: part for name, part in dataset.items() if name != "inputFacets"}


def _column_lineage(
    columns: Iterable[Mapping[str, Any]], snapshot: Event, sources: Mapping[str, Event]
) -> dict[str, Any]:
    """Of each column that is known to come from others: which, and how."""
    columns = list(columns)
    direct = {
        column["name"]: _field(sources[column["source"]], column["field"], "DIRECT", "IDENTITY")
        for column in columns
        if column.get("source") in sources
    }
    found = {name: {"inputFields": [field]} for name, field in direct.items()}
    reads: dict[str, list[str]] = {}  # derived column -> the plain columns behind it
    for column in columns:
        if "expression" in column:
            behind = [plain for name in column["columns"] for plain in reads.get(name, [name])]
            reads[column["name"]] = list(dict.fromkeys(behind))
            described = {"type": "DIRECT", "subtype": "TRANSFORMATION", "description": column["expression"]}
            found[column["name"]] = {
                "inputFields": [
                    (direct.get(name) or _field(snapshot, name, "", "")) | {"transformations": [described]}
                    for name in reads[column["name"]]
                ]
            }
    return found


def _field(dataset: Event, name: str, kind: str, subtype: str) -> Event:
    place = {"namespace": dataset["namespace"], "name": dataset["name"], "field": name}
    return place | {"transformations": [{"type": kind, "subtype": subtype}]}


def _assertions(body: Mapping[str, Any]) -> list[Event]:
    """The rules that some rows break: those in quarantine, and those that were noted and let in."""
    return [
        _assertion(reason, rows, severity)
        for severity, told in (("error", body["reasons"]), ("warn", body.get("noted", {})))
        for reason, rows in told.items()
    ]


def _assertion(reason: str, rows: int, severity: str) -> Event:
    return {
        "assertion": reason,
        "success": False,
        "severity": severity,
        "actual": f"{rows} row{'s' if rows != 1 else ''}",
    }


def _code(nodes: list[str], setting: Setting) -> Facets:
    """Where the code lies that ran: the first of the project's files, with its digest."""
    found = [match for node in nodes if (match := _FILE.fullmatch(str(node)))]
    if not found:
        return {}
    path = f"{setting.root.rstrip('/')}/{found[0][1]}"
    url = f"file://{urllib.parse.quote(path)}"
    return {"sourceCodeLocation": {"type": "file", "url": url, "path": found[0][1], "version": found[0][2]}}
