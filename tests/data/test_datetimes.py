"""Datetimes: one format for a column, found by what reads most of it."""

import polars as pl
import pytest

from shipworthy.data.datetimes import detect_format, parse_datetimes


@pytest.mark.parametrize(
    ("texts", "pattern"),
    [
        (["2026-03-01T10:00:00Z", "2026-03-01T10:00:00.5+02:00"], "%Y-%m-%dT%H:%M:%S%.f%#z"),
        (["2026-03-01 10:00"], "%Y-%m-%d %H:%M"),
        (["1/31/2026", "2/1/2026"], "%m/%d/%Y"),
        (["31/1/2026", "1/2/2026"], "%d/%m/%Y"),
        (["1/31/26"], "%m/%d/%y"),
        (["31.01.2026 23:59:59"], "%d.%m.%Y %H:%M:%S%.f"),
        (["31-Jan-2026"], "%d-%b-%Y"),
    ],
)
def test_the_format_of_a_column(texts: list[str], pattern: str) -> None:
    found = detect_format(pl.Series(texts))
    assert found is not None
    assert (found.pattern, found.share, found.ambiguous) == (pattern, 1.0, False)


@pytest.mark.parametrize("texts", [["hello"], ["20260131"], ["2026"], ["12:30"], ["2026-02-30"], [None], []])
def test_what_is_no_date_has_no_format(texts: list[str | None]) -> None:
    assert detect_format(pl.Series(texts, dtype=pl.String)) is None


def test_days_that_may_be_months_are_ambiguous() -> None:
    found = detect_format(pl.Series(["01/02/2026", "03/04/2026"]))
    assert found is not None
    assert found.ambiguous


def test_an_offset_in_the_text_wins_and_of_a_doubled_hour_the_first_counts() -> None:
    def parsed(text: str, pattern: str) -> str:
        frame = pl.DataFrame({"at": [text]})
        return str(frame.select(parse_datetimes(pl.col("at"), pattern, "America/New_York")).item())

    assert parsed("2026-07-01T10:00:00+02:00", "%Y-%m-%dT%H:%M:%S%.f%#z") == "2026-07-01 08:00:00+00:00"
    assert parsed("2026-11-01 01:30", "%Y-%m-%d %H:%M") == "2026-11-01 05:30:00+00:00"
