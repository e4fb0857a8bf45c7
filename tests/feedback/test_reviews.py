"""Who may take and decide an answer that waits for a person."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.feedback.reviews import Case, claim, decide, holder
from shipworthy.kernel.errors import ConflictError, UsageError

CASE = Case("production", "p_1", ("approve", "refer"))
MORNING, LATER, NOON = 1_769_851_800.0, 1_769_852_400.0, 1_769_860_800.0  # 09:30, 09:40 and 12:00


def test_an_answer_is_claimed_and_then_decided_by_the_same_person() -> None:
    taken = claim(CASE, None, "ruth", MORNING)
    assert taken["expires"] == "2026-01-31T10:00:00.000Z"
    assert decide(CASE, taken, "ruth", NOON, "refer", " income unclear ") == {
        "prediction_id": "p_1",
        "environment": "production",
        "state": "decided",
        "by": "ruth",
        "claimed": "2026-01-31T09:30:00.000Z",
        "expires": None,
        "decided": "2026-01-31T12:00:00.000Z",
        "decision": "refer",
        "reason": "income unclear",
        "outcome": None,
        "revision": 2,
    }


def test_an_answer_that_nobody_has_may_be_decided_at_once() -> None:
    body = decide(CASE, None, "ruth", NOON, "approve", "clear")
    assert (body["claimed"], body["decided"], body["revision"]) == (body["decided"], "2026-01-31T12:00:00.000Z", 1)


def test_what_somebody_else_has_is_theirs() -> None:
    taken = claim(CASE, None, "ruth", MORNING)
    said = r"p_1 is claimed by ruth until 2026-01-31T10:00:00.000Z; until then they decide it"
    with pytest.raises(ConflictError, match=said):
        claim(CASE, taken, "bob", LATER)
    with pytest.raises(ConflictError, match=said):
        decide(CASE, taken, "bob", LATER, "refer", "mine")


def test_a_claim_ends_by_itself_and_holds_longer_when_it_is_made_again() -> None:
    taken = claim(CASE, None, "ruth", MORNING)
    assert [holder(taken, at) for at in (LATER, MORNING + 1799, MORNING + 1800)] == ["ruth", "ruth", None]
    assert claim(CASE, taken, "bob", MORNING + 1800)["by"] == "bob"
    assert decide(CASE, taken, "bob", NOON, "refer", "mine")["claimed"] == "2026-01-31T12:00:00.000Z"
    again = claim(CASE, taken, "ruth", LATER)
    assert holder(again, MORNING + 1800) == "ruth"
    assert holder(claim(replace(CASE, hold_s=60), None, "ruth", MORNING), LATER) is None


def test_a_decision_says_what_came_true_where_it_is_the_truth() -> None:
    truths = {"approve": "1"}  # `refer` stands for several classes
    sure = replace(CASE, truths=truths)
    assert decide(sure, None, "ruth", NOON, "approve", "clear")["outcome"] == "1"
    assert decide(sure, None, "ruth", NOON, "refer", "unclear")["outcome"] is None
    assert decide(Case("local", "p_1", (), truths={}), None, "ruth", NOON, "12.5", "measured")["outcome"] == 12.5


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
