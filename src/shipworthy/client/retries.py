"""What went wrong with an attempt, and whether and when to try again. Pure: time and chance are handed in.

Trying again is safe when nothing was sent, when the server says that it did not answer and when to come back, and for
requests with an `id`, under which a repetition counts once. In no other case is a request sent twice.
"""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Literal

from shipworthy.kernel.errors import DeadlineError, ShipworthyError, UnavailableError, UsageError

BACKOFF_S = 0.1  # before the second attempt; doubles with each
MAX_BACKOFF_S = 5.0
MAX_DIGITS = 9  # of a wait in seconds: 31 years

Safety = Literal["always", "with id", "never"]
"""When a request that failed so may be sent again."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt brought no answer."""

    error: ShipworthyError  # for the caller, if it is not tried again
    repeat: Safety
    wait_s: float | None = None  # what the server asks for


class Retries:
    """What one call may still do: so many attempts, so much time.

    Args:
        timeout_s: for all attempts and the waits between them.
        clock: now, monotonic seconds.
        retries: attempts after the first.
    """

    def __init__(self, timeout_s: float, clock: float, retries: int) -> None:
        self.timeout_s = timeout_s
        self.deadline = clock + timeout_s  # monotonic seconds
        self._retries = retries
        self._failed = 0
        self._may_have_answered = False

    def left_s(self, clock: float) -> float:
        """Seconds until the deadline, never negative."""
        return max(self.deadline - clock, 0.0)

    def wait_s(self, failure: Failure, *, has_id: bool, clock: float, chance: float) -> float:
        """Seconds to wait before the next attempt.

        Args:
            failure: what became of the last one.
            has_id: whether a repetition counts once.
            clock: now, monotonic seconds.
            chance: uniform in [0, 1); spreads callers that failed together.

        Raises:
            ShipworthyError: the failure's, if it must not be tried again, or not in time.
        """
        error = failure.error
        if isinstance(error, UnavailableError | DeadlineError):
            error.may_have_answered = self._may_have_answered = self._may_have_answered or error.may_have_answered
        is_safe = failure.repeat == "always" or (failure.repeat == "with id" and has_id)
        backoff_s = min(BACKOFF_S * 2.0 ** min(self._failed, 60), MAX_BACKOFF_S) * (0.5 + chance / 2)
        wait_s = backoff_s + (failure.wait_s or 0.0)
        if not is_safe or self._failed >= self._retries or wait_s >= self.left_s(clock):
            raise error
        self._failed += 1
        return wait_s


def check_habits(timeout_s: float, retries: int, connections: int) -> None:
    """Refuse what no call can keep to.

    Raises:
        UsageError: no time, a negative number of retries, or no connection.
    """
    if not timeout_s > 0:
        raise UsageError(f"timeout_s is {timeout_s!r}; it must be more than 0 seconds.")
    if retries < 0:
        raise UsageError(f"retries is {retries!r}; it must be 0 or more.")
    if connections < 1:
        raise UsageError(f"connections is {connections!r}; it must be 1 or more.")


def fail_waiting(retries: Retries, connections: int) -> Failure:
    """All connections were in use for as long as the call had time."""
    words = f"none of {connections} connections became free within {retries.timeout_s:g} s"
    return Failure(DeadlineError(f"{words}; allow more `connections`, or ask less at once."), "never")


def fail_connecting(host: str, error: OSError, retries: Retries) -> Failure:
    """No connection: nothing was sent."""
    if isinstance(error, ssl.SSLCertVerificationError):
        words = f"{host} cannot prove who it is: {error.verify_message}; give `ca`, the file of the authority that"
        return Failure(UnavailableError(f"{words} vouches for it."), "never")
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return Failure(UnavailableError(f"{host} and this machine cannot agree on TLS: {_words(error)}."), "never")
    if _is_late(error):
        return Failure(DeadlineError(f"no connection to {host} within {retries.timeout_s:g} s."), "never")
    does = "does not listen" if isinstance(error, ConnectionRefusedError) else "cannot be reached"
    return Failure(UnavailableError(f"{host} {does}: {_words(error)}."), "always")


def fail_asking(host: str, error: OSError, retries: Retries) -> Failure:
    """The request was sent, wholly or in part, and no answer came that can be read."""
    if isinstance(error, UnavailableError):
        return Failure(UnavailableError(f"{host}: {error}.", may_have_answered=True), "never")
    cure = "It may have been answered; with an `id` it is safe to send it again."
    if _is_late(error):
        words = f"{host} did not answer within {retries.timeout_s:g} s. {cure}"
        return Failure(DeadlineError(words, may_have_answered=True), "never")
    words = f"{host} did not answer: {_words(error)}. {cure}"
    return Failure(UnavailableError(words, may_have_answered=True), "with id")


def read_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that `Retry-After` asks to wait, given as such or as a date; None if it says nothing.

    A date is compared with the answer's own `Date`, where there is one, so that clocks need not agree.

    Args:
        headers: of the answer, names in lower case.
        now: Unix seconds.

    Source:
        RFC 9110, 10.2.3.

    >>> read_wait({"retry-after": "3"}, 0.0)
    3.0
    """
    asked = headers.get("retry-after", "").strip()
    if asked.isdecimal() and len(asked) <= MAX_DIGITS:
        return float(asked)
    moment = _read_date(asked)
    if moment is None:
        return None
    sent = _read_date(headers.get("date", ""))
    return max(moment - (now if sent is None else sent), 0.0)


def _read_date(text: str) -> float | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_late(error: OSError) -> bool:
    """Whether our own time ran out, and not that of the system (ETIMEDOUT)."""
    return isinstance(error, TimeoutError) and error.errno is None


def _words(error: OSError) -> str:
    return str(error).rstrip(".") or type(error).__name__
