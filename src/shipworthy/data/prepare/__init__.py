"""From the sources to one frame: steps, what each counts, and that none sees the future."""

__all__ = [
    "child",
    "counts",
    "point_in_time",
    "run",
    "steps",
]
