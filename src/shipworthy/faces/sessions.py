"""Who is signed in to the console, and who failed to prove themselves too often. In memory: a restart signs all out."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from shipworthy.security.access import Principal
from shipworthy.security.tokens import hash_token, matches_token, mint_token

SESSION_S = 12 * 3600.0  # a long working day
ONE_TIME_S = 600.0  # to walk from the terminal to the browser
MAX_SESSIONS = 1000  # the oldest go first
ATTEMPT_WINDOW_S = 60.0
MAX_FAILURES = 20  # in the window, of one address: a person's typing, never a search
RATE = 20.0  # requests a second of one principal, on the average: a page that looks every second, and scripts
BURST = 200.0
MAX_PRINCIPALS = 10_000  # whose rate is remembered; the oldest go first
MAX_ADDRESSES = 10_000  # remembered; the oldest go first


@dataclass(frozen=True, slots=True)
class Session:
    """Somebody who is signed in: by a token, which is asked again at each request; as whom a provider named; or as the
    machine's owner, where there is neither.
    """

    token: str | None
    expires: float
    identity: Principal | None = None


class Sessions:
    """Sessions by the hash of their cookie, and the one code that opens one without a token. Safe for threads."""

    def __init__(self, now: Callable[[], float], one_time: str | None) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._one_time = None if one_time is None else hash_token(one_time)
        self._one_time_until = now() + ONE_TIME_S

    def open(
        self, token: str | None, entropy: bytes, *, identity: Principal | None = None, until: float = math.inf
    ) -> str:
        """Sign in; the cookie that proves it.

        Args:
            token: of a principal, if they came with one.
            entropy: 32 random bytes.
            identity: whom a provider named, if it did.
            until: Unix seconds, at the latest.
        """
        cookie, digest = mint_token(entropy)
        with self._lock:
            self._sessions[digest] = Session(token, min(self._now() + SESSION_S, until), identity)
            for oldest in list(self._sessions)[:-MAX_SESSIONS]:
                del self._sessions[oldest]
        return cookie

    def find(self, cookie: str) -> Session | None:
        """The session that the cookie proves; None if there is none, or no longer."""
        digest = hash_token(cookie)
        with self._lock:
            session = self._sessions.get(digest)
            if session is not None and session.expires <= self._now():
                del self._sessions[digest]
                return None
            return session

    def close(self, cookie: str) -> None:
        """Sign out."""
        with self._lock:
            self._sessions.pop(hash_token(cookie), None)

    def redeem(self, code: str) -> bool:
        """Whether `code` is the one-time code, in its time; it is good no more afterwards."""
        with self._lock:
            if self._one_time is None or self._now() >= self._one_time_until:
                return False
            if not matches_token(code, self._one_time):
                return False
            self._one_time = None
            return True


class Attempts:
    """Failures to prove oneself, by the peer's address. Safe for threads."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._failures: dict[str, list[float]] = {}

    def fail(self, address: str) -> None:
        """Remember a failure."""
        with self._lock:
            recent = self._recent(address)
            self._failures.pop(address, None)  # put again at the end: the oldest stand first
            self._failures[address] = [*recent, self._now()][-MAX_FAILURES:]
            for oldest in list(self._failures)[:-MAX_ADDRESSES]:
                del self._failures[oldest]

    def are_exhausted(self, address: str) -> bool:
        """Whether the address has failed too often within the last minute."""
        with self._lock:
            return len(self._recent(address)) >= MAX_FAILURES

    def _recent(self, address: str) -> list[float]:
        since = self._now() - ATTEMPT_WINDOW_S
        return [moment for moment in self._failures.get(address, ()) if moment > since]


class Rates:
    """Requests of each principal: a bucket of tokens that fills by `RATE`. Safe for threads."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # name -> tokens left, when

    def take(self, name: str) -> float:
        """Count a request; the seconds to wait if it is one too many, else 0."""
        with self._lock:
            now = self._now()
            left, at = self._left.pop(name, (BURST, now))
            left = min(BURST, left + max(now - at, 0.0) * RATE)
            is_allowed = left >= 1.0
            self._left[name] = (left - 1.0 if is_allowed else left, now)
            while len(self._left) > MAX_PRINCIPALS:
                self._left.popitem(last=False)
            return 0.0 if is_allowed else (1.0 - left) / RATE
