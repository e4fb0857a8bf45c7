"""The declared peak, held or not, and what it takes."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stories.conftest import Done


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
