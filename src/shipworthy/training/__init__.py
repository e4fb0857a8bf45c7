"""From a snapshot to a candidate: the user's code in a process of its own, its model proven in ONNX."""

__all__ = ["child", "context", "edges", "job", "models", "parity", "reach", "run", "trees"]
