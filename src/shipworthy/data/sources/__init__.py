"""Where rows come from: places and formats, found first and read when they are needed."""

__all__ = [
    "address",
    "attempts",
    "block",
    "columnar",
    "databases",
    "delimited",
    "delta",
    "dialect",
    "downloads",
    "encodings",
    "excel",
    "files",
    "found",
    "http",
    "incremental",
    "json_lines",
    "objects",
    "read",
    "remote",
    "table_files",
]
