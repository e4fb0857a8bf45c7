"""From a snapshot to a candidate: the user's code in a process of its own, its model proven in ONNX."""

__all__: list[str] = []
