"""The stories that cross rooms."""

__all__ = [
    "check",
    "fingerprints",
    "init",
    "inspect",
    "layout",
    "principals",
    "project",
    "segments",
    "serve",
    "ship",
    "shipping",
    "stages",
    "templates",
    "tokens",
    "verify",
]
