"""Labels: from everything that was told, in whatever order, to the one truth of each id.

What was told is never thrown away. Of contradicting tellings the latest received counts, and the others stay to be
seen; a repetition changes nothing.
"""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from shipworthy.records.format import Outcome, Record

STEP_S = 1e-6  # between two tellings of one id within one file: the later row is received later

Effect = Literal["accepted", "repeated", "contradicting"]


class Truths:
    """The truth by id, and what was told against it; the order of telling does not matter, only `received`."""

    def __init__(self, outcomes: Iterable[Outcome] = ()) -> None:
        self._held: dict[str, Outcome] = {}
        self._told: dict[str, list[Outcome]] = {}  # where one id was told differently, or by several
        self.repeated = 0  # tellings of what was told already
        self.contradicting = 0  # tellings that gave an id another value
        for outcome in outcomes:
            self.tell(outcome)

    def __len__(self) -> int:
        """How many ids have a truth."""
        return len(self._held)

    def __iter__(self) -> Iterator[Outcome]:
        """The truth of each id; its `time` is the earliest at which that value was known."""
        return iter(self._held.values())

    def tell(self, outcome: Outcome) -> Effect:
        """Take one telling; whether its id was new, its value was told before, or it contradicts."""
        held = self._held.get(outcome.id)
        if held is None:
            self._held[outcome.id] = outcome
            return "accepted"
        told = self._told.get(outcome.id, [held])
        is_known = any(earlier.value == outcome.value for earlier in told)
        self._told[outcome.id] = told = _merge(told, outcome)
        self._held[outcome.id] = _hold(told)
        if is_known:
            self.repeated += 1
            return "repeated"
        self.contradicting += 1
        return "contradicting"

    def find(self, id: str) -> Outcome | None:
        """The truth of an id."""
        return self._held.get(id)

    def find_of(self, record: Record) -> Outcome | None:
        """The truth of a prediction, told by the caller's id or by the prediction's; of both the latest received."""
        by_prediction = self._held.get(record.prediction_id)
        by_caller = None if record.id is None else self._held.get(record.id)
        if by_prediction is None or by_caller is None:
            return by_prediction or by_caller
        return max(by_prediction, by_caller, key=_order)

    def tellings(self, id: str) -> tuple[Outcome, ...]:
        """What was told of an id, the latest received first: one for each value and source."""
        held = self._held.get(id)
        told = self._told.get(id, [] if held is None else [held])
        return tuple(sorted(told, key=_order, reverse=True))

    def contradicted(self) -> dict[str, tuple[Outcome, ...]]:
        """The ids that were told different values, each with all that was told of it."""
        return {key: self.tellings(key) for key, told in self._told.items() if len({one.value for one in told}) > 1}


def _order(outcome: Outcome) -> tuple[float, float, str, str]:
    """Later is greater; ties are broken by what was said, so that the order of reading never matters."""
    return outcome.received, outcome.time, outcome.source, str(outcome.value)


def _merge(told: list[Outcome], outcome: Outcome) -> list[Outcome]:
    """`told` and `outcome`; of one value and source one telling remains: known first, received last."""
    for place, earlier in enumerate(told):
        if earlier.value == outcome.value and earlier.source == outcome.source:
            both = msgspec.structs.replace(
                earlier, time=min(earlier.time, outcome.time), received=max(earlier.received, outcome.received)
            )
            return [*told[:place], both, *told[place + 1 :]]
    return [*told, outcome]


def _hold(told: list[Outcome]) -> Outcome:
    latest = max(told, key=_order)
    known = min(one.time for one in told if one.value == latest.value)
    return latest if known == latest.time else msgspec.structs.replace(latest, time=known)


@dataclass(slots=True)
class LabelReport:
    """What became of the rows of one telling."""

    accepted: int = 0  # ids whose truth is known from now on
    repeated: int = 0  # no effect
    contradicting: int = 0  # kept beside what was told before
    unknown: int = 0  # ids that nobody predicted under
    pending: int = 0  # rows without a value: not known yet
    invalid: dict[str, int] = field(default_factory=dict)  # reason -> rows

    @property
    def rows(self) -> int:
        """All of them."""
        return self.used + self.unknown + self.pending + sum(self.invalid.values())

    @property
    def used(self) -> int:
        """Rows that joined a prediction."""
        return self.accepted + self.repeated + self.contradicting

    def to_json(self) -> dict[str, Any]:
        """The counts by name."""
        counts: Mapping[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"rows": self.rows, **counts}


def join_labels(
    outcomes: Sequence[Outcome], truths: Truths, known: Container[str], report: LabelReport, *, is_again: bool = False
) -> tuple[list[Outcome], list[Outcome]]:
    """The outcomes that must be kept, which `truths` then holds, and those of unknown ids; counted in `report`.

    Where the telling contradicts itself each of its values is kept under its source, so that telling it again, after
    it was stopped midway, ends with its last word and not with its first.

    Args:
        outcomes: one telling, in its order.
        truths: what was told before; changed.
        known: ids of callers and of predictions.
        report: its counts grow.
        is_again: whether this telling was told to its end before: then what it says takes nothing back.
    """
    fresh: list[Outcome] = []
    unknown: list[Outcome] = []
    wavering = _wavering(outcomes)
    for outcome in outcomes:
        if outcome.id not in known:
            unknown.append(outcome)
            continue
        held = truths.find(outcome.id)
        if held is None:
            report.accepted += 1
        elif held.value == outcome.value or _was_told(truths, outcome, is_again):
            report.repeated += 1
            if outcome.id not in wavering or _was_told(truths, outcome, is_again):
                continue
        else:
            report.contradicting += 1
        told = outcome if held is None else _after(outcome, held)
        truths.tell(told)
        fresh.append(told)
    report.unknown += len(unknown)
    return fresh, unknown


def _wavering(outcomes: Sequence[Outcome]) -> set[str]:
    """The ids of which one telling says different things."""
    first: dict[str, str | float] = {}
    return {outcome.id for outcome in outcomes if first.setdefault(outcome.id, outcome.value) != outcome.value}


def _was_told(truths: Truths, outcome: Outcome, is_again: bool) -> bool:
    """Whether this very source said so already, be it that another had said it before and it was not kept twice."""
    return any(
        one.value == outcome.value and (is_again or one.source == outcome.source) for one in truths.tellings(outcome.id)
    )


def _after(outcome: Outcome, held: Outcome) -> Outcome:
    """`outcome`, received after what is held: it was told later, whatever the clock says."""
    if outcome.received > held.received:
        return outcome
    return msgspec.structs.replace(outcome, received=held.received + STEP_S)
