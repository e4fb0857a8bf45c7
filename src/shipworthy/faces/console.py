"""The console: one page that shows a system as it is, drawn on the server; no script runs in the browser.

The page asks for itself again every few seconds. What a person can do on it is a form.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import parse_qs

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from shipworthy.contract.types import Contract
from shipworthy.faces.charts import Chart, Mark, Series, colour_class, line_chart, share_bar, stacked_bars
from shipworthy.faces.cli.show import number
from shipworthy.faces.guard import COOKIE, check_token
from shipworthy.faces.oidc import FLOW_S, Identity, Provider
from shipworthy.faces.oidc_settings import CALLBACK
from shipworthy.faces.sessions import SESSION_S, Attempts, Sessions
from shipworthy.governance import portfolio
from shipworthy.governance.portfolio import Figure, Ledgered, colour_of, unix_time
from shipworthy.kernel.errors import (
    AccessError,
    ConflictError,
    ContractError,
    RefusedError,
    ShipworthyError,
    StorageError,
    UnavailableError,
)
from shipworthy.ledger.events import Event
from shipworthy.security.access import Principal, Target, decide
from shipworthy.workflows.alerting import acknowledge
from shipworthy.workflows.overview import gather
from shipworthy.workflows.principals import owner_of
from shipworthy.workflows.project import Parts, read_contract
from shipworthy.workflows.reviews import Reviewed, queue

Found = dict[str, Any]
FLOW_COOKIE = "shipworthy-signing-in"
REFRESH_S = 5
RECENT = 8  # entries of the audit log on the page
MAX_RELEASES = 12  # newest ones on the page; the API has all
MAX_ALERTS = 12  # the most urgent
WAITING_S = 30.0  # how long a count of waiting answers is believed: counting reads the records
BAND = "each bound of the band holds with the contract's confidence"
JUDGED = "Appears once a window of traffic was judged."
KNOWN = "Appears once outcomes came in (`shipworthy outcomes`) and a window was judged."
FIGURES = {  # name -> title, what it shows, when it appears
    "answers": ("Answers by release", "Answers in each window, by the release that gave them", JUDGED),
    "accuracy": ("Accuracy as it came true", f"Share of answers that proved right; {BAND}", KNOWN),
    "mae": ("Mean absolute error as it came true", "By how much answers were wrong on average", KNOWN),
    "value": ("Value of a decision", f"Mean worth of a decision; {BAND}", f"{KNOWN} It needs `value`."),
    "p99": ("Latency, 99th percentile", "Time within which 99 of 100 answers were given", JUDGED),
    "errors": ("Errors", "Share of answers that the model could not give", JUDGED),
    "reviews": ("Left to people", "Share of answers that a person is to look at", JUDGED),
}


class Waiting:
    """How many answers wait for a person, counted now and then."""

    def __init__(self, now: Callable[[], float], reviewed: Reviewed) -> None:
        self._now = now
        self._reviewed = reviewed
        self._counted: dict[str, tuple[float, int]] = {}

    def counts(self, parts: Parts, contract: Contract) -> dict[str, int]:
        """Answers that nobody has decided, by environment."""
        return {name: self._count(parts, name) for name in contract.environments}

    def _count(self, parts: Parts, environment: str) -> int:
        known = self._counted.get(environment)
        if known is None or self._now() - known[0] >= WAITING_S:
            known = self._now(), len(queue(parts, environment, reviewed=self._reviewed))
            self._counted[environment] = known
        return known[1]


def style() -> Response:
    """The style sheet."""
    return _file("console.css", "text/css")


def icon() -> Response:
    """The mark in the browser's tab."""
    return _file("icon.svg", "image/svg+xml")


def _file(name: str, media: str) -> Response:
    return Response(resources.files("shipworthy.faces").joinpath("pages", name).read_bytes(), media_type=media)


def show_login(request: Request, token: str | None = None) -> Response:
    """The form to sign in; with the one-time code of the terminal, the way in."""
    if token is None:
        return _login(request)
    sessions: Sessions = request.app.state.sessions
    attempts: Attempts = request.app.state.attempts
    address = request.client.host if request.client else ""
    if attempts.are_exhausted(address):
        return _login(request, 429, "Too many failed attempts. Wait a minute, then try again.")
    if not sessions.redeem(token):
        attempts.fail(address)
        words = "This link was used already, or is older than 10 minutes. Sign in with a token, or start `up` again."
        return _login(request, 401, words)
    return _signed_in(request, None, owner_of(request.app.state.parts.actor), "one-time code")


async def sign_in(request: Request) -> Response:
    """Sign in with a principal's token."""
    fields = parse_qs((await request.body()).decode("utf-8", "replace"))
    token = fields.get("token", [""])[0].strip()
    attempts: Attempts = request.app.state.attempts
    found = await run_in_threadpool(check_token, attempts, request, token)
    if isinstance(found, Principal):
        return await run_in_threadpool(_signed_in, request, token, found, "token")
    is_late = found.status_code == 429
    words = "Too many failed attempts. Wait a minute, then try again." if is_late else "This token is not valid here."
    return _login(request, found.status_code, words)


def begin_sign_in(request: Request) -> Response:
    """Send the browser to the provider; it comes back to `finish_sign_in`."""
    provider: Provider | None = request.app.state.provider
    if provider is None:
        return RedirectResponse("/login", 303)
    try:
        beginning = provider.begin()
    except UnavailableError as error:
        return _login(request, 503, f"{error}. Sign in with a token meanwhile.")
    response = RedirectResponse(beginning.address, 303)
    response.set_cookie(  # lax: the provider's redirect comes from another site
        FLOW_COOKIE,
        beginning.cookie,
        max_age=int(FLOW_S),
        path=CALLBACK,
        httponly=True,
        samesite="lax",
        secure=request.app.state.is_secure,
    )
    return response


def finish_sign_in(request: Request) -> Response:
    """Sign in whom the provider names; a page leads on, for a strict cookie is not sent on another site's way."""
    provider: Provider | None = request.app.state.provider
    if provider is None:
        return RedirectResponse("/login", 303)
    attempts: Attempts = request.app.state.attempts
    address = request.client.host if request.client else ""
    if attempts.are_exhausted(address):
        return _login(request, 429, "Too many failed attempts. Wait a minute, then try again.")
    try:
        found = provider.finish(dict(request.query_params), request.cookies.get(FLOW_COOKIE, ""))
    except UnavailableError as error:
        return _login(request, 503, f"{error}.")
    except (AccessError, RefusedError) as error:
        attempts.fail(address)
        return _login(request, 401, f"Not signed in: {error}.")
    response = _page("signed_in.html", refresh="0; url=/", who=found.principal.name)
    response.delete_cookie(FLOW_COOKIE, path=CALLBACK, httponly=True, samesite="lax")
    return _signed_in(request, None, found.principal, "oidc", response, found)


def _signed_in(
    request: Request,
    token: str | None,
    principal: Principal,
    by: str,
    response: Response | None = None,
    identity: Identity | None = None,
) -> Response:
    """A new session, whatever cookie the browser had; on record, where the log can be written."""
    sessions: Sessions = request.app.state.sessions
    parts: Parts = request.app.state.parts
    sessions.close(request.cookies.get(COOKIE, ""))
    with suppress(StorageError):  # the console also shows what is wrong with a disk
        body = {"by": by, "roles": sorted(principal.roles)}
        parts.ledger.append(
            Event("session.opened", f"principal:{principal.name}", principal.actor, body, "anyone may sign in")
        )
    response = response or RedirectResponse("/", 303)
    named = None if identity is None else identity.principal
    until = math.inf if identity is None else identity.expires
    response.set_cookie(
        COOKIE,
        sessions.open(token, parts.entropy(32), identity=named, until=until),
        max_age=int(SESSION_S),
        httponly=True,
        samesite="strict",
        secure=request.app.state.is_secure,
    )
    return response


def _login(request: Request, status: int = 200, problem: str | None = None) -> Response:
    provider: Provider | None = request.app.state.provider
    link = None if provider is None else f"{provider.origin}/login/oidc"  # where the provider sends browsers back to
    return _page("login.html", status, problem=problem, provider=link)


def sign_out(request: Request) -> Response:
    """End the session."""
    sessions: Sessions = request.app.state.sessions
    sessions.close(request.cookies.get(COOKIE, ""))
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def acknowledge_alert(request: Request, alert: str) -> Response:
    """Acknowledge an alert from the page; one that somebody was faster with is simply shown as it now is."""
    with suppress(ConflictError):
        acknowledge(request.app.state.parts, request.state.principal, alert)
    return RedirectResponse("/", 303)


def overview(request: Request, env: str | None = None, live: str = "yes") -> Response:
    """The page."""
    parts: Parts = request.app.state.parts
    try:
        contract = read_contract(parts.project)
    except (ContractError, ShipworthyError):
        return _page("broken.html", 503, refresh=REFRESH_S)
    waiting: Waiting = request.app.state.waiting
    facts = gather(parts, contract, waiting.counts(parts, contract))
    shown = page_facts(facts, contract, request.state.principal, env)
    checkpoint = parts.ledger.checkpoint
    size = 0 if checkpoint is None else checkpoint.size
    may_audit = decide(request.state.principal, "audit list", Target(contract.system)).allowed
    recent = list(parts.ledger.events(after=max(size - RECENT, 0)))[-RECENT:] if may_audit else []
    is_live = live != "no"
    return _page(
        "console.html",
        **shown,
        may_audit=may_audit,
        recent=recent[::-1],
        refresh=REFRESH_S if is_live else None,
        is_live=is_live,
    )


def page_facts(facts: Ledgered, contract: Contract, principal: Principal, env: str | None) -> Found:
    """Everything that the page shows, apart from the audit log's end.

    Args:
        facts: the system's bodies.
        contract: its contract.
        principal: who looks.
        env: the environment whose charts are shown; by default the one with the newest window.
    """
    states = portfolio.environment_states(facts)
    alerts = portfolio.open_alerts(facts.alerts)
    rows = portfolio.release_rows(facts)
    chosen = env if env is not None and env in facts.deployments else _liveliest(facts)
    for state in states:
        state["bar"] = _bar([(item["release"], item["share"]) for item in state["releases"]])
        state["judgement"] = judgement(state["rollout"])
    for row in rows:
        row["bars"] = [{**place, "bar": _bar([(row["release"], place["share"])])} for place in row["serves"]]
    return {
        "contract": contract,
        "principal": principal,
        "may_acknowledge": decide(principal, "alerts acknowledge", Target(contract.system)).allowed,
        "states": states,
        "alerts": alerts[:MAX_ALERTS],
        "more_alerts": max(len(alerts) - MAX_ALERTS, 0),
        "releases": rows[:MAX_RELEASES],
        "more": max(len(rows) - MAX_RELEASES, 0),
        "headline": portfolio.headline(states, alerts, rows),
        "totals": totals(states, alerts, rows),
        "chosen": chosen,
        "charts": [_chart(figure, facts, chosen) for figure in portfolio.figures(facts.windows, chosen)],
    }


def totals(states: Sequence[Found], alerts: Sequence[Found], rows: Sequence[Found]) -> list[Found]:
    """The figures at the top: what a person asks first."""
    quality = [
        {**row, "start": state["quality"]["start"]}
        for state in states
        if state["quality"]
        for row in state["quality"]["quality"]
    ]
    best = max(quality, key=lambda row: row["known"], default=None)
    value = None if best is None else best.get("value_per_decision")
    waiting = sum(state["waiting"] or 0 for state in states)
    unit = "" if best is None else best.get("unit") or ""
    return [
        {"name": "releases", "value": f"{len(rows)}", "note": f"newest {rows[0]['release']}" if rows else "none yet"},
        _rightness(best),
        {
            "name": "value of a decision",
            "value": "-" if value is None else f"{value:,.2f} {unit}".rstrip(),
            "note": _of(best) if value is not None else "no outcomes yet",
        },
        {
            "name": "to review",
            "value": f"{waiting:,}",
            "note": "answers wait for a person" if waiting else "none waits",
        },
        {"name": "alerts", "value": f"{len(alerts)}", "note": "open or looked after" if alerts else "none is open"},
    ]


def _rightness(row: Mapping[str, Any] | None) -> Found:
    """How often answers proved right; of numbers, by how much they were wrong."""
    known = row or {}
    if known.get("mae") is not None:
        return {"name": "mean absolute error", "value": number(known["mae"], 3), "note": _of(row)}
    share = known.get("accuracy")
    return {"name": "accuracy", "value": "-" if share is None else f"{share:.1%}", "note": _of(row)}


def _of(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "no outcomes yet"
    return f"{row['release']}, {row['known']:,} known from {moment(row['start']).partition(',')[0]}"


def judgement(rollout: Mapping[str, Any] | None) -> Found | None:
    """How a rollout stands, in words and in a tone."""
    if rollout is None:
        return None
    tone = {"running": "info", "held": "warn", "promoted": "good", "rolled back": "bad"}.get(rollout["state"], "quiet")
    return {"tone": tone, "words": rollout.get("reason") or "nothing was judged yet", "judged": rollout.get("judged")}


def _liveliest(facts: Ledgered) -> str:
    """The environment with the newest window; without any the first that serves."""
    judged = [window for window in facts.windows if window["environment"] in facts.deployments]
    if judged:
        return str(max(judged, key=lambda window: unix_time(window["start"]))["environment"])
    serving = [name for name, deployment in facts.deployments.items() if deployment]
    return next(iter(serving), next(iter(facts.deployments)))


def _bar(shares: Sequence[tuple[str, float]]) -> Markup:
    drawn = [(name, share, colour_of(name)) for name, share in shares]
    return Markup(share_bar(drawn))  # noqa: S704 (charts escape what they show)


def _chart(figure: Figure, facts: Ledgered, environment: str) -> Found:
    """A figure as the page shows it: a drawing with its key, or what would make it appear."""
    title, description, needs = FIGURES[figure.name]
    marks = tuple(Mark(moment["at"], moment["words"]) for moment in portfolio.moments(facts.rollouts, environment))
    chart = Chart(
        name=figure.name,
        title=title,
        description=f"{description}, in {environment}. {_ends(figure)}",
        times=figure.times,
        series=tuple(Series(line.name, line.values, line.band, colour_of(line.name)) for line in figure.lines),
        unit=figure.unit,
        marks=marks,
    )
    draw = stacked_bars if figure.name == "answers" else line_chart
    has_values = any(value is not None for line in figure.lines for value in line.values)
    return {
        "name": figure.name,
        "title": title,
        "description": description,
        "needs": needs,
        "svg": Markup(draw(chart)) if has_values else None,  # noqa: S704 (charts escape what they show)
        "key": [{"name": line.name, "colour": colour_class(colour_of(line.name))} for line in figure.lines],
    }


def _ends(figure: Figure) -> str:
    """The last value of each line, in words."""
    last = [(line.name, [value for value in line.values if value is not None][-1:]) for line in figure.lines]
    said = [f"{name} {number(values[0], 3)} {figure.unit}".rstrip() for name, values in last if values]
    return f"Last: {', '.join(said)}." if said else "Nothing to show yet."


@cache
def _templates() -> Environment:
    found = Environment(
        loader=PackageLoader("shipworthy.faces", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["moment"] = moment
    found.filters["code"] = code
    found.filters["colour"] = lambda release: colour_class(colour_of(release))
    found.filters["short"] = lambda digest: str(digest).removeprefix("sha256:")[:12]
    return found


def moment(time: str | float | None) -> str:
    """A time as the page shows it.

    >>> moment("2013-04-01T12:00:00.000Z"), moment(None)
    ('1 Apr 2013, 12:00', '-')
    """
    if time is None:
        return "-"
    found = datetime.fromtimestamp(unix_time(time), UTC)
    return f"{found.day} {found:%b %Y, %H:%M}"


def code(text: str) -> Markup:
    """Text with what stands between backquotes as code.

    >>> str(code("run `a < b`"))
    'run <code>a &lt; b</code>'
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 (escaped just here)


def _page(name: str, status: int = 200, **facts: Any) -> Response:
    return HTMLResponse(_templates().get_template(name).render({"refresh": None, **facts}), status)
