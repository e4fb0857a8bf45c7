"""Who may take and decide an answer that waits for a person."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.feedback.reviews import Case, claim, decide
from shipworthy.kernel.errors import ConflictError, UsageError

CASE = Case("production", "p_1", ("approve", "refer"))
MORNING, NOON = "2026-01-31T09:30:00.000Z", "2026-01-31T12:00:00.000Z"


def test_an_answer_is_claimed_and_then_decided_by_the_same_person() -> None:
    taken = claim(CASE, None, "ruth", MORNING)
    assert decide(CASE, taken, "ruth", NOON, "refer", " income unclear ") == {
        "prediction_id": "p_1",
        "environment": "production",
        "state": "decided",
        "by": "ruth",
        "claimed": MORNING,
        "decided": NOON,
        "decision": "refer",
        "reason": "income unclear",
        "revision": 2,
    }


def test_an_answer_that_nobody_has_may_be_decided_at_once() -> None:
    body = decide(CASE, None, "ruth", NOON, "approve", "clear")
    assert (body["claimed"], body["decided"], body["revision"]) == (NOON, NOON, 1)


def test_what_somebody_else_has_is_theirs() -> None:
    taken = claim(CASE, None, "ruth", MORNING)
    with pytest.raises(ConflictError, match=f"p_1 is claimed by ruth since {MORNING}; they decide it"):
        claim(CASE, taken, "bob", NOON)
    with pytest.raises(ConflictError, match=f"p_1 is claimed by ruth since {MORNING}; they decide it"):
        decide(CASE, taken, "bob", NOON, "refer", "mine")


def test_a_decision_stands_also_against_the_one_who_made_it() -> None:
    done = decide(CASE, None, "ruth", NOON, "refer", "income unclear")
    with pytest.raises(ConflictError, match=r"was decided by ruth on .*: refer \(income unclear\); a decision stands"):
        decide(CASE, done, "ruth", NOON, "approve", "on second thoughts")
    with pytest.raises(ConflictError, match="a decision stands"):
        claim(CASE, done, "ruth", NOON)


def test_only_an_action_of_the_contract_is_a_decision() -> None:
    with pytest.raises(UsageError, match="'aprove' cannot be decided here; the actions are approve, refer"):
        decide(CASE, None, "ruth", NOON, "aprove", "clear")


def test_where_numbers_are_answered_a_number_is_decided() -> None:
    numbers = Case("production", "p_1", ())
    assert decide(numbers, None, "ruth", NOON, "12.5", "measured")["decision"] == "12.5"
    with pytest.raises(UsageError, match="'much' cannot be decided here; this system answers with numbers"):
        decide(numbers, None, "ruth", NOON, "much", "measured")


@pytest.mark.parametrize("reason", ["", "   ", "two\nlines", "x" * 2001])
def test_a_decision_has_a_reason_of_one_line(reason: str) -> None:
    with pytest.raises(UsageError, match="a decision needs a reason: one line of 1 to 2000 characters"):
        decide(CASE, None, "ruth", NOON, "refer", reason)


steps = st.lists(st.tuples(st.sampled_from(["claim", "decide"]), st.sampled_from(["ruth", "bob", "eve"])), max_size=12)


@given(steps)
def test_whatever_people_try_one_of_them_decides_once(tried: list[tuple[str, str]]) -> None:
    body: dict[str, Any] | None = None
    revisions, deciders = [0], []
    for step, by in tried:
        try:
            changed = claim(CASE, body, by, NOON) if step == "claim" else decide(CASE, body, by, NOON, "refer", "seen")
        except ConflictError:
            assert body is not None
            assert body["state"] == "decided" or body["by"] != by
            continue
        assert body is None or body["by"] == by
        body = changed
        revisions.append(changed["revision"])
        deciders += [by] if changed["state"] == "decided" else []
    assert revisions == list(range(len(revisions)))
    assert len(deciders) <= 1
