"""The serving process: starts from local disk, answers, drains when told to stop.

`python -m shipworthy.serving.server --settings JSON` starts it alone and prints one JSON line with its address.
"""

import argparse
import asyncio
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec
import uvloop

from shipworthy import __version__
from shipworthy.engines.lifeline import end_with_parent
from shipworthy.kernel.errors import InternalError, ShipworthyError, StorageError, UsageError
from shipworthy.records.write import SegmentWriter
from shipworthy.security.tls import Binding, check_binding, check_tls, make_tls
from shipworthy.security.vault import DATA_KEYS, Vault
from shipworthy.serving.audit_watch import AuditWatch
from shipworthy.serving.counters import MEDIA as METRICS_MEDIA
from shipworthy.serving.counters import Counters, render_metrics
from shipworthy.serving.decode import RequestDecoder, Sample
from shipworthy.serving.gate import Gate
from shipworthy.serving.inference import InferenceEndpoint, describe_model
from shipworthy.serving.lane import Lane
from shipworthy.serving.listener import Listener
from shipworthy.serving.live import LiveState, Signature, load_live, read_signature
from shipworthy.serving.openapi import describe_api
from shipworthy.serving.outcomes import MAX_BODY_BYTES as MAX_OUTCOME_BYTES
from shipworthy.serving.outcomes import OutcomeEndpoint, OutcomeLog
from shipworthy.serving.path import PathSettings, PredictionPath
from shipworthy.serving.plain import MAX_BATCH_BYTES, PlainEndpoint
from shipworthy.serving.problem import make_problem
from shipworthy.serving.protocol import Connection, Exchange, Handler
from shipworthy.serving.router import choose_release, unit_of
from shipworthy.serving.routes import Route, RouteTable, find_route
from shipworthy.serving.runtimes.onnx import OnnxRuntime
from shipworthy.serving.runtimes.rehearsed import FailingRuntime
from shipworthy.serving.runtimes.runtime import Runtime
from shipworthy.serving.servable import WARM_ROWS, Servable

POLL_S = 0.05  # a replaced file is noticed within 100 ms
SWEEP_S = 1.0
IDLE_TIMEOUT_S = 75.0  # of a kept connection
DRAIN_S = 10.0  # for answers under way when told to stop
STUCK_S = 5.0  # a run late for longer makes the server not ready
MAX_CONNECTIONS = 2048
MAX_HELD_BYTES = 48 * 2**20  # of bodies being received, all connections together

_SERVER = msgspec.json.encode({"name": "shipworthy", "version": __version__, "extensions": []})

_log = logging.getLogger("shipworthy.serving")


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a server finds what it serves, and where it listens."""

    live: str  # directory live/ENV
    records: str  # directory records/ENV
    keys: str  # directory of public keys
    host: str = "127.0.0.1"
    port: int = 8080  # 0: any free one
    open: bool = False  # anyone on loopback may predict
    tls_cert: str = ""  # PEM files; empty: plain HTTP
    tls_key: str = ""
    tls_client_ca: str = ""  # callers must show a certificate of these authorities
    tls_terminated_upstream: bool = False
    allowed_hosts: tuple[str, ...] = ()  # names by which it may be asked; none: any, when tokens are asked for
    workers: int = 1
    worker: str = "w0"  # names the record segments
    receive_timeout_s: float = 10.0  # for one request to come in whole
    rehearse: Literal["", "failure"] = ""  # failure: every run of the model raises, to see what callers get
    outcomes: str = ""  # directory outcomes/ENV; empty: none are taken
    log: str = ""  # the audit log's folder, where it is on this machine; only looked at

    @property
    def binding(self) -> Binding:
        """Where it listens, and what protects it there.

        Raises:
            UsageError: a certificate without its key, or the like.
        """
        tls = make_tls(self.tls_cert, self.tls_key, self.tls_client_ca)
        return Binding(self.host, tls, self.tls_terminated_upstream, self.allowed_hosts)


class Server:
    """One worker: its connections, its live state, its path.

    Args:
        settings: where and how.
        loop: the running event loop.
        state: what answers first.
        path: where predictions go.
        counters: counted in the loop.
        now: wall clock, Unix seconds, for expiries.
        outcomes: where outcomes go; None: none are taken.
    """

    def __init__(
        self,
        settings: ServerSettings,
        loop: asyncio.AbstractEventLoop,
        state: LiveState,
        path: PredictionPath,
        counters: Counters,
        now: Callable[[], float],
        outcomes: OutcomeLog | None = None,
    ) -> None:
        self._settings = settings
        self._binding = settings.binding
        self._loop = loop
        self._path = path
        self.audit = AuditWatch(settings.log)
        self._outcomes = outcomes
        self.counters = counters
        self.connections: set[Connection] = set()
        self.is_draining = False
        self.refused: str | None = None  # why a newer deployment does not answer
        self.gate = Gate(now, time.monotonic, hosts=settings.allowed_hosts, is_open=settings.open)
        self.certificate_expires: float | None = None  # Unix seconds
        self._held = 0
        self._unsticky = 0
        self.switch(state)

    def switch(self, state: LiveState) -> None:
        """Answer from `state` on from the next request."""
        self.state = state
        self.refused = None
        self.gate.replace(state.deployment.system, state.tokens.values())
        self._routes = self._make_routes(state)

    def _make_routes(self, state: LiveState) -> RouteTable:
        primary, system = state.primary, state.deployment.system
        call_soon = self._loop.call_soon
        choose = self._choose if len(state.servables) > 1 else partial(_decode_for, primary)
        plain = PlainEndpoint(self._path, choose, call_soon, self.gate.charge)
        inference = InferenceEndpoint(self._path, self._choose_object, call_soon, self.gate.charge)
        versions = {servable.version: servable for servable in state.servables}
        described = partial(_respond, describe_model(primary, tuple(versions)))
        table: dict[bytes, dict[bytes, Route]] = {
            b"/v2": {b"GET": Route(partial(_respond, _SERVER), "public")},
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
            infer = partial(inference.infer, servable.policy, servable.schema, version)
            table[base.encode()] = {b"GET": Route(described, "predict")}
            table[f"{base}/ready".encode()] = {b"GET": Route(self._model_ready, "public")}
            table[f"{base}/infer".encode()] = {b"POST": Route(infer, "predict", MAX_BATCH_BYTES)}
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
        return not self.is_draining and self._path.late_s < STUCK_S

    # --- what connections ask

    def admit(self, exchange: Exchange) -> tuple[Handler, int]:
        """See `Service`."""
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
        primary, deployment = self.state.primary, self.state.deployment
        sample = decode(primary.decoder)
        if len(self.state.servables) == 1:
            return primary, sample
        unit = unit_of(primary.schema, sample, deployment.unit)
        if unit is None:
            self._unsticky += 1
            unit = f"{self._settings.worker}:{self._unsticky}"
        place = choose_release([release.share for release in deployment.releases], deployment.salt, unit)
        servable = self.state.servables[place]
        return servable, sample if servable is primary else decode(servable.decoder)

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
            "breakers": {servable.release: servable.breaker.state for servable in state.servables},
        }
        exchange.respond(200 if self.is_ready else 503, msgspec.json.encode(document))

    def _model_ready(self, exchange: Exchange, body: bytes) -> None:
        document = {"name": self.state.deployment.system, "ready": self.is_ready}
        exchange.respond(200 if self.is_ready else 503, msgspec.json.encode(document))

    def _metrics(self, exchange: Exchange, body: bytes) -> None:
        state = self.state
        content = render_metrics(
            self.counters,
            state.primary.release,
            state.deployment.generation,
            self.is_ready,
            refusals=self.gate.refused,
            certificate_expires=self.certificate_expires,
            is_audit_writable=self.audit.is_writable,
            breakers={servable.release: servable.breaker for servable in state.servables},
        )
        exchange.respond(200, content, METRICS_MEDIA)


def serve(
    settings: ServerSettings,
    *,
    ready: Callable[[str], None] | None = None,
    make_runtime: Callable[[bytes], Runtime] = OnnxRuntime,
) -> None:
    """Serve until SIGTERM or SIGINT; blocks.

    Args:
        settings: where and how.
        ready: called once with the address, such as `http://127.0.0.1:8080`.
        make_runtime: loads a model.

    Raises:
        UsageError: settings that must not be served.
        NotFoundError: nothing is deployed.
        IntegrityError: what is deployed does not hold.
        ConflictError: the port is taken, or another server writes these records.
        StorageError: records cannot be written.
    """
    check_settings(settings)
    signature = read_signature(Path(settings.live))  # before: what changes while loading is noticed
    vault = Vault(Path(settings.keys) / DATA_KEYS, os.environ)
    state = load_live(Path(settings.live), Path(settings.keys), make_runtime, None, vault)
    uvloop.run(_serve(settings, state, signature, ready, make_runtime, vault))


def check_settings(settings: ServerSettings) -> None:
    """Refuse what must not be served.

    Raises:
        UsageError: open to others than this machine, without TLS, a certificate that is not right, or more workers
            than there can be.
    """
    check_binding(settings.binding, is_open=settings.open)
    if settings.binding.tls is not None:
        check_tls(settings.binding.tls, time.time())
    if settings.workers != 1:
        raise UsageError(f"{settings.workers} workers were asked for; one is what this version can run.")


async def _serve(
    settings: ServerSettings,
    state: LiveState,
    signature: Signature,
    ready: Callable[[str], None] | None,
    make_runtime: Callable[[bytes], Runtime],
    vault: Vault,
) -> None:
    loop = asyncio.get_running_loop()
    live = Path(settings.live)
    writer = _open_writer(settings, live.name, vault)
    counters = Counters()
    names = PathSettings(live.name, settings.worker, time.time, time.monotonic, os.urandom)
    path = PredictionPath(loop, writer, counters, names)
    outcomes = _open_outcomes(settings, live.name, loop, counters, vault)
    server = Server(settings, loop, state, path, counters, time.time, outcomes)
    tls = settings.binding.tls
    accept = partial(Connection, server, time.monotonic)
    listener = Listener(loop, accept, tls, time.time, settings.receive_timeout_s)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        port = await listener.open(settings.host, settings.port)
        server.certificate_expires = listener.expires
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        gc.collect()
        gc.freeze()
        watch = loop.create_task(_watch(server, listener, live, Path(settings.keys), make_runtime, signature, vault))
        if ready is not None:
            ready(f"{settings.binding.scheme}://{host}:{port}")
        await stop.wait()
        watch.cancel()
        await _drain(server, listener)
        path.stop(1.0)
        if outcomes is not None:
            outcomes.close()
    finally:
        writer.close()


def _open_writer(settings: ServerSettings, environment: str, vault: Vault) -> SegmentWriter:
    return SegmentWriter(
        Path(settings.records), environment, settings.worker, now=time.time, monotonic=time.monotonic, vault=vault
    )


def _open_outcomes(
    settings: ServerSettings, environment: str, loop: asyncio.AbstractEventLoop, counters: Counters, vault: Vault
) -> OutcomeLog | None:
    if not settings.outcomes:
        return None
    return OutcomeLog(
        Path(settings.outcomes),
        environment,
        settings.worker,
        now=time.time,
        monotonic=time.monotonic,
        call_soon=loop.call_soon_threadsafe,
        counters=counters,
        vault=vault,
    )


async def _watch(
    server: Server,
    listener: Listener,
    live: Path,
    keys: Path,
    make_runtime: Callable[[bytes], Runtime],
    signature: Signature,
    vault: Vault,
) -> None:
    """Notice replaced files, load beside, switch between two ticks; sweep connections."""
    loop = asyncio.get_running_loop()
    loader = Lane("loader")
    swept = loop.time()
    while True:
        await asyncio.sleep(POLL_S)
        if loop.time() - swept > SWEEP_S:
            swept = loop.time()
            server.sweep()
            server.audit.look()
            await listener.renew()
            server.certificate_expires = listener.expires
        found = read_signature(live)
        if found == signature:
            continue
        signature = found
        done: asyncio.Future[LiveState] = loop.create_future()
        last = server.state
        loader.submit(lambda last=last, done=done: _load_beside(loop, live, keys, make_runtime, last, vault, done))  # type: ignore[misc]
        try:
            server.switch(await done)
            _log.info("generation %s answers", server.state.deployment.generation)
        except ShipworthyError as error:
            server.counters.deployments_refused += 1
            server.refused = f"a newer deployment or access file was refused ({error.code})"
            _log.error("refused, the last good state answers: %s", error)


def _load_beside(
    loop: asyncio.AbstractEventLoop,
    live: Path,
    keys: Path,
    make_runtime: Callable[[bytes], Runtime],
    last: LiveState,
    vault: Vault,
    done: "asyncio.Future[LiveState]",
) -> None:
    try:
        state = load_live(live, keys, make_runtime, last, vault)
    except ShipworthyError as error:
        loop.call_soon_threadsafe(done.set_exception, error)
    except OSError as error:
        loop.call_soon_threadsafe(done.set_exception, StorageError(f"{live} cannot be read: {error.strerror}."))
    except Exception as error:  # noqa: BLE001 (a worker loop: the last good state answers on)
        _log.exception("loading failed")
        loop.call_soon_threadsafe(done.set_exception, InternalError(f"{live} cannot be loaded: {error}"))
    else:
        loop.call_soon_threadsafe(done.set_result, state)


async def _drain(server: Server, listener: Listener) -> None:
    loop = asyncio.get_running_loop()
    server.is_draining = True
    listener.close()
    for connection in tuple(server.connections):
        connection.close_when_idle()
    end = loop.time() + DRAIN_S
    while server.connections and loop.time() < end:
        await asyncio.sleep(0.01)
    for connection in tuple(server.connections):
        connection.abort()


def _decode_for(servable: Servable, body: bytes) -> tuple[Servable, Sample]:
    return servable, servable.decoder.decode(body)


def _respond(content: bytes, exchange: Exchange, body: bytes) -> None:  # noqa: ARG001
    exchange.respond(200, content)


def _refuse_outcomes(exchange: Exchange, body: bytes) -> None:  # noqa: ARG001
    exchange.refuse(make_problem(404, "This server takes no outcomes: it was started without a place to keep them."))


def main() -> int:
    """Run one server from settings on the command line; one JSON line on stdout when it answers."""
    parser = argparse.ArgumentParser(prog="python -m shipworthy.serving.server")
    parser.add_argument("--settings", required=True, help="ServerSettings as JSON")
    parser.add_argument("--with-parent", action="store_true", help="stop when standard input ends")
    arguments = parser.parse_args()
    if arguments.with_parent:
        end_with_parent()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        settings = msgspec.json.decode(arguments.settings, type=ServerSettings)
        serve(settings, ready=_announce, make_runtime=_runtime(settings))
    except (ShipworthyError, msgspec.MsgspecError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _runtime(settings: ServerSettings) -> Callable[[bytes], Runtime]:
    if settings.rehearse == "failure":
        return partial(FailingRuntime, warm_runs=len(WARM_ROWS))
    return OnnxRuntime


def _announce(address: str) -> None:
    sys.stdout.write(msgspec.json.encode({"address": address, "pid": os.getpid()}).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
