"""The durable log of predictions: one writer for each segment, group commit, and a reader that merges what a
caller sent twice. What was acknowledged is found again, once."""

__all__ = ["bulk", "disk", "format", "parquet", "read", "scan", "sealed", "spool", "write"]
