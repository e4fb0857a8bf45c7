"""From sources to trusted snapshots: read, prepare, validate, snapshot, profile."""

__all__: list[str] = []
