"""Parse, call, show: the command line. With serving the only room that knows exit codes and HTTP status."""

__all__ = ["cli", "flights", "wiring"]
