"""A caller: what one token stands for, and what its principal has used of its limits."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

BURST_S = 2.0  # of a principal's rate may come at once
DAY_S = 86400
WHOLE = 1 - 1e-9  # of a request: who waited as told is not refused for a rounding
NEVER = math.inf


class Use(msgspec.Struct):
    """What one principal has used."""

    spent: float = 0.0  # requests out of the bucket
    seen: float = 0.0  # when that was so, monotonic seconds
    day: int = 0  # since 1970, UTC
    rows: int = 0  # of that day


class Cell(Protocol):
    """Where a principal's use is kept."""

    def change(self, act: Callable[[Use], float]) -> float:
        """What `act` gives for the use, which it may change, while nobody else does."""


class MemoryCell:
    """A cell of this process alone."""

    __slots__ = ("_use",)

    def __init__(self) -> None:
        self._use = Use()

    def change(self, act: Callable[[Use], float]) -> float:
        """See `Cell`."""
        return act(self._use)


class Meter:
    """What one principal may use: a bucket of requests, and the rows of a day.

    Args:
        per_second: requests, on the average; None: as many as can be answered.
        per_day: rows from midnight to midnight, UTC; None: as many.
        clock: monotonic seconds.
        cell: where its use is kept.
    """

    __slots__ = ("_cell", "_clock", "per_day", "per_second")

    def __init__(
        self, per_second: float | None, per_day: int | None, clock: Callable[[], float], cell: Cell | None = None
    ) -> None:
        self._clock = clock
        self._cell = cell or MemoryCell()
        self.per_second = per_second
        self.per_day = per_day

    @property
    def rows(self) -> int:
        """Used of this day."""
        return int(self._cell.change(lambda use: use.rows))

    def limit(self, per_second: float | None, per_day: int | None) -> None:
        """Set other limits; what was used stays used."""
        self.per_second, self.per_day = per_second, per_day

    def take_request(self) -> float:
        """0 if a request may go on, else the seconds until one may."""
        rate = self.per_second
        if rate is None:
            return 0.0
        burst = max(1.0, BURST_S * rate)
        clock = self._clock()

        def take(use: Use) -> float:
            use.spent = min(burst, max(0.0, use.spent - max(0.0, clock - use.seen) * rate))
            use.seen = clock
            left = burst - use.spent
            if left < WHOLE:
                return (1.0 - left) / rate
            use.spent += 1.0
            return 0.0

        return self._cell.change(take)

    def take_rows(self, rows: int, now: float) -> float:
        """0 if as many rows may go on, and then they are counted; else the seconds until the next day.

        Args:
            rows: of one request.
            now: Unix seconds.
        """
        limit = self.per_day
        if limit is None:
            return 0.0
        day = int(now // DAY_S)

        def take(use: Use) -> float:
            if day > use.day:  # a clock that is set back begins no new day
                use.day, use.rows = day, 0
            if use.rows + rows > limit:
                return (use.day + 1) * DAY_S - now
            use.rows += rows
            return 0.0

        return self._cell.change(take)


@dataclass(frozen=True, slots=True, eq=False)
class Caller:
    """What one token stands for."""

    name: str  # of the token
    may: frozenset[str]  # kinds of access
    expires: float = NEVER  # Unix seconds
    meter: Meter | None = None


OPEN = Caller("open", frozenset({"predict", "tell"}))


class Call(Protocol):
    """A request as far as its caller goes, by whichever protocol it came."""

    arrived: float  # monotonic seconds
    caller: Caller | None  # once the gate has let it through

    @property
    def path(self) -> bytes:
        """What is asked."""

    @property
    def headers(self) -> Mapping[bytes, bytes]:
        """Those that are looked at, by their names in small letters."""

    @property
    def address(self) -> str:
        """Whence it came."""
