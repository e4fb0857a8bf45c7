"""The latest word on things that change: whole bodies, each change a compare-and-swap, on both databases."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from shipworthy.kernel.errors import ConflictError, UsageError
from shipworthy.ledger.audit import verify_audit
from shipworthy.ledger.events import Event
from shipworthy.ledger.rebuild import rebuild_database
from shipworthy.ledger.store import Ledger
from shipworthy.security.keys import PublicKey

Open = Callable[[], Ledger]


def alert(name: str, revision: int, state: str = "open") -> Event:
    body = {"alert": name, "state": state, "revision": revision}
    return Event("alert.opened" if revision == 1 else "alert.seen", f"alert:{name}", "service:control", body)


def test_the_latest_word_stands_and_things_come_in_the_order_of_their_last_change(opened: Open) -> None:
    ledger = opened()
    assert ledger.find_latest("alert", "a_1") is None
    ledger.append_all([alert("a_1", 1), alert("a_2", 1)])
    ledger.append(alert("a_1", 2, "acknowledged"))
    assert ledger.find_latest("alert", "a_1") == {"alert": "a_1", "state": "acknowledged", "revision": 2}
    assert [body["alert"] for body in ledger.latest("alert")] == ["a_2", "a_1"]
    assert ledger.latest("rollout") == []


@pytest.mark.parametrize("revision", [1, 3, 0])
def test_a_change_that_does_not_follow_is_refused_with_all_that_came_with_it(opened: Open, revision: int) -> None:
    ledger = opened()
    ledger.append(alert("a_1", 1))
    with pytest.raises(ConflictError, match=rf"alert:a_1 is at revision 1; .* revision {revision} does not follow"):
        ledger.append_all([alert("a_2", 1), alert("a_1", revision, "closed")])
    assert ledger.find_latest("alert", "a_2") is None
    assert len(list(ledger.events())) == 1


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (Event("alert.opened", "rollout:x:1", "a", {"revision": 1}), "the object must be alert:NAME"),
        (Event("alert.opened", "alert:", "a", {"revision": 1}), "the object must be alert:NAME"),
        (Event("alert.opened", "alert:a_1", "a", {"state": "open"}), "body.revision is None; it must be int"),
        (Event("alert.opened", "alert:a_1", "a", {"revision": True}), "body.revision is True; it must be int"),
    ],
)
def test_an_event_that_names_no_thing_or_no_revision_is_refused(opened: Open, event: Event, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        opened().append(event)


def test_of_many_who_change_one_thing_at_once_exactly_one_does(opened: Open) -> None:
    ledger = opened()
    ledger.append(alert("a_1", 1))
    won: list[int] = []

    def change(number: int) -> None:
        try:
            ledger.append(alert("a_1", 2, f"by {number}"))
            won.append(number)
        except ConflictError:
            pass

    threads = [threading.Thread(target=change, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (ledger.find_latest("alert", "a_1") or {})["state"] == f"by {won[0]}"


def test_a_word_that_was_changed_in_the_database_is_found_and_made_again_from_the_log(
    opened: Open, url: str, log: Path, keys: dict[str, PublicKey]
) -> None:
    opened().append_all([alert("a_1", 1), alert("a_2", 1)])
    opened().append(alert("a_1", 2, "closed"))
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE latest SET body = replace(body, 'closed', 'open') WHERE name = 'a_1'"))
    engine.dispose()
    found = verify_audit(log, keys, url)
    assert (found.first_bad, found.passed) == (3, False)
    rebuild_database(url, log, keys)
    assert verify_audit(log, keys, url).passed
    assert (opened().find_latest("alert", "a_1") or {})["state"] == "closed"
