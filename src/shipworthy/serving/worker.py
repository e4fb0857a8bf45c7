"""A worker: what answers its connections, from which state, and what it says of itself."""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial, reduce
from pathlib import Path
from typing import Any

import msgspec

from shipworthy.serving.audit_watch import AuditWatch
from shipworthy.serving.channel import STUCK_S
from shipworthy.serving.counters import MEDIA as METRICS_MEDIA
from shipworthy.serving.counters import Counters, render_metrics
from shipworthy.serving.decode import RequestDecoder, Sample
from shipworthy.serving.gate import Gate
from shipworthy.serving.heads import Heads
from shipworthy.serving.inference import SERVER, InferenceEndpoint, describe_model
from shipworthy.serving.inference_http import infer_by_http
from shipworthy.serving.live import LiveState
from shipworthy.serving.meters import MeterTable
from shipworthy.serving.openapi import describe_api
from shipworthy.serving.outcomes import MAX_BODY_BYTES as MAX_OUTCOME_BYTES
from shipworthy.serving.outcomes import OutcomeEndpoint, OutcomeLog
from shipworthy.serving.path import PredictionPath
from shipworthy.serving.plain import MAX_BATCH_BYTES, PlainEndpoint
from shipworthy.serving.problem import make_problem
from shipworthy.serving.protocol import Connection, Exchange, Handler, Span
from shipworthy.serving.records_watch import RecordsWatch
from shipworthy.serving.router import route
from shipworthy.serving.routes import Route, RouteTable, find_route
from shipworthy.serving.servable import Servable
from shipworthy.serving.settings import ServerSettings
from shipworthy.serving.tally import (
    Tally,
    add,
    ask_tallies,
    counts_alone,
    last_asked,
    read_others,
    read_restarts,
    read_tally,
    write_tally,
)

IDLE_TIMEOUT_S = 75.0  # of a kept connection
MAX_CONNECTIONS = 2048
TALLIES_S = 0.25  # to wait for those of the other workers; each looks every 50 ms whether it is asked
LOOK_S = 0.01  # between looks for them
MAX_HELD_BYTES = 48 * 2**20  # of bodies being received, all connections together

BeginSpan = Callable[[str, Mapping[bytes, bytes], Mapping[str, str]], Span | None]


class Worker:
    """One worker: its connections, its live state, its path.

    Args:
        settings: where and how.
        name: of this worker.
        run: folder where the server's workers leave their tallies.
        loop: the running event loop.
        state: what answers first.
        path: where predictions go.
        counters: counted in the loop.
        now: wall clock, Unix seconds, for expiries.
        records: the disk of the records.
        outcomes: where outcomes go; None: none are taken.
        begin_span: continues a caller's trace: name, headers, attributes; None: nobody collects traces.
    """

    def __init__(
        self,
        settings: ServerSettings,
        name: str,
        run: Path,
        loop: asyncio.AbstractEventLoop,
        state: LiveState,
        path: PredictionPath,
        counters: Counters,
        now: Callable[[], float],
        records: RecordsWatch,
        outcomes: OutcomeLog | None = None,
        begin_span: BeginSpan | None = None,
    ) -> None:
        self._settings = settings
        self._name = name
        self._run = run
        self._asked = 0  # when tallies were asked for last, as far as this one's was left for it
        self._before = counts_alone(read_tally(run, name))  # of a worker that had this name
        self._binding = settings.binding
        self._loop = loop
        self._path = path
        self.audit = AuditWatch(settings.log)
        self.records = records
        self._outcomes = outcomes
        self.begin_span = begin_span
        self.counters = counters
        self.connections: set[Connection] = set()
        self.heads = Heads()
        self.is_draining = False
        self.refused: str | None = None  # why a newer deployment does not answer
        meters = MeterTable(run / "meters")
        self.gate = Gate(now, time.monotonic, hosts=settings.allowed_hosts, is_open=settings.open, cell=meters.cell)
        self.certificate_expires: float | None = None  # Unix seconds
        self._held = 0
        self._unsticky = 0
        self.switch(state)

    def switch(self, state: LiveState) -> None:
        """Answer from `state` on from the next request."""
        self.state = state
        self.refused = None
        self.gate.replace(state.deployment.system, state.tokens.values())
        self.heads.forget()
        self._path.admission.expect(max(servable.pace.row_s for servable in state.servables))
        self._path.let_stand_in(state.stand_ins)
        self._routes = self._make_routes(state)

    def _make_routes(self, state: LiveState) -> RouteTable:
        primary, system = state.primary, state.deployment.system
        call_soon = self._loop.call_soon
        choose = self._choose if len(state.servables) > 1 else partial(_decode_for, primary)
        plain = PlainEndpoint(self._path, choose, call_soon, self.gate.charge)
        self.inference = InferenceEndpoint(self._path, self._choose_object, call_soon, self.gate.charge)
        versions = {servable.version: servable for servable in state.servables}
        described = partial(_respond, msgspec.json.encode(describe_model(primary, tuple(versions))))
        table: dict[bytes, dict[bytes, Route]] = {
            b"/v2": {b"GET": Route(partial(_respond, msgspec.json.encode(SERVER)), "public")},
            b"/v2/health/live": {b"GET": Route(partial(_respond, b'{"live":true}'), "public")},
            b"/v2/health/ready": {b"GET": Route(self._ready, "public")},
            b"/metrics": {b"GET": Route(self._metrics, "public")},
            b"/openapi.json": {b"GET": Route(partial(_respond, self._describe(primary)), "predict")},
            f"/v1/systems/{system}/predict".encode(): {b"POST": Route(plain.predict, "predict", MAX_BATCH_BYTES)},
            f"/v1/systems/{system}/outcomes".encode(): {b"POST": self._outcomes_route(primary)},
            f"/v2/models/{system}".encode(): {b"GET": Route(described, "predict")},
        }
        for version, servable in [(None, primary), *versions.items()]:
            base = f"/v2/models/{system}" + ("" if version is None else f"/versions/{version}")
            infer = partial(infer_by_http, self.inference, servable, version)
            table[base.encode()] = {b"GET": Route(described, "predict")}
            table[f"{base}/ready".encode()] = {b"GET": Route(self._model_ready, "public")}
            table[f"{base}/infer".encode()] = {b"POST": Route(infer, "predict", MAX_BATCH_BYTES, takes_tensors=True)}
        return table

    def _outcomes_route(self, primary: Servable) -> Route:
        if self._outcomes is None:
            return Route(_refuse_outcomes, "tell", MAX_OUTCOME_BYTES)
        endpoint = OutcomeEndpoint(self._outcomes, primary.policy, self._loop.call_soon)
        return Route(endpoint.tell, "tell", MAX_OUTCOME_BYTES)

    def _describe(self, primary: Servable) -> bytes:
        takes = self._outcomes is not None
        return msgspec.json.encode(describe_api(primary.schema, primary.policy, primary.release, outcomes=takes))

    @property
    def is_ready(self) -> bool:
        """Whether predictions are answered by the model."""
        return not self.is_draining and self.late_s < STUCK_S

    @property
    def late_s(self) -> float:
        """How long the model's run is late; 0 if it is not."""
        return self._path.late_s

    def leave_tally(self) -> None:
        """Let the other workers see what this one has counted."""
        self._asked = last_asked(self._run)
        write_tally(self._run, self._name, self._tally())

    def leave_tally_if_asked(self) -> None:
        """Leave it anew if a worker that is asked for metrics waits for it."""
        if last_asked(self._run) != self._asked:
            self.leave_tally()

    def _tally(self) -> Tally:
        breakers = {servable.release: servable.breaker for servable in self.state.loaded}
        mine = self.counters.tally(refusals=self.gate.refused, breakers=breakers, is_ready=self.is_ready)
        mine.seen = time.monotonic()
        mine.spool_bytes = self.records.spool_bytes
        mine.segments_fenced = self.records.times_fenced
        mine.is_disk_refusing = not self.records.is_writable
        return add(self._before, mine)

    # --- what connections ask

    def admit(self, exchange: Exchange) -> tuple[Handler, int]:
        """See `Service`."""
        if self.begin_span is not None:
            method, path = exchange.method.decode(), exchange.path.decode(errors="replace")
            name = f"{method} {path}" if exchange.path in self._routes else method
            attributes = {"http.request.method": method, "url.path": path}
            exchange.span = self.begin_span(name, exchange.headers, attributes)
        return find_route(self._routes, exchange, self.gate)

    def opened(self, connection: Connection) -> bool:
        """See `Service`."""
        self.connections.add(connection)
        self.counters.connections = len(self.connections)
        return len(self.connections) <= MAX_CONNECTIONS and not self.is_draining

    def closed(self, connection: Connection) -> None:
        """See `Service`."""
        self.connections.discard(connection)
        self.counters.connections = len(self.connections)

    def responded(self, status: int) -> None:
        """See `Service`."""
        self.counters.responses[status] += 1

    def hold(self, size_bytes: int) -> bool:
        """See `Service`."""
        if size_bytes > 0 and self._held + size_bytes > MAX_HELD_BYTES:
            return False
        self._held += size_bytes
        return True

    def sweep(self) -> None:
        """Close connections that send too slowly or not at all."""
        clock = time.monotonic()
        for connection in tuple(self.connections):
            if connection.is_receiving and clock - connection.since > self._settings.receive_timeout_s:
                connection.time_out()
            elif connection.is_idle and clock - connection.since > IDLE_TIMEOUT_S:
                connection.close_when_idle()

    # --- routing

    def _choose(self, body: bytes) -> tuple[Servable, Sample]:
        """The release for this request, by its subject, key or id, and the request in its schema."""
        return self._route(lambda decoder: decoder.decode(body))

    def _choose_object(self, item: Any, version: str | None) -> tuple[Servable, Sample]:
        for servable in self.state.servables:
            if servable.version == version:
                return servable, servable.decoder.decode_object(item)
        return self._route(lambda decoder: decoder.decode_object(item))

    def _route(self, decode: Callable[[RequestDecoder], Sample]) -> tuple[Servable, Sample]:
        return route(self.state, decode, self._next_name)

    def _next_name(self) -> str:
        self._unsticky += 1
        return f"{self._name}:{self._unsticky}"

    # --- small handlers

    def _ready(self, exchange: Exchange, body: bytes) -> None:
        state = self.state
        document = {
            "ready": self.is_ready,
            "releases": [release.release for release in state.deployment.releases],
            "generation": state.deployment.generation,
            "access": "open on loopback" if self._settings.open else "token",
            "tls": self._binding.mode,
            "refused": self.refused,
            "audit_log": self.audit.words,
            "records": self.records.words,
            "breakers": {servable.release: servable.breaker.state for servable in state.loaded},
            "last_good": state.last_good_words,
        }
        exchange.respond(200 if self.is_ready else 503, msgspec.json.encode(document))

    def _model_ready(self, exchange: Exchange, body: bytes) -> None:
        document = {"name": self.state.deployment.system, "ready": self.is_ready}
        exchange.respond(200 if self.is_ready else 503, msgspec.json.encode(document))

    def _metrics(self, exchange: Exchange, body: bytes) -> None:
        """Answer once the other workers have left their tallies since, so that no count ever seems to go back."""
        asked = time.monotonic()
        ask_tallies(self._run)
        self._render_soon(exchange, asked)

    def _render_soon(self, exchange: Exchange, asked: float) -> None:
        clock = time.monotonic()
        others = read_others(self._run, self._name, clock)
        if clock - asked < TALLIES_S and any(tally.workers and tally.seen < asked for tally in others):
            self._loop.call_later(LOOK_S, self._render_soon, exchange, asked)
            return
        self.leave_tally()
        self._render(exchange, reduce(add, others, self._tally()))

    def _render(self, exchange: Exchange, tally: Tally) -> None:
        state = self.state
        content = render_metrics(
            tally,
            state.primary.release,
            state.deployment.generation,
            restarts=read_restarts(self._run),
            certificate_expires=self.certificate_expires,
            is_audit_writable=self.audit.is_writable,
            last_good=state.last_good_ready,
        )
        exchange.respond(200, content, METRICS_MEDIA)


def _decode_for(servable: Servable, body: bytes) -> tuple[Servable, Sample]:
    return servable, servable.decoder.decode(body)


def _respond(content: bytes, exchange: Exchange, body: bytes) -> None:  # noqa: ARG001
    exchange.respond(200, content)


def _refuse_outcomes(exchange: Exchange, body: bytes) -> None:  # noqa: ARG001
    exchange.refuse(make_problem(404, "This server takes no outcomes: it was started without a place to keep them."))
