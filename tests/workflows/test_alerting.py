"""Acknowledging: who may, once, and never what is closed."""

from pathlib import Path

import pytest

from shipworthy.kernel.errors import AccessError, ConflictError, NotFoundError
from shipworthy.security.access import Principal
from shipworthy.workflows.alerting import acknowledge
from shipworthy.workflows.project import Parts
from tests.faces.life import CRITICAL_ALERT, OPEN_ALERT, live, make_project

MIA = Principal("mia", frozenset({"ml-engineer"}))


@pytest.fixture
def parts(tmp_path: Path):
    with make_project(tmp_path, lambda: 1_774_000_000.0)() as found:
        live(found)
        yield found


def test_the_alert_keeps_what_it_said_and_gains_who_looks_after_it(parts: Parts):
    before = parts.ledger.find_latest("alert", OPEN_ALERT) or {}
    after = acknowledge(parts, MIA, OPEN_ALERT)
    assert after == {**before, "state": "acknowledged", "acknowledged_by": "mia", "revision": 2}
    assert parts.ledger.find_latest("alert", OPEN_ALERT) == after
    (entry,) = parts.ledger.events(verb="alert.acknowledged")
    assert (entry.actor, entry.rule) == ("user:mia", "ml-engineer may acknowledge")


def test_nobody_acknowledges_without_a_role_that_may(parts: Parts):
    for role in ("risk", "business", "auditor", "service"):
        with pytest.raises(AccessError, match="may not do `alerts acknowledge`"):
            acknowledge(parts, Principal("x", frozenset({role})), CRITICAL_ALERT)
    assert not list(parts.ledger.events(verb="alert.acknowledged"))


def test_what_is_closed_taken_or_unknown_is_refused_in_words(parts: Parts):
    with pytest.raises(ConflictError, match="is closed; there is nothing to acknowledge"):
        acknowledge(parts, MIA, "a_0000000000000000000closed")
    with pytest.raises(NotFoundError, match="no alert 'a_nothing'"):
        acknowledge(parts, MIA, "a_nothing")
    acknowledge(parts, MIA, OPEN_ALERT)
    with pytest.raises(ConflictError, match="acknowledged already, by mia"):
        acknowledge(parts, Principal("pia", frozenset({"platform"})), OPEN_ALERT)
