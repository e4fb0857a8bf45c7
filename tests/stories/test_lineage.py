"""Lineage of a shipped project both ways: from a line to the release that saw it, from an answer to the code."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shipworthy.faces.cli.main import main
from tests.governance.judges import judge_event
from tests.stories.loans import write_project

SHIPPED = ["ingest", "train", "payload", "gates", "release"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A project with odd lines, shipped, then refused for its data; its lineage is told to a file."""
    top = tmp_path_factory.mktemp("lineage")
    project = write_project(top / "loans")
    lines = (project / "loans.csv").read_text().splitlines()
    lines[5] = lines[5].replace(",", ",-", 1)
    lines[9] = "broken"
    (project / "loans.csv").write_text("\n".join(lines) + "\n")
    (project / "prepare.py").write_text("def prepare(sources):\n    return sources['loans']\n")
    contract = (
        (project / "shipworthy.yaml").read_text().replace("  accept:", "  prepare: prepare.py:prepare\n  accept:")
    )
    (project / "shipworthy.yaml").write_text(contract + "lineage: {openlineage: lineage.ndjson}\n")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(top / "config"), "COLUMNS": "200"}
    argv = [sys.executable, "-m", "shipworthy", "ship", "--project", str(project)]
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    (project / "loans.csv").write_text("\n".join([lines[0], *[line.replace(",", ",9999", 1) for line in lines[1:]]]))
    assert subprocess.run(argv, env=environment, check=False, capture_output=True).returncode == 1
    return project, environment


@pytest.fixture
def lineage(
    told: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Run `shipworthy lineage` with words; its code, stdout and stderr."""
    project, environment = told
    for name in ("XDG_CONFIG_HOME", "COLUMNS"):
        monkeypatch.setenv(name, environment[name])

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["shipworthy", "lineage", *words, "--project", str(project)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(str(ended.value.code or 0)), out, err

    return run


def test_a_line_leads_to_the_release_that_saw_it_and_its_row_back(lineage: Callable[..., Any]):
    [seen] = json.loads(lineage("loans.csv:121", "--json")[1])["rows"]
    assert seen["row"] == 118  # below two odd lines and the header
    assert seen["releases"] == ["loans:1"]
    assert len(seen["runs"]) == 1
    [back] = json.loads(lineage(f"{seen['snapshot']}:118", "--json")[1])["rows"]
    assert back == seen
    [keyed] = json.loads(lineage("loan_id=loan-119", "--json")[1])["rows"]
    assert keyed == json.loads(lineage("key=loan-119", "--json")[1])["rows"][0] == seen
    code, out, _ = lineage("loans.csv:121")
    assert code == 0
    assert "row 118 of snapshot" in out
    assert "loans:1" in out


def test_a_line_in_quarantine_says_why(lineage: Callable[..., Any]):
    [seen] = json.loads(lineage("loans.csv:6", "--json")[1])["rows"]
    assert (seen["row"], seen["reasons"], seen["releases"]) == (None, "income: outside [0, 1000]", ["loans:1"])
    assert "row: fewer fields than the header's 5" in lineage("loans.csv:10")[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loans.csv:1", "no ingest is known to have read that row"),
        ("loans.csv:99999", "no ingest is known to have read that row"),
        ("loan_id=nobody", "no ingest is known to have read that row"),
        ("other.csv:3", "nothing is known of 'other.csv:3'"),
        ("income=3", "nothing is known of 'income=3'"),
    ],
)
def test_what_nobody_read_is_said_plainly(lineage: Callable[..., Any], name: str, words: str):
    code, _, err = lineage(name)
    assert code == 1
    assert words in err


@pytest.mark.parametrize("words", [(), ("loans:1", "--send"), ("--send", "--openlineage", "x")])
def test_one_thing_is_asked_for(lineage: Callable[..., Any], words: tuple[str, ...]):
    code, _, err = lineage(*words)
    assert code == 2
    assert "name one thing" in err


def test_every_run_was_told_as_valid_events_and_the_refusal_as_a_failure(
    told: tuple[Path, dict[str, str]], lineage: Callable[..., Any], tmp_path: Path
):
    lines = (told[0] / "lineage.ndjson").read_text().splitlines()[:12]
    events = [json.loads(line) for line in lines]
    for event in events:
        judge_event(event)
    ends = [(event["job"]["name"], event["eventType"]) for event in events[1::2]]
    assert ends == [*((f"loans.{stage}", "COMPLETE") for stage in SHIPPED), ("loans.ingest", "FAIL")]
    assert [event["eventType"] for event in events[::2]] == ["START"] * 6
    assert [event["run"]["runId"] for event in events[::2]] == [event["run"]["runId"] for event in events[1::2]]
    broken = events[-1]["inputs"][0]["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert {rule["assertion"] for rule in broken} >= {"income: outside [0, 1000]", "income: not a number"}
    code, _, _ = lineage("--openlineage", str(tmp_path / "all.ndjson"))
    assert code == 0
    assert (tmp_path / "all.ndjson").read_text().splitlines()[:12] == lines
    code, out, _ = lineage("--send")
    assert (code, out) == (0, "nothing is new to lineage.ndjson\n")


def test_the_events_tell_one_graph_from_the_file_to_the_release(told: tuple[Path, dict[str, str]]):
    events = [json.loads(line) for line in (told[0] / "lineage.ndjson").read_text().splitlines()]
    made = {(part["namespace"], part["name"]): event["job"]["name"] for event in events for part in event["outputs"]}
    read = {event["job"]["name"]: [(i["namespace"], i["name"]) for i in event["inputs"]] for event in events}
    place, walked = ("shipworthy://loans", "release"), []
    while place in made:
        walked.append(made[place])
        place = read[made[place]][0]
    assert walked == ["loans.release", "loans.payload", "loans.train", "loans.ingest"]
    assert place == ("file", str(told[0] / "loans.csv"))


def test_an_answer_leads_to_its_source_and_its_code(told: tuple[Path, dict[str, str]], lineage: Callable[..., Any]):
    project, environment = told
    argv = [sys.executable, "-m", "shipworthy", "score", "in.jsonl", "out.jsonl", "--project", str(project)]
    (project / "in.jsonl").write_text('{"loan_id": "new-1", "income": 50.5, "debt": 10, "purpose": "car"}\n')
    subprocess.run(argv, cwd=project, env=environment, check=True, capture_output=True)
    answer = json.loads((project / "out.jsonl").read_text())
    edges = json.loads(lineage(answer["prediction_id"], "--up", "--json")[1])["up"]["edges"]
    parents = {edge["parent"].partition("@")[0] for edge in edges}
    assert {"file:loans.csv", "file:prepare.py", "file:train.py", "release:loans:1"} <= parents
    down = json.loads(lineage("prepare.py", "--down", "--json")[1])["down"]
    assert down["predictions"] == {"loans:1": 1}
    last = json.loads((project / "lineage.ndjson").read_text().splitlines()[-1])
    assert (last["job"]["name"], last["eventType"]) == ("loans.score", "COMPLETE")
    assert [part["name"] for part in (*last["inputs"], *last["outputs"])] == [
        str(project / "in.jsonl"),
        "release",
        str(project / "out.jsonl"),
    ]
