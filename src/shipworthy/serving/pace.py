"""How many rows a run of a model may have, so that it ends well within the deadline of those rows."""

MAX_RUN_ROWS = 256  # more gains nothing per row and makes batch-mates wait
SHARE = 0.25  # of the deadline that one run may take: rows also wait for the run before theirs


class Pace:
    """Learns from each run. For one thread at a time.

    A run that took too long cuts the limit to what would have fitted; full runs that took less than half of what they
    may double it. So a slow model gets few rows at a time, and one whose runs cost the same at any size gets many.

    Args:
        timeout_s: deadline of a row.

    >>> pace = Pace(timeout_s=1.0)
    >>> pace.learn(rows=256, seconds=1.28)
    >>> pace.limit
    50
    """

    __slots__ = ("_may_take_s", "limit", "row_s")

    def __init__(self, timeout_s: float) -> None:
        self._may_take_s = timeout_s * SHARE
        self.limit = MAX_RUN_ROWS  # rows of one run
        self.row_s = 0.0  # what a row took in the last run of many, seconds; 0: there was none

    def learn(self, rows: int, seconds: float) -> None:
        """What a run of `rows` took."""
        if rows > 1:
            self.row_s = seconds / rows
        if seconds > self._may_take_s:
            self.limit = min(self.limit, max(1, int(rows * self._may_take_s / seconds)))
        elif rows >= self.limit and seconds < self._may_take_s / 2:
            self.limit = min(MAX_RUN_ROWS, 2 * self.limit)
