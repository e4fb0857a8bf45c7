"""From sources to trusted snapshots: read, prepare, validate, snapshot, profile."""

__all__ = [
    "columns",
    "databases",
    "datetimes",
    "infer",
    "leaks",
    "novelty",
    "origins",
    "prepare",
    "prepare_child",
    "quality",
    "requests",
    "snapshot",
    "sources",
    "split",
    "table_files",
    "tables",
    "validate",
    "values",
]
