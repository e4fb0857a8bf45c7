"""From sources to trusted snapshots: read, prepare, validate, snapshot, profile."""

__all__ = ["columns", "datetimes", "infer", "prepare", "quality", "snapshot", "sources", "split", "validate", "values"]
