"""The control plane's API: what the ledger knows, and the acts that change it, each behind the gate.

Every route stands in `ROUTES` with its verb; what does not is nobody's (see `faces.guard`).
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException as RoutingError
from starlette.responses import Response

from shipworthy import __version__
from shipworthy.contract.types import Contract
from shipworthy.faces import console
from shipworthy.faces.guard import Guard
from shipworthy.faces.oidc import Provider
from shipworthy.faces.oidc_settings import CALLBACK
from shipworthy.faces.problems import problem
from shipworthy.faces.sessions import Attempts, Rates, Sessions
from shipworthy.governance import portfolio
from shipworthy.kernel.errors import ConflictError, NotFoundError, UsageError
from shipworthy.ledger.events import Entry
from shipworthy.security.access import PUBLIC, VERBS, Principal
from shipworthy.serving.audit_watch import AuditWatch
from shipworthy.serving.problem import FieldProblem
from shipworthy.workflows.alerting import acknowledge
from shipworthy.workflows.data_health import health as health_of_data
from shipworthy.workflows.data_metrics import render_data_metrics
from shipworthy.workflows.deploy import roll_back
from shipworthy.workflows.gate import permit
from shipworthy.workflows.overview import gather, verdicts_of
from shipworthy.workflows.principals import principals as list_principals
from shipworthy.workflows.project import Parts, read_contract
from shipworthy.workflows.reviews import Reviewed, State, Wanted, claim, decide, queue, show

Found = dict[str, Any]
Tick = Callable[[str | None, float | None], Mapping[str, Any]]
"""One step of the control loop, of one environment or (None) of all, as of a Unix time; what it did."""

MAX_SEQ = 2**53  # what every client's JSON can hold, and every database

SERVER_SETTINGS: Mapping[str, Any] = {  # for uvicorn: nothing is believed that a caller could forge
    "proxy_headers": False,
    "server_header": False,
    "access_log": False,
    "ws": "none",
    "log_level": "warning",
    "limit_concurrency": 64,
    "timeout_graceful_shutdown": 3,
}


class Body(BaseModel):
    """What a caller sends: no unknown field, and no guessing of types."""

    model_config = ConfigDict(extra="forbid", strict=True)


class ClockBody(Body):
    """How far event time has come."""

    as_of: str = Field(description="RFC 3339, with its offset")
    env: str | None = Field(None, description="one environment; without it all")


class ClaimBody(Body):
    """Which answer somebody looks at."""

    env: str = "local"


class DecideBody(Body):
    """What a person decided instead of the model, and why."""

    decision: str = Field(min_length=1, max_length=200)
    reason: str = Field(min_length=1, max_length=2000)
    env: str = "local"


class RollbackBody(Body):
    """Where all traffic returns to an earlier release, and why."""

    env: str
    reason: str = Field(min_length=1, max_length=2000)
    to: str | None = Field(None, max_length=100, description="the release; without it the one before")


def health(request: Request) -> Found:
    """Whether the control plane answers, and what protects the connection."""
    audit: AuditWatch = request.app.state.audit
    audit.look()
    return {"status": "ok", "tls": request.app.state.tls, "audit_log": audit.words}


def system(request: Request) -> Found:
    """The system: what it is for, who answers for it, what its contract asks."""
    contract = _contract(request)
    return {
        "system": contract.system,
        "purpose": contract.purpose,
        "owner": contract.owner,
        "risk": contract.risk,
        "target": {"column": contract.target.column, "type": contract.target.type},
        "features": len(contract.features),
        "environments": {
            name: {"approvals": dict(found.approvals), "steps": list(found.rollout.steps) if found.rollout else [1.0]}
            for name, found in contract.environments.items()
        },
    }


def releases(request: Request) -> Found:
    """Every release, newest first, with a summary of its verdicts and where it serves."""
    return {"releases": portfolio.release_rows(gather(_parts(request), _contract(request)))}


def verdicts(request: Request, name: str) -> Found:
    """What each gate measured of a release and said of it."""
    parts = _parts(request)
    release = parts.ledger.find_release(name)
    return {"release": portfolio.name_of(release), "verdicts": verdicts_of(parts, release)}


def deployments(request: Request) -> Found:
    """Every environment: generation, releases with their shares, rollout, last windows, what it owes and waits for."""
    parts, contract = _parts(request), _contract(request)
    waiting: console.Waiting = request.app.state.waiting
    return {"environments": portfolio.environment_states(gather(parts, contract, waiting.counts(parts, contract)))}


def rollouts(request: Request, env: str | None = None) -> Found:
    """Every rollout, in the order in which they last changed."""
    found = _parts(request).ledger.latest("rollout")
    return {"rollouts": [body for body in found if env in (None, body["environment"])]}


def windows(
    request: Request,
    env: str | None = None,
    kind: Literal["inputs", "quality"] | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Found:
    """The newest windows, in the order in which they were judged."""
    found = _parts(request).ledger.latest("window")
    chosen = [body for body in found if env in (None, body["environment"]) and kind in (None, body["window"])]
    return {"windows": chosen[-limit:]}


def alerts(request: Request, state: Literal["open", "acknowledged", "closed"] | None = None) -> Found:
    """Every alert, in the order in which they last changed."""
    return {"alerts": [body for body in _parts(request).ledger.latest("alert") if state in (None, body["state"])]}


def acknowledge_alert(request: Request, alert: str) -> Found:
    """Say that you have seen an alert and look after it."""
    return acknowledge(_parts(request), _principal(request), alert)


def reviews(
    request: Request,
    env: str = "local",
    state: State = "waiting",
    by: Annotated[str | None, Query(max_length=100)] = None,
    release: Annotated[str | None, Query(max_length=100)] = None,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Found:
    """Answers that were sent to a person, oldest first, and who has claimed or decided them; `next` goes on."""
    parts, environment = _parts(request), _environment(request, env)
    permit(parts, _principal(request), "review list", environment=environment)
    wanted = Wanted(state=state, by=by, release=release, after=after, limit=limit + 1)
    found = queue(parts, environment, wanted, request.app.state.reviewed)
    more = found[limit - 1]["prediction_id"] if len(found) > limit else None
    return {"environment": env, "reviews": found[:limit], "next": more}


def review(request: Request, prediction: str, env: str = "local") -> Found:
    """One answer that was sent to a person: inputs, answer, reasons, and what may be decided."""
    return show(_parts(request), _principal(request), _environment(request, env), prediction)


def claim_review(request: Request, prediction: str, body: ClaimBody) -> Found:
    """Take an answer, so that nobody else decides it for a while; again, and it is yours for longer."""
    environment = _environment(request, body.env)
    return claim(_parts(request), _principal(request), environment, prediction)


def decide_review(request: Request, prediction: str, body: DecideBody) -> Found:
    """Decide instead of the model."""
    environment = _environment(request, body.env)
    who = _principal(request)
    return decide(_parts(request), who, environment, prediction, body.decision, body.reason)


def data(request: Request) -> Found:
    """Each source and each column beside the snapshots before, and what is wrong with them."""
    parts = _parts(request)
    return health_of_data(parts.project, parts.ledger, _contract(request), parts.now()).to_json()


class MetricsText(Response):
    """What Prometheus reads."""

    media_type = "text/plain; version=0.0.4; charset=utf-8"


def metrics(request: Request) -> Response:
    """The health of the data in Prometheus' text format; nothing before the first snapshot."""
    parts = _parts(request)
    try:
        report = health_of_data(parts.project, parts.ledger, _contract(request), parts.now())
    except NotFoundError:
        report = None
    return MetricsText(render_data_metrics(report))


def principals(request: Request) -> Found:
    """People and services, with their roles."""
    return {"principals": list_principals(_parts(request).ledger)}


def events(
    request: Request,
    after: Annotated[int, Query(ge=0, le=MAX_SEQ)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Found:
    """The audit log from an entry on; `next` is where to go on."""
    found = list(_parts(request).ledger.events(after=after, limit=limit))
    return {"events": [_entry(entry) for entry in found], "next": found[-1].seq if found else after}


def set_clock(request: Request, body: ClockBody) -> Found:
    """Take a step of the control loop as of an event time."""
    tick: Tick | None = request.app.state.tick
    if tick is None:
        raise ConflictError("this server runs no control loop; start it with `shipworthy up`")
    environment = None if body.env is None else _environment(request, body.env)
    permit(_parts(request), _principal(request), "control", environment=environment)
    return dict(tick(environment, _moment(body.as_of)))


def rollback(request: Request, body: RollbackBody) -> Found:
    """Return all traffic of an environment to the release before, or to a named one."""
    environment = _environment(request, body.env)
    return roll_back(_parts(request), _principal(request), environment, body.reason, body.to)


@dataclass(frozen=True, slots=True)
class Route:
    """A route, and the verb that it is."""

    method: str
    path: str
    verb: str  # of security.access.VERBS
    handler: Callable[..., Any]
    response: type[Response] | None = None  # None: JSON


ROUTES = (
    Route("GET", "/health", "health", health),
    Route("GET", "/api/system", "status", system),
    Route("GET", "/api/releases", "status", releases),
    Route("GET", "/api/releases/{name}/verdicts", "status", verdicts),
    Route("GET", "/api/deployments", "status", deployments),
    Route("GET", "/api/rollouts", "status", rollouts),
    Route("GET", "/api/windows", "quality", windows),
    Route("GET", "/api/alerts", "alerts", alerts),
    Route("POST", "/api/alerts/{alert}/acknowledge", "alerts acknowledge", acknowledge_alert),
    Route("GET", "/api/reviews", "review list", reviews),
    Route("GET", "/api/reviews/{prediction}", "review show", review),
    Route("POST", "/api/reviews/{prediction}/claim", "review claim", claim_review),
    Route("POST", "/api/reviews/{prediction}/decide", "review decide", decide_review),
    Route("GET", "/api/data", "data health", data),
    Route("GET", "/metrics", "data health", metrics, MetricsText),
    Route("GET", "/api/principals", "user list", principals),
    Route("GET", "/api/events", "audit list", events),
    Route("POST", "/api/clock", "control", set_clock),
    Route("POST", "/api/rollback", "rollback", rollback),
)
PAGES = (
    Route("GET", "/login", "sign in", console.show_login),
    Route("POST", "/login", "sign in", console.sign_in),
    Route("GET", "/login/oidc", "sign in", console.begin_sign_in),
    Route("GET", CALLBACK, "sign in", console.finish_sign_in),
    Route("GET", "/console.css", "sign in", console.style),  # the sign-in form needs both; they say nothing of anybody
    Route("GET", "/icon.svg", "sign in", console.icon),
    Route("GET", "/", "status", console.overview),
    Route("POST", "/alerts/{alert}/acknowledge", "alerts acknowledge", console.acknowledge_alert),
    Route("POST", "/logout", "sign out", console.sign_out),
)
OPENAPI = "/openapi.json"
REFUSALS_OF_ALL = (400, 411, 413, 421, 422)  # by the guard, of any request
REFUSALS = (*REFUSALS_OF_ALL, 401, 403, 404, 409, 429, 503)
PROBLEM: dict[str, Any] = {
    "description": "A problem, RFC 9457",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "errors": {"type": "array", "items": {"type": "object"}},
                },
            }
        }
    },
}
ROUTE_VERBS: Mapping[tuple[str, str], str] = {
    **{(route.method, route.path): route.verb for route in (*ROUTES, *PAGES)},
    ("GET", OPENAPI): "status",
}


def make_app(
    open_parts: Callable[[], AbstractContextManager[Parts]],
    *,
    owner: Principal,
    one_time: str | None = None,
    tick: Tick | None = None,
    hosts: tuple[str, ...] = (),
    provider: Provider | None = None,
    tls: str = "none, loopback",
    log: str = "",
    now: Callable[[], float] = time.time,
) -> FastAPI:
    """The control plane of one project: API and console.

    Args:
        open_parts: opens the project; entered when the server starts, left when it stops.
        owner: as whom the one-time code signs in: the machine's user, who owns an embedded project.
        one_time: the code that signs in once within 10 minutes; None for none.
        tick: a step of the control loop; None where none runs.
        hosts: names by which the server may be asked, beside those of loopback.
        provider: of OpenID, whose sign-ins and tokens are believed; None for none.
        tls: what protects the connection, as `security.tls.Binding.mode` says.
        log: the audit log's folder, whose state health tells.
        now: Unix time in s, for sessions and limits.
    """
    is_secure = not tls.startswith("none")

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        with open_parts() as parts:
            app.state.parts = parts
            yield

    app = FastAPI(
        title="Shipworthy control plane",
        version=__version__,
        lifespan=opened,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        openapi_url=OPENAPI,
        exception_handlers={RoutingError: _not_routed, RequestValidationError: _not_valid},
    )
    app.state.tick = tick
    app.state.sessions, app.state.attempts = Sessions(now, one_time), Attempts(now)
    app.state.reviewed = Reviewed()
    app.state.waiting = console.Waiting(now, app.state.reviewed)
    _add_routes(app)
    _describe(app)
    app.state.audit = AuditWatch(log)
    app.state.provider, app.state.tls, app.state.is_secure = provider, tls, is_secure
    app.add_middleware(
        Guard,
        verbs=ROUTE_VERBS,
        owner=owner,
        sessions=app.state.sessions,
        attempts=app.state.attempts,
        rates=Rates(now),
        hosts=hosts,
        origin_scheme="https" if is_secure else "http",
    )
    return app


def _add_routes(app: FastAPI) -> None:
    for route in ROUTES:
        is_public = VERBS[route.verb].action == PUBLIC
        shown: dict[str, Any] = {} if route.response is None else {"response_class": route.response}
        app.add_api_route(
            route.path,
            route.handler,
            methods=[route.method],
            responses=dict.fromkeys(REFUSALS_OF_ALL if is_public else REFUSALS, PROBLEM),
            openapi_extra={} if is_public else {"security": [{"token": []}]},
            **shown,
        )
    for page in PAGES:
        app.add_api_route(
            page.path, page.handler, methods=[page.method], include_in_schema=False, response_class=Response
        )


def _describe(app: FastAPI) -> None:
    """Let the published interface say how callers prove themselves."""
    make = app.openapi

    def openapi() -> Found:
        document = make()
        document.setdefault("components", {})["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _parts(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def _principal(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


def _contract(request: Request) -> Contract:
    return read_contract(_parts(request).project)


def _environment(request: Request, name: str) -> str:
    """The environment's name, if the contract has it: a name from outside never becomes a path."""
    known = _contract(request).environments
    if name not in known:
        raise NotFoundError(f"there is no environment {name!r}; the contract has {', '.join(known)}")
    return name


def _moment(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(f"as_of is {text!r}; it must be RFC 3339 with an offset, such as 2013-04-01T12:00:00Z")
    return moment.timestamp()


def _entry(entry: Entry) -> Found:
    return {
        "seq": entry.seq,
        "time": entry.time,
        "actor": entry.actor,
        "verb": entry.verb,
        "object": entry.object,
        "rule": entry.rule,
        "body": dict(entry.body),
    }


async def _not_routed(request: Request, error: Exception) -> Response:
    """No such route, or not with this method, or a body that is no JSON."""
    status = error.status_code if isinstance(error, HTTPException | RoutingError) else 500
    words = {
        404: f"There is no route {request.url.path[:100]}; see {OPENAPI}.",
        405: f"{request.url.path[:100]} does not take {request.method}; see {OPENAPI}.",
    }
    headers = error.headers if isinstance(error, HTTPException | RoutingError) else None  # which methods it takes
    return problem(status, words.get(status, "The request cannot be read."), headers=headers)


async def _not_valid(_request: Request, error: Exception) -> Response:
    """Fields that do not fit, each by name."""
    raised = error.errors() if isinstance(error, RequestValidationError) else []
    fields = [
        FieldProblem(".".join(str(part) for part in found["loc"]), str(found["msg"]).lower(), _shown(found))
        for found in raised
    ]
    return problem(422, f"{len(fields)} fields cannot be accepted: {', '.join(f.field for f in fields)}.", fields)


def _shown(found: Mapping[str, Any]) -> str | None:
    value = found.get("input")
    return None if value is None or found["type"] == "missing" else msgspec.json.encode(value).decode()[:80]
