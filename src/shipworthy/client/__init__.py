"""A thin client for callers of a served system; needs nothing but Python and our error types."""

__all__ = ["client"]
