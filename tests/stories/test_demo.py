"""The demo's stories, told once from beginning to end; each figure that they print is found again with a command."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Seen
from tests.faces.browser import browser

IMAGES = Path(__file__).parents[2] / "docs" / "images"
FLIGHTS = 336_776
NEVER_ARRIVED = 9_430
SOAK = int(os.environ.get("SHIPWORTHY_SOAK", "0"))  # kills of the control plane while the story is told again
STOPPED_AT = tuple(range(1, 14)) if SOAK else (5,)  # steps at which Ctrl-C is pressed
PASSING = ("project", "seconds", "prediction", "tamper")  # what two tellings need not share


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], dict[str, Any], str]:
    """The flights' story: its project, its environment, the facts it told, and its words."""
    top = tmp_path_factory.mktemp("demo")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(top / "config"), "COLUMNS": "120"}
    argv = [sys.executable, "-m", "shipworthy", "demo", "flights", "--json", "--dir", str(top / "flights")]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=290, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return top / "flights" / "late-flights", environment, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def ask(told: tuple[Path, dict[str, str], dict[str, Any], str]) -> Callable[..., dict[str, Any]]:
    """What a command says of the demo's project."""

    def run(*words: str) -> dict[str, Any]:
        argv = [sys.executable, "-m", "shipworthy", *words, "--json", "--project", str(told[0])]
        done = subprocess.run(argv, env=told[1], capture_output=True, text=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def test_the_year_is_told_from_the_files_to_the_last_truth(told: tuple[Path, dict[str, str], dict[str, Any], str]):
    _, _, facts, words = told
    assert facts["rows"] == FLIGHTS  # as the package says
    assert facts["answered"] + facts["trained_first"] == FLIGHTS
    assert facts["never_came"] + facts["never_arrived_first"] == NEVER_ARRIVED
    assert facts["told"] == facts["answered"] - facts["never_came"]
    assert facts["refused_fields"] == ["inputs.sched_dep_tme", "inputs.hour", "inputs.origin"]
    assert facts["fallback"] == {"decision": "warn", "source": "fallback"}
    assert facts["review"]["confidence"] < 0.25
    reasons = [path.read_text().count("late: missing") for path in (told[0] / ".shipworthy" / "quarantine").iterdir()]
    assert facts["never_arrived_first"] in reasons
    for step in range(1, 14):
        assert f"\n{step}. " in words


def test_release_2_was_promoted_3_rolled_back_on_value_and_4_stopped_by_its_gate(
    told: tuple[Path, dict[str, str], dict[str, Any], str], ask: Callable[..., dict[str, Any]]
):
    facts = told[2]
    rollouts = {item["release"]: item for item in ask("status")["rollouts"]}
    assert {name: item["state"] for name, item in rollouts.items()} == {
        "late-flights:2": "promoted",
        "late-flights:3": "rolled back",
    }
    assert facts["third"]["reason"] == rollouts["late-flights:3"]["reason"]
    assert facts["third"]["interval"][1] < -0.5  # surely below what the contract allows
    assert "value.per_decision" in facts["fourth"]
    assert [item["release"] for item in ask("status")["deployments"]["production"]["releases"]] == ["late-flights:2"]


def test_its_figures_are_found_again_with_the_commands_that_it_names(
    told: tuple[Path, dict[str, str], dict[str, Any], str], ask: Callable[..., dict[str, Any]]
):
    facts = told[2]
    found = ask("quality", "--env", "production")
    assert found["quality"] == facts["quality"]
    assert (found["predictions"], found["known"], found["unknown"]) == (
        facts["answered"],
        facts["told"],
        facts["never_came"],
    )
    assert facts["drift"]["title"] in {alert["title"] for alert in ask("alerts", "--all")["alerts"]}
    assert facts["drift"]["opened"].startswith("2013-04-08")  # the first whole week after a winter's training
    assert "temp" in words_of_alerts(told[3])
    assert ask("verify", "all")["holds"]
    assert "release:late-flights:1" in json.dumps(ask("lineage", facts["prediction"]))


def words_of_alerts(words: str) -> str:
    """What `shipworthy alerts` said in July."""
    return words.partition("$ shipworthy alerts")[2].partition("The webhook")[0]


def test_a_changed_byte_of_the_audit_log_is_named(told: tuple[Path, dict[str, str], dict[str, Any], str]):
    assert told[2]["tamper"].startswith("first bad entry ")


def test_the_console_shows_the_year(told: tuple[Path, dict[str, str], dict[str, Any], str], tmp_path: Path):
    """Also makes the README's picture, when SHIPWORTHY_SCREENSHOTS is set."""
    project, environment, _, _ = told
    argv = [sys.executable, "-m", "shipworthy", "up", "--project", str(project), "--json", "--clock", "manual"]
    up = subprocess.Popen(
        [*argv, "--port", "0", "--control-port", "0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert up.stdout is not None
    try:
        ready = json.loads(up.stdout.readline())
        with browser(tmp_path / "profile") as page:
            page.size(1400, 1420)
            page.open(ready["console"])
            page.open(f"{ready['control']}/?live=no")
            assert page.text("h1") == "late-flights"
            assert page.count("#releases tbody tr") == 3
            assert page.count("#charts svg.chart") == 6
            page.screenshot((IMAGES if os.environ.get("SHIPWORTHY_SCREENSHOTS") else tmp_path) / "console.png")
            page.size(390, is_mobile=True)
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            assert page.complaints == []
    finally:
        up.terminate()
        assert up.wait(timeout=30) == 0
        up.stdout.close()


if SOAK:

    @pytest.mark.timeout(3_600)
    def test_told_again_with_control_killed_at_random_it_has_the_same_figures(
        told: tuple[Path, dict[str, str], dict[str, Any], str], tmp_path: Path, seen: Seen
    ):
        argv = [sys.executable, "-m", "shipworthy", "demo", "flights", "--json", "--dir", str(tmp_path / "flights")]
        environment = {**told[1], "XDG_CONFIG_HOME": str(tmp_path / "config")}
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        kills = 0
        chance = random.Random(SOAK)
        killer = threading.Thread(target=process.wait)
        killer.start()
        while process.poll() is None and kills < SOAK:
            time.sleep(chance.uniform(0.5, 5.0))
            pid = control_of(tmp_path)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                kills += 1
        out, err = process.communicate()
        killer.join()
        assert process.returncode == 0, err[-3000:]
        again = json.loads(out)
        for name, fact in told[2].items():
            assert name in PASSING or again[name] == fact, name
        seen("kills of the control plane", kills)


@pytest.mark.parametrize("step", STOPPED_AT)
def test_a_demo_that_was_interrupted_leaves_nothing_running_and_the_next_starts_clean(
    home: dict[str, str], tmp_path: Path, step: int
):
    argv = [sys.executable, "-m", "shipworthy", "demo", "flights", "--dir", str(tmp_path / "flights")]
    process = subprocess.Popen(argv, env=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    wait_for_step(tmp_path / "flights", step)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C: to the whole group
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err.decode()
    assert b"Traceback" not in out + err
    assert "run the same command again" in err.decode()
    assert processes_of(tmp_path) == []
    again = subprocess.Popen(argv, env=home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
    assert again.stdout is not None
    try:
        said = again.stdout.readline().decode()
        assert said.startswith("An earlier demo was stopped at step ")
        assert said.endswith("This one starts clean.\n")
        assert int(said.split()[7]) >= step
    finally:
        os.killpg(again.pid, signal.SIGINT)
        again.communicate(timeout=60)


def control_of(folder: Path) -> int | None:
    """The control plane of the `up` that runs on a project below `folder`."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes()
            if os.fsencode(folder) in words and b"\0up\0" in words:
                children = (path.parent / "task" / path.parent.name / "children").read_text().split()
                for child in children:
                    if b"control_process" in Path(f"/proc/{child}/cmdline").read_bytes():
                        return int(child)
    return None


def wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        try:
            if json.loads((folder / ".shipworthy-demo").read_text()).get("step", 0) >= step:
                time.sleep(1.0)
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"the demo did not come to step {step}")


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that name the folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in words:
            found.append(words.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_a_folder_that_the_demo_did_not_make_is_left_alone(tmp_path: Path, shipworthy: Callable[..., Any]):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    done = shipworthy("demo", "flights", "--dir", tmp_path / "mine")
    assert done.code == 1
    assert "was not made by the demo" in done.err
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
