"""The API: denied by default on every route, each act behind its action, and no word about the machine."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from shipworthy.faces.api import ROUTE_VERBS, make_app
from shipworthy.faces.guard import HEADERS
from shipworthy.kernel.errors import ConflictError, IntegrityError, StorageError
from shipworthy.security.access import LOCAL, PUBLIC, ROLES, VERBS, Principal, Target, decide
from shipworthy.security.tokens import mint_token
from tests.faces.conftest import NOW, OWNER, ControlPlane
from tests.faces.life import FIRST, OPEN_ALERT, WEEK_S, make_project

QUARTER_S = 90 * 86400.0
STRANGER = mint_token(bytes(32))[0]


def table() -> list[tuple[str, str]]:
    """Every method of every route that the application really has."""
    app = make_app(make_project(Path("nowhere-that-is-opened"), lambda: NOW), owner=OWNER)
    found = []
    for route in app.routes:
        assert isinstance(route, Route), route
        found += [(method, route.path) for method in sorted(route.methods or ()) if method != "HEAD"]
    return found


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("rows"))
        return table()


def filled(path: str) -> str:
    return re.sub(r"\{\w+\}", "unknown", path)


def test_every_route_has_an_action_and_every_action_a_route(rows: list[tuple[str, str]]):
    assert len(rows) > 20
    assert set(rows) == set(ROUTE_VERBS)
    assert set(ROUTE_VERBS.values()) <= set(VERBS)


def test_only_health_and_the_way_in_are_public():
    assert {path for (_, path), verb in ROUTE_VERBS.items() if VERBS[verb].action == PUBLIC} == {
        "/health",
        "/login",
        "/login/oidc",
        "/login/callback",
        "/console.css",
        "/icon.svg",
    }


def test_no_route_answers_without_a_valid_token(shared: ControlPlane, rows: list[tuple[str, str]]):
    wrong = ("", "Bearer", f"Bearer {STRANGER}", "Bearer swt_short", f"Basic {shared.tokens['platform']}")
    for method, path in rows:
        if VERBS[ROUTE_VERBS[method, path]].action == PUBLIC:
            assert shared.ask(method, filled(path)).status in (
                (401,) if (method, path) == ("POST", "/login") else (303,) if path.startswith("/login/") else (200,)
            )
            continue
        assert shared.ask(method, filled(path)).status == 401, path
        for header in wrong:
            answer = shared.ask(method, filled(path), headers={"Authorization": header})
            assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), (path, header)
        shared.clock.now += 61  # the failures of this address are forgotten


def test_a_token_that_expired_opens_nothing(shared: ControlPlane, rows: list[tuple[str, str]]):
    before = shared.clock.now
    try:
        for method, path in rows:
            if VERBS[ROUTE_VERBS[method, path]].action != PUBLIC:
                shared.clock.now += QUARTER_S
                assert shared.ask(method, filled(path), "platform").status == 401, path
    finally:
        shared.clock.now = before
    assert shared.ask("GET", "/api/system", "platform").status == 200


@pytest.mark.parametrize("role", ROLES)
def test_a_role_opens_exactly_the_routes_of_its_verbs(shared: ControlPlane, rows: list[tuple[str, str]], role: str):
    for method, path in rows:
        verb = ROUTE_VERBS[method, path]
        if VERBS[verb].action != PUBLIC:
            status = shared.ask(method, filled(path), role, b"{}" if method == "POST" else None).status
            assert status not in (401, 429, 500), (path, status)
            wanted = decide(Principal(role, frozenset({role})), verb, Target("flights", LOCAL)).allowed
            assert (status != 403) == wanted, (path, role)


def test_a_route_that_somebody_forgot_to_name_is_nobodys(plane: ControlPlane):
    plane.app.add_api_route("/api/forgotten", lambda: {"secret": 1}, methods=["GET"])
    for role in ROLES:
        answer = plane.ask("GET", "/api/forgotten", role)
        assert (answer.status, "secret" in answer.text) == (403, False)


def test_what_does_not_exist_is_told_only_to_those_who_may_ask(shared: ControlPlane):
    assert shared.ask("GET", "/api/nothing").status == 401
    assert shared.ask("GET", "/api/nothing", "auditor").status == 404
    assert shared.ask("DELETE", "/api/releases", "auditor").status == 405
    assert shared.ask("HEAD", "/api/releases").status == 401


def test_a_web_socket_is_closed_before_anything_is_said(shared: ControlPlane):
    sent = []

    async def send(message):
        sent.append(message)

    asyncio.run(shared.app({"type": "websocket", "path": "/api/system", "headers": []}, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


def test_after_twenty_failures_an_address_waits_a_minute_but_a_valid_token_does_not(plane: ControlPlane):
    wrong = {"Authorization": f"Bearer {STRANGER}"}
    assert [plane.ask("GET", "/api/system", headers=wrong).status for _ in range(20)] == [401] * 20
    answer = plane.ask("GET", "/api/system", headers=wrong)
    assert (answer.status, answer.headers["retry-after"]) == (429, "60")
    assert plane.ask("GET", "/api/system", "platform").status == 200
    plane.clock.now += 61
    assert plane.ask("GET", "/api/system", headers=wrong).status == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "", "a b", "[::2]"]
)
def test_a_name_that_is_not_ours_is_refused(shared: ControlPlane, host: str):
    for path in ("/health", "/login", "/api/system"):
        assert shared.ask("GET", path, "platform", headers={"Host": host}).status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8090", "127.0.0.1:1", "[::1]:8090"])
def test_the_names_of_loopback_are_ours(shared: ControlPlane, host: str):
    assert shared.ask("GET", "/api/system", "platform", headers={"Host": host}).status == 200


def test_a_host_that_is_named_at_the_start_is_ours(tmp_path: Path):
    sent = []
    app = make_app(make_project(tmp_path, lambda: NOW), owner=OWNER, hosts=("ship.example",))

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/health",
        "query_string": b"",
        "headers": [(b"host", b"ship.example")],
    }
    asyncio.run(app(scope, None, send))
    assert sent[0]["status"] == 200


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://127.0.0.1:1", "http://localhost.evil.example"]
)
def test_a_change_from_another_site_is_refused(shared: ControlPlane, origin: str):
    answer = shared.ask("POST", "/api/clock", "platform", {"as_of": "2013-04-01T00:00:00Z"}, {"Origin": origin})
    assert (answer.status, "another site" in answer.text) == (403, True)


def test_under_tls_a_page_without_it_is_another_site_and_browsers_are_told_to_stay(tmp_path: Path):
    app = make_app(
        make_project(tmp_path, lambda: NOW), owner=OWNER, hosts=("ship.example",), tls="tls 1.2+", now=lambda: NOW
    )

    def ask(host: str, origin: str) -> tuple[int, dict[bytes, bytes]]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def call() -> None:
            async with app.router.lifespan_context(app):
                cookie = app.state.sessions.open(None, bytes(32))
                headers = {
                    "host": host,
                    "origin": origin,
                    "content-length": "0",
                    "cookie": f"shipworthy-session={cookie}",
                }
                scope = {
                    "type": "http", "method": "POST", "path": "/logout", "query_string": b"", "root_path": "",
                    "scheme": "https", "client": ("10.0.0.1", 1),
                    "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
                }  # fmt: skip
                await app(scope, receive, send)

        asyncio.run(call())
        return sent[0]["status"], dict(sent[0]["headers"])

    status, headers = ask("ship.example", "https://ship.example")
    assert (status, headers[b"strict-transport-security"]) == (303, b"max-age=31536000")
    assert ask("ship.example", "http://ship.example")[0] == 403
    status, headers = ask("localhost:8090", "http://localhost:8090")
    assert (status, b"strict-transport-security" in headers) == (303, False)


def test_a_change_from_the_page_itself_passes(shared: ControlPlane):
    own = {"Origin": f"http://127.0.0.1:{shared.port}"}
    assert shared.ask("POST", "/api/clock", "platform", {"as_of": "2013-04-01T00:00:00Z"}, own).status == 200


def test_bodies_are_bounded_and_their_size_is_said(shared: ControlPlane):
    assert shared.ask("POST", "/api/clock", "platform", b"x" * 70_000).status == 413
    assert shared.ask("POST", "/api/clock", "platform", b"{}", {"Transfer-Encoding": "chunked"}).status in (400, 411)


def test_every_answer_carries_the_strict_headers(shared: ControlPlane):
    answers = [
        shared.ask("GET", "/health"),
        shared.ask("GET", "/login"),
        shared.ask("GET", "/console.css"),
        shared.ask("GET", "/api/system"),
        shared.ask("GET", "/api/system", "platform"),
        shared.ask("GET", "/api/nothing", "platform"),
        shared.ask("GET", "/", headers={"Accept": "text/html"}),
        shared.ask("GET", "/health", headers={"Host": "evil.example"}),
    ]
    for answer in answers:
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        assert "server" not in answer.headers
    for rule in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"):
        assert rule in HEADERS["Content-Security-Policy"]


def is_problem(answer, status: int) -> bool:
    document = answer.document
    return (
        answer.status == document["status"] == status
        and answer.headers["content-type"] == "application/problem+json"
        and document["type"].startswith("https://shipworthy.dev/problems/")
        and {"type", "title", "status", "detail"} <= set(document)
    )


def names_the_machine(shared: ControlPlane, text: str) -> bool:
    words = (str(shared.parts.project.root), "Traceback", "site-packages", ".py", "shipworthy.faces", "/secret")
    return any(word in text for word in words)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyError("/secret/place"), 500),
        (StorageError("/secret/ledger.db cannot be written"), 503),
        (IntegrityError("/secret/log ends at entry 7"), 500),
        (StorageError("the inner ledger is fenced; /secret"), 503),
        (IntegrityError("the inner segment is torn; see secret"), 500),
        (ConflictError("/secret/project: somebody is at work here"), 409),
        (OSError(28, "No space left on device", "/secret/disk"), 500),
    ],
)
def test_a_failure_is_a_problem_that_names_nothing_of_the_machine(
    shared: ControlPlane, error: Exception, status: int, caplog: pytest.LogCaptureFixture
):
    shared.tick_error = error
    try:
        with caplog.at_level(logging.WARNING, logger="shipworthy.control"):
            answer = shared.ask("POST", "/api/clock", "platform", {"as_of": "2013-04-01T00:00:00Z"})
    finally:
        shared.tick_error = None
    assert is_problem(answer, status)
    assert not names_the_machine(shared, answer.text)
    assert "inner" not in answer.text
    assert "secret" in caplog.text  # the owner finds it in the log


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/api/releases/flights:99/verdicts", None, 404, "flights:99"),
        ("GET", "/api/releases/..%2f..%2fetc/verdicts", None, 404, ""),
        ("GET", "/api/events?limit=0", None, 422, "query.limit"),
        ("GET", "/api/windows?kind=all", None, 422, "query.kind"),
        ("GET", "/api/reviews?env=../../etc", None, 404, "there is no environment"),
        ("POST", "/api/clock", {"as_of": "yesterday"}, 422, "2013-04-01T12:00:00Z"),
        ("POST", "/api/clock", {"as_of": "2013-04-01T12:00:00"}, 422, "with an offset"),
        ("POST", "/api/clock", {"as_of": 7}, 422, "body.as_of"),
        ("POST", "/api/clock", {"as_of": "2013-04-01T12:00:00Z", "en": "x"}, 422, "body.en"),
        ("POST", "/api/clock", {"as_of": "2013-04-01T12:00:00Z", "env": "moon"}, 404, "local, production"),
        ("POST", "/api/clock", b"{", 422, "json"),
        ("POST", "/api/clock", b"\xff", 400, ""),
        ("POST", "/api/rollback", {"env": "production"}, 422, "body.reason"),
    ],
)
def test_bad_input_is_a_problem_that_names_what_to_mend(
    shared: ControlPlane, method: str, path: str, body: object, status: int, words: str
):
    answer = shared.ask(method, path, "risk" if "reviews" in path else "platform", body)
    assert is_problem(answer, status), answer.text
    assert words in answer.text
    assert not names_the_machine(shared, answer.text)


def test_a_contract_that_cannot_be_read_is_said_without_its_place(shared: ControlPlane):
    file = shared.parts.project.contract_file
    text = file.read_text()
    file.write_text("shipworthy: [")
    try:
        answer = shared.ask("GET", "/api/system", "platform")
    finally:
        file.write_text(text)
    assert is_problem(answer, 503)
    assert not names_the_machine(shared, answer.text)


def test_the_system_is_described_from_its_contract(shared: ControlPlane):
    found = shared.ask("GET", "/api/system", "auditor").document
    assert (found["system"], found["owner"], found["risk"]) == ("flights", "operations", "limited")
    assert found["environments"]["production"] == {"approvals": {"ml-engineer": 1, "risk": 1}, "steps": [0.1, 0.5, 1.0]}


def test_releases_tell_their_verdicts_and_where_they_serve(shared: ControlPlane):
    found = shared.ask("GET", "/api/releases", "auditor").document["releases"]
    assert [row["release"] for row in found] == ["flights:3", "flights:2", "flights:1"]
    assert found[0]["verdicts"] == {
        "counts": {"insufficient": 1, "pass": 2},
        "worst": "insufficient",
        "open": ["slices.log_loss"],
    }
    assert found[0]["serves"] == [
        {"environment": "local", "share": 1.0},
        {"environment": "production", "share": 0.1},
    ]
    verdicts = shared.ask("GET", "/api/releases/flights:3/verdicts", "auditor").document["verdicts"]
    assert [verdict["outcome"] for verdict in verdicts] == ["pass", "pass", "insufficient"]


def test_deployments_rollouts_windows_and_alerts_are_listed(shared: ControlPlane):
    states = shared.ask("GET", "/api/deployments", "auditor").document["environments"]
    assert [state["environment"] for state in states] == ["local", "production"]
    assert (states[1]["generation"], states[1]["rollout"]["release"]) == (4, "flights:3")
    assert [state["waiting"] for state in states] == [0, 0]
    rollouts = shared.ask("GET", "/api/rollouts?env=production", "auditor").document["rollouts"]
    assert [body["number"] for body in rollouts] == [1, 2]
    assert shared.ask("GET", "/api/rollouts?env=local", "auditor").document == {"rollouts": []}
    windows = shared.ask("GET", "/api/windows?env=production&kind=quality&limit=3", "auditor").document["windows"]
    assert [body["window"] for body in windows] == ["quality"] * 3
    alerts = shared.ask("GET", "/api/alerts?state=closed", "auditor").document["alerts"]
    assert [body["kind"] for body in alerts] == ["records"]


def test_the_audit_log_is_read_page_by_page_and_without_a_gap(shared: ControlPlane):
    seen, after = [], 0
    while True:
        page = shared.ask("GET", f"/api/events?after={after}&limit=20", "auditor").document
        seen += [entry["seq"] for entry in page["events"]]
        if page["next"] == after:
            break
        after = page["next"]
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) > 60


def test_principals_are_listed_with_their_roles(shared: ControlPlane):
    found = shared.ask("GET", "/api/principals", "auditor").document["principals"]
    assert {item["name"]: item["roles"] for item in found} == {role: [role] for role in ROLES}


def test_an_alert_is_acknowledged_once_and_the_log_says_who_and_by_which_rule(plane: ControlPlane):
    path = f"/api/alerts/{OPEN_ALERT}/acknowledge"
    found = plane.ask("POST", path, "platform").document
    assert (found["state"], found["acknowledged_by"], found["revision"]) == ("acknowledged", "platform", 2)
    again = plane.ask("POST", path, "security")
    assert (again.status, "already, by platform" in again.text) == (409, True)
    (entry,) = plane.parts.ledger.events(verb="alert.acknowledged")
    assert (entry.actor, entry.rule) == ("user:platform", "platform may acknowledge")


def test_the_clock_is_handed_to_the_control_loop(plane: ControlPlane):
    answer = plane.ask("POST", "/api/clock", "service", {"as_of": "2013-04-08T02:00:00+02:00", "env": "production"})
    assert answer.document == {"done": []}
    assert plane.ticks == [("production", FIRST + WEEK_S)]


def test_without_a_control_loop_the_clock_cannot_be_set(plane: ControlPlane):
    plane.app.state.tick = None
    answer = plane.ask("POST", "/api/clock", "service", {"as_of": "2013-04-08T00:00:00Z"})
    assert (answer.status, "shipworthy up" in answer.text) == (409, True)


def test_a_rollback_where_nothing_was_before_is_refused_in_words(plane: ControlPlane):
    answer = plane.ask("POST", "/api/rollback", "risk", {"env": "local", "reason": "it looks wrong"})
    assert is_problem(answer, 409)
    assert "nothing to roll back" in answer.text


def test_the_review_queue_is_empty_and_unknown_answers_are_said_to_be(shared: ControlPlane):
    found = shared.ask("GET", "/api/reviews?env=production", "business").document
    assert found == {"environment": "production", "reviews": [], "next": None}
    body = {"env": "production", "decision": "warn", "reason": "storm"}
    assert is_problem(shared.ask("POST", "/api/reviews/p_1/decide", "business", body), 404)
    assert is_problem(shared.ask("POST", "/api/reviews/p_1/claim", "business", {"env": "production"}), 404)


def test_the_interface_describes_itself_and_loads_nothing_from_elsewhere(shared: ControlPlane):
    found = shared.ask("GET", "/openapi.json", "auditor").document
    assert {path for path in found["paths"] if path.startswith("/api/")} == {
        path for _, path in ROUTE_VERBS if path.startswith("/api/")
    }
    for path in ("/docs", "/redoc"):
        assert shared.ask("GET", path, "auditor").status == 404
