"""What a monitor saw, with the numbers needed to argue about it later."""

import math
from dataclasses import dataclass
from typing import Literal

from shipworthy.kernel.digest import Json

Kind = Literal["drift", "quality", "rollout", "records", "control", "data"]
Severity = Literal["warning", "critical"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it was promised.

    Attributes:
        kind: which monitor saw it.
        about: the column, `score`, or the release.
        aspect: what of it: `values`, `missing`, `range` of a column; a metric of a release;
            of the data `volume`, `quarantined`, `freshness`, `missing`, `values`, `schema`.
        p_value: of what was seen or more, if nothing were wrong; None where nothing was tested.
        effect: how large it is on a scale that lets findings of one kind be ranked: of a drift, how many times
            the least size that matters.
        measured: what was promised or known, and what was seen, in words with units.
        rows: looked at in the window.
        cause: one plain sentence: what happened, as far as the numbers say.
        next: one plain sentence: what to do.
        severity: `critical` if somebody should be woken.
    """

    kind: Kind
    about: str
    aspect: str
    p_value: float | None
    effect: float
    measured: str
    rows: int
    cause: str
    next: str
    severity: Severity = "warning"

    def to_json(self) -> dict[str, Json]:
        """A JSON document of this finding; an effect beyond all numbers becomes null."""
        return {
            "kind": self.kind,
            "about": self.about,
            "aspect": self.aspect,
            "p_value": self.p_value,
            "effect": self.effect if math.isfinite(self.effect) else None,
            "measured": self.measured,
            "rows": self.rows,
            "cause": self.cause,
            "next": self.next,
            "severity": self.severity,
        }
