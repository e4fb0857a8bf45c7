"""Profiles: exact numbers, and histograms that count every value once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.stats.profile import histogram, profile, quantile_edges


def test_a_profile_by_example():
    found = profile(np.array([4.0, 1.0, np.nan, 2.0, 3.0]))
    assert (found.rows, found.missing, found.mean, found.median, found.least, found.most) == (5, 1, 2.5, 2.5, 1.0, 4.0)
    assert found.sd == np.std([1.0, 2.0, 3.0, 4.0])
    assert found.edges == (1.0, 2.0, 3.0, 4.0)
    assert found.counts == (0, 1, 1, 1, 1)


def test_a_column_without_a_value_has_no_numbers():
    found = profile(np.array([np.nan, np.nan]))
    assert (found.missing, found.mean, found.median, found.edges, found.counts) == (2, None, None, (), ())


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
