"""Values that are not what they seem: nothing is silently another value, and each bad row has its reason and place."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from shipworthy.data.sources.dialect import number_columns
from shipworthy.data.sources.read import read_source
from shipworthy.data.validate import Validated, validate
from shipworthy.kernel.errors import DataError

MIXED_DATES = [*(f"2026-03-{day:02}" for day in range(1, 20)), "20.03.2026", "03/21/2026", "2026-02-30"]


@pytest.fixture
def judged(make: Any, tmp_path: Path) -> Any:
    """Writes rows of a source with `features` and a target, reads and validates them."""

    def judge(text: str, features: dict[str, Any], context: Any = None, **source: Any) -> Validated:
        (tmp_path / "loans.csv").write_text(text)
        data = {"sources": {"loans": {"path": "loans.csv", **source}}}
        contract = make(data=json.loads(json.dumps(data)), features=features, context=context or {})
        read = read_source("loans", contract.data.sources["loans"], tmp_path, numbers=number_columns(contract))
        return validate(contract, read.frame, malformed=read.malformed)

    return judge


def test_a_column_that_becomes_text_in_mid_file_loses_only_those_rows(judged: Any) -> None:
    text = "n,repaid\n" + "".join(f"{at},{at % 2}\n" for at in range(2000)) + "n/a yet,1\n12 EUR,0\n7,1\n"
    found = judged(text, {"n": {"type": "int", "range": [0, 5000]}})
    assert found.reasons == {"n: not a whole number": 2}
    assert found.quarantined["n"].to_list() == ["n/a yet", "12 EUR"]
    assert found.quarantined["row"].to_list() == [2001, 2002]


def test_headers_in_another_order_are_fine_and_values_that_moved_are_not(judged: Any) -> None:
    features = {"age": {"type": "int", "range": [0, 120]}, "income": {"type": "float", "range": [500, 9000]}}
    rows = [(30 + at, 1000.5 + at, at % 2) for at in range(20)]
    straight = "".join(f"{age},{income},{repaid}\n" for age, income, repaid in rows)
    found = judged("age,income,repaid\n" + straight, features)
    turned = judged("income,repaid,age\n" + "".join(f"{i},{r},{a}\n" for a, i, r in rows), features)
    assert found.accepted.equals(turned.accepted)
    assert found.accepted.height == 20
    moved = judged("income,age,repaid\n" + straight, features)
    assert moved.accepted.height == 0
    assert moved.reasons == {"age: not a whole number": 20, "income: outside [500, 9000]": 20}


def test_words_codes_and_numbers_beyond_all_bounds_are_what_they_are(judged: Any) -> None:
    features = {
        "n": {"type": "float"},
        "code": {"type": "category", "values": ["001", "1", "None"]},
        "note": {"type": "text"},
    }
    fine = "n,code,note,repaid\n1,001,None,1\n2,1,001,0\n3,None,1e400,1\n"
    text = fine + "1e400,1,a,0\nNone,1,b,1\n-1e400,1,c,0\ninf,1,d,1\n"
    found = judged(text, features)
    assert found.accepted.select("n", "code", "note").rows() == [
        (1.0, "001", "None"),
        (2.0, "1", "001"),
        (3.0, "None", "1e400"),
    ]
    assert found.reasons == {"n: not a number": 4}
    declared = judged(text, features, nulls=["None"])
    assert declared.reasons["n: missing"] == 1
    assert declared.reasons["code: missing"] == 1


def test_dates_of_another_format_than_most_go_to_quarantine(judged: Any) -> None:
    text = "at,n,repaid\n" + "".join(f"{day},{at},{at % 2}\n" for at, day in enumerate(MIXED_DATES))
    found = judged(text, {"n": {"type": "int"}}, {"at": {"role": "time", "type": "datetime"}})
    assert found.quarantined["at"].to_list() == ["20.03.2026", "03/21/2026", "2026-02-30"]
    assert found.reasons == {"at: not a datetime of the format %Y-%m-%d": 3}


def test_dates_whose_day_and_month_cannot_be_told_apart_are_refused(judged: Any) -> None:
    text = "at,n,repaid\n01/02/2026,1,0\n03/04/2026,2,1\n"
    with pytest.raises(DataError, match="at: every date reads as month/day and as day/month; write year-month-day"):
        judged(text, {"n": {"type": "int"}}, {"at": {"role": "time", "type": "datetime"}})


def test_an_hour_that_a_clock_shows_twice_is_the_first_and_one_that_it_skips_is_none(judged: Any) -> None:
    """In Berlin the hour from 2 to 3 came twice on 25 October 2026, and never on 29 March."""
    times = ["2026-10-25 02:30", "2026-10-25 03:30", "2026-03-29 02:30", "2026-03-29 03:30"]
    text = "at,n,repaid\n" + "".join(f"{time},{at},{at % 2}\n" for at, time in enumerate(times))
    context = {"at": {"role": "time", "type": "datetime", "zone": "Europe/Berlin"}}
    found = judged(text, {"n": {"type": "int"}}, context)
    assert found.accepted["at"].to_list() == [
        datetime(2026, 10, 25, 0, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 2, 30, tzinfo=UTC),
        datetime(2026, 3, 29, 1, 30, tzinfo=UTC),
    ]
    assert found.quarantined["at"].to_list() == ["2026-03-29 02:30"]
    assert list(found.reasons) == ["at: not a datetime of the format %Y-%m-%d %H:%M"]


def test_times_with_and_without_an_offset_do_not_go_together(judged: Any) -> None:
    times = [*(f"2026-10-25T0{hour}:30:00+02:00" for hour in range(5)), "2026-10-25T02:30:00Z", "2026-10-25T02:30:00"]
    text = "at,n,repaid\n" + "".join(f"{time},{at},{at % 2}\n" for at, time in enumerate(times))
    context = {"at": {"role": "time", "type": "datetime", "zone": "Europe/Berlin"}}
    found = judged(text, {"n": {"type": "int"}}, context)
    assert found.accepted["at"].to_list()[-2:] == [
        datetime(2026, 10, 25, 2, 30, tzinfo=UTC),
        datetime(2026, 10, 25, 2, 30, tzinfo=UTC),
    ]
    assert found.quarantined["at"].to_list() == ["2026-10-25T02:30:00"]


def test_a_number_of_another_notation_is_kept_apart_and_one_of_the_declared_is_read(judged: Any) -> None:
    text = "n;code;repaid\n1.234,5;1.234;1\n1,5;2,5;0\n1234.5;1.234;1\n12 EUR;x;0\n"
    features = {"n": {"type": "float"}, "code": {"type": "text"}}
    found = judged(text, features, format="csv", delimiter=";", decimal=",", thousands=".")
    assert found.accepted.select("n", "code").rows() == [(1234.5, "1.234"), (1.5, "2,5")]
    assert found.reasons == {"n: not a number": 1, "n: not a number written as 1.234,5": 1}
    assert "line 4: 1234.5;1.234;1" in found.quarantined["malformed"].to_list()
    undeclared = judged(text, features)
    assert undeclared.accepted["n"].to_list() == [1234.5]
    assert undeclared.reasons == {"n: not a number": 3}
