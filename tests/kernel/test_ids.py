import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.kernel.ids import make_id

TIMES = st.integers(0, 2**48 - 1)
ENTROPY = st.binary(min_size=10, max_size=10)


def test_an_id_has_a_prefix_and_26_characters():
    assert make_id("run", 0, bytes(10)) == "run_" + "0" * 26
    assert make_id("run", 2**48 - 1, b"\xff" * 10) == "run_7" + "z" * 25


@given(TIMES, TIMES, ENTROPY, ENTROPY)
def test_ids_sort_by_time(first: int, second: int, one: bytes, other: bytes):
    if first < second:
        assert make_id("x", first, one) < make_id("x", second, other)


@given(TIMES, ENTROPY, ENTROPY)
def test_other_entropy_gives_another_id(now: int, one: bytes, other: bytes):
    assert (make_id("x", now, one) == make_id("x", now, other)) == (one == other)


@pytest.mark.parametrize(
    ("now", "entropy", "words"), [(-1, bytes(10), "now_ms"), (2**48, bytes(10), "now_ms"), (0, bytes(9), "9 bytes")]
)
def test_arguments_out_of_range_are_named(now: int, entropy: bytes, words: str):
    with pytest.raises(ValueError, match=words):
        make_id("x", now, entropy)
