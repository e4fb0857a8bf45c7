"""What a system promises: the contract's types, its parsing with file, line and key in every error, its
JSON Schema, and the expressions it may contain. Pure: text in, values out."""

__all__ = [
    "expressions",
    "lookups",
    "nodes",
    "outline",
    "parse",
    "patterns",
    "quantities",
    "reference",
    "schema",
    "sense",
    "types",
]
