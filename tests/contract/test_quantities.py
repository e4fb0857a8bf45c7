"""Quantities: each reads what it writes, and nothing without its unit."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.contract.quantities import (
    Money,
    format_duration,
    format_share,
    format_size,
    parse_duration,
    parse_money,
    parse_share,
    parse_size,
)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (parse_duration, "200ms", 0.2),
        (parse_duration, "1.5 h", 5400.0),
        (parse_duration, "90d", 7_776_000.0),
        (parse_share, "0%", 0.0),
        (parse_share, "100 %", 1.0),
        (parse_size, "1.5kB", 1500),
        (parse_money, "-4 EUR", Money(-4.0, "EUR")),
    ],
)
def test_a_quantity_is_read_in_its_base_unit(read: Callable[[Any], Any], text: str, value: Any) -> None:
    assert read(text) == pytest.approx(value) if isinstance(value, float) else read(text) == value


@pytest.mark.parametrize(
    ("read", "cure"),
    [
        (parse_duration, "ms, s, min, h or d"),
        (parse_share, "percent sign"),
        (parse_size, "kB, MB"),
        (parse_money, "USD"),
    ],
)
@pytest.mark.parametrize("wrong", [3, 0.02, None, True, "", "3", "x", "-1", "3 parsecs", "1e3", "٣%", "3%%", ["3s"]])
def test_what_has_no_unit_is_refused_with_the_units(read: Callable[[Any], Any], cure: str, wrong: Any) -> None:
    with pytest.raises(ValueError, match=cure):
        read(wrong)


@pytest.mark.parametrize("text", ["0s", "-1s", "101%", "-1%", "0MB"])
def test_what_is_out_of_range_is_refused(text: str) -> None:
    read = parse_share if "%" in text else parse_size if "MB" in text else parse_duration
    with pytest.raises(ValueError, match="expected"):
        read(text)


@given(st.integers(1, 10**7), st.sampled_from(["ms", "s", "min", "h", "d"]))
def test_a_duration_reads_what_it_writes(count: int, unit: str) -> None:
    seconds = parse_duration(f"{count}{unit}")
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-9)


@given(st.floats(0, 1))
def test_a_share_reads_what_it_writes(fraction: float) -> None:
    assert parse_share(format_share(fraction)) == pytest.approx(fraction, rel=1e-9, abs=1e-300)


@given(st.integers(1, 10**15))
def test_a_size_reads_what_it_writes(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=1e-9)
