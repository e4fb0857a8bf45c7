"""What `serve` says at a terminal is true."""

import http.client
import json
import os
import pty
import shlex
import shutil
import signal
import sqlite3
import ssl
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority
from tests.stories.conftest import Done


def test_the_curl_line_that_serve_prints_works_as_it_stands(project: Path, home: dict[str, str]):
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "shipworthy", "serve", "--project", str(project), "--port", "0"]
    server = subprocess.Popen(argv, env=home, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    try:
        said = b""
        while b"eight hours" not in said:
            said += os.read(ours, 4096)
        line = next(line for line in said.decode().splitlines() if line.startswith("curl"))
        status, answer = as_curl(shlex.split(line))
        assert status == 200, answer
        assert answer["source"] == "model"
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
        os.close(ours)


def as_curl(words: list[str]) -> tuple[int, dict[str, object]]:
    """Send what curl would send for `words`."""
    url = urllib.parse.urlsplit(next(word for word in words if word.startswith("http")))
    headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
    connection.request("POST", url.path, words[words.index("-d") + 1], headers)
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    connection.close()
    return found


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not here")
def test_over_tls_the_printed_line_works_in_curl_and_the_start_is_on_record(
    project: Path, home: dict[str, str], tmp_path: Path
):
    pair = Authority(tmp_path).issue("server")
    ours, theirs = pty.openpty()
    argv = [sys.executable, "-m", "shipworthy", "serve", "--project", str(project), "--port", "0"]
    argv += ["--tls-cert", str(pair.cert), "--tls-key", str(pair.key), "--allowed-host", "models.example.com"]
    server = subprocess.Popen(argv, env=home, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    try:
        said = b""
        while b"eight hours" not in said:
            said += os.read(ours, 4096)
        line = next(line for line in said.decode().splitlines() if line.startswith("curl"))
        done = subprocess.run(shlex.split(line), capture_output=True, text=True, timeout=20, check=True)
        assert json.loads(done.stdout)["source"] == "model"
    finally:
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 0
        os.close(ours)
    allowed, started = (events(project, verb)[-1] for verb in ("access.allowed", "plane.started"))
    assert (allowed["body"]["verb"], started["rule"]) == ("serve", allowed["rule"])
    assert started["object"] == "plane:local/data"
    assert started["body"].pop("address").startswith("https://127.0.0.1:")
    assert started["body"] == {
        "plane": "data", "environment": "local", "tls": "tls 1.2+", "access": "token", "upstream": False,
    }  # fmt: skip


def test_who_may_not_operate_may_not_serve(shipworthy: Callable[..., Done], project: Path, home: dict[str, str]):
    token = shipworthy("user", "add", "ada", "--role", "auditor", "--json", "--project", project).document["token"]
    home["SHIPWORTHY_TOKEN"] = token
    done = shipworthy("serve", "--port", "0", "--project", project)
    assert done.code == 1
    assert "ada (auditor) may not do `serve`: operate needs" in done.err
    assert events(project, "access.denied")[-1]["body"]["verb"] == "serve"


@pytest.mark.parametrize("setting", ["no key", "a signing command that fails"])
def test_a_denial_holds_where_it_cannot_be_recorded(
    shipworthy: Callable[..., Done], project: Path, home: dict[str, str], tmp_path: Path, setting: str
):
    token = shipworthy("user", "add", "ada", "--role", "auditor", "--json", "--project", project).document["token"]
    home |= {"SHIPWORTHY_TOKEN": token, "XDG_CONFIG_HOME": str(tmp_path / "elsewhere")}
    if setting != "no key":
        home["SHIPWORTHY_SIGNING_COMMAND"] = "false"
    done = shipworthy("serve", "--port", "0", "--project", project, timeout=30)
    assert done.code == 1
    assert "ada (auditor) may not do `serve`: operate needs" in done.err


def test_serving_starts_though_the_signing_command_fails(
    serving: Callable[..., Any], project: Path, home: dict[str, str], tmp_path: Path
):
    home |= {"XDG_CONFIG_HOME": str(tmp_path / "elsewhere"), "SHIPWORTHY_SIGNING_COMMAND": "false"}
    with serving(project, "--open") as server:
        assert server.ready["token"] is None
        assert json.loads(server.get("/v2/health/ready")[1])["ready"]


def test_up_records_where_its_planes_answer_and_behind_what(project: Path, home: dict[str, str], tmp_path: Path):
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    argv = [sys.executable, "-m", "shipworthy", "up", "--project", str(project), "--json", "--port", "0"]
    argv += ["--control-port", "0", "--tls-cert", str(pair.cert), "--tls-key", str(pair.key)]
    process = subprocess.Popen(argv, env=home, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        trust = ssl.create_default_context(cafile=str(authority.cert))
        for address, path in ((ready["address"], "/v2/health/ready"), (ready["control"], "/health")):
            with urllib.request.urlopen(address + path, context=trust, timeout=10) as response:
                assert json.load(response)["tls"] == "tls 1.2+"
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        process.stdout.close()
    allowed, started = events(project, "access.allowed")[-1], events(project, "plane.started")
    assert (allowed["body"]["verb"], allowed["body"]["environment"]) == ("up", "local")
    assert [entry["object"] for entry in started] == ["plane:local/data", "plane:local/control"]
    assert [entry["body"].pop("address") for entry in started] == [ready["address"], ready["control"]]
    for entry, plane in zip(started, ("data", "control"), strict=True):
        assert entry["rule"] == allowed["rule"]
        assert entry["body"] == {
            "plane": plane, "environment": "local", "tls": "tls 1.2+", "access": "token", "upstream": False,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "--host", "0.0.0.0"], "0.0.0.0 is not loopback: give --tls-cert and --tls-key"),  # noqa: S104
        (["serve", "--tls-cert", "a.pem", "--tls-key", "a.key"], "a.pem: there is no such file; --tls-cert names it"),
        (["up", "--allowed-host", "https://a"], "--allowed-host 'https://a' is no name"),
    ],
)
def test_nothing_is_served_in_the_open(
    shipworthy: Callable[..., Done], shipped: tuple[Path, Path], words: list[str], said: str
):
    done = shipworthy(*words, "--project", shipped[0])
    assert done.code in (1, 2)
    assert said in done.err


def events(project: Path, verb: str) -> list[Any]:
    """The entries of `verb` in the project's ledger."""
    with closing(sqlite3.connect(project / ".shipworthy" / "ledger.db")) as database:
        found = database.execute("select entry from events where verb = ? order by seq", (verb,)).fetchall()
    return [json.loads(entry) for (entry,) in found]
