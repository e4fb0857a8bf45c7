"""`shipworthy user`: a person gets a token once, and the token is that person everywhere."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faces.life import CONTRACT

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """`shipworthy` on a project of the test's own."""
    project = tmp_path / "flights"
    project.mkdir()
    (project / "shipworthy.yaml").write_text(CONTRACT)
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config"), "COLUMNS": "120"}
    environment.pop("SHIPWORTHY_TOKEN", None)

    def call(*words: str, token: str | None = None) -> tuple[int, str, str]:
        extra = {} if token is None else {"SHIPWORTHY_TOKEN": token}
        argv = [sys.executable, "-m", "shipworthy", *words, "--project", str(project)]
        done = subprocess.run(argv, env={**environment, **extra}, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout, done.stderr

    return call


def test_a_token_is_shown_once_and_acts_as_its_principal(run: Run):
    code, out, _ = run("user", "add", "pia", "--role", "platform", "--role", "security")
    assert code == 0
    (token,) = [line.strip() for line in out.splitlines() if line.strip().startswith("swt_")]
    assert "shown once" in out
    assert "SHIPWORTHY_TOKEN" in out
    code, out, _ = run("user", "add", "ruth", "--role", "risk", "--json", token=token)
    made = json.loads(out)
    assert (code, made["name"], made["roles"]) == (0, "ruth", ["risk"])
    code, out, _ = run("user", "list", "--json")
    assert json.loads(out) == {
        "principals": [
            {"name": "pia", "roles": ["platform", "security"], "systems": ["*"]},
            {"name": "ruth", "roles": ["risk"], "systems": ["*"]},
        ]
    }
    assert token not in out
    code, _, err = run("user", "add", "eve", "--role", "risk", token=made["token"])
    assert (code, "ruth (risk) may not do `user add`: manage users needs security" in err) == (1, True)
    code, _, err = run("user", "add", "pia", "--role", "risk", token=token)
    assert (code, "nobody grants themselves" in err) == (1, True)


def test_bad_input_is_refused_in_words(run: Run):
    code, _, err = run("user", "list")
    assert (code, "nothing has happened here yet" in err) == (1, True)
    for words, code, said in (
        (("ruth", "--role", "king"), 2, "there is no role 'king'; the roles are data-scientist"),
        (("../x", "--role", "risk"), 2, "cannot be called '../x'"),
        (("ruth",), 2, "Missing option '--role'"),
        (("ruth", "--role", "risk"), 0, ""),
        (("ruth", "--role", "risk"), 1, "there is a principal 'ruth' already"),
    ):
        found, _, err = run("user", "add", *words)
        assert (found, said in err) == (code, True), (words, err)
    code, _, err = run("user", "add", "x", "--role", "risk", token="swt_wrong")
    assert (code, "the token is not valid here" in err) == (1, True)
