"""What a gate decided, with the numbers needed to argue about it later."""

import math
from dataclasses import dataclass
from typing import Literal

from shipworthy.kernel.digest import Json

Outcome = Literal["pass", "fail", "insufficient", "not applicable"]

SEVERITY: dict[Outcome, int] = {"not applicable": 0, "pass": 1, "insufficient": 2, "fail": 3}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One gate's decision on one payload.

    Attributes:
        gate: the limit judged, dotted, such as `performance.log_loss` or `fairness.equal_opportunity_difference.sex`.
        outcome: `insufficient` means that the rows could not decide; it is never a pass.
        measured: the point estimate, in `unit`; None when nothing could be measured.
        interval: its lower and upper bound, each holding with the gate's confidence on its own; None for what
            has no sampling error (sizes) or could not be measured.
        limit: what the interval's bound had to meet, as a number in `unit` or in words.
        unit: unit of measured, interval and limit; None for pure numbers.
        rows: how many rows or requests were looked at.
        reason: one sentence in plain words.
    """

    gate: str
    outcome: Outcome
    measured: float | None
    interval: tuple[float, float] | None
    limit: float | str | None
    unit: str | None
    rows: int
    reason: str

    @property
    def lets_through(self) -> bool:
        """Whether this verdict alone lets a release into any environment: pass, or not applicable."""
        return self.outcome in ("pass", "not applicable")

    def to_json(self) -> dict[str, Json]:
        """A JSON document of this verdict; a number that is not finite becomes null."""
        return {
            "gate": self.gate,
            "outcome": self.outcome,
            "measured": _finite(self.measured),
            "interval": None if self.interval is None else [_finite(bound) for bound in self.interval],
            "limit": _finite(self.limit) if isinstance(self.limit, float) else self.limit,
            "unit": self.unit,
            "rows": self.rows,
            "reason": self.reason,
        }


def strictest(verdicts: tuple[Verdict, ...]) -> Verdict:
    """The one verdict that stands for several on the same gate: the numbers of the worst, the reasons of all.

    Args:
        verdicts: at least one, all of the same gate.
    """
    worst = max(verdicts, key=lambda verdict: SEVERITY[verdict.outcome])
    reason = " ".join(verdict.reason for verdict in verdicts)
    return Verdict(
        worst.gate, worst.outcome, worst.measured, worst.interval, worst.limit, worst.unit, worst.rows, reason
    )


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
