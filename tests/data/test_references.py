"""References: rows that name no row of another source are counted, shown, and refused beyond the limit."""

from typing import Any

import polars as pl
import pytest

from shipworthy.data.references import find_orphans, judge_orphans
from shipworthy.kernel.errors import DataError


def two_tables(make: Any, **failing: Any) -> Any:
    sources = {"flights": {"path": "f.csv"}, "planes": {"path": "p.csv"}}
    rule = {"from": "flights.tail", "to": "planes.tail", **failing}
    return make(data={"sources": sources, "prepare": "select * from flights", "keys": [rule]})


FLIGHTS = pl.DataFrame({"tail": [" N1", "N2", "NA", None, "N9", "N9", "N8", "N1", "N1", "N2"]})
PLANES = pl.DataFrame({"tail": ["N1 ", "N2", "N3", None]})


def test_orphans_are_counted_and_shown_the_most_frequent_first_and_what_is_missing_names_nothing(make: Any) -> None:
    [found] = find_orphans(two_tables(make), {"flights": FLIGHTS, "planes": PLANES})
    assert (found.rows, found.orphans, found.examples) == (8, 3, ("N9", "N8"))
    assert found.to_json() == {
        "from": "flights.tail", "to": "planes.tail", "rows": 8, "orphans": 3, "examples": ["N9", "N8"],
    }  # fmt: skip


def test_more_orphans_than_the_rule_allows_are_refused(make: Any) -> None:
    frames = {"flights": FLIGHTS, "planes": PLANES}
    judge_orphans(find_orphans(two_tables(make, failing={"at_most": "37.5%"}), frames))
    message = r"flights.tail: 3 of 8 rows name no planes.tail, such as 'N9', 'N8'; 37% may \(data.keys\)"
    with pytest.raises(DataError, match=message):
        judge_orphans(find_orphans(two_tables(make, failing={"at_most": "37%"}), frames))


def test_numbers_and_texts_of_one_label_are_one(make: Any) -> None:
    frames = {"flights": pl.DataFrame({"tail": ["7", "007"]}), "planes": pl.DataFrame({"tail": [7.0, None]})}
    [found] = find_orphans(two_tables(make), frames)
    assert found.examples == ("007",)


def test_a_column_that_is_not_there_is_named_with_a_guess(make: Any) -> None:
    with pytest.raises(DataError, match=r"data\.keys: planes has no column 'tail'; did you mean tails"):
        find_orphans(two_tables(make), {"flights": FLIGHTS, "planes": PLANES.rename({"tail": "tails"})})
