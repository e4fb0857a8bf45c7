"""A thin client for callers of a served system; needs nothing but Python and our error types.

The one room with a front: callers write `from shipworthy.client import Client` (docs/decisions/0013). It may have one
because it imports `kernel.errors` alone, so that no part of it is heavier than the whole.
"""

from shipworthy.client.async_client import AsyncClient
from shipworthy.client.messages import OutcomeProblem, OutcomeReport, Prediction
from shipworthy.client.sync_client import Client
from shipworthy.kernel.errors import (
    AccessError,
    DeadlineError,
    FieldProblem,
    InvalidRequestError,
    NotFoundError,
    RateLimitedError,
    ShipworthyError,
    UnavailableError,
    UsageError,
)

__all__ = [
    "AccessError",
    "AsyncClient",
    "Client",
    "DeadlineError",
    "FieldProblem",
    "InvalidRequestError",
    "NotFoundError",
    "OutcomeProblem",
    "OutcomeReport",
    "Prediction",
    "RateLimitedError",
    "ShipworthyError",
    "UnavailableError",
    "UsageError",
]
