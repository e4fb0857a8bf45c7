"""Effects: exact on small samples, in bounds on any, and in Cohen's words."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp, norm

from shipworthy.kernel.errors import EvidenceError
from shipworthy.stats.effect import MAGNITUDES, kolmogorov, magnitude, total_variation


def test_kolmogorovs_distance_at_every_value_is_the_textbooks() -> None:
    chance = np.random.default_rng(1)
    first, second = chance.normal(size=300), chance.normal(0.4, 2, size=200)
    cuts = np.sort(np.concatenate([first, second]))
    counts = [np.searchsorted(np.sort(values), cuts, side="right") for values in (first, second)]
    found = kolmogorov((counts[0], 300), (counts[1], 200))
    assert found == pytest.approx(ks_2samp(first, second).statistic)


def test_the_words_are_cohens_for_normal_distributions() -> None:
    assert [limit for limit, _ in MAGNITUDES] == [
        pytest.approx(2 * norm.cdf(d / 2) - 1, abs=5e-5) for d in (0.8, 0.5, 0.2)
    ]
    assert [magnitude(effect) for effect in (0.0, 0.0796, 0.0797, 0.2, 0.32, 1.0)] == [
        "none", "none", "small", "medium", "large", "large",
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=8))
def test_the_variation_is_a_symmetric_distance_up_to_one(counts: Any) -> None:
    first, second = [one for one, _ in counts], [two for _, two in counts]
    found = total_variation(first, second)
    assert 0 <= found <= 1
    assert found == total_variation(second, first)
    assert total_variation(first, [3 * one for one in first]) == 0


def test_an_empty_sample_differs_in_nothing_and_unlike_places_are_refused() -> None:
    assert (total_variation([0, 0], [1, 2]), kolmogorov(([], 3), ([], 3)), kolmogorov(([0], 0), ([1], 1))) == (0, 0, 0)
    assert total_variation([4, 0], [0, 9]) == 1
    with pytest.raises(EvidenceError, match="counts of 2 and 1 places cannot be compared"):
        total_variation([1, 2], [3])
    with pytest.raises(EvidenceError, match="counts of 1 and 2 places"):
        kolmogorov(([1], 3), ([1, 2], 3))
