"""From a snapshot to a candidate: the user's code in a process of its own, its model proven as it is served."""

__all__ = [
    "child",
    "context",
    "convert",
    "edges",
    "graph",
    "job",
    "models",
    "own",
    "parity",
    "reach",
    "run",
    "steps",
    "trees",
]
