"""From a snapshot to a candidate: the user's code in a process of its own, its model proven in ONNX."""

__all__ = ["child", "context", "convert", "edges", "graph", "job", "models", "parity", "reach", "run", "steps", "trees"]
