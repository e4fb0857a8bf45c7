"""From sources to trusted snapshots: read, prepare, validate, snapshot, profile."""

__all__ = [
    "columns",
    "databases",
    "datetimes",
    "health",
    "infer",
    "leaks",
    "novelty",
    "prepare",
    "prepare_child",
    "profile",
    "quality",
    "requests",
    "schema_change",
    "snapshot",
    "sources",
    "split",
    "tables",
    "validate",
    "values",
]
