"""Runs as OpenLineage events: two for each, with one id, named by the rules, and without a value of a row."""

import json
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from openlineage.client.naming.dataset import S3, LocalFileSystem, Postgres

from shipworthy.governance.openlineage import Setting, run_events, run_id
from shipworthy.ledger.events import Entry
from tests.governance.judges import judge_event

DIGEST = f"sha256:{'a' * 64}"
SNAPSHOT = f"sha256:{'b' * 64}"
TAKEN: dict[str, Any] = {
    "digest": SNAPSHOT,
    "rows": 98,
    "reasons": {"income: outside [0, 1000]": 2},
    "noted": {"debt: outside [0, 10]": 1},
    "sources": {"loans": DIGEST},
    "columns": [
        {"name": "income", "type": "float", "missing": 0, "model": True, "source": "loans", "field": "Income (EUR)"},
        {"name": "debt", "type": "float", "missing": 3, "model": True, "source": "loans", "field": "debt"},
        {"name": "ratio", "type": "float", "missing": 3, "model": True, "expression": "debt / income",
         "columns": ["debt", "income"]},
        {"name": "high", "type": "bool", "missing": 3, "model": True, "expression": "ratio > 2", "columns": ["ratio"]},
        {"name": "repaid", "type": "category", "missing": 0, "source": "loans", "field": "repaid"},
    ],
    "links": [
        {"parent": f"file:data/loans.csv@{DIGEST}", "relation": "ingested", "child": f"snapshot:{SNAPSHOT}"},
        {"parent": f"file:prepare.py@{DIGEST}", "relation": "ran", "child": f"snapshot:{SNAPSHOT}"},
    ],
}  # fmt: skip
SETTING = Setting("loans", "lending", "/srv/loans", lambda digest: TAKEN if digest == SNAPSHOT else None)


def entry(seq: int, verb: str, object: str = "o", **body: Any) -> Entry:
    return Entry(seq, f"2026-03-01T10:00:{seq:02}.500Z", "user:ann", verb, object, "", body)


def events(*entries: Entry) -> list[dict[str, Any]]:
    found = [event for _, pair in run_events(entries, SETTING) for event in pair]
    for event in found:
        judge_event(event)
    return found


INGESTED = (entry(1, "snapshot.taken", **TAKEN), entry(2, "stage.finished", name="ingest", seconds=1.25))


def test_an_ingest_is_a_run_from_its_file_to_its_table():
    start, complete = events(*INGESTED)
    assert (start["eventType"], complete["eventType"]) == ("START", "COMPLETE")
    assert (start["eventTime"], complete["eventTime"]) == ("2026-03-01T10:00:01.250Z", "2026-03-01T10:00:02.500Z")
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert complete["job"]["name"] == "loans.ingest"
    [source], [table] = complete["inputs"], complete["outputs"]
    assert (source["namespace"], source["name"]) == ("file", "/srv/loans/data/loans.csv")
    assert table["name"] == "/srv/loans/.shipworthy/tables/loans"
    assert start["outputs"] == []
    assert "inputFacets" not in start["inputs"][0]
    rules = source["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [(rule["assertion"], rule["severity"], rule["actual"]) for rule in rules] == [
        ("income: outside [0, 1000]", "error", "2 rows"),
        ("debt: outside [0, 10]", "warn", "1 row"),
    ]
    metrics = table["facets"]["dataQualityMetrics"]
    assert (metrics["rowCount"], metrics["columnMetrics"]["debt"]) == (98, {"nullCount": 3})
    assert [field["name"] for field in table["facets"]["schema"]["fields"]] == [
        "income", "debt", "ratio", "high", "repaid",
    ]  # fmt: skip
    code = complete["job"]["facets"]["sourceCodeLocation"]
    assert (code["url"], code["version"]) == ("file:///srv/loans/prepare.py", DIGEST)


def test_columns_are_traced_through_every_expression_to_the_file():
    lineage = events(*INGESTED)[1]["outputs"][0]["facets"]["columnLineage"]["fields"]
    assert [field["field"] for field in lineage["income"]["inputFields"]] == ["Income (EUR)"]
    assert lineage["income"]["inputFields"][0]["transformations"] == [{"type": "DIRECT", "subtype": "IDENTITY"}]
    for name, expression in (("ratio", "debt / income"), ("high", "ratio > 2")):
        fields = lineage[name]["inputFields"]
        assert [(field["name"], field["field"]) for field in fields] == [
            ("/srv/loans/data/loans.csv", "debt"),
            ("/srv/loans/data/loans.csv", "Income (EUR)"),
        ]
        assert fields[0]["transformations"][0]["description"] == expression


def test_the_model_comes_from_the_columns_that_it_reads():
    run = entry(
        3, "run.finished", run="run_1", snapshot=SNAPSHOT, seed=3, params={"depth": 4}, code={"train.py": DIGEST},
        entry="train.py:train", artefacts=[{"digest": DIGEST, "kind": "model", "size_bytes": 1}], links=[],
    )  # fmt: skip
    _, complete = events(*INGESTED, run, entry(4, "stage.finished", name="train", seconds=1))[2:]
    read = complete["outputs"][0]["facets"]["columnLineage"]["fields"]["prediction"]["inputFields"]
    assert [field["field"] for field in read] == ["income", "debt", "ratio", "high"]
    assert complete["run"]["facets"]["executionParameters"]["parameters"] == [
        {"key": "seed", "value": "3"},
        {"key": "depth", "value": "4"},
    ]


def test_a_failure_names_its_kind_and_its_data_and_no_words():
    refused = entry(1, "data.refused", reasons={"income: outside [0, 1000]": 60})
    failed = entry(
        2, "stage.failed", name="ingest", error="data", seconds=0.5, inputs=[f"file:data/loans.csv@{DIGEST}"]
    )
    start, fail = events(refused, failed)
    assert (start["eventType"], fail["eventType"]) == ("START", "FAIL")
    assert fail["run"]["facets"]["errorMessage"]["message"] == "ingest failed (data)"
    assert fail["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"][0]["actual"] == "60 rows"
    assert "errorMessage" not in start["run"]["facets"]
    late = entry(9, "stage.failed", name="train", error="training", seconds=1, inputs=[f"snapshot:{SNAPSHOT}"])
    assert events(late)[1]["inputs"][0]["facets"]["dataQualityMetrics"]["rowCount"] == 98


def test_gates_releases_and_scores_are_runs():
    judged = entry(
        1, "gates.judged", payload=DIGEST, outcomes={"performance.roc_auc": "fail", "value": "not applicable"},
        links=[{"parent": DIGEST, "relation": "judged", "child": SNAPSHOT}],
    )  # fmt: skip
    published = entry(3, "release.published", "release:loans:1", payload=DIGEST, verdicts=SNAPSHOT, digest=DIGEST)
    scored = entry(
        5, "scored.file", "score:local", seconds=2.5, rows=10, refused=1, input=DIGEST, releases={"loans:1": 9},
        **{"from": "postgresql://ann:secret@db.example/books", "to": "/srv/out.csv"},
    )  # fmt: skip
    built = entry(7, "payload.built", DIGEST, links=[{"parent": SNAPSHOT, "relation": "packed", "child": DIGEST}])
    found = events(
        judged, entry(2, "stage.finished", name="gates", seconds=1),
        published, entry(4, "stage.finished", name="release", seconds=1), scored,
        built, entry(8, "stage.finished", name="payload", seconds=1),
    )  # fmt: skip
    ends = {event["job"]["name"]: event for event in found if event["eventType"] == "COMPLETE"}
    assert list(ends) == ["loans.gates", "loans.release", "loans.score", "loans.payload"]
    rules = ends["loans.gates"]["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert [rule["success"] for rule in rules] == [False, True]
    assert ends["loans.release"]["outputs"][0]["facets"]["version"]["datasetVersion"] == "loans:1"
    table, release = ends["loans.score"]["inputs"]
    assert (table["namespace"], release["name"]) == ("postgres://db.example:5432", "release")
    assert "secret" not in json.dumps(found)


def test_the_same_entry_has_the_same_id_and_another_one_another():
    end = INGESTED[1]
    moment = datetime(2026, 3, 1, 10, tzinfo=UTC).timestamp()
    first = uuid.UUID(run_id(end, moment))
    assert (first.version, first.variant) == (7, uuid.RFC_4122)
    assert first.int >> 80 == int(moment * 1000)
    assert run_id(end, moment) == str(first)
    others = {run_id(entry(seq, "stage.finished", name="ingest"), moment) for seq in range(40)}
    assert len(others | {str(first)}) == 41


@pytest.mark.parametrize(
    ("place", "rule"),
    [
        ("/srv/loans.csv", LocalFileSystem("/srv/loans.csv")),
        ("data/loans.csv", LocalFileSystem("/srv/loans/data/loans.csv")),
        ("s3://bucket/a/b.parquet", S3("bucket", "a/b.parquet")),
    ],
)
def test_datasets_are_named_by_the_standards_rules(place: str, rule: Any):
    scored = entry(
        1, "scored.file", "score:local", seconds=1, rows=1, refused=0, input=DIGEST, releases={},
        **{"from": place, "to": "postgresql://me@host:6000/db"},
    )  # fmt: skip
    _, end = events(scored)
    assert (end["inputs"][0]["namespace"], end["inputs"][0]["name"]) == (rule.get_namespace(), rule.get_name())
    assert end["outputs"][0]["namespace"] == Postgres("host", "6000", "db", "s", "t").get_namespace()


def test_what_is_no_run_is_no_event_and_an_old_ledger_is_understood():
    old = {name: value for name, value in TAKEN.items() if name != "columns"}
    told = events(entry(1, "token.minted"), entry(2, "snapshot.taken", **old), INGESTED[1].__class__(
        3, "2026-03-01T10:00:03.500Z", "user:ann", "stage.finished", "o", "", {"name": "ingest", "seconds": 1}
    ))  # fmt: skip
    assert [event["eventType"] for event in told] == ["START", "COMPLETE"]
    assert "schema" not in told[1]["outputs"][0]["facets"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("eventTime",), "yesterday"),
        (("run", "runId"), "run_1"),
        (("outputs", 0, "facets", "schema", "fields", 0, "name"), None),
        (("outputs", 0, "facets", "dataQualityMetrics", "rowCount"), "98"),
        (("inputs", 0, "facets", "version", "_producer"), None),
        (("job", "facets", "jobType", "kind"), "BATCH"),
    ],
)
def test_the_judges_refuse_what_the_standard_does(path: tuple[Any, ...], value: Any):
    event = json.loads(json.dumps(events(*INGESTED)[1]))
    part = event
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises((ValueError, AssertionError, TypeError)):
        judge_event(event)
