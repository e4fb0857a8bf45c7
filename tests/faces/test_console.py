"""The console: who gets in and how, what the page says, and what it says when there is nothing yet."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from shipworthy.faces.api import make_app
from shipworthy.faces.guard import COOKIE
from shipworthy.faces.sessions import MAX_SESSIONS, ONE_TIME_S, SESSION_S, Attempts, Sessions
from shipworthy.ledger.events import Event
from shipworthy.security.tokens import mint_token
from tests.faces.conftest import ONE_TIME, OWNER, Answer, Clock, ControlPlane, serving
from tests.faces.life import CRITICAL_ALERT, OPEN_ALERT, make_project

HTML = {"Accept": "text/html,application/xhtml+xml"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def own_page(plane: ControlPlane, cookie: str) -> dict[str, str]:
    """Headers of a form on our own page."""
    return {**HTML, "Cookie": cookie, "Origin": f"http://127.0.0.1:{plane.port}"}


def sign_in(plane: ControlPlane, token: str) -> Answer:
    return plane.ask("POST", "/login", body=urlencode({"token": token}).encode(), headers=FORM)


def alert_of(plane: ControlPlane) -> dict[str, Any]:
    return plane.parts.ledger.find_latest("alert", OPEN_ALERT) or {}


def owner_cookie(plane: ControlPlane) -> str:
    return plane.ask("GET", f"/login?token={ONE_TIME}").cookie


def test_a_browser_that_is_not_signed_in_is_led_to_the_form(shared: ControlPlane):
    for path in ("/", "/nothing"):
        answer = shared.ask("GET", path, headers=HTML)
        assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert shared.ask("GET", "/api/system", headers=HTML).status == 401
    assert '<form method="post" action="/login">' in shared.ask("GET", "/login").text


def test_the_one_time_code_signs_the_owner_in_once(plane: ControlPlane):
    answer = plane.ask("GET", f"/login?token={ONE_TIME}")
    assert (answer.status, answer.headers["location"]) == (303, "/")
    assert re.fullmatch(
        rf"{COOKIE}=swt_[\w-]{{43}}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict", answer.headers["set-cookie"]
    )
    page = plane.ask("GET", "/", headers={**HTML, "Cookie": answer.cookie})
    assert (page.status, OWNER.name in page.text) == (200, True)
    again = plane.ask("GET", f"/login?token={ONE_TIME}")
    assert (again.status, again.headers["set-cookie"]) == (401, None)
    assert "used already" in again.text


def test_the_one_time_code_is_good_for_ten_minutes(plane: ControlPlane):
    plane.clock.now += ONE_TIME_S
    assert plane.ask("GET", f"/login?token={ONE_TIME}").status == 401


def test_a_wrong_code_neither_signs_in_nor_spends_the_right_one(plane: ControlPlane):
    for code in ("", "wrong", ONE_TIME + "x"):
        assert plane.ask("GET", f"/login?token={code}").headers["set-cookie"] is None
    assert plane.ask("GET", f"/login?token={ONE_TIME}").status == 303


def test_codes_cannot_be_searched_for(plane: ControlPlane):
    assert [plane.ask("GET", f"/login?token={at}").status for at in range(20)] == [401] * 20
    assert plane.ask("GET", f"/login?token={ONE_TIME}").status == 429
    assert sign_in(plane, plane.tokens["risk"]).status == 303  # a token is no code, and cannot be searched for


def test_without_a_code_no_code_signs_in(tmp_path: Path):
    app = make_app(make_project(tmp_path, Clock()), owner=OWNER)
    with serving(app) as port:
        plane = ControlPlane(app, port, Clock(), None)
        assert plane.ask("GET", "/login?token=None").status == 401
        assert plane.ask("GET", "/login?token=").status == 401


def test_a_token_signs_its_principal_in_with_its_roles_only(plane: ControlPlane):
    answer = sign_in(plane, plane.tokens["risk"])
    assert answer.status == 303
    page = plane.ask("GET", "/", headers={**HTML, "Cookie": answer.cookie}).text
    assert '<span class="person">risk</span>' in page
    assert "Acknowledge" not in page  # the role may not
    refused = plane.ask("POST", f"/alerts/{OPEN_ALERT}/acknowledge", headers=own_page(plane, answer.cookie))
    assert refused.status == 403
    assert alert_of(plane)["state"] == "open"


@pytest.mark.parametrize(
    "body", [b"", b"token=", b"token=swt_x", b"\xff\xfe", urlencode({"token": mint_token(bytes(32))[0]}).encode()]
)
def test_a_wrong_token_is_refused_in_words_on_the_form(plane: ControlPlane, body: bytes):
    answer = plane.ask("POST", "/login", body=body, headers=FORM)
    assert (answer.status, answer.headers["set-cookie"]) == (401, None)
    assert "This token is not valid here." in answer.text


def test_a_form_with_other_fields_signs_nobody_in(plane: ControlPlane):
    assert plane.ask("POST", "/login", body=b"&".join([b"a=1"] * 50), headers=FORM).status == 401


def test_a_session_ends_after_twelve_hours_and_with_the_token_that_opened_it(plane: ControlPlane):
    owner = {**HTML, "Cookie": owner_cookie(plane)}
    plane.clock.now += SESSION_S - 1
    assert plane.ask("GET", "/", headers=owner).status == 200
    plane.clock.now += 1
    assert plane.ask("GET", "/", headers=owner).status == 303
    plane.clock.now += 89.4 * 86400 - SESSION_S  # the tokens of this project live 90 days
    risk = {**HTML, "Cookie": sign_in(plane, plane.tokens["risk"]).cookie}
    plane.clock.now += 0.4 * 86400
    assert plane.ask("GET", "/", headers=risk).status == 200
    plane.clock.now += 0.25 * 86400
    assert plane.ask("GET", "/", headers=risk).status == 303


def test_signing_out_ends_the_session_on_the_server(plane: ControlPlane):
    cookie = owner_cookie(plane)
    answer = plane.ask("POST", "/logout", headers=own_page(plane, cookie))
    assert (answer.status, answer.headers["location"]) == (303, "/login")
    assert plane.ask("GET", "/", headers={**HTML, "Cookie": cookie}).status == 303


@pytest.mark.parametrize("cookie", ["", "swt_", "x" * 5000, "é", "swt_" + "A" * 43])
def test_a_cookie_that_we_did_not_set_opens_nothing(shared: ControlPlane, cookie: str):
    headers = {"Cookie": f"{COOKIE}={cookie}".encode().decode("latin-1")}
    assert shared.ask("GET", "/api/system", headers=headers).status == 401


def test_a_session_changes_nothing_for_another_site(plane: ControlPlane):
    cookie = owner_cookie(plane)
    path = f"/alerts/{OPEN_ALERT}/acknowledge"
    for origin in (
        {},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": f"http://localhost:{plane.port}"},
    ):
        assert plane.ask("POST", path, headers={"Cookie": cookie, **origin}).status == 403
    assert alert_of(plane)["state"] == "open"


def test_an_alert_is_acknowledged_from_the_page(plane: ControlPlane):
    cookie = owner_cookie(plane)
    path = f"/alerts/{OPEN_ALERT}/acknowledge"
    for _ in range(2):  # again, by an old page, shows it as it now is
        answer = plane.ask("POST", path, headers=own_page(plane, cookie))
        assert (answer.status, answer.headers["location"]) == (303, "/")
    body = alert_of(plane)
    assert (body["state"], body["acknowledged_by"], body["revision"]) == ("acknowledged", "olga", 2)
    page = plane.ask("GET", "/", headers={**HTML, "Cookie": cookie}).text
    assert "looked after by olga" in page
    assert path not in page
    assert f"/alerts/{CRITICAL_ALERT}/acknowledge" in page


def test_the_page_shows_what_the_ledger_says(plane: ControlPlane):
    page = plane.ask("GET", "/", headers={**HTML, "Cookie": owner_cookie(plane)}).text
    for words in (
        "Warn passengers two hours ahead",
        "flights:2 earns less than its gate promised",
        "roll back if the release before still earns more",
        "flights:3 at 10 %, against flights:2",
        "errors: no worse",
        "value: undecided",
        "generation 4",
        "1 insufficient",
        'aria-label="flights:2 90%, flights:3 10%"',
        "confidence, in production. Last: flights:1",
        "flights:2 promoted",
        "principal.added",
    ):
        assert words in page, words
    assert "A record segment was torn" not in page  # it is closed
    assert page.count('<svg class="chart"') == 6
    assert '<meta http-equiv="refresh" content="5">' in page
    assert not re.search(r"<script|javascript:|\son\w+=|style=|https?://", page)


def test_the_page_can_be_stopped_and_shows_another_environment(plane: ControlPlane):
    cookie = owner_cookie(plane)
    page = plane.ask("GET", "/?env=local&live=no", headers={**HTML, "Cookie": cookie}).text
    assert 'http-equiv="refresh"' not in page
    assert '<svg class="chart"' not in page
    assert "Appears once a window of traffic was judged." in page
    assert plane.ask("GET", "/?env=../../etc", headers={**HTML, "Cookie": cookie}).status == 200


def test_an_empty_project_says_what_to_do_next(tmp_path: Path):
    clock = Clock()
    app = make_app(make_project(tmp_path, clock), owner=OWNER, one_time=ONE_TIME, now=clock)
    with serving(app) as port:
        plane = ControlPlane(app, port, clock, None)
        page = plane.ask("GET", "/", headers={**HTML, "Cookie": owner_cookie(plane)}).text
    for words in (
        "No release yet.",
        "shipworthy ship",
        "Nothing is deployed here.",
        "None is open.",
        "session.opened",
    ):
        assert words in page, words


def test_a_broken_contract_is_said_on_the_page_which_comes_back_by_itself(plane: ControlPlane):
    headers = {**HTML, "Cookie": owner_cookie(plane)}
    file = plane.parts.project.contract_file
    text = file.read_text()
    file.write_text("shipworthy: [")
    page = plane.ask("GET", "/", headers=headers)
    assert (page.status, "shipworthy check" in page.text, 'content="5"' in page.text) == (503, True, True)
    file.write_text(text)
    assert plane.ask("GET", "/", headers=headers).status == 200


def test_what_the_ledger_holds_is_text_on_the_page_and_never_markup(plane: ControlPlane):
    body = alert_of(plane)
    hostile = "<script>alert(1)</script>"
    changed = {**body, "title": hostile, "cause": f"`{hostile}`", "next": hostile, "revision": 2}
    plane.parts.ledger.append(Event("alert.seen", f"alert:{OPEN_ALERT}", "service:control", changed))
    page = plane.ask("GET", "/", headers={**HTML, "Cookie": owner_cookie(plane)}).text
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 3


def test_sessions_and_failures_are_bounded_in_memory():
    clock = Clock()
    sessions, attempts = Sessions(clock, None), Attempts(clock)
    cookies = [sessions.open(None, at.to_bytes(32)) for at in range(MAX_SESSIONS + 1)]
    assert sessions.find(cookies[0]) is None
    assert sessions.find(cookies[1]) is not None
    for at in range(10_050):
        attempts.fail(f"10.0.{at // 256}.{at % 256}")
    assert len(attempts._failures) == 10_000
