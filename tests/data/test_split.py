"""Split: the parts cover the rows, respect time and subjects, and are the same each time."""

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shipworthy.data.split import split
from shipworthy.kernel.errors import DataError

START = datetime(2026, 1, 1, tzinfo=UTC)
slow_fixture = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def training(by: Any, calibrate: Any = "10%", test: Any = "20%") -> Any:
    return {"entry": "train.py:train", "split": {"by": by, "calibrate": calibrate, "test": test}}


def by_time(make: Any, known_after: Any = None) -> Any:
    target = {"column": "repaid", "type": "regression"} | ({"known_after": known_after} if known_after else {})
    return make(context={"at": {"role": "time", "type": "datetime"}}, training=training("time"), target=target)


def days(numbers: Any) -> Any:
    moments = [START + timedelta(days=int(number)) for number in numbers]
    return pl.DataFrame(
        {"at": moments, "income": [1.0] * len(moments), "repaid": [float(n) for n in range(len(moments))]},
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )


def test_by_time_the_newest_rows_test_and_each_part_is_in_order(make_regression: Any) -> None:
    parts = split(by_time(make_regression), days([9, 0, 5, 2, 4, 7, 1, 3, 8, 6]), seed=1)
    assert parts.train.tolist() == [1, 6, 3, 7, 4, 2, 9]
    assert (parts.calibrate.tolist(), parts.test.tolist(), parts.dropped) == ([5], [8, 0], 0)


def test_rows_whose_truth_came_too_late_are_dropped(make_regression: Any) -> None:
    parts = split(by_time(make_regression, "2d"), days(range(20)), seed=1)
    assert parts.test.tolist() == [16, 17, 18, 19]
    assert parts.calibrate.tolist() == [14]  # 15's truth is known on day 17, a day after the test part began
    assert parts.train.tolist() == list(range(13))
    assert parts.dropped == 2


@slow_fixture
@given(st.lists(st.integers(0, 30), min_size=30, max_size=60), st.sampled_from([None, "1d", "3d"]))
def test_no_part_knows_a_later_one(make_regression: Any, numbers: Any, known_after: Any) -> None:
    frame = days(numbers)
    try:
        parts = split(by_time(make_regression, known_after), frame, seed=1)
    except DataError:  # a part is empty
        return
    gap = timedelta(days=int(known_after[0]) if known_after else 0)
    at = frame["at"]
    for earlier, later in ((parts.train, parts.calibrate), (parts.calibrate, parts.test)):
        assert at.gather(earlier).max() + gap <= at.gather(later).min()
        assert at.gather(earlier).max() < at.gather(later).min()
    assert sum(map(len, (parts.train, parts.calibrate, parts.test))) + parts.dropped == frame.height


def test_at_random_each_class_is_parted_in_the_same_shares(make: Any) -> None:
    labels = ["0"] * 900 + ["1"] * 100
    frame = pl.DataFrame({"income": [1.0] * 1000, "repaid": labels})
    parts = split(make(training=training("random")), frame, seed=3)
    rare = np.array(labels) == "1"
    assert [int(rare[part].sum()) for part in (parts.train, parts.calibrate, parts.test)] == [70, 10, 20]
    assert [len(part) for part in (parts.train, parts.calibrate, parts.test)] == [700, 100, 200]
    assert sorted(np.concatenate([parts.train, parts.calibrate, parts.test])) == list(range(1000))
    assert 5 <= int(rare[parts.train][-140:].sum()) <= 25  # shuffled, so the last rows are like the others
    again = split(make(training=training("random")), frame, seed=3)
    other = split(make(training=training("random")), frame, seed=4)
    assert (again.test == parts.test).all()
    assert set(other.test) != set(parts.test)


@slow_fixture
@given(st.lists(st.integers(0, 40), min_size=60, max_size=120), st.integers(0, 5))
def test_all_rows_of_a_subject_are_in_one_part(make_regression: Any, numbers: Any, seed: Any) -> None:
    contract = make_regression(context={"who": {"role": "subject", "type": "text"}}, training=training("subject"))
    who = np.array([f"s{number}" for number in numbers])
    frame = pl.DataFrame({"who": who, "income": [1.0] * len(who), "repaid": np.arange(float(len(who)))})
    try:
        parts = split(contract, frame, seed)
    except DataError:
        return
    found = [set(who[part]) for part in (parts.train, parts.calibrate, parts.test)]
    assert not any(found[a] & found[b] for a, b in ((0, 1), (1, 2), (0, 2)))
    assert sum(map(len, (parts.train, parts.calibrate, parts.test))) == len(who)


def test_too_few_rows_and_a_class_without_training_rows_are_refused(make: Any, make_regression: Any) -> None:
    with pytest.raises(DataError, match=r"the train part is empty: 2 rows.*training\.split"):
        split(make_regression(), pl.DataFrame({"income": [1.0, 2.0], "repaid": [1.0, 2.0]}), seed=1)
    with pytest.raises(DataError, match=r"shorter target\.known_after"):
        split(by_time(make_regression, "90d"), days(range(20)), seed=1)
    late = make(context={"at": {"role": "time", "type": "datetime"}}, training=training("time"))
    frame = days(range(20)).with_columns(repaid=pl.Series(["0"] * 17 + ["1"] * 3))
    with pytest.raises(DataError, match="class '1' of repaid has no row in the training part"):
        split(late, frame, seed=1)


def rows(numbers: Any, seed: int = 0) -> Any:
    drawn = np.random.default_rng(seed).normal(size=2000)[list(numbers)]
    return pl.DataFrame({"income": drawn, "repaid": [str(int(value > 0)) for value in drawn]})


@pytest.mark.parametrize("grown", [range(1200, 2000), range(0, 2000, 2), [*range(1999, -1, -1)], range(1700)])
def test_rows_that_stay_never_go_from_training_to_test(make: Any, grown: Any) -> None:
    contract = make(training=training("random"))
    before, after = rows(range(2000)), rows(grown)
    old, new = split(contract, before, seed=7), split(contract, after, seed=7)
    tested = set(after["income"].gather(new.test).to_list())
    assert not tested & set(before["income"].gather(old.train).to_list())
    assert len(tested & set(before["income"].gather(old.test).to_list())) > 0.9 * len(tested)


def test_subjects_that_stay_never_go_from_training_to_test(make_regression: Any) -> None:
    contract = make_regression(context={"who": {"role": "subject", "type": "text"}}, training=training("subject"))

    def people(numbers: Any) -> Any:
        return pl.DataFrame(
            {"who": [f"s{n // 2}" for n in numbers], "income": 1.0, "repaid": list(map(float, numbers))}
        )

    before, after = people(range(2000)), people(range(700, 3000))
    old, new = split(contract, before, seed=7), split(contract, after, seed=7)
    assert not set(before["who"].gather(old.train)) & set(after["who"].gather(new.test))


def test_a_row_with_a_key_stays_in_its_part_whatever_else_changes(make: Any) -> None:
    contract = make(context={"loan": {"role": "key", "type": "text"}}, training=training("random"))
    before = rows(range(2000)).with_columns(loan=pl.Series([f"l{n}" for n in range(2000)]))
    after = before.with_columns(income=pl.col("income") + 1)
    assert split(contract, before, seed=7).test.tolist() == split(contract, after, seed=7).test.tolist()


def test_places_are_the_same_on_every_machine(make: Any) -> None:
    frame = pl.DataFrame({"income": [0.5, -0.0, None, 3.25, 8.0, 1e9, 2.0, 2.0], "repaid": ["0", "1"] * 4})
    assert split(make(training=training("random", "25%", "25%")), frame, seed=7).test.tolist() == [1, 2]
