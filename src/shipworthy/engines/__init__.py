"""Where heavy work runs: this machine's processes."""

__all__ = ["guard", "lifeline", "local"]
