"""The audit log taken away while the system runs: the next act is refused, and serving goes on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

READ_ONLY = """
mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"
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
        token, example = server.ready["token"], server.ready["example"]
    assert live.read_bytes() == before
    with serving(project) as server:
        assert server.post(example, token=token)[0] == 200


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare to mount")
def test_with_a_log_that_may_only_be_read_no_act_is_done(
    project: Path, home: dict[str, str], shipworthy: Callable[..., Any], serving: Callable[..., Any]
):
    edit(project)
    log = str(project / ".shipworthy" / "log")
    if subprocess.run(["unshare", "-m", "sh", "-c", READ_ONLY, "sh", log, "true"], check=False).returncode:
        pytest.skip("this machine mounts nothing")
    with serving(project) as server:
        ship = [sys.executable, "-m", "shipworthy", "ship", "--project", str(project)]
        argv = ["unshare", "-m", "sh", "-c", READ_ONLY, "sh", log, *ship]
        done = subprocess.run(argv, env=home, capture_output=True, text=True, check=False)
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert log in done.stderr
        assert server.post(server.ready["example"])[0] == 200
    assert "loans:1" in shipworthy("status", "--project", project).out
    assert shipworthy("verify", "audit", "--project", project).code == 0


def edit(project: Path) -> None:
    """A change that asks for a new release."""
    contract = project / "shipworthy.yaml"
    contract.write_text(contract.read_text().replace("confidence_below: 0.6", "confidence_below: 0.7"))
