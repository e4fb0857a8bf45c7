"""`ship` killed at any moment: run again, it ends where it would have ended."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shipworthy.bundle.deployment import read_deployment
from shipworthy.security.keys import load_public_keys
from shipworthy.workflows.layout import Project
from tests.conftest import Seen
from tests.stories.loans import write_project

KILLS = int(os.environ.get("SHIPWORTHY_SOAK", "5"))
STAGES = ("ingest", "train", "payload", "gates", "release", "deploy")


@pytest.mark.timeout(36_000)
def test_ship_killed_in_any_stage_carries_on_to_the_same_payload(
    project: Path, tmp_path: Path, home: dict[str, str], shipworthy: Callable[..., Any], seen: Seen
):
    """Each stage in turn, until so many were killed; a project that got through is begun anew."""
    undisturbed = what_is_live(project, shipworthy)
    chance = random.Random(3)
    kills = projects = 0
    while kills < KILLS:
        projects += 1
        folder = write_project(tmp_path / f"loans-{projects}")
        for stage in STAGES:
            kills += kill_ship_in(stage, chance.uniform(0, 0.1), folder, home)
        done = shipworthy("ship", "--project", folder, "--json")
        assert done.code == 0, done.err
        assert done.document["release"] == "loans:1"
        assert what_is_live(folder, shipworthy) == undisturbed
        assert shipworthy("verify", "all", "--project", folder).code == 0
        shutil.rmtree(folder)
    seen("kills", kills)
    seen("projects that ended in the same payload", projects)


@pytest.mark.parametrize("before", ["nothing", "an older generation", "half a file"])
def test_a_promotion_stopped_between_ledger_and_file_is_carried_on(
    project: Path, shipworthy: Callable[..., Any], serving: Callable[..., Any], before: str
):
    live = project / ".shipworthy" / "live" / "local"
    old = (live / "deployment").read_bytes()
    contract = project / "shipworthy.yaml"
    contract.write_text(contract.read_text().replace("confidence_below: 0.6", "confidence_below: 0.7"))
    assert shipworthy("ship", "--project", project, "--json").document["release"] == "loans:2"
    new = read_deployment(live, load_public_keys(project / ".shipworthy" / "keys"))
    if before == "nothing":
        shutil.rmtree(live)
    else:
        (live / "deployment").write_bytes(old if before == "an older generation" else old[:100])
    again = shipworthy("ship", "--project", project, "--json")
    assert again.code == 0, again.err
    assert again.document["deployment"]["generation"] == 2
    assert read_deployment(live, load_public_keys(project / ".shipworthy" / "keys")) == new
    with serving(project) as server:
        assert server.post(server.ready["example"])[1]["release"] == "loans:2"


def kill_ship_in(stage: str, after_s: float, folder: Path, home: dict[str, str]) -> bool:
    """Start `ship` and kill it so long after the stage begins; whether it was still under way."""
    argv = [sys.executable, "-m", "shipworthy", "ship", "--project", str(folder)]
    running = subprocess.Popen(argv, env=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith(stage):
            time.sleep(after_s)
            break
    running.send_signal(signal.SIGKILL)
    running.communicate()
    return running.returncode == -signal.SIGKILL


def what_is_live(folder: Path, shipworthy: Callable[..., Any]) -> tuple[str, str]:
    """Digests of the snapshot and of the payload that is deployed."""
    project = Project(folder)
    report = shipworthy("ship", "--project", folder, "--json").document
    deployment = read_deployment(project.live("local"), load_public_keys(project.public_keys))
    return report["snapshot"], deployment.releases[0].payload
