"""The only durable state about decisions: events in a Merkle log, artefact store, projections in SQL."""

__all__ = [
    "artefacts",
    "audit",
    "checkpoint",
    "events",
    "files",
    "lineage",
    "log",
    "projections",
    "store",
    "tables",
    "tree",
]
