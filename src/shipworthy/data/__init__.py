"""From sources to trusted snapshots: read, prepare, validate, snapshot, profile."""

__all__ = [
    "columns",
    "databases",
    "datetimes",
    "diff",
    "infer",
    "leaks",
    "novelty",
    "prepare",
    "prepare_child",
    "quality",
    "requests",
    "snapshot",
    "sources",
    "split",
    "tables",
    "validate",
    "values",
    "versions",
]
