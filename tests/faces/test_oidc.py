"""Sign-ins and tokens of an OpenID provider that we did not write, and tokens that it never made."""

import hmac
import http.client
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit
from urllib.request import Request, urlopen

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from shipworthy.faces.api import make_app
from shipworthy.faces.oidc import REFRESH_S, RETRY_S, Provider
from shipworthy.faces.oidc_settings import CALLBACK, OidcSettings, read_oidc_settings
from shipworthy.kernel.errors import (
    AccessError,
    NotFoundError,
    RefusedError,
    ShipworthyError,
    UnavailableError,
    UsageError,
)
from tests.faces.browser import browser
from tests.faces.conftest import OWNER, serving
from tests.faces.life import make_project

CLIENT = "shipworthy"
HERE = "http://127.0.0.1:9"  # of a plane that nobody starts
PROVIDER = Path(__file__).with_name("provider.py")
VERIFIER = "v" * 43


class Foreign:
    """The provider in a process of its own."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.issuer = f"http://127.0.0.1:{port}"
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        argv = [sys.executable, "-W", "ignore", str(PROVIDER), "--port", str(self.port), "--require-nonce", "true"]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            try:
                urlopen(f"{self.issuer}/.well-known/openid-configuration", timeout=2).read()
                break
            except OSError:
                time.sleep(0.05)
        self.put_users = {"ruth": ["risk-team"], "eve": []}
        for name, groups in self.put_users.items():
            body = json.dumps({"groups": groups, "email": f"{name}@example.com"}).encode()
            asked = Request(f"{self.issuer}/users/{name}", body, {"Content-Type": "application/json"}, method="PUT")
            urlopen(asked, timeout=5).read()
        return process

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)

    def restart(self) -> None:
        """With keys of another time."""
        self.stop()
        self.process = self._start()

    def authorise(self, address: str, who: str) -> str:
        """Where the browser is sent after `who` signed in."""
        parts = urlsplit(address)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        form = urlencode({"sub": who})
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        connection.request("POST", f"{parts.path}?{parts.query}", form, headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status in (302, 303), answer.status
        return str(answer.headers["location"])

    def token(self, who: str, client: str = CLIENT) -> str:
        """An ID token of `who`, made for `client`."""
        asked = {
            "response_type": "code",
            "client_id": client,
            "redirect_uri": HERE,
            "scope": "openid email",
            "state": "s",
            "nonce": secrets.token_urlsafe(),
            "code_challenge": urlsafe_b64encode(sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        back = self.authorise(f"{self.issuer}/oauth2/authorize?{urlencode(asked)}", who)
        form = {
            "grant_type": "authorization_code",
            "code": parse_qs(urlsplit(back).query)["code"][0],
            "redirect_uri": HERE,
            "client_id": client,
            "client_secret": "any",
            "code_verifier": VERIFIER,
        }
        found = json.loads(urlopen(f"{self.issuer}/oauth2/token", urlencode(form).encode(), timeout=10).read())
        return str(found["id_token"])


@pytest.fixture(scope="module")
def foreign() -> Iterator[Foreign]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = Foreign(port)
    yield found
    found.stop()


class Clock:
    """Of looks at the provider."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def settings_of(foreign: Foreign, **changes: Any) -> OidcSettings:
    fields: dict[str, Any] = {
        "issuer": foreign.issuer,
        "client_id": CLIENT,
        "client_secret": "any",
        "audience": CLIENT,
        "redirect_uri": "",
        "scopes": ("openid",),
        "name_claim": "sub",
        "groups_claim": "groups",
        "systems": frozenset({"*"}),
        "roles": {"risk-team": ("risk",)},
    }
    return OidcSettings(**{**fields, **changes})


def provider_of(
    foreign: Foreign, now: Callable[[], float] = time.time, clock: Callable[[], float] | None = None
) -> Provider:
    return Provider(
        settings_of(foreign),
        HERE + CALLBACK,
        now=now,
        entropy=os.urandom,
        clock=clock or Clock(),
    )


def encode(document: Any) -> str:
    return urlsafe_b64encode(json.dumps(document).encode()).rstrip(b"=").decode()


def published_key(foreign: Foreign) -> Any:
    document = json.loads(urlopen(f"{foreign.issuer}/.well-known/openid-configuration", timeout=5).read())
    return json.loads(urlopen(document["jwks_uri"], timeout=5).read())["keys"][0]


def claims_of(foreign: Foreign, **changes: Any) -> dict[str, Any]:
    now = int(time.time())
    fields = {
        "iss": foreign.issuer,
        "aud": CLIENT,
        "sub": "ruth",
        "iat": now,
        "exp": now + 600,
        "groups": ["risk-team"],
    }
    return {**fields, **changes}


def test_a_token_of_the_provider_stands_for_its_subject_with_the_roles_of_its_groups(foreign: Foreign):
    found = provider_of(foreign).identify(foreign.token("ruth"))
    assert (found.principal.name, found.principal.roles) == ("ruth", {"risk"})
    nobody = provider_of(foreign).identify(foreign.token("eve"))
    assert nobody.principal.roles == frozenset()


STRANGER = RSAKey.generate_key(2048, private=True)


def forged(foreign: Foreign) -> dict[str, str]:
    """Tokens that the provider never made, by what is wrong with them."""
    key = published_key(foreign)
    kid = {"kid": key["kid"]} if "kid" in key else {}
    pem = RSAKey.import_key(key).as_pem(private=False)
    claims = claims_of(foreign)
    true = foreign.token("ruth")
    head, body, signature = true.split(".")
    signing = f"{encode({'alg': 'HS256', 'typ': 'JWT', **kid})}.{encode(claims)}"
    mac = urlsafe_b64encode(hmac.digest(pem, signing.encode(), "sha256")).rstrip(b"=").decode()
    confused = f"{signing}.{mac}"
    return {
        "alg none": f"{encode({'alg': 'none', 'typ': 'JWT'})}.{encode(claims)}.",
        "alg none, in capitals": f"{encode({'alg': 'NONE'})}.{encode(claims)}.",
        "signed by the public key as a secret": confused,
        "signed by a stranger": jwt.encode({"alg": "RS256", **kid}, claims, STRANGER),
        "with a key of its own": jwt.encode({"alg": "RS256", "jwk": STRANGER.as_dict(private=False)}, claims, STRANGER),
        "with a place of its key": jwt.encode({"alg": "RS256", "jku": "http://127.0.0.1:1/keys"}, claims, STRANGER),
        "of another kid": jwt.encode({"alg": "RS256", "kid": "other"}, claims, STRANGER),
        "other claims": f"{head}.{encode(claims_of(foreign, sub='root'))}.{signature}",
        "no signature": f"{head}.{body}.",
        "made for another client": foreign.token("ruth", client="another"),
        "no token": "a.b.c",
    }


def test_every_token_that_the_provider_did_not_make_for_us_is_refused(foreign: Foreign):
    provider = provider_of(foreign)
    taken = []
    for what, token in forged(foreign).items():
        try:
            taken.append((what, provider.identify(token)))
        except AccessError:
            continue
    assert taken == []


def test_a_token_holds_from_its_time_to_its_end(foreign: Foreign):
    token = foreign.token("ruth")
    later, before = time.time() + 3600 + 120, time.time() - 3600
    with pytest.raises(AccessError, match="expired"):
        provider_of(foreign, now=lambda: later).identify(token)
    with pytest.raises(AccessError, match="'iat'"):
        provider_of(foreign, now=lambda: before).identify(token)


def test_keys_that_the_provider_changed_are_seen_and_the_old_ones_believed_no_more(foreign: Foreign):
    clock = Clock()
    provider = provider_of(foreign, clock=clock)
    old = foreign.token("ruth")
    assert provider.identify(old).principal.name == "ruth"
    foreign.restart()
    new = foreign.token("ruth")
    with pytest.raises(AccessError):
        provider.identify(new)  # it was asked a moment ago
    clock.now += RETRY_S + 1
    assert provider.identify(new).principal.name == "ruth"
    with pytest.raises(AccessError):
        provider.identify(old)


def test_a_provider_that_is_down_keeps_nobody_out_who_has_a_token(foreign: Foreign):
    clock = Clock()
    provider = provider_of(foreign, clock=clock)
    token = foreign.token("ruth")
    assert provider.identify(token).principal.name == "ruth"
    foreign.stop()
    try:
        clock.now += REFRESH_S + 1
        assert provider.identify(token).principal.name == "ruth"
        with pytest.raises(UnavailableError, match="does not answer"):
            provider_of(foreign).begin()
    finally:
        foreign.process = foreign._start()


def finish(provider: Provider, foreign: Foreign, who: str = "ruth") -> tuple[dict[str, str], str]:
    """What the browser brings back after a sign-in, and its cookie."""
    beginning = provider.begin()
    back = foreign.authorise(beginning.address, who)
    return {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}, beginning.cookie


def test_a_sign_in_ends_once_in_the_browser_that_began_it(foreign: Foreign):
    provider = provider_of(foreign)
    asked = parse_qs(urlsplit(provider.begin().address).query)
    assert asked["code_challenge_method"] == ["S256"]
    assert len(asked["nonce"][0]) == len(asked["state"][0]) == 43
    answer, cookie = finish(provider, foreign)
    assert provider.finish(answer, cookie).principal.name == "ruth"
    with pytest.raises(AccessError, match="ended already"):
        provider.finish(answer, cookie)
    answer, _ = finish(provider, foreign)
    with pytest.raises(AccessError, match="another browser"):
        provider.finish(answer, provider.begin().cookie)
    with pytest.raises(AccessError, match="ended already"):
        provider.finish({"code": "x", "state": "y"}, "z")


def test_a_code_that_was_stolen_is_worthless_without_its_verifier(foreign: Foreign):
    provider = provider_of(foreign)
    first, cookie = finish(provider, foreign)
    other, _ = finish(provider, foreign)
    with pytest.raises(AccessError, match="the provider does not take this sign-in's code"):
        provider.finish({**first, "code": other["code"]}, cookie)


def test_a_token_of_another_sign_in_is_refused(foreign: Foreign):
    provider = provider_of(foreign)
    beginning = provider.begin()
    nonce = parse_qs(urlsplit(beginning.address).query)["nonce"][0]
    back = foreign.authorise(beginning.address.replace(nonce, secrets.token_urlsafe()), "ruth")
    answer = {name: values[0] for name, values in parse_qs(urlsplit(back).query).items()}
    with pytest.raises(AccessError, match="another sign-in"):
        provider.finish(answer, beginning.cookie)


def test_an_answer_of_no_code_or_of_another_provider_is_refused(foreign: Foreign):
    provider = provider_of(foreign)
    answer, cookie = finish(provider, foreign)
    with pytest.raises(AccessError, match="another provider"):
        provider.finish({**answer, "iss": "https://evil.example"}, cookie)
    beginning = provider.begin()
    state = parse_qs(urlsplit(beginning.address).query)["state"][0]
    with pytest.raises(RefusedError, match="'access_denied'"):
        provider.finish({"state": state, "error": "access_denied"}, beginning.cookie)


# --- the control plane


@contextmanager
def serving_of(tmp_path: Path, foreign: Foreign) -> Iterator[int]:
    """The port of a control plane where people sign in by the provider."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    back = f"http://localhost:{port}{CALLBACK}"
    provider = Provider(settings_of(foreign), back, now=time.time, entropy=os.urandom)
    app = make_app(make_project(tmp_path / "flights", time.time), owner=OWNER, provider=provider)
    with serving(app, port):
        yield port


@contextmanager
def plane(tmp_path: Path, foreign: Foreign) -> Iterator[Callable[..., Any]]:
    """The application, behind uvicorn; asks it."""
    with serving_of(tmp_path, foreign) as port:

        def ask(method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, Any, str]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request(method, path, None, headers or {})
            answer = connection.getresponse()
            found = answer.status, answer.headers, answer.read().decode()
            connection.close()
            return found

        yield ask


def cookie_of(headers: Any, name: str) -> str:
    (found,) = [
        line for line in headers.get_all("set-cookie") if line.startswith(f"{name}=") and "Max-Age=0" not in line
    ]
    return str(found)


def test_a_browser_signs_in_by_the_provider_and_is_who_it_says(tmp_path: Path, foreign: Foreign):
    with plane(tmp_path, foreign) as ask:
        assert "Sign in with your organisation" in ask("GET", "/login")[2]
        status, headers, _ = ask("GET", "/login/oidc")
        assert status == 303
        flow = cookie_of(headers, "shipworthy-signing-in")
        assert "HttpOnly" in flow
        assert "SameSite=lax" in flow
        back = urlsplit(foreign.authorise(headers["location"], "ruth"))
        path, flow_cookie = f"{back.path}?{back.query}", {"Cookie": flow.partition(";")[0]}
        assert ask("GET", path)[0] == 401  # another browser has no cookie; and the sign-in is over
        status, headers, _ = ask("GET", "/login/oidc")
        flow_cookie = {"Cookie": cookie_of(headers, "shipworthy-signing-in").partition(";")[0]}
        back = urlsplit(foreign.authorise(headers["location"], "ruth"))
        status, headers, page = ask("GET", f"{back.path}?{back.query}", flow_cookie)
        assert status == 200
        assert "You are ruth here" in page
        session = cookie_of(headers, "shipworthy-session")
        assert "SameSite=strict" in session
        status, _, page = ask("GET", "/", {"Cookie": session.partition(";")[0]})
        assert status == 200
        assert re.search(r"\bruth\b", page)
        status, _, found = ask("GET", "/api/events", {"Cookie": session.partition(";")[0]})
        opened = [entry for entry in json.loads(found)["events"] if entry["verb"] == "session.opened"]
        assert [(entry["actor"], entry["body"]["by"]) for entry in opened] == [("user:ruth", "oidc")]


def test_a_person_signs_in_by_the_provider_with_a_real_browser(tmp_path: Path, foreign: Foreign):
    with serving_of(tmp_path, foreign) as port, browser(tmp_path / "profile") as page:
        page.size(390, is_mobile=True)
        page.open(f"http://localhost:{port}/")  # another site than the provider's: its cookies are strict
        page.click("a.button")
        assert page.evaluate("location.host") == f"127.0.0.1:{foreign.port}"
        page.evaluate("document.querySelector('[name=sub]').value = 'ruth'")
        page.click("button[type=submit]")
        until = time.monotonic() + 20
        while page.evaluate("location.pathname") != "/" and time.monotonic() < until:
            time.sleep(0.05)  # "Signed in" goes on by itself, so that the strict cookie is sent along
        assert page.evaluate("location.href") == f"http://localhost:{port}/"
        assert page.text(".person") == "ruth"
        theirs = (f"http://127.0.0.1:{foreign.port}/", "https://cdn.")  # of the provider's own page
        assert [complaint for complaint in page.complaints if not complaint.startswith(theirs)] == []


def test_the_api_takes_the_providers_tokens_by_their_groups(tmp_path: Path, foreign: Foreign):
    with plane(tmp_path, foreign) as ask:
        bearer = {"Authorization": f"Bearer {foreign.token('ruth')}"}
        assert ask("GET", "/api/system", bearer)[0] == 200
        status, _, text = ask("POST", "/api/clock", {**bearer, "Content-Length": "0"})
        assert (status, "operate needs" in text) == (403, True)
        assert ask("GET", "/api/system", {"Authorization": f"Bearer {foreign.token('eve')}"})[0] == 403
        for token in forged(foreign).values():
            assert ask("GET", "/api/system", {"Authorization": f"Bearer {token}"})[0] == 401


# --- settings

GOOD = """\
issuer = "https://login.example.com"
client_id = "shipworthy"
client_secret = "${OIDC_SECRET}"
[roles]
risk-team = ["risk"]
"""


def test_settings_are_read_and_the_secret_comes_from_the_environment(tmp_path: Path):
    file = tmp_path / "oidc.toml"
    file.write_text(GOOD)
    found = read_oidc_settings(str(file), {"OIDC_SECRET": "s3cret"})
    assert (found.client_secret, found.audience, dict(found.roles)) == (
        "s3cret",
        "shipworthy",
        {"risk-team": ("risk",)},
    )


@pytest.mark.parametrize(
    ("old", "new", "error", "said"),
    [
        ('"${OIDC_SECRET}"', '"literal"', UsageError, "client_secret must name a variable"),
        ('"${OIDC_SECRET}"', '"${OTHER}"', NotFoundError, "names the variable OTHER, which is not set"),
        ("https://", "http://", UsageError, "issuer must be https"),
        ('["risk"]', '["risk", "king"]', UsageError, "there is no role 'king'"),
        ("issuer", "isuer", UsageError, "isuer: there is no such key; did you mean issuer"),
        ('client_id = "shipworthy"', "client_id = 7", UsageError, "client_id must be a text"),
        ("[roles]", "[rolls]", UsageError, "rolls: there is no such key"),
        ("issuer =", "issuer", UsageError, "is not TOML"),
    ],
)  # fmt: skip
def test_settings_that_are_wrong_are_refused_with_key_and_cure(
    tmp_path: Path, old: str, new: str, error: type[ShipworthyError], said: str
):
    file = tmp_path / "oidc.toml"
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(error, match=said) as raised:
        read_oidc_settings(str(file), {"OIDC_SECRET": "s3cret"})
    assert "literal" not in str(raised.value)
