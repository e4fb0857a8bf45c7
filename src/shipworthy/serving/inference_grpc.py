"""The Open Inference Protocol over gRPC: the methods, who may call them, and what a refusal looks like.

A call is judged by its metadata before its message is read, by the gate that judges HTTP. Needs `grpcio`.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote, unquote

import grpc

from shipworthy.serving.caller import Caller
from shipworthy.serving.decode import InvalidRequestError
from shipworthy.serving.gate import Access
from shipworthy.serving.inference import SERVER, InferRequest, InferResponse, describe_model, flatten
from shipworthy.serving.inference_messages import MESSAGES, SERVICE, Message, parse, read_request, write_response
from shipworthy.serving.plain import problem_of
from shipworthy.serving.problem import Problem, make_problem
from shipworthy.serving.protocol import Span
from shipworthy.serving.servable import Servable
from shipworthy.serving.worker import Worker

METHODS: Mapping[str, Access] = {
    "ServerLive": "public",
    "ServerReady": "public",
    "ModelReady": "public",
    "ServerMetadata": "public",
    "ModelMetadata": "predict",
    "ModelInfer": "predict",
}
CODES: Mapping[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
}
FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
MAX_DETAIL_BYTES = 6000  # as they travel; callers take 8 KB of metadata unless they are told to take more
_KEPT = frozenset({"authorization", "origin"})
_TRACE = frozenset({"traceparent", "tracestate"})

_log = logging.getLogger("shipworthy.serving")


@dataclass(slots=True)
class GrpcCall:
    """One call, as the gate sees it."""

    path: bytes
    headers: Mapping[bytes, bytes]
    address: str
    arrived: float  # monotonic seconds
    caller: Caller | None = None


class _RefusedError(Exception):
    def __init__(self, problem: Problem, wait_s: int = 0) -> None:
        self.problem = problem
        self.wait_s = wait_s or int(problem.status == 503)
        super().__init__(problem.detail)


class InferenceService:
    """The protocol's service.

    Args:
        worker: answers; its gate, counters and live state are those of HTTP.
        receive_timeout_s: for a message to come in whole.
        clock: monotonic seconds.
    """

    def __init__(self, worker: Worker, receive_timeout_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._worker = worker
        self._receive_timeout_s = receive_timeout_s
        self._clock = clock
        self._methods: Mapping[str, Callable[[GrpcCall, Message], Awaitable[Message]]] = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }

    def handler(self) -> Any:
        """What a server is given; it takes messages as a stream of one, so that those of refused calls stay unread."""
        handlers = {name: grpc.stream_unary_rpc_method_handler(partial(self._serve, name)) for name in METHODS}
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _serve(self, method: str, messages: object, context: Any) -> bytes:
        code = grpc.StatusCode.CANCELLED  # if nothing else becomes of it
        span = self._begin_span(method, context)
        try:
            result = await self._try(method, context)
            code = CODES[result.problem.status] if isinstance(result, _RefusedError) else grpc.StatusCode.OK
        finally:
            self._worker.counters.grpc_responses[f"{method} {code.name}"] += 1
            if span is not None:
                span.end("rpc.grpc.status_code", code.value[0], is_error=code in FAULTS)
        if isinstance(result, _RefusedError):
            after = (("retry-after", str(result.wait_s)),) if result.wait_s else ()
            await context.abort(code, shorten(flatten(result.problem)), after)  # raises
            return b""
        return result

    def _begin_span(self, method: str, context: Any) -> Span | None:
        if self._worker.begin_span is None:
            return None
        found: dict[bytes, bytes] = {}
        for name, value in context.invocation_metadata() or ():
            if name in _TRACE:
                key = name.encode()
                found[key] = found[key] + b"," + value.encode() if key in found else value.encode()
        attributes = {"rpc.system": "grpc", "rpc.service": SERVICE, "rpc.method": method}
        return self._worker.begin_span(f"{SERVICE}/{method}", found, attributes)

    async def _try(self, method: str, context: Any) -> "bytes | _RefusedError":
        try:
            return await self._answer(method, context)
        except _RefusedError as error:
            return error
        except InvalidRequestError as error:
            return _RefusedError(problem_of(error))
        except Exception:  # noqa: BLE001 (a worker loop: logged and answered)
            _log.exception("%s failed", method)
            return _RefusedError(make_problem(500, "The request could not be answered; the fault is the server's."))

    async def _answer(self, method: str, context: Any) -> bytes:
        worker = self._worker
        call = _call_of(method, context, self._clock())
        if (found := worker.gate.check_origin(call) or worker.gate.check_caller(call, METHODS[method])) is not None:
            raise _RefusedError(make_problem(found.status, found.detail), found.wait_s)
        content = await self._receive(context)
        call.arrived = self._clock()
        if not worker.hold(len(content)):
            raise _RefusedError(make_problem(503, "Too much is being received; try again later."))
        try:
            message = await self._methods[method](call, parse(f"{method}Request", content))
        finally:
            worker.hold(-len(content))
        return bytes(message.SerializeToString())

    async def _receive(self, context: Any) -> bytes:
        try:
            async with asyncio.timeout(self._receive_timeout_s):
                content = await context.read()
        except TimeoutError:
            raise _RefusedError(make_problem(408, "The request did not come in time.")) from None
        if not isinstance(content, bytes):
            raise _RefusedError(make_problem(400, "The call has no message."))
        return content

    # --- the methods

    async def _live(self, call: GrpcCall, message: Message) -> Message:
        return MESSAGES["ServerLiveResponse"](live=True)

    async def _ready(self, call: GrpcCall, message: Message) -> Message:
        return MESSAGES["ServerReadyResponse"](ready=self._worker.is_ready)

    async def _model_ready(self, call: GrpcCall, message: Message) -> Message:
        self._find(message.name, message.version)
        return MESSAGES["ModelReadyResponse"](ready=self._worker.is_ready)

    async def _server_metadata(self, call: GrpcCall, message: Message) -> Message:
        return MESSAGES["ServerMetadataResponse"](**SERVER)

    async def _model_metadata(self, call: GrpcCall, message: Message) -> Message:
        servable = self._find(message.name, message.version)
        versions = [one.version for one in self._worker.state.servables]
        return MESSAGES["ModelMetadataResponse"](**describe_model(servable, versions))

    async def _infer(self, call: GrpcCall, message: Message) -> Message:
        servable = self._find(message.model_name, message.model_version)
        reply = _FutureReply(asyncio.get_running_loop().create_future())
        self._worker.inference.infer(servable, message.model_version or None, call, read_request(message), reply)
        return await reply.future

    def _find(self, name: str, version: str) -> Servable:
        """The release of this version; without one, the first."""
        state = self._worker.state
        if name == state.deployment.system:
            for servable in state.servables:
                if version in ("", servable.version):
                    return servable
        raise _RefusedError(make_problem(404, "No such model, or no such version of it."))


class _FutureReply:
    """An answer that the call awaits; a caller that went away is told nothing."""

    def __init__(self, future: "asyncio.Future[Message]") -> None:
        self.future = future

    def answer(self, request: InferRequest, response: InferResponse) -> None:
        if not self.future.done():
            self.future.set_result(write_response(request, response))

    def refuse(self, problem: Problem, wait_s: int = 0) -> None:
        if not self.future.done():
            self.future.set_exception(_RefusedError(problem, wait_s))


def _call_of(method: str, context: Any, clock: float) -> GrpcCall:
    headers: dict[bytes, bytes] = {}
    for name, value in context.invocation_metadata() or ():
        if name in _KEPT:
            content = value if isinstance(value, bytes) else value.encode()
            if headers.setdefault(name.encode(), content) != content:
                raise _RefusedError(make_problem(400, f"The metadata {name} is sent twice."))
    return GrpcCall(f"/{SERVICE}/{method}".encode(), headers, read_peer(context.peer()), clock)


def read_peer(peer: str) -> str:
    """The address in what gRPC says of a peer; empty if it has none.

    >>> read_peer("ipv4:192.0.2.1:4711"), read_peer("ipv6:%5B2001:db8::1%5D:4711"), read_peer("unix:")
    ('192.0.2.1', '2001:db8::1', '')
    """
    family, _, rest = peer.partition(":")
    return unquote(rest).rpartition(":")[0].strip("[]") if family in ("ipv4", "ipv6") else ""


def shorten(text: str) -> str:
    """As much of `text` as a status may hold: in it, what is not ASCII takes three bytes for each of its own.

    >>> shorten("short"), len(shorten("a" * 10_000)), len(shorten("é" * 10_000))
    ('short', 5992, 999)
    """
    if len(quote(text, safe="")) <= MAX_DETAIL_BYTES:
        return text
    left = MAX_DETAIL_BYTES - len(quote("…"))
    kept = []
    for character in text:
        left -= 1 if character.isascii() else len(quote(character))
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + "…"
