"""Events: what happened, in the one byte form that the log hashes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

from shipworthy.kernel.digest import canonical_json
from shipworthy.kernel.errors import IntegrityError, UsageError

FIELDS = ("actor", "body", "object", "rule", "seq", "time", "verb")
MAX_ENTRY_BYTES = 16 << 20  # an entry is a statement about artefacts, not an artefact


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is to be recorded: who did what to which thing, allowed by which rule."""

    verb: str  # `release.published`
    object: str  # a node such as `release:mortgage-approval:7`
    actor: str
    body: Mapping[str, Any] = field(default_factory=dict)
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An event that was recorded, with its place and time."""

    seq: int  # from 1, without a gap
    time: str  # RFC 3339, UTC, ms
    actor: str
    verb: str
    object: str
    rule: str
    body: Mapping[str, Any]

    def to_bytes(self) -> bytes:
        """The canonical JSON of the entry: one line, without its end.

        Raises:
            UsageError: the event holds what JSON cannot.
        """
        fields = {name: getattr(self, name) for name in FIELDS}
        try:
            content = canonical_json(fields)
        except (ValueError, TypeError) as error:
            raise UsageError(f"Event {self.verb} of {self.object!r} cannot be written as JSON: {error}.") from None
        if len(content) > MAX_ENTRY_BYTES:
            raise UsageError(f"Event {self.verb} of {self.object!r} has {len(content)} bytes; keep it as an artefact.")
        return content

    @classmethod
    def from_bytes(cls, content: bytes | str) -> Self:
        """The entry that was written as `content`.

        Raises:
            IntegrityError: it is not an entry.
        """
        try:
            fields = json.loads(content)
            if sorted(fields) != list(FIELDS):
                raise ValueError("other fields")
            return cls(**fields)
        except (ValueError, TypeError, RecursionError):
            raise IntegrityError(f"Not an entry of the log: {content[:80]!r}.") from None


def record(event: Event, seq: int, now: float) -> Entry:
    """The entry of `event` at place `seq` and Unix time `now` in s.

    Raises:
        UsageError: verb, object or actor is empty or holds control characters.
    """
    for name in ("verb", "object", "actor"):
        check_name(getattr(event, name), f"an event's {name}")
    return Entry(seq, format_time(now), event.actor, event.verb, event.object, event.rule, event.body)


def check_name(text: object, what: str) -> str:
    """`text`, if it is printable text that any database can hold.

    Raises:
        UsageError: it is not.
    """
    if not isinstance(text, str) or not text or not text.isprintable():
        raise UsageError(f"{what} is {text!r}; it must be printable text.")
    return text


def format_time(now: float) -> str:
    """Unix time in s as RFC 3339 in UTC with ms.

    >>> format_time(1763800000.1234)
    '2025-11-22T08:26:40.123Z'
    """
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
