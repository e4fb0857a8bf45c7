"""The circuit breaker of a release: a model that keeps failing is left alone, and asked again now and then."""

from typing import Literal

FAILURES = 5  # runs in a row without one usable row
REST_S = 1.0  # before it is asked again; doubled each time that fails
MAX_REST_S = 30.0

State = Literal["closed", "open", "half-open"]


class Breaker:
    """Says whether a release's model is asked. For the event loop alone; time is handed in.

    Closed, every run is let through. After `FAILURES` failed runs in a row it opens: no run is let through until it
    has rested, then one is (half-open). If that one succeeds it closes, else it rests twice as long.

    >>> breaker = Breaker()
    >>> for _ in range(FAILURES):
    ...     breaker.fail(clock=0.0)
    >>> breaker.admits(clock=0.5), breaker.admits(clock=1.0), breaker.state
    (False, True, 'half-open')
    """

    __slots__ = ("_failures", "_rest_s", "_until", "opened", "state")

    def __init__(self) -> None:
        self.state: State = "closed"
        self.opened = 0  # how often
        self._failures = 0
        self._rest_s = REST_S
        self._until = 0.0

    def admits(self, clock: float) -> bool:
        """Whether a run may be made now; if it is the trial run, its end must be told.

        Args:
            clock: monotonic seconds.
        """
        if self.state == "closed":
            return True
        if self.state == "half-open" or clock < self._until:
            return False
        self.state = "half-open"
        return True

    def succeed(self) -> None:
        """A run gave at least one usable row."""
        self.state = "closed"
        self._failures = 0
        self._rest_s = REST_S

    def fail(self, clock: float) -> None:
        """A run gave no usable row, or none in time.

        Args:
            clock: monotonic seconds.
        """
        self._failures += 1
        if self.state == "half-open":
            self._rest_s = min(2 * self._rest_s, MAX_REST_S)
        elif self.state == "open" or self._failures < FAILURES:
            return
        self.state = "open"
        self.opened += 1
        self._until = clock + self._rest_s

    def judge(self, good: int, bad: int, clock: float) -> None:
        """A run ended.

        Args:
            good: rows whose output was usable.
            bad: rows without one; none at all if others answered them meanwhile, or the fault is our own.
            clock: monotonic seconds.
        """
        if good:
            self.succeed()
        elif bad:
            self.fail(clock)
        else:  # it says nothing of the model
            self.give_back()

    def give_back(self) -> None:
        """The trial run was not made after all."""
        if self.state == "half-open":
            self.state = "open"
