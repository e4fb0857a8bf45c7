"""Who passes to the control plane: host, origin, token or session, and the verb that each route is.

Denied by default: a route passes only if its verb is known, and all but public ones only for a principal to whom the
one gate allows that verb.
"""

import logging
import math
import re
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shipworthy.faces.oidc import Provider
from shipworthy.faces.problems import problem, problem_of
from shipworthy.faces.sessions import ATTEMPT_WINDOW_S, Attempts, Rates, Sessions
from shipworthy.kernel.errors import AccessError, NotFoundError, RefusedError, ShipworthyError, UnavailableError
from shipworthy.security.access import LOCAL, PUBLIC, VERBS, Principal, Target, decide, denial
from shipworthy.security.tokens import is_token
from shipworthy.workflows.gate import record_decision, system_of
from shipworthy.workflows.principals import find_principal
from shipworthy.workflows.project import Parts

COOKIE = "shipworthy-session"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MAX_BODY_BYTES = 64 << 10  # a decision with its reason
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with `no-referrer` browsers send forms with `Origin: null`
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
TLS_HEADERS = {"Strict-Transport-Security": "max-age=31536000"}
NO_TOKEN = "Send a token of a principal: Authorization: Bearer swt_…; `shipworthy user add` makes one."  # noqa: S105

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::\d{1,5})?")
_log = logging.getLogger("shipworthy.control")


class Guard:
    """Middleware around the whole application."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        verbs: Mapping[tuple[str, str], str],  # (method, path of the route) -> verb of security.access.VERBS
        owner: Principal,
        sessions: Sessions,
        attempts: Attempts,
        rates: Rates,
        hosts: Collection[str] = (),
        origin_scheme: str = "http",  # by which browsers ask: https also where something in front ends TLS
    ) -> None:
        self._app = app
        self._verbs = verbs
        self._owner = owner
        self._sessions = sessions
        self._attempts = attempts
        self._rates = rates
        self._scheme = origin_scheme
        self._hosts = LOOPBACK_NAMES | frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or pass on with the principal in the request's state."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message).update(self._headers(scope))
            await send(message)

        try:
            refusal = await run_in_threadpool(self._refuse, Request(scope))
            await (self._app if refusal is None else refusal)(scope, receive, send_guarded)
        except ShipworthyError as error:
            _log.warning("%s %s: %s", scope["method"], scope["path"], error)
            await problem_of(error)(scope, receive, send_guarded)
        except Exception:
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            await problem(500, "The details are in the server's log.")(scope, receive, send_guarded)

    def _headers(self, scope: Scope) -> Mapping[str, str]:
        """Browsers are told to come back by TLS alone, but not to this machine, which may serve others without."""
        name = _HOST.fullmatch(Headers(scope=scope).get("host", "").lower())
        is_local = name is None or name[1] in LOOPBACK_NAMES
        return HEADERS if self._scheme == "http" or is_local else {**HEADERS, **TLS_HEADERS}

    def _refuse(self, request: Request) -> Response | None:
        """The answer to a request that may not pass; None lets it pass."""
        refusal = self._wrong_place(request) or _wrong_body(request)
        if refusal is not None:
            return refusal
        is_there, verb = self._verb(request)
        if verb is not None and verb in VERBS and VERBS[verb].action == PUBLIC:
            return None
        principal = self._identify(request)
        if isinstance(principal, Response):
            return principal
        if not is_there:
            return None  # the application says 404 or 405, to those who may ask
        request.state.principal = principal
        if wait := self._rates.take(principal.name):
            return problem(429, f"{principal.name} asks too often.", headers={"Retry-After": f"{math.ceil(wait)}"})
        return self._deny(request, principal, verb or "")

    def _deny(self, request: Request, principal: Principal, verb: str) -> Response | None:
        """The refusal of what no rule allows. What is recorded is decided once more, with all its facts, in the act."""
        parts: Parts = request.app.state.parts
        target = Target(system_of(parts.project, parts.ledger), request.query_params.get("env", LOCAL))
        decision = decide(principal, verb, target)
        if decision.allowed:
            return None
        if verb in VERBS and VERBS[verb].is_recorded:
            record_decision(parts.ledger, principal, verb, target, decision)
        return problem_of(denial(principal, verb, decision))

    def _wrong_place(self, request: Request) -> Response | None:
        """Refuse a name that is not ours (DNS rebinding), and a page of somebody else's (CSRF)."""
        host = request.headers.get("host", "").lower()
        found = _HOST.fullmatch(host)
        if found is None or found[1] not in self._hosts:
            return problem(421, "Ask for this server by the name it was started for, such as localhost.")
        if request.method in SAFE_METHODS:
            return None
        origin = request.headers.get("origin")
        if origin is None:
            is_script = "authorization" in request.headers or COOKIE not in request.cookies
            return None if is_script else problem(403, "A change with a session needs the Origin of this page.")
        page = urlsplit(origin)
        is_ours = page.scheme == self._scheme or found[1] in LOOPBACK_NAMES  # of itself a machine is asked without TLS
        if page.netloc.lower() != host or not is_ours:
            return problem(403, "The request comes from another site.")
        return None

    def _verb(self, request: Request) -> tuple[bool, str | None]:
        """Whether the application's own table has the route, and its verb; no verb is nobody's."""
        for route in request.app.routes:
            match, _ = route.matches(request.scope)
            if match == Match.FULL:
                return True, self._verbs.get((request.method, getattr(route, "path", "")))
        return False, None

    def _identify(self, request: Request) -> Principal | Response:
        """Who asks, by bearer token or by session."""
        parts: Parts = request.app.state.parts
        header = request.headers.get("authorization")
        if header is not None:
            scheme, _, token = header.partition(" ")
            return check_token(self._attempts, request, token.strip() if scheme.lower() == "bearer" else "")
        session = self._sessions.find(request.cookies.get(COOKIE, ""))
        if session is not None and session.identity is not None:
            return session.identity
        if session is not None and session.token is None:
            return self._owner
        if session is not None and session.token is not None:  # a token that was withdrawn ends its sessions
            try:
                return find_principal(parts.ledger, session.token, parts.now())
            except (AccessError, NotFoundError):
                self._sessions.close(request.cookies[COOKIE])
        is_page = request.method == "GET" and "text/html" in request.headers.get("accept", "")
        if is_page and not request.url.path.startswith("/api/"):
            return RedirectResponse("/login", 303)
        return problem(401, NO_TOKEN, headers={"WWW-Authenticate": "Bearer"})


def check_token(attempts: Attempts, request: Request, token: str) -> Principal | Response:
    """Whom a token stands for, or the refusal; failures of one address are counted.

    A valid token is good however many came before from its address: whoever guesses behind the same proxy must not
    lock the others out, and neither 256 bits nor a provider's signature are found by guessing.
    """
    parts: Parts = request.app.state.parts
    address = request.client.host if request.client else ""
    provider: Provider | None = request.app.state.provider
    words = NO_TOKEN
    try:
        if not is_token(token) and provider is not None and token.count(".") == 2:
            return provider.identify(token).principal
        return find_principal(parts.ledger, token, parts.now())
    except UnavailableError:
        return problem(503, "The provider of sign-ins does not answer.")
    except RefusedError as error:  # it is theirs, but they can be nobody here
        words = f"{error}."
    except (AccessError, NotFoundError):
        pass
    if attempts.are_exhausted(address):
        return problem(429, "Wait a minute, then try again.", headers={"Retry-After": f"{ATTEMPT_WINDOW_S:.0f}"})
    attempts.fail(address)
    return problem(401, f"The token is not valid here. {words}", headers={"WWW-Authenticate": "Bearer"})


def _wrong_body(request: Request) -> Response | None:
    """Refuse a body that is too large, or whose size is not said."""
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers:
        return problem(411, "Say the body's Content-Length; it is not taken in chunks.")
    if not (length.isascii() and length.isdigit() and len(length) < 10):
        return problem(400, "The Content-Length is not a number.")
    if int(length) > MAX_BODY_BYTES:
        return problem(413, f"At most {MAX_BODY_BYTES:,} bytes are taken.")
    return None
