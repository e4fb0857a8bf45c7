"""The robustness gate looks at the upper bound of the share of flipped decisions."""

import math
import os

import numpy as np
import pytest

from shipworthy.gates.evidence import Flips
from shipworthy.gates.robustness import judge_robustness
from tests.conftest import Seen

REPETITIONS = int(os.environ.get("SHIPWORTHY_SOAK", "2000"))


@pytest.mark.parametrize(
    ("flips", "outcome"),
    [
        (Flips(0, 1000), "pass"),
        (Flips(38, 1000), "pass"),
        (Flips(45, 1000), "insufficient"),
        (Flips(70, 1000), "fail"),
        (Flips(0, 99), "insufficient"),
        (None, "insufficient"),
    ],
)
def test_the_upper_bound_decides(flips: Flips | None, outcome: str) -> None:
    assert judge_robustness(flips, at_most=0.05, confidence=0.95).outcome == outcome


def test_a_share_of_exactly_the_limit_passes_as_often_as_promised(seen: Seen) -> None:
    rng = np.random.default_rng(1)
    drawn = rng.binomial(2000, 0.05, size=REPETITIONS)
    passed = sum(judge_robustness(Flips(int(n), 2000), at_most=0.05, confidence=0.95).outcome == "pass" for n in drawn)
    seen("passed on the boundary", passed / REPETITIONS)
    assert abs(passed / REPETITIONS - 0.05) < 0.01 + 4 * math.sqrt(0.05 * 0.95 / REPETITIONS)
