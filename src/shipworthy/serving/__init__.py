"""Traffic to answers and records: a verified payload from local disk, validation, a model thread with a deadline,
the decision policy, a record before the answer. Imports nothing heavy and needs no database to start or go on."""

__all__ = [
    "answer",
    "counters",
    "decode",
    "inference",
    "live",
    "openapi",
    "outcomes",
    "path",
    "plain",
    "policy",
    "problem",
    "protocol",
    "router",
    "routes",
    "servable",
    "server",
    "values",
]
