"""Validate: each row is accepted with its types or quarantined with every reason; a bad batch is refused."""

import re
from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from shipworthy.data.accept import judge_batch
from shipworthy.data.validate import validate
from shipworthy.kernel.errors import DataError

GOOD = {"income": ["1", "2", "3", "4"], "repaid": ["0", "1", "0", "1"]}


def reasons_by_row(validated: Any) -> Any:
    return dict(validated.quarantined.select("row", "reasons").iter_rows())


def refusal(contract: Any, frame: Any, now: Any = 0.0) -> Any:
    with pytest.raises(DataError) as caught:
        judge_batch(contract, validate(contract, frame), now=now)
    return str(caught.value)


def test_a_row_has_all_its_reasons_and_keeps_its_texts(make: Any) -> None:
    contract = make(
        features={"income": {"type": "float", "range": [0, 1000]}, "kind": {"type": "category", "values": ["a"]}}
    )
    frame = pl.DataFrame(
        {
            "income": [" 1.5 ", "abc", "-4", "", "2e3"],
            "kind": ["a", "b", "a", None, "a"],
            "repaid": ["0", "1", "2", "1", "NA"],
        }
    )
    found = validate(contract, frame)
    assert found.accepted.rows() == [(1.5, "a", "0")]
    assert reasons_by_row(found) == {
        2: "income: not a number; kind: unknown category",
        3: "income: outside [0, 1000]; repaid: unknown class",
        4: "income: missing; kind: missing",
        5: "income: outside [0, 1000]; repaid: missing",
    }
    assert found.quarantined["income"].to_list() == ["abc", "-4", "", "2e3"]
    assert found.reasons["income: outside [0, 1000]"] == 2
    assert found.examples["income: outside [0, 1000]"] == "row 3: '-4'"
    assert found.rows == 5


@pytest.mark.parametrize(
    ("kind", "texts", "expected"),
    [
        ("float", ["1", "0.1", "1e5", "inf", "nan", "1,000"], [1.0, 0.1, 1e5, None, None, None]),
        ("int", ["12", "12.0", "12.5", "9007199254740993", "-3", "1e2"], [12, 12, None, 9007199254740993, -3, 100]),
        ("bool", ["true", "No", "1", "0", "maybe", "T"], [True, False, True, False, None, True]),
        ("text", [" 001 ", "NA", "", "x", "y", "z"], [" 001 ", "NA", None, "x", "y", "z"]),
    ],
)
def test_texts_become_the_contracts_types(make: Any, kind: Any, texts: Any, expected: Any) -> None:
    contract = make(features={"income": {"type": "float"}}, context={"v": {"role": "slice", "type": kind}})
    frame = pl.DataFrame({"income": ["1"] * 6, "v": texts, "repaid": ["0"] * 6})
    found = validate(contract, frame)
    by_row = dict(zip(set(range(6)) - {row - 1 for row in found.quarantined["row"]}, found.accepted["v"], strict=True))
    assert [by_row.get(row) for row in range(6)] == expected


def test_typed_columns_are_held_to_the_same_contract(make: Any) -> None:
    contract = make(
        features={"income": {"type": "int"}, "owner": {"type": "bool"}},
        context={"at": {"role": "time", "type": "datetime", "zone": "Europe/Berlin"}},
    )
    frame = pl.DataFrame(
        {
            "income": [1.0, 2.5, float("nan")],
            "owner": [1, 0, 2],
            "at": [date(2026, 1, 1)] * 3,
            "repaid": [0.0, 1.0, 1.0],
        }
    )
    found = validate(contract, frame)
    assert found.accepted.rows() == [(datetime(2025, 12, 31, 23, tzinfo=UTC), 1, True, "0")]
    assert reasons_by_row(found) == {
        2: "income: not a whole number",
        3: "income: missing; owner: not true or false",
    }


@pytest.mark.parametrize(
    ("policy", "values", "accepted"),
    [("reject", [5.0], 1), ("clip", [5.0, 10.0], 2), ("missing", [5.0, None], 2), ("review", [5.0, 11.0], 2)],
)
def test_outside_does_what_the_contract_says(make: Any, policy: Any, values: Any, accepted: Any) -> None:
    contract = make(features={"income": {"type": "float", "range": [0, 10], "outside": policy}})
    found = validate(contract, pl.DataFrame({"income": ["5", "11"], "repaid": ["0", "1"]}))
    assert found.accepted["income"].to_list() == values
    assert found.accepted.height == accepted
    assert bool(found.noted) == (policy != "reject")


@pytest.mark.parametrize(("policy", "values"), [("reject", ["a"]), ("missing", ["a", None]), ("review", ["a", None])])
def test_an_unknown_category_does_what_the_contract_says(make: Any, policy: Any, values: Any) -> None:
    contract = make(features={"kind": {"type": "category", "values": ["a"], "unknown": policy}})
    found = validate(contract, pl.DataFrame({"kind": ["a", "z"], "repaid": ["0", "1"]}))
    assert found.accepted["kind"].to_list() == values


def test_derived_columns_read_what_outside_left_and_have_ranges_of_their_own(make: Any) -> None:
    contract = make(
        features={"debt": {"type": "float"}, "income": {"type": "float", "range": [0, 10], "outside": "clip"}},
        derived={
            "ratio": {"from": "debt / income", "type": "float", "range": [0, 2], "outside": "reject"},
            "high": {"from": "ratio > 1", "type": "bool"},
        },
    )
    frame = pl.DataFrame(
        {"debt": ["5", "5", "50", "1"], "income": ["20", "4", "10", "0"], "repaid": ["0", "1", "0", "1"]}
    )
    found = validate(contract, frame)
    assert found.accepted["ratio"].to_list() == [0.5, 1.25, None]
    assert found.accepted["high"].to_list() == [False, True, None]
    assert reasons_by_row(found) == {3: "ratio: outside [0, 2]"}


@pytest.mark.parametrize(("policy", "values"), [("reject", ["a"]), ("missing", ["a", None]), ("review", ["a", None])])
def test_a_derived_category_that_is_not_listed_does_what_the_contract_says(make: Any, policy: Any, values: Any) -> None:
    short = {"from": "left(lower(kind), 1)", "type": "category", "values": ["a", "b"], "unknown": policy}
    known = {"from": "missing(short)", "type": "bool"}
    contract = make(features={"kind": {"type": "text"}}, derived={"short": short, "known": known})
    found = validate(contract, pl.DataFrame({"kind": ["Ax", "Zx"], "repaid": ["0", "1"]}))
    assert found.accepted["short"].to_list() == values
    assert found.accepted["known"].to_list() == [value is None for value in values]
    noted = {"short: unknown category": 1}
    assert (found.reasons, found.noted) == ((noted, {}) if policy == "reject" else ({}, noted))


def test_a_failing_check_quarantines_and_too_many_refuse_the_batch(make: Any) -> None:
    checks = [{"name": "debt fits", "expect": "debt < 3 * income", "failing": {"at_most": "25%"}}]
    features = {"debt": {"type": "float", "missing": "allow"}, "income": {"type": "float"}}
    frame = pl.DataFrame({"debt": ["9", None, "1", "1", "1"], "income": ["1"] * 5, "repaid": ["0", "1", "0", "1", "0"]})
    contract = make(features=features, checks=checks)
    found = validate(contract, frame)
    judge_batch(contract, found, now=0.0)
    assert reasons_by_row(found) == {1: "check debt fits: false"}
    strict = make(features=features, checks=[{"name": "debt fits", "expect": "debt < 3 * income"}])
    assert "check debt fits: 1 of 5 rows fail, 0.000% may" in refusal(strict, frame)


def test_all_but_the_first_acceptable_row_of_a_key_are_duplicates(make: Any) -> None:
    contract = make(context={"id": {"role": "key", "type": "text"}})
    frame = pl.DataFrame(
        {"id": ["a", "a", "b", "a", None], "income": ["-1", "2", "3", "4", "5"], "repaid": ["0", "1", "0", "1", "0"]}
    )
    found = validate(contract, frame)
    assert found.accepted["id"].to_list() == ["a", "b"]
    assert reasons_by_row(found)[4] == "id: duplicate key"
    assert reasons_by_row(found)[5] == "id: missing"


def test_dates_in_three_formats_are_held_to_the_most_frequent_one(make: Any) -> None:
    contract = make(context={"at": {"role": "time", "type": "datetime"}})
    frame = pl.DataFrame(
        {"at": ["2026-03-01", "2026-03-02", "03/31/2026", "31.03.2026"], "income": ["1"] * 4, "repaid": ["0", "1"] * 2}
    )
    found = validate(contract, frame)
    assert found.accepted["at"].to_list() == [datetime(2026, 3, day, tzinfo=UTC) for day in (1, 2)]
    assert reasons_by_row(found) == dict.fromkeys((3, 4), "at: not a datetime of the format %Y-%m-%d")
    assert found.formats == {"at": "%Y-%m-%d"}


def test_dates_that_read_both_ways_are_refused(make: Any) -> None:
    contract = make(context={"at": {"role": "time", "type": "datetime"}})
    frame = pl.DataFrame({"at": ["01/02/2026", "03/04/2026"], "income": ["1", "2"], "repaid": ["0", "1"]})
    with pytest.raises(DataError, match="at: every date reads as month/day and as day/month; write year-month-day"):
        validate(contract, frame)


def test_local_times_are_of_the_declared_zone_and_one_that_no_clock_showed_is_refused(make: Any) -> None:
    zone = {"at": {"role": "time", "type": "datetime", "zone": "America/New_York"}}
    frame = pl.DataFrame(
        {
            "at": ["2026-03-08 01:30", "2026-03-08 02:30", "2026-11-01 01:30"],  # 02:30 is skipped in spring
            "income": ["1"] * 3,
            "repaid": ["0", "1", "0"],
        }
    )
    contract = make(context=zone, training={"entry": "train.py:train", "split": {"by": "time"}})
    found = validate(contract, frame)
    assert found.accepted["at"].to_list() == [
        datetime(2026, 3, 8, 6, 30, tzinfo=UTC),
        datetime(2026, 11, 1, 5, 30, tzinfo=UTC),
    ]
    assert found.quarantined["row"].to_list() == [2]


def test_malformed_rows_are_quarantined_beside_the_others(make: Any) -> None:
    malformed = pl.DataFrame({"line": [7], "text": ["1,2,3"], "reason": ["row: more fields than the header's 2"]})
    frame = pl.DataFrame({"income": ["1", "x"], "repaid": ["0", "1"]})
    found = validate(make(), frame, malformed=malformed)
    assert found.quarantined["malformed"].to_list() == [None, "line 7: 1,2,3"]
    assert found.reasons["row: more fields than the header's 2"] == 1
    assert found.rows == 3


def test_columns_named_like_ours_do_not_collide(make: Any) -> None:
    frame = pl.DataFrame({"row": ["x"], "reasons": ["y"], "income": ["-1"], "repaid": ["0"]})
    found = validate(make(), frame)
    assert found.quarantined.select("row_", "reasons_", "row").rows() == [(1, "income: outside [0, 1000]", "x")]


def test_a_lacking_column_is_named_with_a_guess(make: Any) -> None:
    with pytest.raises(DataError, match=r"no column income; it has incomme, repaid; did you mean incomme\?"):
        validate(make(), pl.DataFrame({"incomme": ["1"], "repaid": ["0"]}))


BATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "target missing": (
        {"repaid": [None] * 4},
        r"0 of 4 .*repaid: missing \(4 rows, as in row 1: None\)",
    ),
    "target constant": ({"repaid": ["1"] * 4}, r"the target repaid is '1' in every row; there is nothing to learn"),
    "one row of a class": ({"repaid": ["0", "0", "0", "1"]}, r"class '1' of the target repaid has 1 accepted row"),
    "all-null column": ({"income": [""] * 4}, r"0 of 4 rows are accepted.*income: missing \(4 rows"),
    "text for numbers": (
        {"income": ["a", "b", "c", "d"]},
        r"income: not a number \(4 rows, as in row 1: 'a'\)",
    ),
    "a huge cell": ({"income": ["x" * 1_000_000] * 4}, r"as in row 1: 'x{59}…"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_a_batch_from_which_nothing_can_be_learnt_is_refused(make: Any, case: str) -> None:
    change, message = BATCHES[case]
    assert re.search(message, refusal(make(), pl.DataFrame({**GOOD, **change}, schema_overrides={"repaid": pl.String})))


def test_the_accept_limits_hold(make: Any) -> None:
    def accepting(**accept: Any) -> Any:
        return make(
            data={"sources": {"a": {"path": "a.csv"}}, "accept": accept},
            context={"at": {"role": "time", "type": "datetime"}},
        )

    frame = pl.DataFrame({**GOOD, "at": ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-04"]})
    newest = datetime(2026, 1, 4, tzinfo=UTC).timestamp()
    fine = accepting(rows={"at_least": 4}, quarantined={"at_most": "0%"}, age={"at_most": "24h"})
    judge_batch(fine, validate(fine, frame), now=newest + 86_400)
    assert "4 of 4 rows are accepted, data.accept.rows asks for 5" in refusal(accepting(rows={"at_least": 5}), frame)
    assert "older than data.accept.age" in refusal(accepting(age={"at_most": "24h"}), frame, newest + 86_401)
    bad = pl.concat([frame, frame.with_columns(income=pl.lit("-1"))])
    assert "4 of 8 rows are quarantined, data.accept.quarantined allows 49.000%" in refusal(
        accepting(quarantined={"at_most": "49%"}), bad
    )


def test_a_regression_is_held_to_its_range(make_regression: Any) -> None:
    contract = make_regression(target={"column": "repaid", "type": "regression", "range": [0, 10]})
    found = validate(contract, pl.DataFrame({"income": ["1", "2", "3"], "repaid": ["1.5", "11", "x"]}))
    assert found.accepted["repaid"].to_list() == [1.5]
    assert reasons_by_row(found) == {2: "repaid: outside [0, 10]", 3: "repaid: not a number"}


def test_a_text_that_is_not_of_the_pattern_is_quarantined_and_an_absent_one_is_absent(make: Any) -> None:
    contract = make(
        features={"income": {"type": "float"}, "plate": {"type": "text", "pattern": "N[0-9]+", "missing": "allow"}}
    )
    frame = pl.DataFrame({"income": ["1"] * 4, "plate": ["N17", " N17", None, "N17x"], "repaid": ["0", "1"] * 2})
    found = validate(contract, frame)
    assert reasons_by_row(found) == dict.fromkeys((2, 4), "plate: not of the pattern N[0-9]+")
    assert found.examples["plate: not of the pattern N[0-9]+"] == "row 2: ' N17'"


def test_the_first_acceptable_row_of_a_unique_value_or_of_columns_together_is_kept(make: Any) -> None:
    contract = make(
        data={"sources": {"a": {"path": "a.csv"}}, "unique": [["flight", "day"]]},
        context={
            "id": {"role": "key", "type": "text"},
            "mail": {"role": "slice", "type": "text", "unique": True},
            "flight": {"role": "slice", "type": "text"},
            "day": {"role": "slice", "type": "int"},
        },
    )
    rows = [
        ("a", "x", "LX1", "1", "1"),
        ("a", "y", "LX1", "2", "1"),  # key of row 1
        ("b", "y", "LX1", "3", "1"),  # its mail is that of a row that is not accepted
        ("c", "y", "LX2", "1", "1"),  # mail of row 3
        ("d", None, "LX1", "1", "1"),  # flight and day of row 1
        ("e", None, "LX1", None, "1"),  # a missing part names nothing
        ("f", None, "LX1", None, "1"),
        ("g", "x", "LX9", "9", "-1"),  # is not accepted anyway
    ]
    frame = pl.DataFrame(rows, schema=["id", "mail", "flight", "day", "income"], orient="row")
    found = validate(contract, frame.with_columns(repaid=pl.Series(["0", "1"] * 4)))
    assert reasons_by_row(found) == {
        2: "id: duplicate key",
        4: "mail: duplicate value",
        5: "flight, day: duplicate key",
        8: "income: outside [0, 1000]",
    }
    assert found.accepted["id"].to_list() == ["a", "b", "e", "f"]


def test_the_volume_limits_hold(make: Any) -> None:
    def accepting(**accept: Any) -> Any:
        return make(data={"sources": {"a": {"path": "a.csv"}}, "accept": accept})

    frame, growth = pl.DataFrame(GOOD), {"at_least": "50%", "at_most": "200%"}
    few = accepting(rows={"at_most": 3})
    assert "4 of 4 rows are accepted, data.accept.rows allows 3" in refusal(few, frame)
    grown = accepting(growth=growth)
    for last in (None, 0, 2, 8):
        judge_batch(grown, validate(grown, frame), now=0.0, last_rows=last)
    for last, words in (
        (1, "4 times the last snapshot's 1; data.accept.growth allows 2 times as many"),
        (9, "0.4444 times the last snapshot's 9; data.accept.growth asks for 0.5 times as many"),
    ):
        with pytest.raises(DataError, match=words):
            judge_batch(grown, validate(grown, frame), now=0.0, last_rows=last)
