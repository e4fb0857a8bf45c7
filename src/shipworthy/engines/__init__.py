"""Where heavy work runs: this machine's processes, and a process of its own for each Python model."""

__all__ = ["confine", "frames", "guard", "lifeline", "local", "model_child", "model_process"]
