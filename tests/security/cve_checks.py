"""What the field's CVEs did, tried on whichever `shipworthy` is imported: `python -m tests.security.cve_checks NAME…`.

Prints a JSON object: the check's name -> what it got away with, or null if the attack failed.
"""

import asyncio
import http.client
import json
import os
import select
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec

from shipworthy.bundle.deployment import bundle_path, write_bundle, write_payload
from shipworthy.bundle.format import Schema
from shipworthy.bundle.verify import verify_bundle
from shipworthy.contract.parse import parse_contract
from shipworthy.faces.api import make_app
from shipworthy.faces.problems import problem_of
from shipworthy.kernel.errors import ConflictError, ShipworthyError
from shipworthy.ledger.artefacts import ArtefactStore
from shipworthy.monitoring.deliver import deliver
from shipworthy.security.access import ROLES, Principal, Target, decide
from shipworthy.security.binding import Binding, check_binding
from shipworthy.serving.gate import Gate
from tests.bundle.test_bundle import FILES, KEY, KEYS, make_statement, sign
from tests.faces.life import CONTRACT, make_project
from tests.serving.conftest import Place, start_server

Check = Callable[[Path], str | None]
NOW = 1_774_000_000.0


def refused(act: Callable[[], Any], got_away: str) -> str | None:
    """What the attack got away with, unless it was refused."""
    with suppress(ShipworthyError):
        act()
        return got_away
    return None


def store(root: Path) -> tuple[Path, Path]:
    """Two signed bundles in one store."""
    places = []
    for version in (1, 2):
        source = root / f"payload-{version}"
        digest = write_payload(source, "loans", "binary", {**FILES, "model.onnx": bytes([version]) * 64})
        contents = {path.name: path.read_bytes() for path in source.iterdir()}
        places.append(write_bundle(root / "live", sign(make_statement(digest, version=version)), contents))
    return places[0], places[1]


def changed_model(root: Path) -> str | None:
    place, _ = store(root)
    (place / "payload" / "model.onnx").write_bytes(b"\x80\x04" + bytes(62))
    return refused(lambda: verify_bundle(place, KEYS), "a model of somebody else's was accepted")


def unsigned_release(root: Path) -> str | None:
    place, _ = store(root)
    document = json.loads((place / "release.json").read_bytes())
    document["signatures"][0]["sig"] = "A" * 86 + "=="
    (place / "release.json").write_text(json.dumps(document))
    return refused(lambda: verify_bundle(place, KEYS), "a release with a forged signature was accepted")


def swapped_in_a_shared_store(root: Path) -> str | None:
    one, two = store(root)
    digest = f"sha256:{one.name}"
    aside = root / "aside"
    one.rename(aside)
    two.rename(one)
    assert bundle_path(root / "live", digest) == one
    return refused(lambda: verify_bundle(one, KEYS, digest), "another release was accepted in a release's place")


def linked_file(root: Path) -> str | None:
    place, _ = store(root)
    model = place / "payload" / "model.onnx"
    (root / "elsewhere").write_bytes(model.read_bytes())
    model.unlink()
    model.symlink_to(root / "elsewhere")
    return refused(lambda: verify_bundle(place, KEYS), "a link out of the bundle was followed")


def manifest_names_code(root: Path) -> str | None:
    hostile = b'{"system":"s","features":[],"context":[],"derived":[],"columns":[],"class_name":"os.system"}'
    try:
        msgspec.json.decode(hostile, type=Schema)
    except msgspec.ValidationError:
        return None
    return "a schema may name a class"


def yaml_makes_objects(root: Path) -> str | None:
    text = CONTRACT.replace("purpose: ", "purpose: !!python/name:os.system ")
    return refused(lambda: parse_contract(text, "shipworthy.yaml"), "a tag in a contract was accepted")


def path_from_an_id(root: Path) -> str | None:
    kept = ArtefactStore(root / "blobs")
    for name in (
        "../../etc/passwd",
        "/etc/passwd",
        "sha256:../../x",
        "C:/x",
        "sha256:%2e%2e",
        "..",
        "sha256:" + "/" * 64,
    ):
        if found := refused(lambda name=name: kept.path_of(name), f"{name!r} became a path"):  # type: ignore[misc]
            return found
    return None


def ask(root: Path, method: str, path: str, headers: Mapping[str, str], *, add: str = "") -> int:
    """What the control plane answers, asked as a server would be."""
    owner = Principal("olga", frozenset(ROLES))
    app = make_app(make_project(root / "flights", lambda: NOW), owner=owner, one_time="code", now=lambda: NOW)
    if add:
        app.add_api_route(add, lambda: {"secret": 1}, methods=["GET"])
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async def call() -> None:
        async with app.router.lifespan_context(app):
            cookie = app.state.sessions.open(None, os.urandom(32))
            given = {"host": "localhost", **headers}
            if given.pop("session", None):
                given["cookie"] = f"shipworthy-session={cookie}"
            scope = {
                "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
                "root_path": "", "scheme": "http", "http_version": "1.1",
                "client": ("127.0.0.1", 1), "server": ("localhost", 80),
                "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            }  # fmt: skip
            await app(scope, receive, send)

    asyncio.run(call())
    return int(sent[0]["status"])


def route_without_a_policy(root: Path) -> str | None:
    status = ask(root, "GET", "/api/forgotten", {"session": "yes"}, add="/api/forgotten")
    return None if status == 403 else f"a route that nobody named answered {status}"


def nobody_signed_in(root: Path) -> str | None:
    status = ask(root, "GET", "/api/system", {})
    return None if status == 401 else f"somebody without a token was answered {status}"


def another_sites_form(root: Path) -> str | None:
    headers = {"session": "yes", "origin": "https://evil.example", "content-length": "0"}
    status = ask(root, "POST", "/logout", headers)
    return None if status == 403 else f"another site's form was answered {status}"


def rebound_name(root: Path) -> str | None:
    status = ask(root, "GET", "/api/system", {"session": "yes", "host": "evil.example"})
    return None if status == 421 else f"a name that is not ours was answered {status}"


def bound_to_everybody(root: Path) -> str | None:
    return refused(lambda: check_binding(Binding(host="0.0.0.0")), "0.0.0.0 without TLS was accepted")  # noqa: S104


def token_of_another_scope(root: Path) -> str | None:
    gate = Gate(lambda: NOW, lambda: 0.0)
    gate.replace("loans", [])

    class Asked:
        headers: Mapping[bytes, bytes] = {b"authorization": b"Bearer swt_" + b"A" * 43}
        path = b"/"
        address = "127.0.0.1"

    found = gate.check_caller(Asked(), "predict")  # type: ignore[arg-type]
    return None if found is not None else "an unknown token may predict"


def user_makes_users(root: Path) -> str | None:
    somebody = Principal("dan", frozenset({"data-scientist"}))
    allowed = [
        verb for verb in ("user add", "token create", "key rotate") if decide(somebody, verb, Target("x")).allowed
    ]
    return f"a data scientist may {', '.join(allowed)}" if allowed else None


def error_names_a_path(root: Path) -> str | None:
    body = bytes(problem_of(ConflictError("/srv/secret/ledger.db is locked")).body)
    return "an error told a path" if b"/srv" in body else None


def redirected_webhook(root: Path) -> str | None:
    """A webhook that leads elsewhere, and addresses that are no web's."""
    reached = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            reached.append(self.path)
            self.send_response(307)
            self.send_header("Location", "/metadata")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        deliver({"a": 1}, f"http://127.0.0.1:{server.server_port}/hook", {}, timeout_s=5)
        for scheme in ("ftp", "gopher", "file", "jar"):
            deliver({"a": 1}, f"{scheme}://127.0.0.1:{server.server_port}/{scheme}", {}, timeout_s=5)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    return None if reached == ["/hook"] else f"asked were {reached}"


def body_without_an_end(root: Path) -> str | None:
    """A chunked body far over the limit."""
    place = Place(root)
    place.deploy(place.publish(1))
    server = start_server(place.settings(), root / "stderr")
    try:
        with socket.create_connection((server.host, server.port), timeout=20) as client:
            head = b"POST /v1/systems/loans/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
            client.sendall(head)
            for megabytes in range(1, 41):
                with suppress(OSError):
                    client.sendall(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
                if select.select([client], [], [], 0.005)[0]:
                    return None if megabytes < 30 else f"{megabytes} MB were read before they were refused"
            return "40 MB were read"
    finally:
        server.stop()


CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (
        changed_model, unsigned_release, swapped_in_a_shared_store, linked_file, manifest_names_code,
        yaml_makes_objects,
        path_from_an_id, route_without_a_policy, nobody_signed_in, another_sites_form, rebound_name, bound_to_everybody,
        token_of_another_scope, user_makes_users, error_names_a_path, redirected_webhook, body_without_an_end,
    )
}  # fmt: skip


def main(names: list[str]) -> None:
    """Try the attacks."""
    assert KEY is not None
    assert http.client is not None
    found = {}
    for name in names or CHECKS:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = CHECKS[name](Path(folder))
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
