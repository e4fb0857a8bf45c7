"""Profiles: exact numbers, histograms that count every value once, parts that merge without loss."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.profile import Moments, histogram, merge_counts, moments, quantile_edges

NUMBERS = st.lists(st.floats(-1e6, 1e6), max_size=200)


def test_moments_by_example():
    found = moments(np.array([4.0, 1.0, np.nan, 2.0, 3.0]))
    assert found == Moments(count=4, mean=2.5, squares=5.0, least=1.0, most=4.0)
    assert found.sd == np.std([1.0, 2.0, 3.0, 4.0])


def test_a_column_without_a_value_has_no_moments():
    assert moments(np.array([np.nan, np.nan])) == Moments()
    assert Moments().sd == 0.0


@given(NUMBERS, NUMBERS)
def test_the_moments_of_two_parts_merge_to_those_of_the_whole(one, other):
    whole, merged = moments(np.array(one + other)), moments(np.array(one)).merge(moments(np.array(other)))
    assert (merged.count, merged.least, merged.most) == (whole.count, whole.least, whole.most)
    assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)
    assert merged.sd == pytest.approx(whole.sd, rel=1e-6, abs=1e-4)


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200),
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200),
)
def test_every_value_is_in_one_bin_also_beyond_the_edges(reference, window):
    edges = quantile_edges(np.array(reference))
    assert list(edges) == sorted(set(edges))
    assert sum(histogram(np.array(window), edges)) == len(window)


def test_missing_values_are_in_no_bin():
    assert histogram(np.array([np.nan, 0.5]), (1.0,)) == (1, 0)


def test_histograms_with_other_edges_are_not_merged():
    with pytest.raises(EvidenceError, match="cannot be merged"):
        merge_counts(((1.0,), (1, 1)), ((2.0,), (1, 1)))
