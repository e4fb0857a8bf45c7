"""What is known of a source before its rows are needed; loads no engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shipworthy.data.sources.read import SourceRead


@dataclass(frozen=True, slots=True)
class Kept:
    """The rows of a query with a watermark, as they stood after a read."""

    definition: str  # digest of what was asked; another question begins anew
    digest: str  # of all that ever came, in order
    parts: tuple[str, ...]  # digests of the files that hold them, oldest first
    rows: int


@dataclass(frozen=True, slots=True)
class Found:
    """A source as it stands now."""

    digest: str  # of its content
    read: "Callable[[], SourceRead]" = field(repr=False)
    changed: float | None = None  # Unix seconds; None: the place does not say
    origins: Mapping[str, str] = field(default_factory=dict)  # lineage node -> digest of what lies there
    kept: Kept | None = None  # of a query with a watermark
    new_rows: int | None = None  # that such a query brought
