"""Numerals: a number is read only as it is written, and how it is written is told only where it is sure."""

from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.data.numerals import CANDIDATES, PLAIN, Numerals, Written, detect_numerals, words_for_null
from shipworthy.data.sources.dialect import Dialect
from shipworthy.data.sources.read import read_file, stream_text

GERMAN = Numerals(",", ".")


def plain(numerals: Numerals, texts: list[str]) -> list[str | None]:
    return pl.DataFrame({"x": texts}).select(numerals.plain(pl.col("x"))).to_series().to_list()


def mistaken(numerals: Numerals, texts: list[str]) -> list[bool]:
    return pl.DataFrame({"x": texts}).select(numerals.mistaken(pl.col("x"))).to_series().to_list()


WRITTEN: dict[str, tuple[Numerals, dict[str, str]]] = {
    "German": (GERMAN, {"1.234,5": "1234.5", "-1.234.567": "-1234567", " 12,5 ": "12.5", "7": "7", ",5": ".5"}),
    "Swiss": (Numerals(".", "'"), {"1'234.5": "1234.5", "1\u2019234": "1234", "12.25": "12.25"}),
    "French": (Numerals(",", " "), {"1 234,5": "1234.5", "1\u202f234": "1234", "1\xa0234,0": "1234.0"}),
    "English": (Numerals(".", ","), {"1,234,567.8": "1234567.8", "+1,234": "+1234"}),
    "comma alone": (Numerals(","), {"1234,5": "1234.5", "1,5e3": "1.5e3"}),
}


@pytest.mark.parametrize("case", WRITTEN)
def test_a_number_that_is_written_so_is_read_so(case: str) -> None:
    numerals, texts = WRITTEN[case]
    assert plain(numerals, list(texts)) == list(texts.values())
    assert mistaken(numerals, list(texts)) == [False] * len(texts)


def test_what_is_written_otherwise_stays_and_is_told_if_it_would_read_as_a_number() -> None:
    texts = ["1234.56", "12.5", "1.23.456", "0.123.456", "much", "001", "None", "1e400", "1_000", "nan", "inf"]
    assert plain(GERMAN, texts) == texts
    assert mistaken(GERMAN, texts) == [True, True, *[False] * 9]
    assert mistaken(Numerals(","), ["1.234"]) == [True]


@settings(max_examples=300, deadline=None)
@given(st.integers(-(10**12), 10**12), st.integers(0, 99), st.sampled_from(CANDIDATES))
def test_every_number_is_read_back_from_its_own_way_of_writing(whole: int, cents: int, numerals: Numerals) -> None:
    digits = f"{abs(whole):,}".replace(",", numerals.thousands)
    text = f"{'-' if whole < 0 else ''}{digits}{numerals.decimal}{cents:02d}"
    (read,) = plain(numerals, [text])
    assert float(str(read)) == float(f"{whole}.{cents:02d}") or (whole == 0)
    assert mistaken(numerals, [text]) == [False]


def table(**columns: list[str]) -> pl.DataFrame:
    return pl.DataFrame(columns)


TOLD = {
    "German": (table(a=["1.234,5", "2,5"], b=["12", "7"], c=["x", "y"]), Written(GERMAN, ("a",), ("a", "b"))),
    "comma alone": (table(a=["12,5", "2,25"]), Written(Numerals(","), ("a",), ("a",))),
    "English": (table(a=["1,234.5", "2.5", "12,345.0"]), Written(Numerals(".", ","), ("a",), ("a",))),
    "plain": (table(a=["1234.5", "1.234"], b=["x", "y"]), Written()),
    "unclear": (table(a=["1,234", "5,678"]), Written(unclear=("a",))),
    "made clear": (table(a=["1,234", "5,678"], b=["0,5", "1,25"]), Written(Numerals(","), ("b", "a"), ("b", "a"))),
    "two ways": (table(a=["0,5", "1,25"], b=["0.5", "1.25"]), Written(apart=("b",))),
    "phone numbers": (table(a=["044 123 456", "044 123 457"]), Written()),
    "dates": (table(a=["01.02.2026", "11.12.2026"]), Written()),
}


@pytest.mark.parametrize("case", TOLD)
def test_how_numbers_are_written_is_told_only_where_it_is_sure(case: str) -> None:
    frame, written = TOLD[case]
    assert detect_numerals(frame) == written


def test_a_word_among_numbers_stands_for_no_value_and_one_among_texts_does_not() -> None:
    frame = table(a=["1,5", "None", "2,25"], b=["none", "wood", "stone"], c=["1", "2", "none"])
    assert words_for_null(frame.select("b"), PLAIN) == ()
    assert words_for_null(frame.select("a", "b"), Numerals(",")) == ("None",)
    assert words_for_null(frame, PLAIN) == ("none",)


def test_only_columns_of_numbers_are_read_so_and_a_number_of_another_way_is_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("id;Preis (EUR);code;n\nA;1.234,5;1.234;None\nB;1234.56;1,5;2\nC;12.5;x;1.5\nD;zu viel;;-99\n")
    numbers = frozenset({"Preis_EUR", "n"})
    dialect = Dialect(delimiter=";", numerals=GERMAN, numbers=numbers, nulls=("None", "-99"))
    read = read_file("rows", path, dialect)
    assert read.frame.rows() == [("A", "1234.5", "1.234", None), ("D", "zu viel", None, None)]
    reason = "Preis_EUR: not a number written as 1.234,5"
    assert read.malformed.rows() == [
        ("rows.csv", 3, "B;1234.56;1,5;2", reason),
        ("rows.csv", 4, "C;12.5;x;1.5", f"{reason}; n: not a number written as 1.234,5"),
    ]
    assert read.files[0].lines is not None
    assert read.files[0].lines.to_list() == [2, 5]
    blocks = list(stream_text(path, 20, dialect))
    assert len(blocks) > 2
    assert [row for block in blocks for row in block.frame.rows()] == read.frame.rows()
    assert [row for block in blocks for row in block.malformed.rows()] == read.malformed.drop("file").rows()
