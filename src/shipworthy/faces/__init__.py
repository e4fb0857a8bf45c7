"""Parse, call, show: the command line. With serving the only room that knows exit codes and HTTP status."""

__all__ = [
    "api",
    "charts",
    "cli",
    "console",
    "control_process",
    "control_settings",
    "flights",
    "guard",
    "listener",
    "mortgage",
    "narrator",
    "oidc",
    "oidc_settings",
    "problems",
    "replay",
    "sessions",
    "wiring",
]
