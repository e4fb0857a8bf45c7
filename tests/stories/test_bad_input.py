"""What goes wrong in users' hands: each is refused in plain words, and nothing half-done stays."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.stories.loans import CONTRACT, TRAIN, write_project

DROPPING_RIGHTS = """
import os
import shipworthy.faces.cli.ship  # what is needed is loaded while it can be read
from shipworthy.faces.cli.main import main

if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
main()
"""


def test_a_folder_without_a_contract_is_named_with_what_to_do(tmp_path: Path, shipworthy: Callable[..., Any]):
    for words in (("ship",), ("check",), ("status",), ("verify",), ("lineage", "x"), ("card",), ("audit", "rebuild")):
        done = shipworthy(*words, "--project", tmp_path)
        assert done.code == 2, words
        assert "shipworthy init" in done.err, words
    assert not (tmp_path / ".shipworthy").exists()


def test_a_contract_from_a_newer_version_is_refused_at_its_line(tmp_path: Path, shipworthy: Callable[..., Any]):
    folder = write_project(tmp_path / "loans")
    (folder / "shipworthy.yaml").write_text(CONTRACT.replace("shipworthy: 1", "shipworthy: 2"))
    done = shipworthy("ship", "--project", folder)
    assert done.code == 2
    assert "shipworthy.yaml:1:" in done.err
    assert "newer" in done.err


def test_every_problem_of_a_contract_is_told_at_once_with_its_place(tmp_path: Path, shipworthy: Callable[..., Any]):
    folder = write_project(tmp_path / "loans")
    text = CONTRACT.replace("risk: limited", "risk: middling").replace("at_most: 10%", "at_most: 10")
    (folder / "shipworthy.yaml").write_text(text.replace("income: {type: float", "income: {typ: float"))
    done = shipworthy("check", "--project", folder, "--json")
    assert done.code == 2
    problems = done.document["error"]["problems"]
    assert {(problem["line"], problem["key"]) for problem in problems} >= {
        (5, "risk"),
        (8, "data.accept.quarantined.at_most"),
        (12, "features.income.typ"),
    }


def test_a_feature_that_the_data_lacks_is_found_by_check(tmp_path: Path, shipworthy: Callable[..., Any]):
    folder = write_project(tmp_path / "loans")
    (folder / "shipworthy.yaml").write_text(CONTRACT.replace("  debt: {", "  dept: {").replace('"debt /', '"dept /'))
    done = shipworthy("check", "--project", folder)
    assert done.code == 2
    assert "dept" in done.err
    assert "debt" in done.err


def test_pure_noise_is_refused(tmp_path: Path, shipworthy: Callable[..., Any]):
    folder = write_project(tmp_path / "loans", learnable=False)
    done = shipworthy("ship", "--project", folder, "--json")
    assert done.code == 1
    assert done.document["release"] is None
    assert [verdict["outcome"] for verdict in done.document["verdicts"]] == ["fail"]
    assert not (folder / ".shipworthy" / "live").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def train(frame, params, context):\n    return 1 / 0\n", ("train.py", "division by zero")),
        ("def train(frame, params, context):\n    while True: pass\n", ("training.timeout",)),
        ("def train(frame, params, context):\n    return 'a model'\n", ("a model", "ONNX")),
        ("def train(frame, params, context):\n    return None\n", ("None",)),
        ("def train(frame, params, context:\n", ("train.py:1", "never closed")),
        ("def teach(frame, params, context): ...\n", ("train",)),
        ("import os\ndef train(frame, params, context):\n    os._exit(0)\n", ("train",)),
    ],
    ids=["raises", "hangs", "text", "nothing", "syntax", "misnamed", "exits"],
)
def test_training_code_that_fails_is_told_apart_and_leaves_nothing_half_done(
    code: str, words: tuple[str, ...], tmp_path: Path, shipworthy: Callable[..., Any]
):
    folder = write_project(tmp_path / "loans")
    (folder / "train.py").write_text(code)
    (folder / "shipworthy.yaml").write_text(CONTRACT.replace("seed: 3", "seed: 3, timeout: 6s"))
    done = shipworthy("ship", "--project", folder, "--json")
    assert done.code == 1, done.err
    assert done.document["error"]["code"] in ("training", "conversion")
    for word in words:
        assert word in done.document["error"]["message"]
    assert done.document["error"]["message"].count("\n") < 20
    (folder / "train.py").write_text(TRAIN)
    (folder / "shipworthy.yaml").write_text(CONTRACT)
    assert shipworthy("ship", "--project", folder).code == 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("loan_id,income,debt,purpose,repaid\n", "header"),
        ("loan_id;income,debt,purpose,repaid\n1;2,3,car,1\n", "income"),
        ("loan_id,income,income,purpose,repaid\n1,2,3,car,1\n", "income"),
    ],
    ids=["empty file", "header only", "wrong delimiter", "same name twice"],
)
def test_a_file_that_is_none_is_refused_by_name(
    content: str, words: str, tmp_path: Path, shipworthy: Callable[..., Any]
):
    folder = write_project(tmp_path / "loans")
    (folder / "loans.csv").write_text(content)
    done = shipworthy("ship", "--project", folder)
    assert done.code == 1
    assert words in done.err


def test_rows_that_do_not_fit_are_kept_with_their_reasons(project: Path, shipworthy: Callable[..., Any]):
    lines = (project / "loans.csv").read_text().splitlines()
    lines[1] = "loan-0,-4,12,car,1"
    lines[2] = "loan-1,much,12,boat,1"
    (project / "loans.csv").write_text("\n".join(lines) + "\n")
    done = shipworthy("ship", "--project", project)
    assert done.code == 0, done.err
    assert "2 quarantined" in done.out
    kept = pl.read_csv(next((project / ".shipworthy" / "quarantine").glob("*.csv")), infer_schema=False)
    assert kept["row"].to_list() == ["1", "2"]
    assert "income" in kept["reasons"][0]
    assert "purpose" in kept["reasons"][1]
    assert "much" in kept["income"].to_list()


def test_too_many_bad_rows_stop_the_batch_and_what_served_serves_on(project: Path, shipworthy: Callable[..., Any]):
    text = (project / "loans.csv").read_text().replace(",car,", ",boat,")
    (project / "loans.csv").write_text(text)
    done = shipworthy("ship", "--project", project)
    assert done.code == 1
    assert "purpose" in done.err
    assert "loans:1" in shipworthy("status", "--project", project).out


def test_a_folder_that_cannot_be_written_is_said_so_to_a_user_without_roots_rights(
    tmp_path: Path, home: dict[str, str]
):
    folder = write_project(tmp_path / "loans")
    folder.chmod(0o555)
    for path in (folder, *folder.parents):  # pytest keeps its folders for their owner alone
        if path.stat().st_uid == os.getuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o005)
    config = tmp_path / "config"
    config.mkdir()
    config.chmod(0o777)
    argv = [sys.executable, "-c", DROPPING_RIGHTS, "ship", "--project", str(folder)]
    environment = {**home, "HOME": str(config), "XDG_CONFIG_HOME": str(config)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / ".shipworthy").exists()


def test_a_bundle_with_a_flipped_byte_is_named_and_never_served(
    project: Path, shipworthy: Callable[..., Any], home: dict[str, str]
):
    model = next((project / ".shipworthy" / "live" / "local" / "bundles").glob("*/payload/model.onnx"))
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    verified = shipworthy("verify", "all", "--project", project)
    assert verified.code == 1
    assert "model.onnx" in verified.out
    served = shipworthy("serve", "--project", project, "--port", "0", "--json")
    assert served.code == 1
    assert served.document["error"]["code"] == "integrity"
    assert "model.onnx" in served.err


def test_two_ships_at_once_the_second_is_refused_and_can_wait(
    tmp_path: Path, home: dict[str, str], shipworthy: Callable[..., Any]
):
    folder = write_project(tmp_path / "loans")
    (folder / "train.py").write_text(
        TRAIN.replace("def train(", "import time\n\n\ndef train(").replace(
            "    inputs", "    time.sleep(4)\n    inputs", 1
        )
    )
    argv = [sys.executable, "-m", "shipworthy", "ship", "--project", str(folder)]
    first = subprocess.Popen(argv, env=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert first.stderr is not None
        for line in first.stderr:
            if line.startswith("train"):
                break
        second = shipworthy("ship", "--project", folder, "--json")
        assert second.code == 1
        assert second.document["error"]["code"] == "conflict"
        assert str(first.pid) in second.document["error"]["message"]
        waited = shipworthy("ship", "--project", folder, "--wait", "--json")
        assert waited.code == 0
        assert all(stage["reused"] for stage in waited.document["stages"])
    finally:
        first.communicate(timeout=60)
    assert first.returncode == 0


def test_a_port_that_is_taken_is_named(project: Path, shipworthy: Callable[..., Any]):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shipworthy("serve", "--project", project, "--port", str(port), "--json")
    assert done.code == 1
    assert str(port) in done.err
    assert "another port" in done.err


def test_a_server_starts_and_answers_with_the_ledger_deleted(project: Path, serving: Callable[..., Any]):
    with serving(project) as server:
        token, example = server.ready["token"], server.ready["example"]
    (project / ".shipworthy" / "ledger.db").unlink()
    shutil.rmtree(project / ".shipworthy" / "log")
    shutil.rmtree(project / ".shipworthy" / "blobs")
    with serving(project) as server:
        status, answer = server.post(example, token=token)
        assert status == 200
        assert answer["source"] == "model"


def test_interrupting_ship_says_how_to_carry_on(tmp_path: Path, home: dict[str, str]):
    folder = write_project(tmp_path / "loans")
    argv = [sys.executable, "-m", "shipworthy", "ship", "--project", str(folder)]
    running = subprocess.Popen(argv, env=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("train"):
            break
    running.send_signal(signal.SIGINT)
    _, words = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "carry on" in words
    assert "Traceback" not in words


def test_an_anchor_kept_elsewhere_finds_a_log_that_was_cut_and_made_anew(
    project: Path, tmp_path: Path, shipworthy: Callable[..., Any]
):
    anchor = tmp_path / "anchor"
    assert shipworthy("audit", "anchor", anchor, "--project", project).code == 0
    assert shipworthy("verify", "audit", "--anchor", anchor, "--project", project).code == 0
    (project / ".shipworthy" / "ledger.db").unlink()
    shutil.rmtree(project / ".shipworthy" / "log")
    shutil.rmtree(project / ".shipworthy" / "blobs")
    assert shipworthy("ship", "--project", project).code == 0
    done = shipworthy("verify", "audit", "--anchor", anchor, "--project", project)
    assert done.code == 1
    assert "BROKEN" in done.out


def test_one_changed_byte_of_the_log_is_found_and_its_entry_named(project: Path, shipworthy: Callable[..., Any]):
    tile = next(path for path in sorted((project / ".shipworthy" / "log" / "entries").rglob("*")) if path.is_file())
    content = tile.read_bytes()
    lines = content.splitlines(keepends=True)
    changed = lines[2].replace(b"user:", b"usex:", 1)
    assert changed != lines[2]
    tile.write_bytes(b"".join([*lines[:2], changed, *lines[3:]]))
    done = shipworthy("verify", "audit", "--project", project)
    assert done.code == 1
    assert "first bad entry 3" in done.out


def test_the_database_is_made_again_from_the_log(project: Path, shipworthy: Callable[..., Any]):
    before = shipworthy("status", "--project", project, "--json").document
    (project / ".shipworthy" / "ledger.db").unlink()
    assert shipworthy("audit", "rebuild", "--project", project).code == 0
    assert shipworthy("status", "--project", project, "--json").document == before
    assert shipworthy("verify", "all", "--project", project).code == 0


def test_lineage_walks_both_ways(project: Path, shipworthy: Callable[..., Any], serving: Callable[..., Any]):
    with serving(project) as server:
        _, answer = server.post(server.ready["example"])
    up = shipworthy("lineage", answer["prediction_id"], "--project", project, "--json").document["up"]["edges"]
    assert any(edge["parent"].startswith("file:loans.csv@") for edge in up)
    down = shipworthy("lineage", "loans.csv", "--down", "--project", project, "--json").document["down"]
    assert any(edge["child"] == "deployment:local:1" for edge in down["edges"])
    assert down["predictions"] == {"loans:1": 1}
    assert shipworthy("lineage", "nothing-known", "--project", project).code == 1


def test_a_changed_bound_changes_ingest_server_and_card_with_no_other_edit(
    project: Path, shipworthy: Callable[..., Any], serving: Callable[..., Any]
):
    text = (project / "shipworthy.yaml").read_text()
    (project / "shipworthy.yaml").write_text(
        text.replace("income: {type: float, range: [0, 1000]", "income: {type: float, range: [0, 98]")
    )
    done = shipworthy("ship", "--project", project, "--json")
    assert done.code == 0, done.err
    assert done.document["release"] == "loans:2"
    with serving(project) as server:
        inputs = {**server.ready["example"]["inputs"], "income": 99}
        status, problem = server.post({"inputs": inputs})
        assert status == 422
        assert "98" in problem["errors"][0]["expected"]
    assert "0 to 98" in shipworthy("card", "--project", project).out


def test_what_did_not_change_is_not_done_again(project: Path, shipworthy: Callable[..., Any]):
    same = shipworthy("ship", "--project", project, "--json").document
    assert [stage["reused"] for stage in same["stages"]] == [True] * 5
    text = (project / "shipworthy.yaml").read_text().replace("confidence_below: 0.6", "confidence_below: 0.7")
    (project / "shipworthy.yaml").write_text(text)
    changed = shipworthy("ship", "--project", project, "--json").document
    reused = {stage["name"]: stage["reused"] for stage in changed["stages"]}
    assert reused == {
        "ingest": True,
        "train": True,
        "payload": False,
        "gates": False,
        "release": False,
        "deploy": False,
    }
    assert changed["release"] == "loans:2"
    again = shipworthy("ship", "--project", project, "--json").document
    assert all(stage["reused"] for stage in again["stages"])
    assert again["release"] == "loans:2"
