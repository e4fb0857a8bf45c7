"""The only durable state about decisions: events in a Merkle log, artefact store, projections in SQL."""

__all__ = [
    "artefacts",
    "audit",
    "checkpoint",
    "database",
    "events",
    "files",
    "lineage",
    "lock",
    "log",
    "projections",
    "rebuild",
    "store",
    "tables",
    "tree",
    "witness",
]
