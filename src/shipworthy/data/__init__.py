"""From sources to trusted snapshots: read, prepare, validate, snapshot, profile."""

__all__ = [
    "columns",
    "databases",
    "datetimes",
    "infer",
    "leaks",
    "novelty",
    "prepare",
    "prepare_child",
    "quality",
    "references",
    "requests",
    "snapshot",
    "sources",
    "split",
    "tables",
    "validate",
    "values",
]
