"""Problems as callers see them: RFC 9457 documents that name what to mend and nothing of ours."""

from collections.abc import Sequence

import msgspec

MEDIA = b"application/problem+json"
_BASE = "https://shipworthy.dev/problems/"
TITLES = {
    400: "The request cannot be read",
    401: "A token is needed",
    403: "The token does not allow this",
    404: "There is nothing here",
    405: "The method is not allowed here",
    408: "The request came too slowly",
    413: "The body is too large",
    415: "The body must be JSON",
    417: "The expectation cannot be met",
    421: "The request is for another server",
    422: "The request is not valid",
    429: "Too much is asked",
    431: "The header is too large",
    500: "The server failed",
    503: "The server cannot answer now",
}
REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    421: "Misdirected Request",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class FieldProblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One field that cannot be accepted."""

    field: str  # such as `inputs.income`
    expected: str
    got: str | None = None  # the value seen, shortened


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """A problem document."""

    type: str
    title: str
    status: int
    detail: str
    errors: tuple[FieldProblem, ...] = ()


def make_problem(status: int, detail: str, errors: Sequence[FieldProblem] = ()) -> Problem:
    """The document of a refusal with this HTTP status."""
    title = TITLES[status]
    return Problem(_BASE + title.lower().replace(" ", "-"), title, status, detail, tuple(errors))
