"""The work of each of `ship`'s stages; `workflows.ship` decides which has to be done."""

__all__ = ["folders", "ingest", "judge", "pack", "release", "rows", "train"]
