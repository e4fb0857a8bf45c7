"""Delivery: a real receiver gets the document once, and every way of failing is told in words that hold no secret."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shipworthy.monitoring.alerts import due_everywhere
from shipworthy.monitoring.deliver import (
    MAX_ATTEMPTS,
    Attempt,
    alert_document,
    deliver,
    due_channels,
    pause_after,
    record_attempt,
)

ALERT: dict[str, Any] = {
    "alert": "a_1",
    "environment": "live",
    "kind": "drift",
    "about": "inputs",
    "severity": "warning",
    "title": "temp moved",
    "cause": "temp is higher than in training: mean 38.2 -> 67.9 °F (+1.9 sd).",
    "next": "Look at what feeds temp.",
    "opened": "2013-07-01T00:00:00.000Z",
    "last_seen": "2013-07-02T00:00:00.000Z",
    "count": 2,
    "state": "open",
    "acknowledged_by": None,
    "deliveries": due_everywhere(("${ALERT_URL}", "http://b/")),
    "revision": 2,
}
DOCUMENT = alert_document(ALERT, "flights")


class Receiver:
    """A webhook that keeps what it got and answers as it is told to."""

    def __init__(self) -> None:
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.status, self.location = 204, ""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def stop(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.stop()


@pytest.fixture
def rude() -> Iterator[Callable[[Callable[[socket.socket], None]], str]]:
    """Starts a server that does to one connection what it is told to; gives its address."""
    threads: list[threading.Thread] = []

    def start(act: Callable[[socket.socket], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))

        def serve() -> None:
            with listener, listener.accept()[0] as connection:
                act(connection)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}/secret-path"

    yield start
    for thread in threads:
        thread.join()


def test_a_webhook_gets_the_alert_as_json(receiver: Receiver):
    address = f"http://me:${{PASSWORD}}@{receiver.host}/${{TEAM}}?x=1"
    assert deliver(DOCUMENT, address, {"PASSWORD": "pä:ss", "TEAM": "on-call"}) == Attempt()
    ((path, headers, document),) = receiver.got
    assert path == "/on-call?x=1"
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic bWU6cMOkOnNz"
    assert document == json.loads(json.dumps(DOCUMENT))
    assert (document["id"], document["type"], document["source"]) == (
        "a_1:warning", "shipworthy.alert.opened", "shipworthy/flights/live",
    )  # fmt: skip
    assert document["data"]["cause"] == ALERT["cause"]
    assert not {"deliveries", "revision"} & set(document["data"])  # whom else it reaches is nobody's business


def test_the_documents_show_what_a_webhook_gets():
    page = (Path(__file__).parents[2] / "docs" / "monitoring.md").read_text()
    shown = json.loads(page.partition("```json")[2].partition("```")[0])
    assert set(shown) == set(DOCUMENT)
    assert set(shown["data"]) == set(DOCUMENT["data"])
    assert (shown["id"], shown["type"]) == (f"{shown['data']['alert']}:warning", DOCUMENT["type"])


def test_that_an_alert_is_over_is_another_message():
    closed = alert_document({**ALERT, "state": "closed", "closed": "2013-07-05T00:00:00.000Z"}, "flights")
    assert (closed["id"], closed["type"], closed["time"]) == (
        "a_1:closed", "shipworthy.alert.closed", "2013-07-05T00:00:00.000Z",
    )  # fmt: skip


@pytest.mark.parametrize("status", [400, 404, 500, 503])
def test_a_webhook_that_refuses_is_told_by_its_status(status: int, receiver: Receiver):
    receiver.status = status
    assert deliver(DOCUMENT, f"http://{receiver.host}/secret-path", {}) == Attempt(f"the webhook answered {status}")


def test_a_redirect_is_not_followed(receiver: Receiver):
    receiver.status, receiver.location = 307, f"http://{receiver.host}/elsewhere"
    attempt = deliver(DOCUMENT, f"http://{receiver.host}/here", {})
    assert "redirects are not followed" in (attempt.error or "")
    assert [path for path, _, _ in receiver.got] == ["/here"]


def test_a_proxy_of_the_environment_is_not_asked(receiver: Receiver, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert deliver(DOCUMENT, f"http://{receiver.host}/", {}) == Attempt()


@pytest.mark.parametrize(
    ("webhook", "environ", "error"),
    [
        ("${ALERT_URL}", {}, "the environment variable ALERT_URL is not set"),
        ("${ALERT_URL}", {"ALERT_URL": ""}, "the environment variable ALERT_URL is not set"),
        ("${ALERT_URL}", {"ALERT_URL": "file:///secret-path"}, "not an http or https address"),
        ("${ALERT_URL}", {"ALERT_URL": "secret-path"}, "not an http or https address"),
        ("${ALERT_URL}", {"ALERT_URL": "http:///secret-path"}, "not an http or https address"),
        ("${ALERT_URL}", {"ALERT_URL": "http://[secret-path"}, "malformed"),
        ("${ALERT_URL}", {"ALERT_URL": "http://127.0.0.1:99999/secret-path"}, "malformed"),
        ("${ALERT_URL}", {"ALERT_URL": "http://127.0.0.1:9/secret-path\r\nX: y"}, "malformed"),
        ("${ALERT_URL}", {"ALERT_URL": "http://127.0.0.1:9/secret path"}, "malformed"),
        ("http://127.0.0.1:9/secret-path", {}, "no connection: Connection refused"),
        ("http://secret-path.invalid/", {}, "no connection: "),
    ],
)
def test_an_address_that_cannot_be_reached_is_told_without_repeating_it(
    webhook: str, environ: dict[str, str], error: str
):
    attempt = deliver(DOCUMENT, webhook, environ)
    assert attempt.error
    assert error in attempt.error
    assert "secret" not in attempt.error


def test_a_webhook_that_never_answers_costs_no_more_than_the_timeout(
    rude: Callable[[Callable[[socket.socket], None]], str],
):
    def drip(connection: socket.socket) -> None:
        for _ in range(20):
            time.sleep(0.05)
            try:
                connection.sendall(b"H")
            except OSError:
                return

    began = time.monotonic()
    attempts = [deliver(DOCUMENT, rude(act), {}, timeout_s=0.3) for act in (lambda _: time.sleep(0.6), drip)]
    assert attempts == [Attempt("no answer within 0.3 s")] * 2
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1 maybe\r\n\r\n", b"A" * 5000])
def test_what_does_not_speak_http_is_told(answer: bytes, rude: Callable[[Callable[[socket.socket], None]], str]):
    def act(connection: socket.socket) -> None:
        got = b""
        while not got.endswith(b"}}"):  # the whole request, or closing would reset the connection
            got += connection.recv(65_536)
        connection.sendall(answer)

    assert "does not speak HTTP" in (deliver(DOCUMENT, rude(act), {}).error or "")


def test_a_plain_server_is_not_trusted_as_a_secure_one(receiver: Receiver):
    attempt = deliver(DOCUMENT, f"https://{receiver.host}/", {})
    assert (attempt.error or "").startswith("no secure connection")
    assert receiver.got == []


def test_attempts_are_spaced_and_end():
    """Ten in all, 1 s to 4 min apart; another channel is not touched."""
    alert, now, waits = ALERT, 1000.0, []
    channels = ("${ALERT_URL}", "http://b/", "http://new/")
    assert due_channels(alert, now, channels) == ["${ALERT_URL}", "http://b/"]
    assert due_channels(alert, now, channels[1:]) == ["http://b/"]
    while "${ALERT_URL}" in due_channels(alert, now, channels):
        verb, body = record_attempt(alert, "${ALERT_URL}", Attempt("the webhook answered 500"), now)
        assert (verb, body["revision"]) == ("alert.delivered", alert["revision"] + 1)
        alert, told = body, body["deliveries"]["${ALERT_URL}"]
        if told["next_at"] is not None:
            waits.append(told["next_at"] - now)
            assert "${ALERT_URL}" not in due_channels(alert, told["next_at"] - 0.01, channels)
            now = told["next_at"]
    assert waits == [pause_after(attempt) for attempt in range(1, MAX_ATTEMPTS)]
    assert told == {"state": "given up", "attempts": 10, "next_at": None, "error": "the webhook answered 500"}
    assert alert["deliveries"]["http://b/"] == ALERT["deliveries"]["http://b/"]


def test_what_was_delivered_is_not_due_again():
    _, body = record_attempt(ALERT, "http://b/", Attempt(), 5.0)
    assert body["deliveries"]["http://b/"] == {"state": "delivered", "attempts": 1, "next_at": None, "error": None}
    assert due_channels(body, 1e12, ("http://b/",)) == []
