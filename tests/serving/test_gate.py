"""Who may call, decided in a microsecond: scopes, expiry, limits, failures, names."""

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.bundle.format import AccessToken
from shipworthy.security.tokens import hash_token
from shipworthy.serving.caller import Meter
from shipworthy.serving.gate import (
    ATTEMPTS,
    MAX_ADDRESSES,
    MAX_HOSTS,
    MAX_KNOWN,
    REASONS,
    WINDOW_S,
    Access,
    Attempts,
    Gate,
    Refusal,
)
from shipworthy.serving.heads import Heads
from shipworthy.serving.protocol import Connection, Exchange

DAY_S = 86400.0
BOTH = ("predict:loans", "tell:loans")


@dataclass
class Clock:
    """Stands until it is moved."""

    at: float = 1000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Wire:
    """Where an exchange came from; the gate asks no more of a connection."""

    address: str = "192.0.2.1"


@dataclass
class Door:
    """A gate with clocks that the test moves."""

    now: Clock = field(default_factory=lambda: Clock(20_000 * DAY_S))
    clock: Clock = field(default_factory=Clock)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gate = Gate(self.now, self.clock, **self.options)

    def allow(self, *tokens: AccessToken) -> None:
        self.gate.replace("loans", tokens)

    def ask(self, token: str | None, access: Access = "predict", address: str = "192.0.2.1") -> Refusal | None:
        return self.gate.check_caller(exchange_of(token, address), access)


def exchange_of(token: str | None, address: str = "192.0.2.1", **headers: str) -> Exchange:
    exchange = Exchange(Wire(address), 0.0)  # type: ignore[arg-type]
    exchange.headers = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    if token is not None:
        exchange.headers[b"authorization"] = token.encode("latin-1")
    return exchange


def token_of(word: str, scopes: tuple[str, ...] = BOTH, expires: float | None = None, **changes: Any) -> AccessToken:
    return AccessToken(name=word, hash=hash_token(word), scopes=scopes, expires=expires, **changes)


def test_a_token_opens_what_its_scopes_say_and_nothing_else() -> None:
    door = Door()
    door.allow(token_of("p", ("predict:loans",)), token_of("t", ("tell:loans",)), token_of("o", ("predict:other",)))
    status = {
        (token, access): getattr(door.ask(f"Bearer {token}", access), "status", 200)  # type: ignore[arg-type]
        for token in "pto"
        for access in ("public", "predict", "tell")
    }
    assert status == {
        ("p", "public"): 200, ("p", "predict"): 200, ("p", "tell"): 403,
        ("t", "public"): 200, ("t", "predict"): 403, ("t", "tell"): 200,
        ("o", "public"): 200, ("o", "predict"): 403, ("o", "tell"): 403,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "no_token"),
        ("", "no_token"),
        ("Bearer", "no_token"),
        ("Bearer  ", "no_token"),
        ("Basic a", "no_token"),
        ("a", "no_token"),
        ("Bearer b", "unknown"),
        ("Bearer A", "unknown"),
        ("Bearer a b", "unknown"),
        ("Bearer \xff", "unknown"),
    ],
)
def test_who_proves_nothing_is_asked_for_a_token_and_counted(header: str | None, reason: str) -> None:
    door = Door()
    door.allow(token_of("a"))
    refused = door.ask(header)
    assert refused == Refusal(401, "Send `Authorization: Bearer TOKEN` with a token that is valid.")
    assert {name: count for name, count in door.gate.refused.items() if count} == {reason: 1}
    assert set(door.gate.refused) == set(REASONS)


def test_a_caller_may_write_the_scheme_as_it_likes() -> None:
    door = Door()
    door.allow(token_of("a"))
    for header in ("Bearer a", "bearer a", "BEARER   a "):
        exchange = exchange_of(header)
        assert door.gate.check_caller(exchange, "predict") is None
        assert exchange.caller is not None
        assert exchange.caller.name == "a"


def test_expiry_is_looked_at_each_time_also_of_what_is_remembered() -> None:
    door = Door()
    door.allow(token_of("a", expires=door.now.at + 10))
    assert door.ask("Bearer a") is None
    door.now.at += 10
    assert door.ask("Bearer a") == Refusal(401, "This token has expired; ask for a new one.")
    assert door.gate.refused["expired"] == 1


def test_a_replaced_access_file_is_obeyed_at_once() -> None:
    door = Door()
    door.allow(token_of("a"))
    assert door.ask("Bearer a") is None
    door.allow(token_of("a", ("tell:loans",)))
    assert getattr(door.ask("Bearer a"), "status", 200) == 403
    door.allow()
    assert getattr(door.ask("Bearer a"), "status", 200) == 401


def test_unknown_tokens_are_never_remembered_and_memory_is_bounded() -> None:
    door = Door()
    door.allow(token_of("a"))
    for guess in range(3 * MAX_KNOWN):
        door.ask(f"Bearer {guess}", address="192.0.2.2")
    assert door.gate._known == {}
    for blanks in range(MAX_KNOWN + 10):
        assert door.ask("Bearer" + " " * (blanks + 1) + "a") is None
    assert len(door.gate._known) <= MAX_KNOWN


# --- attempts


def test_an_address_that_fails_too_often_is_told_to_wait_and_its_valid_tokens_are_served() -> None:
    door = Door()
    door.allow(token_of("a"))
    for _ in range(ATTEMPTS):
        assert getattr(door.ask("Bearer guess"), "status", 200) == 401
    door.clock.at += 20
    refused = door.ask("Bearer guess")
    assert refused == Refusal(429, "Too many requests from this address came without a valid token.", 40)
    assert refused.headers == b"retry-after: 40\r\n"
    assert door.gate.refused["attempts"] == 1
    assert door.ask("Bearer a") is None  # who shares the address is not locked out
    assert getattr(door.ask("Bearer guess", address="192.0.2.9"), "status", 200) == 401
    door.clock.at += 40
    assert getattr(door.ask("Bearer guess"), "status", 200) == 401


def test_successes_are_no_failures() -> None:
    door = Door()
    door.allow(token_of("a", ("predict:loans",)))
    for _ in range(3 * ATTEMPTS):
        door.ask("Bearer a")
        door.ask("Bearer a", "tell")
    assert getattr(door.ask("Bearer guess"), "status", 200) == 401


def test_of_version_6_a_network_counts_and_of_a_mapped_address_itself() -> None:
    attempts = Attempts()
    for host in range(ATTEMPTS):
        assert attempts.fail(f"2001:db8::{host:x}", 0.0) == 0
    assert attempts.fail("2001:db8::ffff%eth0", 0.0) == WINDOW_S
    assert attempts.fail("2001:db8:0:1::1", 0.0) == 0
    for host in range(ATTEMPTS):
        attempts.fail(f"::ffff:192.0.2.{host}", 0.0)
    assert attempts.fail("::ffff:192.0.2.1", 0.0) == 0


def test_addresses_in_memory_are_bounded() -> None:
    attempts = Attempts()
    for number in range(2 * MAX_ADDRESSES):
        attempts.fail(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0)
    assert len(attempts._failed) == MAX_ADDRESSES


# --- limits


def test_a_rate_lets_two_seconds_worth_go_at_once_and_then_its_average() -> None:
    door = Door()
    door.allow(token_of("a", principal="ann", per_second=5))
    assert [getattr(door.ask("Bearer a"), "status", 200) for _ in range(11)] == [200] * 10 + [429]
    assert door.ask("Bearer a") == Refusal(429, "This caller may send 5 requests a second.", 1)
    door.clock.at += 0.2
    assert door.ask("Bearer a") is None
    assert getattr(door.ask("Bearer a"), "status", 200) == 429
    assert door.gate.refused["rate"] == 3


def test_a_slow_rate_lets_one_go() -> None:
    door = Door()
    door.allow(token_of("a", principal="ann", per_second=0.1))
    assert door.ask("Bearer a") is None
    assert getattr(door.ask("Bearer a"), "wait_s", 0) == 10
    door.clock.at += 10
    assert door.ask("Bearer a") is None


def test_all_tokens_of_a_principal_share_its_strictest_limits() -> None:
    door = Door()
    door.allow(
        token_of("a", principal="ann", per_second=5, per_day=100),
        token_of("b", principal="ann", per_second=2, per_day=500),
        token_of("c", principal="ann"),
        token_of("d", principal="dan"),
    )
    assert [getattr(door.ask(f"Bearer {token}"), "status", 200) for token in "abca"] == [200] * 4
    assert [getattr(door.ask(f"Bearer {token}"), "status", 200) for token in "abcd"] == [429, 429, 429, 200]
    exchange = exchange_of("Bearer c")
    door.clock.at += 1
    assert door.gate.check_caller(exchange, "predict") is None
    assert door.gate.charge(exchange, 101) is not None
    assert door.gate.charge(exchange, 100) is None


def test_what_was_used_stays_used_when_the_access_file_is_replaced() -> None:
    door = Door()
    door.allow(token_of("a", principal="ann", per_second=1, per_day=10))
    exchange = exchange_of("Bearer a")
    assert door.gate.check_caller(exchange, "predict") is None
    assert door.gate.charge(exchange, 8) is None
    assert door.ask("Bearer a") is None
    door.allow(token_of("b", principal="ann", per_second=1, per_day=10))
    assert getattr(door.ask("Bearer b"), "status", 200) == 429
    door.clock.at += 2
    exchange = exchange_of("Bearer b")
    assert door.gate.check_caller(exchange, "predict") is None
    refused = door.gate.charge(exchange, 3)
    assert refused == Refusal(
        429, "This caller may ask for 10 predictions a day (UTC); 2 are left, this asks 3.", int(DAY_S)
    )
    assert door.gate.charge(exchange, 2) is None
    door.allow(token_of("b", principal="ann", per_day=20))
    assert door.gate.charge(exchange, 10) is None
    assert door.gate.charge(exchange, 1) is not None


def test_a_day_begins_at_midnight_utc_and_not_because_a_clock_was_set_back() -> None:
    door = Door()
    door.allow(token_of("a", principal="ann", per_day=10))
    exchange = exchange_of("Bearer a")
    door.now.at += DAY_S - 1
    assert door.gate.check_caller(exchange, "predict") is None
    assert door.gate.charge(exchange, 10) is None
    assert getattr(door.gate.charge(exchange, 1), "wait_s", 0) == 1
    door.now.at += 1
    assert door.gate.charge(exchange, 10) is None
    door.now.at -= 1
    assert door.gate.charge(exchange, 1) is not None
    door.now.at += 1
    assert door.gate.charge(exchange, 1) is not None
    assert door.gate.refused["quota"] == 3


def test_rows_are_charged_whole_or_not_at_all() -> None:
    meter = Meter(None, 10, Clock())
    assert meter.take_rows(11, 0.0) == DAY_S
    assert meter.take_rows(10, 0.0) == 0
    assert meter.rows == 10


@given(rate=st.floats(0.01, 1000), gaps=st.lists(st.floats(0, 5, allow_subnormal=False), min_size=1, max_size=200))
def test_no_timing_gets_more_than_the_rate_and_its_burst(rate: float, gaps: list[float]) -> None:
    clock = Clock(0.0)
    meter = Meter(rate, None, clock)
    taken = 0
    for gap in gaps:
        clock.at += gap
        taken += meter.take_request() == 0
        assert taken <= max(1.0, 2 * rate) + rate * clock.at + 1e-6


@given(rate=st.floats(0.01, 100), used=st.integers(0, 300))
def test_who_waits_as_told_is_served(rate: float, used: int) -> None:
    clock = Clock(0.0)
    meter = Meter(rate, None, clock)
    for _ in range(used):
        meter.take_request()
    while not (wait := meter.take_request()):
        pass
    clock.at += math.ceil(wait)
    assert meter.take_request() == 0


# --- names


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8080"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:8080"}, 200),
        ({"host": "LOCALHOST"}, 200),
        ({}, 421),
        ({"host": ""}, 421),
        ({"host": "evil.example"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": "evil.example:8080@localhost"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": "0.0.0.0"}, 421),  # noqa: S104
        ({"host": "localhost", "origin": "http://localhost:3000"}, 200),
        ({"host": "localhost", "origin": "https://evil.example"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
        ({"host": "localhost", "origin": ""}, 403),
        ({"host": "localhost", "origin": "https://localhost.evil.example"}, 403),
        ({"host": "localhost", "origin": "file://"}, 403),
    ],
)
def test_an_open_server_answers_this_machine_and_its_own_pages_alone(headers: dict[str, str], status: int) -> None:
    door = Door(options={"is_open": True})
    exchange = exchange_of(None, **headers)
    for _ in range(2):  # remembered or not
        assert getattr(door.gate.check_host(exchange), "status", 200) == status
    reason = {421: "host", 403: "origin"}.get(status)
    assert {name: count for name, count in door.gate.refused.items() if count} == ({reason: 2} if reason else {})


def test_names_are_asked_for_when_they_are_given_and_probes_may_come_by_address() -> None:
    door = Door(options={"hosts": ("Models.Example.com",)})
    for host, status in [("models.example.com:443", 200), ("localhost", 200), ("10.1.2.3", 421)]:
        assert getattr(door.gate.check_host(exchange_of(None, host=host)), "status", 200) == status
    probe = exchange_of(None, host="10.1.2.3")
    probe.path = b"/v2/health/ready"
    assert door.gate.check_host(probe) is None
    page = exchange_of(None, host="models.example.com", origin="https://models.example.com")
    assert door.gate.check_host(page) is None
    probe.headers[b"origin"] = b"https://evil.example"
    assert getattr(door.gate.check_host(probe), "status", 200) == 403
    unasked = Door()
    assert unasked.gate.check_host(exchange_of(None, host="10.1.2.3", origin="https://a.example")) is None


def test_ways_to_write_a_host_are_bounded_in_memory() -> None:
    door = Door(options={"is_open": True})
    for port in range(3 * MAX_HOSTS):
        assert door.gate.check_host(exchange_of(None, host=f"localhost:{port}")) is None
    assert len(door.gate._hosts) <= MAX_HOSTS


def test_a_connection_knows_its_address_only_while_it_has_one() -> None:
    assert Connection(SimpleNamespace(heads=Heads()), Clock()).address == ""  # type: ignore[arg-type]
