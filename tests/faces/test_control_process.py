"""The control plane's process: where it listens, and what protects it there."""

import http.client
import json
import os
import random
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from shipworthy.faces.wiring import open_parts
from tests.certificates import Authority
from tests.conftest import Seen
from tests.faces.life import CONTRACT

HOSTILE = int(os.environ.get("SHIPWORTHY_SOAK", "0")) or 300


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that has its key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "flights"
    folder.mkdir()
    (folder / "shipworthy.yaml").write_text(CONTRACT)
    with open_parts(folder):
        return folder


def start(project: Path, **settings: Any) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-m", "shipworthy.faces.control_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ},
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps({"project": str(project), "port": 0, **settings}).encode() + b"\n")
    process.stdin.flush()
    return process


@contextmanager
def running(project: Path, **settings: Any) -> Iterator[str]:
    """The address of a control plane that answers."""
    process = start(project, **settings)
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["address"]
    finally:
        process.terminate()
        process.communicate(timeout=20)


def test_a_control_plane_under_tls_answers_nobody_in_the_open(project: Path, tmp_path: Path):
    authority = Authority(tmp_path)
    pair = authority.issue("server")
    with running(project, tls_cert=str(pair.cert), tls_key=str(pair.key)) as address:
        assert address.startswith("https://127.0.0.1:")
        port = int(address.rpartition(":")[2])
        context = ssl.create_default_context(cafile=str(authority.cert))
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)
        connection.request("GET", "/health")
        answer = connection.getresponse()
        assert json.loads(answer.read()) == {"status": "ok", "tls": "tls 1.2+", "audit_log": "writable"}
        assert "strict-transport-security" not in answer.headers  # this machine may serve others without
        assert answer.version == 11
        connection.close()
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(str(authority.cert))
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        refused = http.client.HTTPSConnection("127.0.0.1", port, context=old, timeout=10)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            refused.request("GET", "/health")
        refused.close()


def test_a_replaced_certificate_is_taken_on_and_a_wrong_one_is_not(project: Path, tmp_path: Path):
    authority = Authority(tmp_path)
    pair, other = authority.issue("server"), authority.issue("other")
    with running(project, tls_cert=str(pair.cert), tls_key=str(pair.key)) as address:
        port = int(address.rpartition(":")[2])
        first = serial(port)
        pair.cert.write_text("nonsense")
        time.sleep(2.2)
        assert serial(port) == first
        pair.key.write_bytes(other.key.read_bytes())
        pair.cert.write_bytes(other.cert.read_bytes())
        until = time.monotonic() + 10
        while serial(port) == first:
            assert time.monotonic() < until
            time.sleep(0.2)


def serial(port: int) -> int:
    """Of the certificate that is shown."""
    return x509.load_pem_x509_certificate(ssl.get_server_certificate(("127.0.0.1", port)).encode()).serial_number


@pytest.mark.timeout(3_000)
def test_hostile_requests_break_nothing_and_leave_memory_flat(project: Path, seen: Seen):
    chance = random.Random(5)
    paths = ["/", "/login", "/api/system", "/api/rollback", "/api/releases/%2e%2e%2f/verdicts", "/health", "/nothing"]
    process = start(project)
    assert process.stdout is not None
    port = int(json.loads(process.stdout.readline())["address"].rpartition(":")[2])
    before = 0.0
    for number in range(HOSTILE):
        if number == min(HOSTILE // 2, 3_000):
            before = resident(process)
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {
            "Authorization": f"Bearer {chance.choice(['', 'swt_' + 'A' * 43, 'a.b.c', chance.randbytes(40).hex()])}"
        }
        if number % 3 == 0:
            headers["Host"] = chance.choice(["evil.example", "localhost", "[::1]", chance.randbytes(9).hex()])
        body = chance.randbytes(chance.randrange(2_000)) if number % 2 else None
        try:
            connection.request(chance.choice(["GET", "POST", "PUT", "TRACE"]), chance.choice(paths), body, headers)
            assert connection.getresponse().status < 500
        finally:
            connection.close()
    grown = resident(process) - before
    process.terminate()
    _, err = process.communicate(timeout=20)
    assert "Traceback" not in err.decode()
    assert grown < 24
    seen("requests", HOSTILE)
    seen("MB grown", round(grown, 1))


def resident(process: "subprocess.Popen[bytes]") -> float:
    """Memory of the process, MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"host": "0.0.0.0"}, "0.0.0.0 is not loopback: give --tls-cert and --tls-key"),  # noqa: S104
        ({"tls_cert": "a.pem"}, "--tls-key"),
        ({"host": "0.0.0.0", "tls_terminated_upstream": True, "oidc": "oidc.toml"}, "redirect_uri is missing"),  # noqa: S104
        ({"oidc": "nowhere.toml"}, "nowhere.toml: there is no such file; --oidc names it"),
        ({"allowed_hosts": ["https://a"]}, "--allowed-host 'https://a' is no name"),
    ],
)
def test_what_must_not_be_served_is_refused_in_words(
    project: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], said: str
):
    monkeypatch.chdir(project)
    (project / "oidc.toml").write_text('issuer = "https://a.example"\nclient_id = "c"\n[roles]\na = ["risk"]\n')
    process = start(project, **settings)
    process.wait(30)  # while its standard input is open: it ends with that
    out, err = process.communicate()
    assert (process.returncode, out) == (1, b"")
    assert said in err.decode()
    assert "Traceback" not in err.decode()
