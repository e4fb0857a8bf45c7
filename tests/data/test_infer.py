"""Infer: columns are taken for what they most likely are, and every doubt is listed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pytest

from shipworthy.data.guesses import Guess, Inference
from shipworthy.data.infer import infer, widened
from shipworthy.kernel.errors import DataError, UsageError

ROWS = 200
RANDOM = np.random.default_rng(5)
AMOUNTS = [f"{value:.2f}" for value in RANDOM.uniform(1, 90, ROWS)]
LABELS = RANDOM.choice(["yes", "no"], ROWS, p=[0.3, 0.7]).tolist()
KNOWN_AFTERWARDS = [amount if label == "yes" else None for amount, label in zip(AMOUNTS, LABELS, strict=True)]


def inferred(columns: dict[str, Any], target: str = "bought", **named: Any) -> Inference:
    return infer(pl.DataFrame({"amount": AMOUNTS, "bought": LABELS, **columns}), target, **named)


def guess(name: str, values: list[Any], **named: Any) -> Guess:
    return next(column for column in inferred({name: values}, **named).columns if column.name == name)


KINDS: dict[str, tuple[str, list[Any], str, str]] = {
    "numbers with a point": ("v", AMOUNTS, "feature", "float"),
    "whole numbers": ("v", [str(row % 90) for row in range(ROWS)], "feature", "int"),
    "numbers, one of them no number": ("v", [*AMOUNTS[:-1], "many"], "feature", "float"),
    "missing words": ("v", ["NA", "", "?", *AMOUNTS[3:]], "feature", "float"),
    "codes with leading zeros": ("v", [f"{row % 30:03}" for row in range(ROWS)], "feature", "category"),
    "few texts": ("v", [("red", "blue", "no")[row % 3] for row in range(ROWS)], "feature", "category"),
    "true and false": ("v", [("True", "False")[row % 2] for row in range(ROWS)], "feature", "bool"),
    "many texts": ("v", [f"{row // 2} Main Street" for row in range(ROWS)], "left out", "text"),
    "a constant": ("v", ["7"] * ROWS, "left out", "text"),
    "nothing": ("v", [None] * ROWS, "left out", "text"),
    "row numbers": ("v", [str(row) for row in range(ROWS)], "left out", "int"),
    "texts with letters and numbers": ("order", [f"ORD-{row:05}" for row in range(ROWS)], "key", "text"),
    "whole numbers that a float64 cannot tell apart": (
        "v",
        [str(2**53 + row // 3) for row in range(ROWS)],
        "left out",
        "int",
    ),
    "identifiers": ("account_id", [str(1000 + 7 * row) for row in range(ROWS)], "key", "text"),
    "unique texts": ("v", [f"A{row}" for row in range(ROWS)], "key", "text"),
    "dates": ("signed_on", [f"2026-0{1 + row % 9}-1{row % 10}" for row in range(ROWS)], "time", "datetime"),
    "dates of birth": ("birth_date", [f"{1950 + row % 50}-01-01" for row in range(ROWS)], "left out", "datetime"),
    "dates that read both ways": (
        "v",
        [f"0{1 + row % 9}/0{1 + row % 8}/2026" for row in range(ROWS)],
        "left out",
        "text",
    ),
    "a protected name": ("Sex", [("f", "m", "m")[row % 3] for row in range(ROWS)], "protected", "category"),
    "coded groups": ("race_code", [str(row % 3) for row in range(ROWS)], "protected", "category"),
    "ages": ("age", [str(18 + row % 60) for row in range(ROWS)], "feature", "int"),
    "the target in other words": ("v", [label.upper() for label in LABELS], "left out", "category"),
    "an amount known only afterwards": (
        "v",
        KNOWN_AFTERWARDS,
        "left out",
        "float",
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_a_column_is_taken_for(case: str) -> None:
    name, values, place, kind = KINDS[case]
    found = guess(name, values)
    assert (found.place, found.kind) == (place, kind)


def test_what_was_found_of_a_column() -> None:
    assert guess("v", [*AMOUNTS[:-1], "many"]).strays == 1
    assert guess("v", ["NA", *AMOUNTS[1:]]).missing == 1 / ROWS
    assert guess("size", [("10", "9", "x")[row % 3] for row in range(ROWS)]).values == ("10", "9", "x")
    assert guess("sex", [("f", "m", "m")[row % 3] for row in range(ROWS)]).reference == "m"
    assert "gives the target away" in guess("v", [label.upper() for label in LABELS]).why


def test_a_number_that_parts_the_classes_alone_is_left_out_for_review() -> None:
    found = inferred({"v": [f"{row + (10_000 if LABELS[row] == 'yes' else 0)}.5" for row in range(ROWS)]})
    assert any(note.startswith("v: left out, for it gives the target away: alone it parts") for note in found.review)


def test_where_every_column_gives_the_target_away_they_stay() -> None:
    found = infer(pl.DataFrame({"v": [f"{x == 'yes'}" for x in LABELS], "bought": LABELS}), "bought")
    assert [column.name for column in found.placed("feature")] == ["v"]


TARGETS: dict[str, tuple[Sequence[str | None], str, tuple[str, ...], str | None]] = {
    "yes and no": (LABELS, "binary", ("no", "yes"), "yes"),
    "ones and zeros": ([str(int(x == "no")) for x in LABELS], "binary", ("0", "1"), "1"),
    "the rarer of two": ([{"yes": "left", "no": "stayed"}[x] for x in LABELS], "binary", ("left", "stayed"), "left"),
    "a few whole numbers": (
        [str(row % 10 + 1) for row in range(ROWS)],
        "multiclass",
        tuple(map(str, range(1, 11))),
        None,
    ),
    "many whole numbers": ([str(row % 50) for row in range(ROWS)], "regression", (), None),
    "fractions": (AMOUNTS, "regression", (), None),
    "a few fractions": ([("0.5", "1.5", "2.5")[row % 3] for row in range(ROWS)], "regression", (), None),
}


@pytest.mark.parametrize("case", TARGETS)
def test_the_task_follows_from_the_target(case: str) -> None:
    values, task, classes, positive = TARGETS[case]
    found = inferred({"goal": values}, "goal")
    assert (found.task, found.classes, found.positive) == (task, classes, positive)


REFUSED: dict[str, tuple[Sequence[str | None], str]] = {
    "missing": ([None] * ROWS, "has no value in any of 200 rows"),
    "constant": (["1"] * ROWS, "is '1' in every row"),
    "one row of a class": (["a"] * 100 + ["b"] * 99 + ["c"], "class 'c' of the target goal has one row; gather more"),
    "free text": ([f"text {row}" for row in range(ROWS)], "has 200 distinct texts, such as 'text 0'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_target_that_cannot_be_learnt_is_refused(case: str) -> None:
    values, message = REFUSED[case]
    with pytest.raises(DataError, match=message):
        inferred({"goal": values}, "goal")


def test_named_columns_are_taken_at_their_word_or_refused() -> None:
    dates = [f"2026-01-{1 + row % 28:02}" for row in range(ROWS)]
    found = inferred({"d": dates, "e": dates, "k": AMOUNTS}, time="e", key="k")
    assert [(c.name, c.place) for c in found.columns[2:]] == [("d", "left out"), ("e", "time"), ("k", "key")]
    with pytest.raises(UsageError, match="no column 'w'; it has amount, bought"):
        inferred({}, time="w")
    with pytest.raises(UsageError, match=r"the time column amount holds no dates .* write year-month-day"):
        inferred({}, time="amount")
    with pytest.raises(UsageError, match=r"the protected column amount has .* make one with at most 50"):
        inferred({}, protected=["amount"])
    with pytest.raises(DataError, match="no column is left to predict bought from: amount: key"):
        inferred({}, key="amount")


@pytest.mark.parametrize(
    ("least", "most", "whole", "expected"),
    [
        (1, 12, True, (0, 14)),
        (18, 90, True, (0, 100)),
        (0, 1, True, (0, 1)),
        (-3.2, 4.1, False, (-4, 5)),
        (980, 1050, False, (970, 1060)),
        (-9, -4, True, (-10, -3)),
        (5, 5, True, (4, 6)),
    ],
)
def test_ranges_are_round_numbers_with_room(
    least: float, most: float, whole: bool, expected: tuple[float, float]
) -> None:
    assert widened(least, most, whole=whole) == expected


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([f"${1000 + row}.50" for row in range(ROWS)], "write plain numbers"),
        ([f"{row},{100 + row} EUR" for row in range(ROWS)], "write plain numbers"),
        ([f"{row / 7:.1f}%" for row in range(ROWS)], "write plain numbers"),
        ([f"{row / 7:.3f}".replace(".", ",") for row in range(ROWS)], "write plain numbers"),
        ([f"{row}.5" if row % 5 else f"about {row}" for row in range(ROWS)], "80.0% of them are numbers"),
        (
            [f"2026-01-{1 + row % 28:02}" if row % 2 else f"{row} days ago" for row in range(ROWS)],
            "50.0% of them are dat",
        ),
        ([f"{1 + row % 12:02}/{1 + row // 12 % 12:02}/2026" for row in range(ROWS)], "whether day or month"),
        ([f"{row // 2} Main Street" for row in range(ROWS)], "distinct texts, such as '0 Main Street'"),
    ],
)
def test_a_text_that_is_almost_numbers_or_dates_is_said_to_be(values: list[str], words: str):
    assert words in guess("v", values).why


def test_prose_is_no_category_however_seldom_it_varies():
    taken = guess("v", ["word " * 100 if row % 2 else "short" for row in range(ROWS)])
    assert (taken.place, taken.why) == ("left out", "holds texts of up to 499 characters")


def test_a_target_of_prose_is_refused():
    labels = ["word " * 100 if row % 2 else "short" for row in range(ROWS)]
    with pytest.raises(DataError, match="a label of bought has 499 characters"):
        inferred({"bought": labels})


def test_a_misspelt_target_is_answered_with_its_neighbour():
    with pytest.raises(UsageError, match="no column 'bougth'; it has amount, bought; did you mean bought"):
        inferred({}, target="bougth")


def test_a_class_that_means_missing_is_named():
    labels = ["null" if row % 2 else "NA" if row % 3 else "scratch" for row in range(ROWS)]
    with pytest.raises(DataError, match="in every row that has a value; 'NA' or 'null' means missing"):
        inferred({"bought": labels})
    assert any("or 'null', which means" in note for note in inferred({"bought": [*LABELS[1:], "null"]}).review)


def test_a_class_of_few_rows_is_listed_for_review():
    assert any("class 'rare' has 3 rows" in note for note in inferred({"bought": [*LABELS[3:], *["rare"] * 3]}).review)
