"""A caller: what one token stands for, and what its principal has used of its limits."""

import math
from collections.abc import Callable
from dataclasses import dataclass

BURST_S = 2.0  # of a principal's rate may come at once
DAY_S = 86400
WHOLE = 1 - 1e-9  # of a request: who waited as told is not refused for a rounding
NEVER = math.inf


class Meter:
    """What one principal has used: a bucket of requests, and the rows of a day.

    Args:
        per_second: requests, on the average; None: as many as can be answered.
        per_day: rows from midnight to midnight, UTC; None: as many.
        clock: monotonic seconds.
    """

    __slots__ = ("_clock", "_day", "_level", "_seen", "per_day", "per_second", "rows")

    def __init__(self, per_second: float | None, per_day: int | None, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._seen = clock()
        self._day = 0
        self.rows = 0  # of this day
        self.per_second = per_second
        self.per_day = per_day
        self._level = self._burst

    @property
    def _burst(self) -> float:
        return max(1.0, BURST_S * (self.per_second or 0.0))

    def limit(self, per_second: float | None, per_day: int | None) -> None:
        """Set other limits; what was used stays used."""
        self.per_second, self.per_day = per_second, per_day
        self._level = min(self._level, self._burst)

    def take_request(self) -> float:
        """0 if a request may go on, else the seconds until one may."""
        rate = self.per_second
        if rate is None:
            return 0.0
        clock = self._clock()
        self._level = min(self._burst, self._level + (clock - self._seen) * rate)
        self._seen = clock
        if self._level < WHOLE:
            return (1.0 - self._level) / rate
        self._level = max(0.0, self._level - 1.0)
        return 0.0

    def take_rows(self, rows: int, now: float) -> float:
        """0 if as many rows may go on, and then they are counted; else the seconds until the next day.

        Args:
            rows: of one request.
            now: Unix seconds.
        """
        if self.per_day is None:
            return 0.0
        day = int(now // DAY_S)
        if day > self._day:  # a clock that is set back begins no new day
            self._day, self.rows = day, 0
        if self.rows + rows > self.per_day:
            return (self._day + 1) * DAY_S - now
        self.rows += rows
        return 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """What one token stands for."""

    name: str  # of the token
    may: frozenset[str]  # kinds of access
    expires: float = NEVER  # Unix seconds
    meter: Meter | None = None


OPEN = Caller("open", frozenset({"predict", "tell"}))
