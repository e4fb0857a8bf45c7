"""Attempts: what may fail for a while is tried again, and what takes too long is cut; all sources at the same time."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from shipworthy.kernel.errors import DeadlineError, ShipworthyError, UnavailableError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # doubling in between
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Pace:
    """Time and chance, handed in."""

    clock: Callable[[], float]  # seconds, never set back
    sleep: Callable[[float], None]  # seconds
    chance: Callable[[], float]  # evenly in [0, 1)


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an attempt must have ended."""

    at: float  # of the clock
    clock: Callable[[], float]

    @property
    def left_s(self) -> float:
        """Seconds that remain.

        Raises:
            DeadlineError: none do.
        """
        left = self.at - self.clock()
        if left <= 0:
            raise DeadlineError("it takes too long")
        return left


@dataclass(slots=True)
class _Run(Generic[Result]):
    """What became of some work in a thread of its own."""

    value: Result | None = None
    error: BaseException | None = None
    ended: bool = False

    def get(self) -> Result:
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # of a run that ended without an error


def keep_trying(
    work: Callable[[Deadline], Result], *, place: str, retries: int, timeout_s: float, pace: Pace
) -> Result:
    """What `work` gives, at the latest try.

    Tried again is what may pass by itself: no answer, or one that says so. Between tries it pauses for up to 1 s, 2 s,
    4 s, … or as long as the server asks. Work that is late is left to itself, and its result with it.

    Args:
        work: is told its deadline, and should keep it.
        place: what messages name.
        retries: how often it is tried again.
        timeout_s: for each try.
        pace: time and chance.

    Raises:
        UnavailableError, DeadlineError: the last try failed so.
        ShipworthyError: as `work` raises it; what is no matter of time is not tried again.

    Source: full jitter, Brooker, "Exponential Backoff And Jitter" (AWS, 2015).
    """
    for tried in range(retries + 1):
        deadline = Deadline(pace.clock() + timeout_s, pace.clock)
        try:
            return _cut(work, deadline, timeout_s, place)
        except (UnavailableError, DeadlineError) as error:
            if tried == retries:
                times = f" (tried {retries + 1} times)" if retries else ""
                raise type(error)(f"{error}{times}") from None
            asked = getattr(error, "wait_s", None)
            pause = longest_pause(tried) * pace.chance() if asked is None else min(asked, LONGEST_PAUSE_S)
            pace.sleep(pause)
    raise AssertionError("a range of at least one")  # pragma: no cover


def longest_pause(tried: int) -> float:
    """Seconds that are waited at most, after so many failed tries beside the first.

    >>> [longest_pause(tried) for tried in (0, 1, 2, 10)]
    [1.0, 2.0, 4.0, 60.0]
    """
    return float(min(FIRST_PAUSE_S * 2**tried, LONGEST_PAUSE_S))


def run_together(work: Mapping[str, Callable[[], Result]]) -> dict[str, Result | ShipworthyError]:
    """What each piece of work gave, or how it failed; one that fails leaves the others alone."""
    runs = {name: _start(piece) for name, piece in work.items()}
    results: dict[str, Result | ShipworthyError] = {}
    for name, (run, thread) in runs.items():
        thread.join()
        try:
            results[name] = run.get()
        except ShipworthyError as error:
            results[name] = error
    return results


def _cut(work: Callable[[Deadline], Result], deadline: Deadline, timeout_s: float, place: str) -> Result:
    run, thread = _start(lambda: work(deadline))
    thread.join(timeout_s)
    late = DeadlineError(f"{place}: was not read within {timeout_s:g} s; allow it more time with timeout")
    if not run.ended:
        raise late
    try:
        return run.get()
    except DeadlineError:
        raise late from None


def _start(work: Callable[[], Result]) -> tuple[_Run[Result], threading.Thread]:
    run: _Run[Result] = _Run()

    def go() -> None:
        try:
            run.value = work()
        except BaseException as error:  # noqa: BLE001  # handed over to who waits
            run.error = error
        run.ended = True

    thread = threading.Thread(target=go, daemon=True)  # one that hangs must not keep the process
    thread.start()
    return run, thread
