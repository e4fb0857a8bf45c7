"""Parse, call, show: the command line. With serving the only room that knows exit codes and HTTP status."""

__all__ = [
    "api",
    "charts",
    "cli",
    "console",
    "control_process",
    "flights",
    "guard",
    "listener",
    "mortgage",
    "narrator",
    "problems",
    "replay",
    "sessions",
    "wiring",
]
