"""Pure functions on arrays: intervals, metrics, calibration, profiles. Knows no platform word."""

__all__ = [
    "calibration",
    "distance",
    "effect",
    "estimates",
    "history",
    "intervals",
    "metrics",
    "novelty",
    "profile",
    "ranking",
    "sequential",
    "shapley",
    "two_sample",
]
