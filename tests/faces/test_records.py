"""`records compact` and `--spool` on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shipworthy.faces.cli.serve import check_spool
from shipworthy.faces.cli.show import Face
from shipworthy.kernel.errors import UsageError
from shipworthy.workflows.serve import Target
from tests.serving.conftest import Place


def run(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}
    command = [sys.executable, "-m", "shipworthy", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def make_project(folder: Path) -> None:
    (folder / "loans.csv").write_text(
        "income,default\n" + "".join(f"{row * 37 % 101},{row % 2}\n" for row in range(300))
    )
    assert run(folder, "init", "p", "--data", "loans.csv", "--target", "default").returncode == 0


def test_compacting_nothing_says_so_and_a_wrong_age_is_named(tmp_path: Path) -> None:
    make_project(tmp_path)
    done = run(tmp_path, "records", "compact", "--project", "p")
    assert (done.returncode, done.stdout) == (0, "Nothing to compact.\n")
    found = json.loads(run(tmp_path, "records", "compact", "--project", "p", "--json").stdout)
    assert (found["segments"], found["records"]) == (0, 0)
    wrong = run(tmp_path, "records", "compact", "--project", "p", "--older-than", "a week")
    assert wrong.returncode == 2
    assert "--older-than: expected a duration above 0 with its unit" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_release_that_counts_on_a_spool_needs_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, face = Place(tmp_path), Face(as_json=False)
    plain, needy = Target("loans", "loans:1", {}), Target("loans", "loans:2", {}, needs_spool=True)
    check_spool(place.settings(), plain, face)
    with pytest.raises(UsageError, match=r"loans:2 keeps records in a spool .*; name a folder .* with --spool DIR"):
        check_spool(place.settings(), needy, face)
    assert capsys.readouterr().err == ""
    check_spool(place.settings(spool=str(place.spool)), needy, face)
    assert "is on the same volume as the records" in capsys.readouterr().err.replace("\n", " ")
