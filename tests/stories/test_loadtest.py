"""The declared peak, held or not, and what it takes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stories.conftest import Done

SECONDS = os.environ.get("SHIPWORTHY_SOAK", "3")


def test_a_peak_is_held_and_sized(shipworthy: Callable[..., Done], project: Path) -> None:
    done = shipworthy("loadtest", "--project", project, "--rps", "50", "--seconds", "2", "--json")
    report = done.document
    assert report["requests"] == 100
    assert report["errors"] == 0
    assert report["workers"] == 1
    assert len(report["windows"]) == 1
    assert 0 < report["windows"][0]["p50_ms"] <= report["windows"][0]["p99_ms"]
    assert report["sizing"]["workers"] == 1
    assert report["memory_bytes"] > 50_000_000
    assert done.code == (0 if report["steady"] else 1)
    words = shipworthy("loadtest", "--project", project, "--rps", "50", "--seconds", "1").out
    assert "Proposed: workers 1, memory" in words


def test_the_peak_that_the_contract_declares_is_held(
    shipworthy: Callable[..., Done], project: Path, seen: Callable[[str, object], None]
) -> None:
    contract = project / "shipworthy.yaml"
    gates = "gates:\n  budget: {at_rps: 200, p99: {at_most: 100ms}, memory: {at_most: 500MB}}\n"
    contract.write_text(contract.read_text().replace("gates:\n", gates, 1))
    done = shipworthy("loadtest", "--project", project, "--seconds", SECONDS, "--json", timeout=float(SECONDS) + 240)
    report = done.document
    assert "windows" in report, report
    seen("requests", report["requests"])
    seen("requests/s declared", report["at_rps"])
    seen("p99 ms", round(report["p99_ms"], 2))
    seen("p99 ms of the slowest window", round(max(window["p99_ms"] for window in report["windows"]), 2))
    seen("MB", round(report["memory_bytes"] / 1e6))
    seen("workers proposed", report["sizing"]["workers"])
    assert report["at_rps"] == 200
    assert report["errors"] == 0
    assert all(window["rps"] >= 0.9 * report["at_rps"] for window in report["windows"])


def test_a_load_leaves_the_projects_own_records_alone(shipworthy: Callable[..., Done], project: Path) -> None:
    shipworthy("loadtest", "--project", project, "--rps", "50", "--seconds", "1")
    assert not (project / ".shipworthy" / "records" / "local").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rps", "0"), "--rps 0: 1 to 20000 requests/s"),
        (("--seconds", "0"), "--seconds 0: a load lasts 1 to 3600 s"),
        (("--env", "production"), "nothing is deployed in production"),
    ],
)
def test_what_cannot_be_is_said(
    shipworthy: Callable[..., Done], project: Path, words: tuple[str, ...], said: str
) -> None:
    done = shipworthy("loadtest", "--project", project, "--rps", "50", *words)
    assert done.code != 0
    assert said in done.err
