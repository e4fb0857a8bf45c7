"""When a request is sent again, and how long is waited before."""

import errno
import ssl
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.client.retries import (
    MAX_BACKOFF_S,
    Failure,
    Retries,
    check_habits,
    fail_asking,
    fail_connecting,
    fail_waiting,
    read_wait,
)
from shipworthy.kernel.errors import DeadlineError, RateLimitedError, UnavailableError, UsageError

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


def failure(repeat: Any, wait_s: float | None = None, **options: Any) -> Failure:
    return Failure(UnavailableError("no", **options), repeat, wait_s)


@pytest.mark.parametrize(
    ("repeat", "has_id", "is_safe"),
    [
        ("always", False, True),
        ("always", True, True),
        ("with id", False, False),
        ("with id", True, True),
        ("never", False, False),
        ("never", True, False),
    ],
)
def test_a_request_is_sent_again_only_where_that_is_safe(repeat: str, has_id: bool, is_safe: bool) -> None:
    retries = Retries(10.0, 0.0, 2)
    if is_safe:
        assert retries.wait_s(failure(repeat), has_id=has_id, clock=0.0, chance=0.5) == pytest.approx(0.075)
    else:
        with pytest.raises(UnavailableError, match="no"):
            retries.wait_s(failure(repeat), has_id=has_id, clock=0.0, chance=0.5)


def test_waits_double_and_end_with_the_retries() -> None:
    retries = Retries(100.0, 0.0, 8)
    waits = [retries.wait_s(failure("always"), has_id=False, clock=0.0, chance=1.0) for _ in range(8)]
    assert waits == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    with pytest.raises(UnavailableError):
        retries.wait_s(failure("always"), has_id=False, clock=0.0, chance=1.0)


@given(
    timeout_s=st.floats(0.001, 100),
    clock=st.floats(0, 120),
    wait_s=st.none() | st.floats(0, 200),
    chance=st.floats(0, 1, exclude_max=True),
    earlier=st.integers(0, 200),
)
def test_no_wait_reaches_the_deadline_and_none_is_shorter_than_was_asked(
    timeout_s: float, clock: float, wait_s: float | None, chance: float, earlier: int
) -> None:
    retries = Retries(timeout_s, 0.0, 10**6)
    for _ in range(earlier):
        retries.wait_s(failure("always"), has_id=False, clock=-1e9, chance=0.0)
    try:
        waited = retries.wait_s(failure("always", wait_s), has_id=False, clock=clock, chance=chance)
    except UnavailableError:
        assert clock + (wait_s or 0.0) + MAX_BACKOFF_S >= timeout_s
        return
    assert clock + waited < timeout_s
    assert waited > (wait_s or 0.0)


def test_the_wait_that_the_server_asks_for_is_kept_unless_it_is_too_long() -> None:
    retries = Retries(10.0, 0.0, 2)
    assert retries.wait_s(failure("always", 3.0), has_id=False, clock=0.0, chance=0.0) == pytest.approx(3.05)
    limited = Failure(RateLimitedError("slowly", wait_s=9.0), "always", 9.0)
    with pytest.raises(RateLimitedError, match="slowly") as caught:
        retries.wait_s(limited, has_id=False, clock=3.0, chance=0.0)
    assert caught.value.wait_s == 9.0


def test_what_may_have_been_answered_once_stays_so() -> None:
    retries = Retries(10.0, 0.0, 5)
    retries.wait_s(failure("with id", may_have_answered=True), has_id=True, clock=0.0, chance=0.0)
    late = fail_connecting("a", TimeoutError(), retries)
    with pytest.raises(DeadlineError) as caught:
        retries.wait_s(late, has_id=True, clock=0.1, chance=0.0)
    assert caught.value.may_have_answered


@pytest.mark.parametrize(
    ("error", "repeat", "kind", "words"),
    [
        (REFUSED, "always", UnavailableError, r"a does not listen: .*Connection refused\."),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "always", UnavailableError, "a cannot be reached"),
        (TimeoutError(errno.ETIMEDOUT, "timed out"), "always", UnavailableError, "a cannot be reached"),
        (TimeoutError("timed out"), "never", DeadlineError, "no connection to a within 10 s"),
        (ssl.SSLEOFError(8, "EOF"), "always", UnavailableError, "a cannot be reached"),
        (ssl.SSLError(1, "wrong version"), "never", UnavailableError, "cannot agree on TLS"),
    ],
)
def test_nothing_was_sent_while_connecting(error: OSError, repeat: str, kind: Any, words: str) -> None:
    found = fail_connecting("a", error, Retries(10.0, 0.0, 0))
    assert (found.repeat, type(found.error)) == (repeat, kind)
    assert not found.error.may_have_answered
    with pytest.raises(kind, match=words):
        raise found.error


@pytest.mark.parametrize(
    ("error", "repeat", "kind", "words"),
    [
        (
            BrokenPipeError(32, "Broken pipe"),
            "with id",
            UnavailableError,
            "did not answer: .*Broken pipe.*with an `id`",
        ),
        (ConnectionResetError(), "with id", UnavailableError, "did not answer: ConnectionResetError"),
        (TimeoutError(), "never", DeadlineError, "did not answer within 10 s.*with an `id`"),
        (
            UnavailableError("the answer cannot be read: x"),
            "never",
            UnavailableError,
            "a: the answer cannot be read: x",
        ),
    ],
)
def test_what_was_sent_may_have_been_answered(error: OSError, repeat: str, kind: Any, words: str) -> None:
    found = fail_asking("a", error, Retries(10.0, 0.0, 0))
    assert (found.repeat, type(found.error)) == (repeat, kind)
    assert found.error.may_have_answered
    with pytest.raises(kind, match=words):
        raise found.error


def test_who_waits_for_a_connection_in_vain_has_sent_nothing() -> None:
    found = fail_waiting(Retries(2.0, 0.0, 0), 4)
    assert found.repeat == "never"
    assert not found.error.may_have_answered
    with pytest.raises(DeadlineError, match="none of 4 connections became free within 2 s"):
        raise found.error


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": " 120 "}, 120.0),
        ({"retry-after": "1.5"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "9" * 40}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:07 GMT"}, 7.0),
        ({"retry-after": "Thu, 01 Jan 2026 01:00:07 +0100"}, 7.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:07 -0000"}, 7.0),
        ({"retry-after": "Thu, 01 Jan 2015 00:00:00 GMT"}, 0.0),
        ({"retry-after": "Thu, 99 Foo 2026 00:00:00 GMT"}, None),
        ({"retry-after": "Sat, 01 Jan 2000 00:00:30 GMT", "date": "Sat, 01 Jan 2000 00:00:00 GMT"}, 30.0),
        ({"retry-after": "Thu, 01 Jan 2026 00:00:07 GMT", "date": "yesterday"}, 7.0),
    ],
)
def test_retry_after_is_seconds_or_a_date_by_the_servers_clock(headers: dict[str, str], wait_s: float | None) -> None:
    assert read_wait(headers, NOW) == wait_s


@given(text=st.text(max_size=40))
def test_any_retry_after_is_read_without_a_fault(text: str) -> None:
    found = read_wait({"retry-after": text, "date": text}, NOW)
    assert found is None or found >= 0


@pytest.mark.parametrize(
    ("habits", "words"),
    [
        ((0.0, 2, 1), "timeout_s is 0.0; it must be more"),
        ((float("nan"), 2, 1), "timeout_s is nan"),
        ((1.0, -1, 1), "retries is -1; it must be 0 or more"),
        ((1.0, 0, 0), "connections is 0; it must be 1 or more"),
    ],
)
def test_habits_that_no_call_can_keep_to_are_refused(habits: tuple[float, int, int], words: str) -> None:
    check_habits(1.0, 0, 1)
    with pytest.raises(UsageError, match=words):
        check_habits(*habits)
