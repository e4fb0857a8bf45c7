"""The gate and TLS of the real server, over real sockets."""

import contextlib
import http.client
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from shipworthy.bundle.format import AccessToken
from shipworthy.client import Client, RateLimitedError
from shipworthy.kernel.errors import UnavailableError
from shipworthy.security.tokens import hash_token
from tests.certificates import DAY, NOW, Authority, Pair
from tests.serving.conftest import SYSTEM, Place, Running, good_request, start_server
from tests.serving.test_hostile import GOOD, post

PREDICT = f"/v1/systems/{SYSTEM}/predict"
INFER = f"/v2/models/{SYSTEM}/infer"
TENSORS = {
    "inputs": [
        {"name": name, "datatype": kind, "shape": [2], "data": [value, value]}
        for name, kind, value in [
            ("income", "FP64", 50.0),
            ("debt", "FP64", 10.0),
            ("purpose", "BYTES", "purchase"),
            ("age", "INT64", 40),
        ]
    ]
}


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def entry(token: str, **changes: Any) -> AccessToken:
    fields: dict[str, Any] = {"name": token, "scopes": (f"predict:{SYSTEM}", f"tell:{SYSTEM}"), "expires": None}
    return AccessToken(hash=hash_token(token), **{**fields, **changes})


# --- callers


@pytest.fixture(scope="module")
def guarded_place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("guarded"))
    place.deploy(place.publish(1))
    place.allow(
        entry("plain"),
        entry("fast", principal="fast", per_second=2),
        entry("daily", principal="daily", per_day=25),
        entry("daily-too", principal="daily"),
    )
    return place


@pytest.fixture(scope="module")
def guarded(guarded_place: Place) -> Iterator[Running]:
    outcomes = guarded_place.root / "outcomes" / "local"
    settings = guarded_place.settings(open=False, outcomes=str(outcomes), allowed_hosts=("models.example.com",))
    running = start_server(settings, guarded_place.root / "stderr")
    yield running
    running.stop()


def test_every_answer_forbids_guessing_its_type_and_keeping_it(guarded: Running) -> None:
    for method, path, header in [
        ("GET", "/v2/health/ready", {}),
        ("GET", "/metrics", {}),
        ("GET", "/nowhere", {}),
        ("POST", PREDICT, {}),
        ("POST", PREDICT, bearer("plain")),
    ]:
        _, _, headers = guarded.call(method, path, good_request() if method == "POST" else None, header)
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")


def test_a_rate_is_answered_429_with_the_time_to_wait(guarded: Running) -> None:
    answers = [guarded.call("POST", PREDICT, good_request(), bearer("fast")) for _ in range(6)]
    assert [answer[0] for answer in answers][:4] == [200] * 4
    refused = next(answer for answer in answers if answer[0] == 429)
    assert refused[1]["detail"] == "This caller may send 2 requests a second."
    assert refused[2]["retry-after"] == "1"
    assert guarded.predict(good_request(), bearer("plain"))[0] == 200
    with Client(f"http://{guarded.host}:{guarded.port}", system=SYSTEM, token="fast") as client:
        for _ in range(4):  # waits as it is told
            assert client.predict(good_request()["inputs"]).source == "model"


def test_a_quota_counts_the_rows_of_batches_and_is_shared_by_a_principals_tokens(guarded: Running) -> None:
    assert guarded.predict([good_request()] * 20, bearer("daily"))[0] == 200
    status_, problem = guarded.predict([good_request()] * 6, bearer("daily-too"))
    assert (status_, problem["title"]) == (429, "Too much is asked")
    assert problem["detail"] == "This caller may ask for 25 predictions a day (UTC); 5 are left, this asks 6."
    assert guarded.call("POST", INFER, TENSORS, bearer("daily"))[0] == 200
    assert guarded.predict(good_request(), bearer("daily"))[0] == 200
    code, document, headers = guarded.call("POST", INFER, {**TENSORS, "inputs": [
        {**tensor, "shape": [3], "data": tensor["data"] * 1 + tensor["data"][:1]} for tensor in TENSORS["inputs"]
    ]}, bearer("daily"))  # fmt: skip
    assert (code, document["status"]) == (429, 429)
    assert "2 are left, this asks 3" in document["error"]
    assert 0 < int(headers["retry-after"]) <= 86400
    assert guarded.predict([good_request()] * 2, bearer("daily-too"))[0] == 200
    assert guarded.predict(good_request(), bearer("daily"))[0] == 429
    outcome = {"id": "a", "value": "1"}
    assert guarded.call("POST", f"/v1/systems/{SYSTEM}/outcomes", outcome, bearer("daily"))[0] == 200  # no prediction
    with (
        Client(f"http://{guarded.host}:{guarded.port}", system=SYSTEM, token="daily") as client,
        pytest.raises(RateLimitedError, match=r"0 are left, this asks 1.*status 429.*in \d+ s"),
    ):
        client.predict(good_request()["inputs"])


def test_names_are_checked_and_refusals_are_counted_by_reason(guarded: Running) -> None:
    before = refusals(guarded)
    for headers, code in [
        ({"host": "evil.example"}, 421),
        ({"host": "models.example.com"}, 401),
        ({"origin": "https://evil.example"}, 403),
        (bearer("unknown"), 401),
        ({**bearer("plain"), "origin": "https://models.example.com"}, 200),
    ]:
        assert guarded.predict(good_request(), headers)[0] == code
    grown = {reason: count - before[reason] for reason, count in refusals(guarded).items()}
    assert grown == {
        "attempts": 0, "expired": 0, "host": 1, "no_token": 1, "origin": 1, "quota": 0, "rate": 0, "scope": 0,
        "unknown": 1,
    }  # fmt: skip


def refusals(running: Running) -> dict[str, int]:
    lines = running.call("GET", "/metrics")[1].decode().splitlines()
    found = (line.partition('refusals_total{reason="')[2] for line in lines if "refusals_total{" in line)
    return {text.partition('"')[0]: int(text.rpartition(" ")[2]) for text in found}


def test_guesses_are_slowed_down_and_a_valid_token_is_still_served(guarded: Running) -> None:
    connection = guarded.connect()
    seen = []
    for number in range(110):
        connection.request("POST", PREDICT, GOOD, bearer(f"guess-{number}"))
        response = connection.getresponse()
        response.read()
        seen.append(response.status)
    assert seen[-1] == 429
    assert set(seen) == {401, 429}
    connection.request("POST", PREDICT, GOOD, bearer("plain"))
    assert connection.getresponse().status == 200
    connection.close()


def test_a_revoked_token_is_refused_within_a_second_on_a_living_connection(
    place: Place, start: Callable[..., Running]
) -> None:
    place.deploy(place.publish(1))
    token = place.mint()
    running = start(open=False)
    connection = running.connect()

    def ask() -> int:
        connection.request("POST", PREDICT, GOOD, bearer(token))
        response = connection.getresponse()
        response.read()
        return response.status

    assert [ask(), ask()] == [200, 200]
    wire = connection.sock
    place.allow()
    revoked = time.monotonic()
    while (answer := ask()) == 200:
        assert time.monotonic() - revoked < 1
        time.sleep(0.005)
    assert answer == 401
    assert time.monotonic() - revoked < 1
    assert connection.sock is wire  # the same connection all the time
    connection.close()


# --- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def pair(authority: Authority) -> Pair:
    return authority.issue("server")


def trusting(authority: Authority, caller: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.cert))
    if caller is not None:
        context.load_cert_chain(caller.cert, caller.key)
    return context


@pytest.fixture(scope="module")
def secured(shared_place: Place, authority: Authority, pair: Pair) -> Iterator[Running]:
    records = str(shared_place.root / "records" / "tls")  # another server writes those of the place
    settings = shared_place.settings(
        tls_cert=str(pair.cert), tls_key=str(pair.key), records=records, receive_timeout_s=1
    )
    running = replace(start_server(settings, shared_place.root / "tls-stderr"), tls=trusting(authority))
    yield running
    running.stop()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_it_answers_over_tls(secured: Running, authority: Authority, version: ssl.TLSVersion) -> None:
    context = trusting(authority)
    context.minimum_version = context.maximum_version = version
    running = replace(secured, tls=context)
    assert running.predict(good_request())[1]["source"] == "model"
    assert [answer["release"] for answer in running.predict([good_request()] * 3000)[1]] == ["loans:1"] * 3000
    assert running.call("GET", "/v2/health/ready")[1]["tls"] == "tls 1.2+"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_1_1_and_plain_http_are_not_spoken(secured: Running, authority: Authority) -> None:
    context = trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        socket.create_connection((secured.host, secured.port), timeout=5) as plain,
        pytest.raises(ssl.SSLError, match=r"(?i)protocol.version|handshake|EOF"),  # uvloop hangs up without an alert
    ):
        context.wrap_socket(plain, server_hostname="localhost")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        replace(secured, tls=None).call("GET", "/v2/health/live")
    assert secured.predict(good_request())[0] == 200


def test_our_client_believes_the_authority_that_it_is_given_and_no_other(
    secured: Running, authority: Authority
) -> None:
    address = f"https://localhost:{secured.port}"
    with Client(address, system=SYSTEM, ca=authority.cert) as client:
        assert client.predict(good_request()["inputs"]).source == "model"
    with (
        Client(address, system=SYSTEM) as stranger,
        pytest.raises(UnavailableError, match=r"localhost cannot prove who it is: .*; give `ca`"),
    ):
        stranger.predict({}, id="a")
    with (
        Client(f"https://127.0.0.2:{secured.port}", system=SYSTEM, ca=authority.cert) as client,
        pytest.raises(UnavailableError, match=r"does not listen|cannot prove who it is"),
    ):
        client.predict({})


def test_who_never_agrees_on_tls_is_cut_off_and_holds_nobody_up(secured: Running) -> None:
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection((secured.host, secured.port), timeout=10)) for _ in range(50)
        ]
        for wire in silent[:25]:
            wire.sendall(b"\x16\x03\x01\x02\x00\x01")  # the first bytes of a hello
        started = time.monotonic()
        assert secured.predict(good_request())[0] == 200
        assert time.monotonic() - started < 1
        for wire in silent:
            with contextlib.suppress(ConnectionError):
                assert wire.recv(100) == b""
        assert time.monotonic() - started < 5


def test_slow_senders_and_pipelines_meet_the_same_limits_under_tls(secured: Running, authority: Authority) -> None:
    with contextlib.ExitStack() as stack:
        plain = stack.enter_context(socket.create_connection((secured.host, secured.port), timeout=10))
        wire = stack.enter_context(trusting(authority).wrap_socket(plain, server_hostname="localhost"))
        wire.sendall(post(GOOD) * 50 + post(GOOD)[:-5])
        received = b""
        while chunk := wire.recv(65536):
            received += chunk
    codes = [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]]
    assert codes == [200] * 50 + [408]


def test_bytes_that_are_no_tls_leave_no_trace(secured: Running) -> None:
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 1000, b"\x16\x03\x03\xff\xff" + b"a" * 70_000):
        address = (secured.host, secured.port)
        with socket.create_connection(address, timeout=5) as wire, contextlib.suppress(OSError):
            wire.sendall(data)
            wire.shutdown(socket.SHUT_WR)
            while wire.recv(65536):
                pass
    assert secured.predict(good_request())[0] == 200
    assert "Traceback" not in secured.stderr.read_text()


def test_a_caller_without_the_right_certificate_is_refused_under_mutual_tls(
    place: Place, start: Callable[..., Running], authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    place.deploy(place.publish(1))
    running = start(tls_cert=str(pair.cert), tls_key=str(pair.key), tls_client_ca=str(authority.cert))
    caller = authority.issue("caller", is_client=True)
    good = replace(running, tls=trusting(authority, caller))
    assert good.predict(good_request())[0] == 200
    assert good.call("GET", "/v2/health/ready")[1]["tls"] == "mutual"
    stranger = Authority(tmp_path, "stranger").issue("stranger-caller", is_client=True)
    ended = authority.issue("ended", is_client=True, begins=NOW - 9 * DAY, ends=NOW - DAY)
    server_only = authority.issue("server-only")
    for wrong in (None, stranger, ended, server_only):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            replace(running, tls=trusting(authority, wrong)).call("GET", "/v2/health/live")
    address = f"https://localhost:{running.port}"
    with Client(address, system=SYSTEM, ca=authority.cert, client_cert=(caller.cert, caller.key)) as client:
        assert client.predict(good_request()["inputs"]).source == "model"
    with (
        Client(address, system=SYSTEM, ca=authority.cert, retries=0) as client,
        pytest.raises(UnavailableError, match="did not answer"),
    ):
        client.predict({})


def test_a_renewed_certificate_answers_without_a_restart_and_a_wrong_one_does_not(
    place: Place, start: Callable[..., Running], authority: Authority
) -> None:
    place.deploy(place.publish(1))
    pair = authority.issue("renewed", ends=NOW + 10 * DAY)
    running = replace(start(tls_cert=str(pair.cert), tls_key=str(pair.key)), tls=trusting(authority))
    assert f"the certificate ends on {NOW + 10 * DAY:%Y-%m-%d}" in running.stderr.read_text()
    kept = running.connect()
    kept.request("GET", "/v2/health/live")
    assert kept.getresponse().read()
    ends = [certificate_end(running)]
    authority.issue("renewed", ends=NOW + 80 * DAY)
    ends.append(await_end(running, (NOW + 80 * DAY).timestamp()))
    good = pair.cert.read_bytes()
    pair.cert.write_text("garbage")
    time.sleep(1.5)
    ends.append(certificate_end(running))
    assert "the new certificate is not taken, the old one stands" in running.stderr.read_text()
    pair.cert.write_bytes(good)
    assert ends == [(NOW + days * DAY).timestamp() for days in (10, 80, 80)]
    assert f"shipworthy_certificate_expires_seconds {ends[1]:.0f}".encode() in running.call("GET", "/metrics")[1]
    kept.request("POST", PREDICT, GOOD)  # a connection lives on under the certificate that it began with
    assert kept.getresponse().status == 200
    kept.close()
    assert running.stop() == 0


def certificate_end(running: Running) -> float:
    assert running.tls is not None
    with (
        socket.create_connection((running.host, running.port), timeout=5) as plain,
        running.tls.wrap_socket(plain, server_hostname="localhost") as wire,
    ):
        ends = (wire.getpeercert() or {})["notAfter"]
    return float(ssl.cert_time_to_seconds(str(ends)))


def await_end(running: Running, wanted: float) -> float:
    end = time.monotonic() + 5
    while (found := certificate_end(running)) != wanted:
        assert time.monotonic() < end, "the new certificate never answered"
        time.sleep(0.05)
    return found


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"host": "0.0.0.0", "open": False}, "give --tls-cert and --tls-key"),  # noqa: S104
        ({"tls_cert": "nowhere"}, "--tls-cert and --tls-key go together"),
        ({"tls_cert": "nowhere", "tls_key": "nowhere"}, "nowhere: there is no such file; --tls-cert names it"),
        ({"allowed_hosts": ("http://a",)}, "--allowed-host 'http://a' is no name"),
        ({"host": "192.0.2.1", "open": False, "tls_terminated_upstream": True}, "cannot be listened on"),
    ],
)
def test_what_must_not_be_served_is_refused_before_it_is(
    shared_place: Place, changes: dict[str, Any], said: str
) -> None:
    settings = shared_place.settings(records=str(shared_place.root / "records" / "refused"), **changes)
    words = ["--settings", msgspec.json.encode(settings).decode()]
    command = [sys.executable, "-m", "shipworthy.serving.server", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_upstream_tls_is_said_in_health(place: Place, start: Callable[..., Running]) -> None:
    place.deploy(place.publish(1))
    running = start(host="0.0.0.0", open=False, tls_terminated_upstream=True)  # noqa: S104
    running.host = "127.0.0.1"
    document = running.call("GET", "/v2/health/ready")[1]
    assert (document["tls"], document["access"]) == ("upstream", "token")
