"""Who may call: asked of the signed access file for every request, in about a microsecond.

The file holds what the table of permissions leaves of each token (`workflows.tokens`), so that the rules are those of
`security.access`. What is remembered between requests is dropped with the file that it came from.
"""

import hmac
import ipaddress
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeVar

from shipworthy.bundle.format import AccessToken
from shipworthy.security.binding import is_loopback
from shipworthy.security.tokens import hash_token
from shipworthy.serving.caller import NEVER, OPEN, Call, Caller, Cell, MemoryCell, Meter

Access = Literal["public", "predict", "tell"]
"""Of a route: anyone, or callers whose token has the scope `predict:SYSTEM` or `tell:SYSTEM`."""

REASONS = ("no_token", "unknown", "expired", "scope", "rate", "quota", "attempts", "host", "origin")
PROBES = (b"/v2/health/live", b"/v2/health/ready")  # load balancers ask these by address, not by name
MAX_KNOWN = 4096  # headers remembered; a caller can write one token in many ways
MAX_HOSTS = 256  # ways to write an allowed host: ports, cases
MAX_ADDRESSES = 4096  # whose failures are counted; the oldest is forgotten
ATTEMPTS = 100  # failures of an address in a window; a script with an old token makes a few
WINDOW_S = 60.0

_Limit = TypeVar("_Limit", int, float)

_DETAILS = {
    "no_token": "Send `Authorization: Bearer TOKEN` with a token that is valid.",
    "unknown": "Send `Authorization: Bearer TOKEN` with a token that is valid.",  # nobody is told which tokens exist
    "expired": "This token has expired; ask for a new one.",
    "scope": "This caller's token has no scope for {} here.",
}


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not answered, and what its caller is told."""

    status: int
    detail: str
    wait_s: int = 0  # after which it may be tried again; 0: not said

    @property
    def headers(self) -> bytes:
        """Further header lines of the answer."""
        return b"retry-after: %d\r\n" % self.wait_s if self.wait_s else b""


class Attempts:
    """Addresses that failed to prove themselves too often. Bounded: the address counted first is forgotten first."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()  # address -> failures, end of the window

    def fail(self, address: str, clock: float) -> float:
        """Count a failure; the seconds that the address should wait, 0 while it may try.

        Args:
            address: an IP address; of version 6, its network of 64 bits counts, which is one customer's.
            clock: monotonic seconds.
        """
        network = _network(address)
        count, end = self._failed.get(network, (0, 0.0))
        if clock >= end:
            self._failed.pop(network, None)
            count, end = 0, clock + WINDOW_S
        self._failed[network] = (count + 1, end)
        if len(self._failed) > MAX_ADDRESSES:
            self._failed.popitem(last=False)
        return end - clock if count >= ATTEMPTS else 0.0


class Gate:
    """Lets requests through or says why not. For the event loop alone.

    Args:
        now: wall clock, Unix seconds, for expiries and days.
        clock: monotonic seconds, for rates.
        hosts: names by which the server may be asked; none: any.
        is_open: callers need no token, and must be on this machine.
        cell: where the use of a principal is kept.
    """

    def __init__(
        self,
        now: Callable[[], float],
        clock: Callable[[], float],
        *,
        hosts: Iterable[str] = (),
        is_open: bool = False,
        cell: Callable[[str], Cell] = lambda principal: MemoryCell(),  # noqa: ARG005
    ) -> None:
        self._now = now
        self._clock = clock
        self._is_open = is_open
        self._cell = cell
        self._names = frozenset(name.lower() for name in hosts)
        self._asks_host = is_open or bool(self._names)
        self._hosts: set[bytes] = set()  # written as they came
        self._tokens: dict[str, AccessToken] = {}
        self._system = ""
        self._known: dict[bytes, Caller] = {}
        self._meters: dict[str, Meter] = {}
        self._attempts = Attempts()
        self.refused: Counter[str] = Counter(dict.fromkeys(REASONS, 0))

    def replace(self, system: str, tokens: Iterable[AccessToken]) -> None:
        """Believe these tokens and no others, from the next request on; what principals have used stays used."""
        self._system = system
        self._tokens = {token.hash: token for token in tokens}
        self._known = {}
        limits: dict[str, tuple[float | None, int | None]] = {}
        for token in self._tokens.values():
            rate, quota = limits.get(token.principal, (None, None))
            limits[token.principal] = (_stricter(rate, token.per_second), _stricter(quota, token.per_day))
        for principal, (rate, quota) in limits.items():
            if principal in self._meters:
                self._meters[principal].limit(rate, quota)
            elif rate is not None or quota is not None:
                self._meters[principal] = Meter(rate, quota, self._clock, self._cell(principal))
        for gone in self._meters.keys() - limits.keys():
            del self._meters[gone]

    def check_host(self, call: Call) -> Refusal | None:
        """Whether a request was meant for this server: no DNS rebinding, no call from another site's page."""
        if not self._asks_host:
            return None
        host = call.headers.get(b"host", b"")
        if host not in self._hosts and (self._is_open or call.path not in PROBES):
            if not self._is_allowed(host):
                return self._refuse("host", Refusal(421, "This server does not answer under that name."))
            if len(self._hosts) >= MAX_HOSTS:
                self._hosts.clear()
            self._hosts.add(host)
        return self.check_origin(call) if b"origin" in call.headers else None

    def check_origin(self, call: Call) -> Refusal | None:
        """Whether a page of another site sent the request."""
        origin = call.headers.get(b"origin")
        if origin is not None and not self._is_allowed(origin.partition(b"://")[2]):
            return self._refuse("origin", Refusal(403, "Pages of another site may not call this server."))
        return None

    def check_caller(self, call: Call, access: Access) -> Refusal | None:
        """Whether whoever sent the request may; notes on the call who it is."""
        if access == "public":
            return None
        caller = OPEN if self._is_open else self._known.get(call.headers.get(b"authorization", b""))
        if caller is None:
            found = self._prove(call.headers.get(b"authorization", b""))
            if isinstance(found, str):
                return self._fail(call, found)
            caller = found
        if caller.expires <= self._now():
            return self._fail(call, "expired")
        if access not in caller.may:
            return self._refuse("scope", Refusal(403, _DETAILS["scope"].format(access)))
        if caller.meter is not None and (wait := caller.meter.take_request()):
            detail = f"This caller may send {caller.meter.per_second:g} requests a second."
            return self._refuse("rate", Refusal(429, detail, math.ceil(wait)))
        call.caller = caller
        return None

    def charge(self, call: Call, rows: int) -> Refusal | None:
        """Count the rows of a request against its caller's day; all of them, or none and why."""
        meter = None if call.caller is None else call.caller.meter
        if meter is None or not (wait := meter.take_rows(rows, self._now())):
            return None
        left = (meter.per_day or 0) - meter.rows
        detail = f"This caller may ask for {meter.per_day} predictions a day (UTC); {left} are left, this asks {rows}."
        return self._refuse("quota", Refusal(429, detail, math.ceil(wait)))

    def _prove(self, header: bytes) -> Caller | str:
        """Whom the header stands for, remembered; or why nobody."""
        scheme, _, written = header.partition(b" ")
        if scheme.lower() != b"bearer" or not (token := written.strip()):
            return "no_token"
        digest = hash_token(token.decode("latin-1"))
        known = self._tokens.get(digest)
        if known is None or not hmac.compare_digest(digest.encode(), known.hash.encode()):
            return "unknown"  # never remembered: guesses must not fill the memory
        suffix = f":{self._system}"
        caller = Caller(
            name=known.name,
            may=frozenset(scope.removesuffix(suffix) for scope in known.scopes if scope.endswith(suffix)),
            expires=NEVER if known.expires is None else known.expires,
            meter=self._meters.get(known.principal),
        )
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[header] = caller  # found again by a keyed hash, then compared: its time tells nothing of others
        return caller

    def _fail(self, call: Call, reason: str) -> Refusal:
        """A failure to prove oneself. A valid token is served however many came before from its address.

        Callers behind one proxy share an address: whoever guesses among them must not lock the others out, and 256
        bits are not found by guessing anyway. The limit keeps guesses from being free of notice, and cheap to answer.
        """
        wait = self._attempts.fail(call.address, self._clock())
        if wait:
            detail = "Too many requests from this address came without a valid token."
            return self._refuse("attempts", Refusal(429, detail, math.ceil(wait)))
        return self._refuse(reason, Refusal(401, _DETAILS[reason]))

    def _refuse(self, reason: str, refusal: Refusal) -> Refusal:
        self.refused[reason] += 1
        return refusal

    def _is_allowed(self, authority: bytes) -> bool:
        """Whether it names this machine's loopback, as no page of another site can, or an allowed host."""
        text = authority.decode("latin-1").lower()
        name = text[1:].partition("]")[0] if text.startswith("[") else text.partition(":")[0]
        return name in self._names or is_loopback(name)


def _stricter(one: _Limit | None, other: _Limit | None) -> _Limit | None:
    return other if one is None else one if other is None else min(one, other)


def _network(address: str) -> str:
    if ":" not in address:
        return address
    found = ipaddress.IPv6Address(address.partition("%")[0])
    return str(found.ipv4_mapped or int(found) >> 64)
