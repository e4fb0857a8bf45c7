"""From measured use to workers, memory and cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.evaluation.sizing import TARGET_UTILISATION, propose_size


def test_a_busier_peak_takes_more_workers() -> None:
    size = propose_size(
        2000.0, cpu_seconds=3.0, requests=10_000, memory_bytes=100_000_000, workers=1, usd_per_core_hour=0.10
    )
    assert size.cores == pytest.approx(0.6)  # 300 us a request
    assert size.workers == 1
    assert size.usd_per_month == pytest.approx(73.0)
    assert size.usd_per_1k == pytest.approx(0.3 / 3600 * 0.10)
    twice = propose_size(
        4000.0, cpu_seconds=3.0, requests=10_000, memory_bytes=100_000_000, workers=1, usd_per_core_hour=0.10
    )
    assert (twice.workers, twice.memory_bytes) == (2, 200_000_000)


@given(st.floats(1, 1e5), st.floats(1e-6, 1e-2))
def test_the_proposed_workers_are_the_fewest_that_are_not_too_busy(rate: float, service_s: float) -> None:
    size = propose_size(
        rate, cpu_seconds=1000 * service_s, requests=1000, memory_bytes=1, workers=1, usd_per_core_hour=0.05
    )
    busy = rate * service_s
    assert busy / size.workers <= TARGET_UTILISATION * (1 + 1e-9)
    assert size.workers == 1 or busy / (size.workers - 1) > TARGET_UTILISATION * (1 - 1e-9)
