"""Answers given earlier, by the request's id: the newest ones, in memory, and found again in the records at a start."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from shipworthy.records.read import read_newest
from shipworthy.security.vault import Vault
from shipworthy.serving.answer import Answer, Reasons

OTHER_INPUTS = "answered earlier with other inputs: this is the recorded answer"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Answer).decode
_pack = msgspec.msgpack.Encoder().encode


class Given(NamedTuple):
    """An answer as it was published."""

    prediction_id: str
    inputs: bytes  # digest of those that it was given for
    body: bytes


class EarlierAnswers:
    """The newest answers with an id; the oldest is forgotten first.

    Args:
        limit: how many are kept, > 0; one takes about a kilobyte.

    >>> earlier = EarlierAnswers(limit=1)
    >>> for name in ("a", "b"):
    ...     earlier.keep(name, Given("p", b"", b"{}"))
    >>> earlier.find("a"), earlier.find("b").prediction_id
    (None, 'p')
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._given: dict[str, Given] = {}  # in the order in which they were given

    def __len__(self) -> int:
        return len(self._given)

    def find(self, name: str) -> Given | None:
        """The answer given under this id; None if there was none, or it is forgotten."""
        return self._given.get(name)

    def keep(self, name: str, given: Given) -> None:
        """Keep an answer; the first one of an id stands."""
        self._given.setdefault(name, given)
        if len(self._given) > self._limit:
            del self._given[next(iter(self._given))]

    def forget(self, name: str) -> None:
        """As if it had not been given."""
        self._given.pop(name, None)


class Recorded(msgspec.Struct):
    """What of a record its answer is made of."""

    prediction_id: str
    release: str
    id: str | None = None
    prediction: str | float | None = None
    probability: dict[str, float] | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    decision: str | float = ""
    source: str = "model"
    handling: str = "automatic"
    warnings: list[str] = []
    reasons: Reasons | None = None

    def answer(self) -> Answer:
        """As it was given."""
        return Answer(
            prediction=self.prediction,
            probability=self.probability,
            interval=self.interval,
            confidence=self.confidence,
            decision=self.decision,
            prediction_id=self.prediction_id,
            source=self.source,
            handling=self.handling,
            release=self.release,
            warnings=self.warnings,
            reasons=msgspec.UNSET if self.reasons is None else self.reasons,
        )


class _RecordedRaw(Recorded):
    inputs: msgspec.Raw = msgspec.Raw()


def recall(
    records: Path, worker: str, limit: int, vault: Vault | None = None, *, spool: Path | None = None
) -> EarlierAnswers:
    """The newest answers that `worker` recorded.

    Args:
        records: `records/ENV`.
        worker: a writer of records.
        limit: how many are kept.
        vault: opens sealed segments.
        spool: where later records may wait.

    Raises:
        IntegrityError: a segment is damaged before its tail.
    """
    earlier = EarlierAnswers(limit)
    for record in read_newest(records, worker, limit, _RecordedRaw, vault, spool=spool):
        if record.id is not None:
            body = _encode(record.answer())
            earlier.keep(record.id, Given(record.prediction_id, _digest(bytes(record.inputs)), body))
    return earlier


def give(answer: Answer, inputs: object) -> Given:
    """An answer, as it is published, and what it was given for."""
    return Given(answer.prediction_id, digest_inputs(inputs), _encode(answer))


def digest_inputs(inputs: object) -> bytes:
    """What tells inputs of one schema apart."""
    return _digest(_pack(inputs))


def warn_of_other_inputs(given: Given) -> bytes:
    """The answer for a request of the same id that asks something else."""
    return _encode(with_other_inputs(_decode(given.body)))


def with_other_inputs(answer: Answer) -> Answer:
    """An answer for a request of the same id that asks something else."""
    return msgspec.structs.replace(answer, warnings=[*answer.warnings, OTHER_INPUTS])


def _digest(packed: bytes) -> bytes:
    return hashlib.blake2b(packed, digest_size=8).digest()
