"""Problems of the control plane as callers see them: RFC 9457 documents that name nothing of the machine."""

import re
from collections.abc import Mapping, Sequence

import msgspec
from starlette.responses import Response

from shipworthy.kernel.errors import ShipworthyError
from shipworthy.serving.problem import MEDIA, FieldProblem, Problem

TYPES = "https://shipworthy.dev/problems/"
TITLES = {
    400: "The request cannot be read",
    401: "A token is needed",
    403: "This is not allowed",
    404: "There is nothing here",
    405: "The method is not allowed here",
    409: "Something stands in the way",
    411: "The length of the body is needed",
    413: "The body is too large",
    421: "This host is not served here",
    422: "The request is not valid",
    429: "Too many failed attempts",
    500: "The server failed",
    503: "The server cannot answer now",
}
STATUS = {  # code of an error -> status; whatever is not here is our fault
    "usage": 422,
    "request": 422,
    "access": 403,
    "not_found": 404,
    "conflict": 409,
    "refused": 409,
    "contract": 503,
    "source": 503,
    "storage": 503,
    "unavailable": 503,
}
SPOKEN = frozenset({"usage", "request", "access", "not_found", "conflict", "refused"})  # whose words are for callers
SILENT = {
    500: "The details are in the server's log.",
    503: "The project cannot be read or written now; the details are in the server's log.",
}
_INSIDE = re.compile(r"(?:^|[\s'\"(`=:])(?:/|[A-Za-z]:\\|~/)[\w.-]|\.py\b|\bsite-packages\b|Traceback")


def problem(
    status: int, detail: str, errors: Sequence[FieldProblem] = (), headers: Mapping[str, str] | None = None
) -> Response:
    """The answer that refuses a request."""
    title = TITLES.get(status, TITLES[400])
    document = Problem(TYPES + title.lower().replace(" ", "-"), title, status, detail, tuple(errors))
    return Response(msgspec.json.encode(document), status, dict(headers or {}), MEDIA.decode())


def problem_of(error: ShipworthyError) -> Response:
    """The answer to an error of ours: its own words where they are meant for callers and name no place of this machine.

    >>> from shipworthy.kernel.errors import ConflictError
    >>> b"somebody was faster" in problem_of(ConflictError("somebody was faster")).body
    True
    >>> b"/srv" in problem_of(ConflictError("/srv/loans: somebody is at work here")).body
    False
    """
    status = STATUS.get(error.code, 500)
    words = str(error)
    if error.code not in SPOKEN:
        words = SILENT.get(status, SILENT[500])
    elif _INSIDE.search(words):
        words = f"{TITLES[status]}; the details are in the server's log."
    return problem(status, words)
