"""The client's errors, and repetition only where it is safe."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from shipworthy.client.client import Client, InvalidRequestError
from shipworthy.kernel.errors import AccessError, NotFoundError, RefusedError, UnavailableError, UsageError
from tests.certificates import Authority

ANSWER = {
    "prediction": "1",
    "probability": {"1": 0.9, "0": 0.1},
    "interval": None,
    "confidence": 0.9,
    "decision": "approve",
    "prediction_id": "p_1",
    "source": "model",
    "handling": "automatic",
    "release": "loans:1",
    "warnings": ["a"],
    "a field of a later version": 1,
}


class Script(ThreadingHTTPServer):
    """Answers as told, one step for each request; a step of None drops the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.steps: list[tuple[int, Any] | None] = []
        self.seen: list[tuple[str, dict[str, str], Any]] = []


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Script

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.seen.append((self.path, dict(self.headers), body))
        step = self.server.steps.pop(0)
        if step is None:
            self.close_connection = True
            return
        content = step[1] if isinstance(step[1], bytes) else json.dumps(step[1]).encode()
        self.send_response(step[0])
        self.send_header("content-length", str(len(content)))
        if step[0] == 429:
            self.send_header("retry-after", str(step[1]["wait"]))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def script() -> Iterator[Script]:
    server = Script()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def _no_wait(seconds: float) -> None:
    pass


def client_of(script: Script, **changes: Any) -> Client:
    return Client(f"http://127.0.0.1:{script.server_port}", system="loans", sleep=_no_wait, **changes)


def test_an_answer_is_a_value_and_the_token_travels(script: Script) -> None:
    script.steps = [(200, ANSWER)]
    with client_of(script, token="swt_x") as client:
        answer = client.predict({"income": 1}, context={"sex": "f"}, id="a")
    assert (answer.decision, answer.warnings, answer.reasons) == ("approve", ("a",), None)
    path, headers, body = script.seen[0]
    assert path == "/v1/systems/loans/predict"
    assert headers["authorization"] == "Bearer swt_x"
    assert body == {"inputs": {"income": 1}, "context": {"sex": "f"}, "id": "a"}


def test_unavailable_is_tried_again(script: Script) -> None:
    script.steps = [(503, {"detail": "busy"}), (503, {"detail": "busy"}), (200, ANSWER)]
    with client_of(script) as client:
        assert client.predict({}).prediction == "1"
    script.steps = [(503, {"detail": "busy"})] * 3
    with client_of(script) as client, pytest.raises(UnavailableError, match=r"busy \(status 503\)"):
        client.predict({})


def test_who_sent_too_much_waits_as_it_is_told_unless_that_is_too_long(script: Script) -> None:
    waited: list[float] = []
    script.steps = [(429, {"detail": "slowly", "wait": 3}), (200, ANSWER)]
    address = f"http://127.0.0.1:{script.server_port}"
    with Client(address, system="loans", sleep=waited.append) as client:
        assert client.predict({}).prediction == "1"
    assert waited == [3.0]
    script.steps = [(429, {"detail": "no more today", "wait": 5000})]
    with (
        Client(address, system="loans", sleep=waited.append) as client,
        pytest.raises(RefusedError, match=r"no more today \(status 429; it may be tried again in 5000 s\)"),
    ):
        client.predict({})
    assert waited == [3.0]


def test_a_lost_connection_is_tried_again_only_with_an_id(script: Script) -> None:
    script.steps = [None, (200, ANSWER)]
    with client_of(script) as client:
        assert client.predict({}, id="a").prediction == "1"
    script.steps = [None, (200, ANSWER)]
    with client_of(script) as client, pytest.raises(UnavailableError, match="did not answer"):
        client.predict({})
    assert len(script.steps) == 1


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, AccessError),
        (403, AccessError),
        (404, NotFoundError),
        (422, InvalidRequestError),
        (413, InvalidRequestError),
        (429, RefusedError),
        (500, UnavailableError),
    ],
)
def test_refusals_are_typed_and_not_repeated(script: Script, status: int, error: type[Exception]) -> None:
    script.steps = [(status, {"detail": "no", "wait": 60})]
    with client_of(script) as client, pytest.raises(error, match="no"):
        client.predict({})
    assert len(script.seen) == 1


def test_an_answer_that_is_not_json_is_unavailable(script: Script) -> None:
    script.steps = [(502, b"<html>")]
    with client_of(script) as client, pytest.raises(UnavailableError, match="not JSON"):
        client.predict({})


def test_nobody_listening_is_unavailable() -> None:
    with (
        Client("http://127.0.0.1:1", system="loans", sleep=_no_wait) as client,
        pytest.raises(UnavailableError, match="does not listen"),
    ):
        client.predict({})


def test_an_address_must_be_of_http() -> None:
    with pytest.raises(UsageError, match="is not an address"):
        Client("file:///etc/passwd", system="loans")


def test_certificates_are_files_of_an_https_address(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, junk = authority.issue("caller"), tmp_path / "junk"
    junk.write_text("no certificate")
    with pytest.raises(UsageError, match=r"certificates are for an https address; 'http://a' is not one"):
        Client("http://a", system="loans", ca=authority.cert)
    with pytest.raises(NotFoundError, match=r"nowhere: not all of these files are there"):
        Client("https://a", system="loans", ca=tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"junk: cannot be used \(.*\); give PEM files"):
        Client("https://a", system="loans", ca=junk)
    with pytest.raises(UsageError, match=r"give PEM files, and a key of its certificate"):
        Client("https://a", system="loans", client_cert=(pair.cert, authority.issue("other").key))
    Client("https://a", system="loans", ca=authority.cert, client_cert=(pair.cert, pair.key)).close()


def test_the_client_imports_only_the_kernel() -> None:
    code = (
        "import sys; import shipworthy.client.client;"
        "print(' '.join(sorted(name for name in sys.modules if name.startswith('shipworthy.'))));"
        "print({'numpy', 'msgspec', 'onnxruntime', 'uvloop'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours, heavy = done.stdout.splitlines()
    assert ours == "shipworthy.client shipworthy.client.client shipworthy.kernel shipworthy.kernel.errors"
    assert heavy == "set()"
