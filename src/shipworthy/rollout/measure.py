"""What is measured of two arms that answered side by side: evidence of more bad events, and the ratio of tails."""

import math
from bisect import bisect_left

import numpy as np
from numpy.typing import NDArray

from shipworthy.stats.estimates import Estimate
from shipworthy.stats.sequential import Arm, arm_of, estimate_of, share_difference, split_evidence

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Codes = NDArray[np.int64]

TAIL = 0.99  # the percentile that `p99` speaks of
MIN_TAIL_ROWS = 100  # of the champion: with fewer, one row in a hundred is none
MIN_STRATUM_ROWS = 500  # shorter looks are joined: with a canary row here and a champion's there, nothing compares


def highest_evidence(look: Codes, is_canary: Bools, unit: Codes, is_bad: Bools, *, margin: float) -> float:
    """Highest evidence of any look that the canary's rows turn bad more often than the champion's plus `margin`.

    Only the first bad row of a unit counts, and its rows after that are no longer at risk: a customer who meets the
    same bug a hundred times is one piece of evidence. Rows are compared with those of the same look and of units that
    have been met about as often, since those that have lasted long are the sounder ones (as in a log-rank test).

    Args:
        look: shape (n,), in which look each row fell; rows in event order.
        is_canary: shape (n,).
        unit: shape (n,), any code.
        is_bad: shape (n,).
        margin: of the rate, 0 to 1.
    """
    if not len(look):
        return 1.0
    _, codes = np.unique(unit, return_inverse=True)
    member = 2 * codes + is_canary  # a unit that met both arms is one in each
    rows = np.arange(len(look))
    first_bad = np.full(int(member.max()) + 1, len(look))
    np.minimum.at(first_bad, member[is_bad], rows[is_bad])
    at_risk = rows <= first_bad[member]
    strata, at = np.unique(_strata(look, member), return_inverse=True)
    counted = [
        np.bincount(at[at_risk & arm & kind], minlength=len(strata)).astype(np.float64)
        for arm in (is_canary, ~is_canary)
        for kind in (is_bad, np.True_)
    ]
    return float(split_evidence(*counted, margin=margin).max())


def earlier_tail(look: Codes, is_canary: Bools, latency_ms: Floats) -> Floats:
    """Shape (n,), for each row the champion's p99 as it was known before the row's look; infinite while it was not.

    It is taken anew each time the champion's rows have doubled. What a look is judged by must not depend on that look,
    else the evidence promises nothing.

    Args:
        look: shape (n,), in which look each row fell.
        is_canary: shape (n,).
        latency_ms: shape (n,), without NaN.
    """
    looks, at = np.unique(look, return_inverse=True)
    of_champion = at[~is_canary]
    order = np.argsort(of_champion, kind="stable")
    latencies = latency_ms[~is_canary][order]
    tail, used = math.inf, 0
    tails = np.empty(len(looks))
    for index, rows in enumerate(np.searchsorted(of_champion[order], np.arange(len(looks)))):
        if rows >= max(2 * used, MIN_TAIL_ROWS):
            tail, used = _tail(latencies[:rows]), int(rows)
        tails[index] = tail
    return tails[at]


def compare_tails(is_canary: Bools, unit: Codes, latency_ms: Floats, *, alpha: float) -> Estimate:
    """The canary's p99 over the champion's, minus 1, with bounds that hold at every look at once.

    The ratio r is bounded by asking of each r whether more of the canary's rows are above r times the champion's p99
    than of the champion's rows above its p99 (inversion of `share_difference`). NaN while it cannot be said.

    Args:
        is_canary: shape (n,).
        unit: shape (n,), any code.
        latency_ms: shape (n,), without NaN.
        alpha: of each bound on its own, in (0, 0.5).
    """
    canary, champion = latency_ms[is_canary], latency_ms[~is_canary]
    tail = _tail(champion) if len(champion) >= MIN_TAIL_ROWS else math.nan
    if not (0 < tail < math.inf and len(canary)):
        return Estimate(math.nan, -math.inf, math.inf)
    _, codes = np.unique(unit[is_canary], return_inverse=True)
    rows = np.bincount(codes).astype(np.float64)
    slow = arm_of(champion > tail, unit[~is_canary])
    levels = np.unique(canary)

    def slower(level: float) -> Estimate:
        totals = np.bincount(codes, canary > level).astype(np.float64)
        return estimate_of(share_difference(Arm(rows, totals, totals), slow, alpha=alpha))

    above = bisect_left(levels, True, key=lambda level: slower(level).high <= 0)
    below = bisect_left(levels, True, key=lambda level: slower(level).low < 0)
    return Estimate(
        _tail(canary) / tail - 1,
        float(levels[below - 1]) / tail - 1 if below > 0 else -1.0,
        float(levels[above]) / tail - 1 if above < len(levels) else math.inf,
    )


def _strata(look: Codes, member: Codes) -> Codes:
    """Shape (n,), ascending in time: rows that are compared with each other."""
    before = np.searchsorted(np.sort(look), look) // MIN_STRATUM_ROWS
    order = np.argsort(member, kind="stable")
    _, starts, sizes = np.unique(member[order], return_index=True, return_counts=True)
    met = np.empty(len(look), dtype=np.int64)
    met[order] = np.arange(len(look)) - np.repeat(starts, sizes)
    age = np.log2(met + 1).astype(np.int64)
    return np.asarray(before * (int(age.max()) + 1) + age, dtype=np.int64)


def _tail(latencies: Floats) -> float:
    return float(np.quantile(latencies, TAIL, method="higher"))
