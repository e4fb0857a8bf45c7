"""Calls a served system over HTTP from asyncio (or uvloop), many calls at a time.

>>> AsyncClient("http://127.0.0.1:8080", system="loans").system
'loans'
"""

import asyncio
import random
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from shipworthy.kernel.errors import ShipworthyError, UsageError


class AsyncClient:
    """A caller of one system, for one event loop. Hundreds of calls may be under way; each has a connection of its own.

    A call that is cancelled closes its connection, so that its answer is never taken for another's.

    Args:
        address: such as `https://models.example.com`.
        system: the system's name.
        token: sent as bearer token, if given.
        timeout_s: for a whole call, with all its attempts and the waits between them.
        retries: how often to try again where that is safe, as for `Client`.
        connections: open at the same time; further calls wait for one, within their `timeout_s`.
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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        check_habits(timeout_s, retries, connections)
        self._endpoint = make_endpoint(address, system, token=token, ca=ca, client_cert=client_cert)
        self._timeout_s = timeout_s
        self._retries = retries
        self._connections = connections
        self._turns = asyncio.Semaphore(connections)
        self._pool: Pool[_Connection] = Pool()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sleep = sleep
        self._chance = chance

    @property
    def system(self) -> str:
        """The system that is called."""
        return self._endpoint.system

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; those in use, after their answer."""
        self._hold_to_loop()
        idle = self._pool.empty()
        if idle:
            await asyncio.wait([connection.lost for connection in idle])

    async def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        context: Mapping[str, Any] | None = None,
        id: str | None = None,
        reasons: bool = False,
    ) -> Prediction:
        """Predict for one request: arguments and errors are those of `Client.predict`."""
        content = write_prediction_request(inputs, context, id, reasons)
        return read_prediction(await self._call("predict", content, has_id=id is not None, started=time.monotonic()))

    async def predict_many(self, requests: Sequence[Mapping[str, Any]]) -> list[Prediction | ShipworthyError]:
        """Predict for many requests: arguments, answers and errors are those of `Client.predict_many`."""
        parts, refused = plan_parts(requests)
        found: dict[int, Prediction | ShipworthyError] = {**refused}
        started = time.monotonic()
        for part in parts:  # not all at once: the server holds some ten thousand rows at a time
            answer = await self._call("predict", part.content, has_id=part.has_ids, started=started)
            found.update(zip(part.places, read_predictions(answer, len(part.places)), strict=True))
        return [found[place] for place in range(len(requests))]

    async def tell_outcomes(self, outcomes: Sequence[Mapping[str, Any]]) -> OutcomeReport:
        """Tell what came true: arguments, report and errors are those of `Client.tell_outcomes`."""
        content = write_outcomes(outcomes)
        return read_report(await self._call("outcomes", content, has_id=True, started=time.monotonic()))

    async def health(self) -> dict[str, Any]:
        """Whether the server answers predictions: answer and errors are those of `Client.health`."""
        result = await self._attempt(self._endpoint.write_health(), Retries(self._timeout_s, time.monotonic(), 0))
        if isinstance(result, Failure):
            raise result.error
        return read_health(result)

    async def _call(self, act: str, content: bytes, *, has_id: bool, started: float) -> Answer:
        request = self._endpoint.write_call(act, content)
        retries = Retries(self._timeout_s, started, self._retries)
        while True:
            result = judge_attempt(await self._attempt(request, retries), time.time())
            if isinstance(result, Answer):
                return result
            await self._sleep(retries.wait_s(result, has_id=has_id, clock=time.monotonic(), chance=self._chance()))

    async def _attempt(self, request: bytes, retries: Retries) -> Answer | Failure:
        self._hold_to_loop()
        try:
            async with asyncio.timeout(retries.left_s(time.monotonic())):
                await self._turns.acquire()
        except TimeoutError:
            return fail_waiting(retries, self._connections)
        try:
            return await self._exchange(request, retries)
        finally:
            self._turns.release()

    async def _exchange(self, request: bytes, retries: Retries) -> Answer | Failure:
        """Ask once, on a connection that is open, or else on a new one."""
        era = self._pool.era
        connection = self._pool.take(time.monotonic())
        if connection is None:
            try:
                connection = await _connect(self._endpoint, retries)
            except OSError as error:
                return fail_connecting(self._endpoint.host, error, retries)
        keeps_open = False
        try:
            async with asyncio.timeout(retries.left_s(time.monotonic())):
                answer = await connection.ask(request)
            keeps_open = answer.keeps_open
        except OSError as error:
            return fail_asking(self._endpoint.host, error, retries)
        finally:  # also when cancelled
            if keeps_open:
                self._pool.keep(connection, time.monotonic(), era)
            else:
                connection.close()
        return answer

    def _hold_to_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise UsageError("this client belongs to another event loop; make one in each, with `async with`.")


class _Connection(asyncio.Protocol):
    """One socket. Belongs to one call at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._reader: AnswerReader | None = None  # of the answer that is waited for
        self._answer: asyncio.Future[Answer] | None = None
        self._is_spoilt = False  # ended, or sent what nobody asked for
        self.lost: asyncio.Future[None] = loop.create_future()

    def is_open(self) -> bool:
        if self._is_spoilt or self._transport is None or self._transport.is_closing():
            return False
        return is_quiet(self._transport.get_extra_info("socket"))  # what the loop has not seen yet counts too

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()  # nothing is under way that anybody waits for

    async def ask(self, request: bytes) -> Answer:
        if self._transport is None or self._is_spoilt:
            raise ConnectionResetError("the connection ended before an answer")
        self._reader = AnswerReader()
        self._answer = self._loop.create_future()
        self._transport.write(request)
        try:
            return await self._answer
        finally:
            self._reader = self._answer = None

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        if self._reader is None or self._answer is None or self._answer.done():
            self._is_spoilt = True
            return
        try:
            answer = self._reader.feed(data)
        except OSError as error:
            self._fail(error)
        else:
            if answer is not None:
                self._answer.set_result(answer)

    def eof_received(self) -> bool:
        self.data_received(b"")
        self._is_spoilt = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_spoilt = True
        self._fail(exc if isinstance(exc, OSError) else ConnectionResetError("the connection ended before the answer"))
        if not self.lost.done():
            self.lost.set_result(None)

    def _fail(self, error: OSError) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


async def _connect(endpoint: Endpoint, retries: Retries) -> _Connection:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(retries.left_s(time.monotonic())):
        addresses = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    failed: OSError = ConnectionError("it has no address")
    for place, (_, _, _, _, where) in enumerate(addresses):
        share_s = retries.left_s(time.monotonic()) / (len(addresses) - place)  # one that is dead leaves time for others
        name = None if endpoint.tls is None else endpoint.host
        try:
            async with asyncio.timeout(share_s):
                _, connection = await loop.create_connection(
                    lambda: _Connection(loop), str(where[0]), int(where[1]), ssl=endpoint.tls, server_hostname=name
                )
        except ssl.SSLError:
            raise
        except OSError as error:
            failed = error
        else:
            return connection
    raise failed
