"""The real control plane on a free port, over a ledger that tells of half a year."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI

from shipworthy.faces.api import SERVER_SETTINGS, make_app
from shipworthy.security.access import ROLES, Principal
from shipworthy.workflows.principals import add_principal
from shipworthy.workflows.project import Parts
from tests.faces.life import Opener, live, make_project

OWNER = Principal("olga", frozenset(ROLES))
ONE_TIME = "the-code-that-the-terminal-shows"
NOW = 1_774_000_000.0

collect_ignore = ["provider.py"]  # a program


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Answer:
    """Status, headers and body of a response."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()

    @property
    def document(self) -> Any:
        return json.loads(self.text)

    @property
    def cookie(self) -> str:
        """As the browser sends it back."""
        return (self.headers["set-cookie"] or "").partition(";")[0]


class ControlPlane:
    """The application behind uvicorn, as callers see it; a principal for each role, of the role's name."""

    def __init__(self, app: FastAPI, port: int, clock: Clock, opener: Opener) -> None:
        self.app, self.port, self.clock, self.opener = app, port, clock, opener
        self.tokens: dict[str, str] = {}
        self.ticks: list[tuple[str | None, float | None]] = []
        self.tick_error: Exception | None = None

    @property
    def parts(self) -> Parts:
        found: Parts = self.app.state.parts
        return found

    def ask(
        self, method: str, path: str, role: str | None = None, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """One request; with `role` as the principal of that role."""
        sent = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        if content is not None:
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, content, {**sent, **(headers or {})})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def tick(self, environment: str | None, as_of: float | None) -> dict[str, Any]:
        if self.tick_error is not None:
            raise self.tick_error
        self.ticks.append((environment, as_of))
        return {"done": []}


@contextmanager
def serving(app: FastAPI, port: int = 0) -> Iterator[int]:
    """Serve `app` on a port of loopback, a free one unless it is told, while the block runs."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, **SERVER_SETTINGS))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        until = time.monotonic() + 20
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        assert server.started
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(20)


@contextmanager
def control_plane(root: Path) -> Iterator[ControlPlane]:
    """A control plane over half a year, with a principal for each role."""
    clock = Clock()
    opener = make_project(root, clock)
    tokens = {}
    with opener() as parts:
        live(parts)
        for role in ROLES:
            tokens[role] = add_principal(parts, OWNER, role, (role,))
    planes: list[ControlPlane] = []
    app = make_app(
        opener,
        owner=OWNER,
        one_time=ONE_TIME,
        tick=lambda environment, as_of: planes[0].tick(environment, as_of),
        now=clock,
    )
    with serving(app) as port:
        planes.append(ControlPlane(app, port, clock, opener))
        planes[0].tokens = tokens
        yield planes[0]


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane of the test's own."""
    with control_plane(tmp_path / "flights") as found:
        yield found


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane for tests that only look, or that put back what they change."""
    with control_plane(tmp_path_factory.mktemp("shared") / "flights") as found:
        yield found
