"""The audit log taken away while the system runs: the next act is refused, and serving goes on."""

import json
import os
import shutil
import subprocess
import sys
import time
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


FULL = """
cp -a "$1" "$1.copy" && mount -t tmpfs -o size=512k tmpfs "$1" && cp -a "$1.copy/." "$1/" || exit 77
head -c 10000000 /dev/zero > "$1/filler" 2> /dev/null
shift; "$@" bob; echo "full: $?"
rm "$LOG/filler"
"$@" bob; echo "freed: $?"
"""


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare to mount")
def test_with_its_disk_full_no_act_is_done_and_with_room_again_the_next_one_is(project: Path, home: dict[str, str]):
    log = str(project / ".shipworthy" / "log")
    add = [sys.executable, "-m", "shipworthy", "user", "add", "--role", "risk", "--project", str(project)]
    argv = ["unshare", "-m", "sh", "-c", FULL, "sh", log, *add]
    done = subprocess.run(argv, env={**home, "LOG": log}, capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this machine mounts nothing")
    assert "Traceback" not in done.stderr
    assert "full: 1" in done.stdout, done.stdout + done.stderr
    assert "freed: 0" in done.stdout, done.stdout + done.stderr
    assert "nothing was recorded" in done.stderr


def test_health_and_metrics_say_that_nothing_can_be_recorded(project: Path, serving: Callable[..., Any]):
    log = project / ".shipworthy" / "log"
    with serving(project) as server:
        assert json.loads(server.get("/v2/health/ready")[1])["audit_log"] == "writable"
        log.rename(log.with_name("away"))
        until = time.monotonic() + 10
        while "shipworthy_audit_log_writable 0" not in server.get("/metrics")[1]:
            assert time.monotonic() < until
            time.sleep(0.1)
        said = json.loads(server.get("/v2/health/ready")[1])["audit_log"]
        assert said == "cannot be written: it is gone; nothing can be changed"
        assert server.post(server.ready["example"])[0] == 200
        shutil.copytree(log.with_name("away"), log)
        time.sleep(2.2)
        said = json.loads(server.get("/v2/health/ready")[1])["audit_log"]
        assert said == "cannot be written: another folder is in its place; nothing can be changed"
        shutil.rmtree(log)
        log.with_name("away").rename(log)


def edit(project: Path) -> None:
    """A change that asks for a new release."""
    contract = project / "shipworthy.yaml"
    contract.write_text(contract.read_text().replace("confidence_below: 0.6", "confidence_below: 0.7"))
