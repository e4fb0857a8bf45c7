"""Real files from installed packages, and the product's own commands as a user runs them."""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.stories.loans import write_project


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What `--json` printed."""
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment whose keys lie in a folder of the test's own."""
    return {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config"), "COLUMNS": "120"}


@pytest.fixture
def shipworthy(home: dict[str, str]) -> Callable[..., Done]:
    """Run `shipworthy` with words, as from a shell."""

    def run(*words: str | Path, timeout: float = 240) -> Done:
        argv = [sys.executable, "-m", "shipworthy", *map(str, words)]
        done = subprocess.run(argv, env=home, capture_output=True, text=True, timeout=timeout, check=False)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


class Server:
    """A `shipworthy serve` under way."""

    def __init__(self, process: "subprocess.Popen[str]", ready: dict[str, Any]) -> None:
        self.process = process
        self.ready = ready
        address = urllib.parse.urlsplit(ready["address"])
        self.connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=20)

    def post(self, document: Any, path: str | None = None, token: str | None = None) -> tuple[int, Any]:
        """Status and document of the answer."""
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token or self.ready['token']}"}
        self.connection.request("POST", path or self.ready["path"], json.dumps(document), headers)
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def get(self, path: str) -> tuple[int, str]:
        """Status and text of the answer."""
        self.connection.request("GET", path, headers={"Authorization": f"Bearer {self.ready['token']}"})
        response = self.connection.getresponse()
        return response.status, response.read().decode()


@pytest.fixture
def serving(home: dict[str, str]) -> Callable[..., Any]:
    """Serve a project on a free port while the block runs."""

    @contextmanager
    def serve(project: Path, *words: str) -> Iterator[Server]:
        argv = [sys.executable, "-m", "shipworthy", "serve", "--project", str(project), "--port", "0", "--json", *words]
        process = subprocess.Popen(argv, env=home, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, "the server ended before it was ready"
            server = Server(process, json.loads(line))
            with contextlib.closing(server.connection):
                yield server
        finally:
            process.terminate()
            started = time.monotonic()
            process.wait(timeout=20)
            assert time.monotonic() - started < 10
            assert process.stdout is not None
            process.stdout.close()

    return serve


@pytest.fixture(scope="session")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A shipped project, and the folder of its keys."""
    top = tmp_path_factory.mktemp("shipped")
    project = write_project(top / "loans")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(top / "config")}
    argv = [sys.executable, "-m", "shipworthy", "ship", "--project", str(project)]
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    return project, top / "config"


@pytest.fixture
def project(shipped: tuple[Path, Path], tmp_path: Path, home: dict[str, str]) -> Path:
    """A copy of the shipped project, with its keys, for a test to break."""
    shutil.copytree(shipped[1], home["XDG_CONFIG_HOME"])
    return Path(shutil.copytree(shipped[0], tmp_path / "loans"))
