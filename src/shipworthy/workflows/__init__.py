"""The stories that cross rooms."""

__all__: list[str] = []
