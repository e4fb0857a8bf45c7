"""The audit log taken away while the system runs: the next act is refused, and serving goes on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WITHOUT_RIGHTS = """
import os
import shipworthy.faces.cli.ship  # what is needed is loaded while it can be read
from shipworthy.faces.cli.main import main

if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
main()
"""


def unlink(log: Path) -> None:
    shutil.rmtree(log)


def unlink_entries(log: Path) -> None:
    for path in (log / "entries").rglob("*"):
        if path.is_file():
            path.unlink()


def cut(log: Path) -> None:
    path = max(path for path in (log / "entries").rglob("*") if path.is_file())
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("harm", [unlink, unlink_entries, cut])
def test_without_its_log_no_act_is_done_and_what_serves_serves_on(
    project: Path, shipworthy: Callable[..., Any], serving: Callable[..., Any], harm: Callable[[Path], None]
):
    live = project / ".shipworthy" / "live" / "local" / "deployment"
    before = live.read_bytes()
    with serving(project) as server:
        harm(project / ".shipworthy" / "log")
        edit(project)
        done = shipworthy("ship", "--project", project, "--json")
        assert done.code == 1
        assert done.document["error"]["code"] in ("integrity", "storage")
        assert "log" in done.document["error"]["message"]
        assert shipworthy("verify", "audit", "--project", project).code == 1
        status, answer = server.post(server.ready["example"])
        assert status == 200
        assert answer["source"] == "model"
    assert live.read_bytes() == before
    with serving(project) as server:
        assert server.post(server.ready["example"])[0] == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_with_a_log_that_may_only_be_read_no_act_is_done(
    project: Path, home: dict[str, str], shipworthy: Callable[..., Any], serving: Callable[..., Any]
):
    for path in (project, *project.parents):  # pytest keeps its folders for their owner alone
        if path != Path("/") and path.stat().st_uid == 0:
            path.chmod(path.stat().st_mode | 0o005)
    for top in (project, Path(home["XDG_CONFIG_HOME"])):
        for path in (top, *top.rglob("*")):
            os.chown(path, 65534, 65534)
    log = project / ".shipworthy" / "log"
    for path in (log, *log.rglob("*")):
        os.chown(path, 0, 0)
    edit(project)
    with serving(project) as server:
        argv = [sys.executable, "-c", WITHOUT_RIGHTS, "ship", "--project", str(project)]
        done = subprocess.run(argv, env=home, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert "log" in done.stderr
        assert server.post(server.ready["example"])[0] == 200
    assert "loans:1" in shipworthy("status", "--project", project).out
    assert shipworthy("verify", "audit", "--project", project).code == 0


def edit(project: Path) -> None:
    """A change that asks for a new release."""
    contract = project / "shipworthy.yaml"
    contract.write_text(contract.read_text().replace("confidence_below: 0.6", "confidence_below: 0.7"))
