"""From sources to trusted snapshots: read, prepare, validate, snapshot, profile."""

__all__ = [
    "columns",
    "databases",
    "datetimes",
    "infer",
    "leaks",
    "novelty",
    "places",
    "prepare",
    "prepare_child",
    "quality",
    "references",
    "replay",
    "requests",
    "snapshot",
    "sources",
    "split",
    "tables",
    "validate",
    "values",
]
