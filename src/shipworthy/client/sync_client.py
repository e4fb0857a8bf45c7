"""Calls a served system over HTTP, one call at a time for each thread.

>>> client = Client("http://127.0.0.1:8080", system="loans")
>>> client.system
'loans'
"""

import os
import queue
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from shipworthy.client.endpoint import Endpoint, make_endpoint
from shipworthy.client.messages import (
    OutcomeReport,
    Prediction,
    judge_attempt,
    plan_parts,
    read_health,
    read_prediction,
    read_predictions,
    read_report,
    write_outcomes,
    write_prediction_request,
)
from shipworthy.client.pool import Pool, is_quiet
from shipworthy.client.retries import Failure, Retries, check_habits, fail_asking, fail_connecting, fail_waiting
from shipworthy.client.wire import Answer, AnswerReader
from shipworthy.kernel.errors import ShipworthyError

CHUNK_BYTES = 64 * 1024  # sent or received at once, each with the time that is left
_Address = tuple[int, Any]  # family, and where


class Client:
    """A caller of one system. Safe to use from several threads; each call takes a connection of its own.

    Args:
        address: such as `https://models.example.com`.
        system: the system's name.
        token: sent as bearer token, if given.
        timeout_s: for a whole call, with all its attempts and the waits between them.
        retries: how often to try again where that is safe: nothing was sent, the server said when to come back, or the
            request carries an `id`, under which a repetition counts once.
        connections: open at the same time; further threads wait for one, within their `timeout_s`.
        ca: PEM file of the authorities to believe, of an https address; None: those of this machine.
        client_cert: PEM files of a certificate and its key, where the server asks for them.
        sleep: waits between attempts, seconds.
        chance: uniform in [0, 1); spreads the attempts of callers that failed together.

    Raises:
        UsageError: the address is not one of HTTP, a certificate is not right, or a number makes no sense.
        NotFoundError: there is no such certificate.
    """

    def __init__(
        self,
        address: str,
        *,
        system: str,
        token: str | None = None,
        timeout_s: float = 10.0,
        retries: int = 2,
        connections: int = 32,
        ca: Path | None = None,
        client_cert: tuple[Path, Path] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        check_habits(timeout_s, retries, connections)
        self._endpoint = make_endpoint(address, system, token=token, ca=ca, client_cert=client_cert)
        self._timeout_s = timeout_s
        self._retries = retries
        self._connections = connections
        self._turns = threading.BoundedSemaphore(connections)
        self._pool: Pool[_Connection] = Pool()
        self._sleep = sleep
        self._chance = chance

    @property
    def system(self) -> str:
        """The system that is called."""
        return self._endpoint.system

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; those in use, after their answer."""
        self._pool.empty()

    def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        context: Mapping[str, Any] | None = None,
        id: str | None = None,
        reasons: bool = False,
    ) -> Prediction:
        """Predict for one request.

        Args:
            inputs: feature -> value.
            context: what is recorded with it.
            id: idempotency key; makes a repetition after a lost answer safe.
            reasons: whether to ask for reasons.

        Raises:
            InvalidRequestError: the server did not accept it; names every field.
            AccessError: no valid token, or it does not allow this.
            NotFoundError: the server does not serve this system.
            RateLimitedError: too much was asked, and waiting would take longer than `timeout_s`.
            DeadlineError: no answer within `timeout_s`.
            UnavailableError: no answer, or the server cannot answer now.
        """
        content = write_prediction_request(inputs, context, id, reasons)
        return read_prediction(self._call("predict", content, has_id=id is not None, started=time.monotonic()))

    def predict_many(self, requests: Sequence[Mapping[str, Any]]) -> list[Prediction | ShipworthyError]:
        """Predict for many requests, each `{"inputs", "context"?, "id"?}`; a bad one does not lose the others.

        What is longer than the server takes at once (10,000 requests) is sent in parts, one after the other, all within
        `timeout_s`. If a part fails, so does the call; with ids it is safe to make it again.

        Returns:
            For each request, in their order, its prediction, or the error that says what is wrong with it.

        Raises:
            As `predict`, if a whole part is refused.
        """
        parts, refused = plan_parts(requests)
        found: dict[int, Prediction | ShipworthyError] = {**refused}
        started = time.monotonic()
        for part in parts:
            answer = self._call("predict", part.content, has_id=part.has_ids, started=started)
            found.update(zip(part.places, read_predictions(answer, len(part.places)), strict=True))
        return [found[place] for place in range(len(requests))]

    def tell_outcomes(self, outcomes: Sequence[Mapping[str, Any]]) -> OutcomeReport:
        """Tell what came true of up to 10,000 predictions; on the server's disk when this returns.

        Telling again has no effect, so a lost answer is simply asked for again.

        Args:
            outcomes: each `{"id", "value", "time"?}`: the id of the request or of the prediction; the class as text,
                or the number; when it was known, RFC 3339 or Unix seconds (default: now).

        Raises:
            InvalidRequestError: none was accepted; names every field at fault.
            AccessError: no valid token, or it does not allow this.
            NotFoundError: the server does not serve this system, or takes no outcomes.
            RateLimitedError: too much was asked, and waiting would take longer than `timeout_s`.
            DeadlineError: no answer within `timeout_s`.
            UnavailableError: no answer, or the server cannot record them now.
        """
        content = write_outcomes(outcomes)
        return read_report(self._call("outcomes", content, has_id=True, started=time.monotonic()))

    def health(self) -> dict[str, Any]:
        """Whether the server answers predictions, by which releases and which generation of the deployment.

        Raises:
            DeadlineError: no answer within `timeout_s`; nothing is tried again.
            UnavailableError: no answer.
        """
        result = self._attempt(self._endpoint.write_health(), Retries(self._timeout_s, time.monotonic(), 0))
        if isinstance(result, Failure):
            raise result.error
        return read_health(result)

    def _call(self, act: str, content: bytes, *, has_id: bool, started: float) -> Answer:
        request = self._endpoint.write_call(act, content)
        retries = Retries(self._timeout_s, started, self._retries)
        while True:
            result = judge_attempt(self._attempt(request, retries), time.time())
            if isinstance(result, Answer):
                return result
            self._sleep(retries.wait_s(result, has_id=has_id, clock=time.monotonic(), chance=self._chance()))

    def _attempt(self, request: bytes, retries: Retries) -> Answer | Failure:
        if not self._turns.acquire(timeout=retries.left_s(time.monotonic())):
            return fail_waiting(retries, self._connections)
        try:
            return self._exchange(request, retries)
        finally:
            self._turns.release()

    def _exchange(self, request: bytes, retries: Retries) -> Answer | Failure:
        """Ask once, on a connection that is open, or else on a new one."""
        era = self._pool.era
        connection = self._pool.take(time.monotonic())
        if connection is None:
            try:
                connection = _connect(self._endpoint, retries.deadline)
            except OSError as error:
                return fail_connecting(self._endpoint.host, error, retries)
        keeps_open = False
        try:
            answer = connection.ask(request, retries.deadline)
            keeps_open = answer.keeps_open
        except OSError as error:
            return fail_asking(self._endpoint.host, error, retries)
        finally:
            if keeps_open:
                self._pool.keep(connection, time.monotonic(), era)
            else:
                connection.close()
        return answer


class _Connection:
    """One socket. Belongs to one call at a time, and to the process that made it."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._process = os.getpid()

    def is_open(self) -> bool:
        return self._process == os.getpid() and is_quiet(self._wire)

    def close(self) -> None:
        self._wire.close()

    def ask(self, request: bytes, deadline: float) -> Answer:
        broken = self._send(request, deadline)
        reader = AnswerReader()
        answer = None
        while answer is None:
            self._wire.settimeout(_left_s(deadline))
            try:
                data = self._wire.recv(CHUNK_BYTES)
            except OSError:
                if broken is not None:
                    raise broken from None
                raise
            answer = reader.feed(data)
        return answer

    def _send(self, request: bytes, deadline: float) -> OSError | None:
        """Send it all; or the error that broke it off, as a server may answer before it has read everything."""
        rest = memoryview(request)
        while rest:
            self._wire.settimeout(_left_s(deadline))
            try:
                rest = rest[self._wire.send(rest[:CHUNK_BYTES]) :]
            except TimeoutError:
                raise
            except OSError as error:
                return error
        return None


def _connect(endpoint: Endpoint, deadline: float) -> _Connection:
    addresses = _look_up(endpoint.host, endpoint.port, deadline)
    failed: OSError = ConnectionError("it has no address")
    for place, (family, where) in enumerate(addresses):
        wire = socket.socket(family, socket.SOCK_STREAM)
        try:
            wire.settimeout(_left_s(deadline) / (len(addresses) - place))  # one that is dead leaves time for the others
            wire.connect(where)
            wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if endpoint.tls is not None:
                wire.settimeout(_left_s(deadline))
                wire = endpoint.tls.wrap_socket(wire, server_hostname=endpoint.host)
        except ssl.SSLError:
            wire.close()
            raise
        except OSError as error:
            wire.close()
            failed = error
        else:
            return _Connection(wire)
    raise failed


def _look_up(host: str, port: int, deadline: float) -> list[_Address]:
    """A name's addresses. On a thread, as the system's own look-up keeps to no deadline."""
    found: queue.SimpleQueue[list[_Address] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            found.put([(line[0], line[4]) for line in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)])
        except OSError as error:
            found.put(error)

    threading.Thread(target=look_up, daemon=True).start()
    try:
        addresses = found.get(timeout=_left_s(deadline))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(addresses, OSError):
        raise addresses
    return addresses


def _left_s(deadline: float) -> float:
    """Seconds that are left.

    Raises:
        TimeoutError: none are.
    """
    left_s = deadline - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s
