"""Pure functions on arrays: intervals, metrics, calibration, profiles. Knows no platform word."""

__all__ = [
    "calibration",
    "estimates",
    "intervals",
    "metrics",
    "profile",
    "ranking",
    "sequential",
    "shapley",
    "two_sample",
]
