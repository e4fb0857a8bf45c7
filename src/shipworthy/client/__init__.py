"""A thin client for callers. Imports kernel alone."""

__all__: list[str] = []
