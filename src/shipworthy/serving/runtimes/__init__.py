"""What runs a model: one file for each runtime, all behind the port `runtime.Runtime`."""

__all__ = ["load", "onnx", "python", "rehearsed", "runtime"]
