"""What a system promises: the contract's types, its parsing with file, line and key in every error, its
JSON Schema, and the expressions it may contain. Pure: text in, values out."""

__all__ = [
    "expression_functions",
    "expression_nodes",
    "expression_parser",
    "expression_rows",
    "expression_text",
    "expression_tokens",
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
    "spelling",
    "steps",
    "types",
]
