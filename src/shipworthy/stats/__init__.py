"""Pure functions on arrays: intervals, tests, calibration, profiles. Knows no platform word."""

__all__: list[str] = []
