"""The route table: every path, its methods, who may call it, and how long its body may be.

Deny by default: a route says `public`, `predict` or `tell`, and what is not in the table does not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from shipworthy.serving.gate import Access, Gate
from shipworthy.serving.problem import make_problem
from shipworthy.serving.protocol import Exchange, Handler

MAX_SWALLOWED_BYTES = 64 * 1024  # of a refused request's body, so that its connection can live on
NO_BODY_BYTES = 0
JSON = frozenset({b"application/json"})
TENSORS = frozenset({b"application/json", b"application/octet-stream"})  # a JSON document, and bytes behind it


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path."""

    handler: Handler
    access: Access
    body_bytes: int = NO_BODY_BYTES
    takes_tensors: bool = False  # its body may be tensors in the binary form


RouteTable = Mapping[bytes, Mapping[bytes, Route]]


def find_route(table: RouteTable, exchange: Exchange, gate: Gate) -> tuple[Handler, int]:
    """What answers or refuses the exchange.

    Args:
        table: by path, then by method.
        exchange: with its header.
        gate: says who may.
    """
    if (refused := gate.check_host(exchange)) is not None:
        return _refusal(refused.status, refused.detail)
    methods = table.get(exchange.path)
    if methods is None:
        return _refusal(404, "No such path.")
    route = methods.get(exchange.method)
    if route is None:
        allowed = b", ".join(sorted(methods))
        return _refusal(405, f"Allowed: {allowed.decode()}.", b"allow: " + allowed + b"\r\n")
    if (refused := gate.check_caller(exchange, route.access)) is not None:
        return _refusal(refused.status, refused.detail, refused.headers)
    headers = exchange.headers
    has_tensors = b"inference-header-content-length" in headers
    if has_tensors and not route.takes_tensors:
        return _refusal(400, "The header inference-header-content-length is for inference requests alone.")
    if route.body_bytes and not _is_media(headers.get(b"content-type"), TENSORS if has_tensors else JSON):
        return _refusal(415, "Send the body as application/json.")
    if route.body_bytes and b"content-encoding" in headers and headers[b"content-encoding"].lower() != b"identity":
        return _refusal(415, "Send the body as it is, without compression.")
    return route.handler, route.body_bytes or MAX_SWALLOWED_BYTES


def _is_media(media: bytes | None, known: frozenset[bytes]) -> bool:
    return media is None or media in known or media.partition(b";")[0].strip().lower() in known


def _refusal(status: int, detail: str, extra: bytes = b"") -> tuple[Handler, int]:
    def refuse(exchange: Exchange, body: bytes) -> None:  # noqa: ARG001
        exchange.refuse(make_problem(status, detail), extra)

    return refuse, MAX_SWALLOWED_BYTES
