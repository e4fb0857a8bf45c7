"""What a person should be asked about accepted rows before a model learns from them."""

__all__ = [
    "boosting",
    "contamination",
    "find",
    "leaks",
    "noise",
]
