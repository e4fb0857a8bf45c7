"""A text is the same moment, on the same clock, in a table and in a request."""

import random
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.data.datetimes import parse_datetimes
from shipworthy.kernel.errors import IntegrityError
from shipworthy.serving.values import clean_text, find_zone, read_datetime

ZONES = [
    None, "UTC", "Europe/Vienna", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia",
    "Africa/Casablanca", "America/St_Johns", "Asia/Kathmandu", "Antarctica/Troll", "Europe/Dublin", "Asia/Tehran",
]  # fmt: skip
LOCAL, OFFSET = "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f%#z"


def table(texts: list[str], pattern: str, zone: str | None) -> list[datetime | None]:
    frame = pl.DataFrame({"text": texts}).select(parse_datetimes(pl.col("text"), pattern, zone))
    return frame.to_series().dt.convert_time_zone(zone or "UTC").to_list()


def served(texts: list[str], zone: str | None) -> list[datetime | None]:
    return [read_datetime(text, find_zone(zone)) for text in texts]


def clocks(moments: list[datetime | None]) -> list[tuple[object, ...] | None]:
    """Wall clock and moment."""
    return [None if at is None else (at.replace(tzinfo=None, fold=0), at.astimezone(UTC)) for at in moments]


@pytest.mark.parametrize("zone", ZONES)
def test_every_hour_around_a_change_of_clocks_is_read_alike(zone: str | None) -> None:
    chance = random.Random(3)
    start = datetime(2026, 1, 1)
    near = [start + timedelta(minutes=30 * number) for number in range(2 * 24 * 365)]
    far = [datetime(1900, 1, 1) + timedelta(seconds=chance.randrange(200 * 365 * 86400)) for _ in range(5_000)]
    texts = [at.isoformat() for at in near + far]
    assert clocks(served(texts, zone)) == clocks(table(texts, LOCAL, zone))
    offsets = [text + chance.choice(["Z", "+02:00", "-0930", "+14"]) for text in texts[::7]]
    assert clocks(served(offsets, zone)) == clocks(table(offsets, OFFSET, zone))


@given(st.datetimes(datetime(1000, 1, 2), datetime(9999, 12, 31)), st.sampled_from(ZONES))
@settings(max_examples=200, deadline=None)
def test_any_day_of_the_calendar_is_read_alike(at: datetime, zone: str | None) -> None:
    text = at.isoformat(timespec="microseconds")
    assert clocks(served([text], zone)) == clocks(table([text], LOCAL, zone))


def test_an_hour_that_is_skipped_does_not_exist_and_one_shown_twice_is_the_first() -> None:
    vienna = ZoneInfo("Europe/Vienna")
    assert read_datetime("2026-03-29T02:30:00", vienna) is None
    twice = read_datetime("2026-10-25T02:30:00", vienna)
    assert twice is not None
    assert twice.astimezone(UTC) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    second = read_datetime("2026-10-25T01:30:00Z", vienna)
    assert second is not None
    assert (second.hour, second.utcoffset()) == (2, timedelta(hours=1))


@pytest.mark.parametrize(
    "text",
    ["", "soon", "20260131", "2026-W05-6", "2026-1-3", "2026-01-31x10:00", "2026-01-31T10", "2026-01-31T10:00+1",
     "2026-01-31T10:00:00+24:00", "2026-01-31T24:00:00", "0999-12-31", "10000-01-01", "2026-01-31Z", "٢٠٢٦-01-31"],
)  # fmt: skip
def test_what_is_no_moment_is_none(text: str) -> None:
    assert read_datetime(text, None) is None


def test_a_leap_second_is_the_next_one() -> None:
    assert served(["2016-12-31T23:59:60.5Z"], None) == table(["2016-12-31T23:59:60.5Z"], OFFSET, None)


def test_words_for_missing_yield_to_declared_values() -> None:
    assert clean_text("\u00a0 x\t") == "x"
    assert [clean_text(word) for word in ("", " ", "NA", "-", "no")] == [None, None, None, None, "no"]
    assert clean_text(" - ", {"-"}) == "-"


def test_a_zone_that_the_machine_lacks_is_refused() -> None:
    with pytest.raises(IntegrityError, match="Mars/Base"):
        find_zone("Mars/Base")
