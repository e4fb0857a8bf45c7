"""Retention: what `data compact` removes of the data's versions, and what it never does."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from shipworthy.contract.data_section import Keep
from shipworthy.contract.quantities import format_duration
from shipworthy.data.versions import merge_files, plan_removal, remove
from shipworthy.ledger.events import Event
from shipworthy.security.access import Principal
from shipworthy.workflows.gate import permit
from shipworthy.workflows.history import Listed, list_history
from shipworthy.workflows.project import Parts, read_contract
from shipworthy.workflows.shipping import REMOVED


@dataclass(frozen=True, slots=True)
class Held:
    """A version that stays although its time is over."""

    version: int
    by: str


@dataclass(frozen=True, slots=True)
class Compaction:
    """What `data compact` did, or would do."""

    dry_run: bool
    keep: str  # what the contract says; empty if nothing
    kept: int  # versions that are left
    removed: tuple[int, ...]
    held: tuple[Held, ...]
    files: int  # that were removed
    freed_bytes: int
    merged: int  # files of the newest version that became few; 0: they were few

    def to_json(self) -> dict[str, Any]:
        """As a mapping."""
        return asdict(self)


def compact_data(parts: Parts, principal: Principal, *, dry_run: bool) -> Compaction:
    """Remove the versions that `data.keep` does not keep, and files that no version needs; merge many small ones.

    Never removed: the newest version, and one that a release or a tag refers to; so none that a deployment runs on.
    Each removal is in the ledger before a file goes; killed anywhere, the next run carries on.

    Raises:
        AccessError: the principal may not.
        StorageError: the disk refused.
    """
    rule = permit(parts, principal, "data compact")
    contract = read_contract(parts.project)
    table = parts.project.tables / contract.system
    listed = list_history(parts.project, parts.ledger, contract.system)
    there = [version for version in listed if version.removed is None]
    due = [] if contract.data.keep is None else _due(contract.data.keep, there, parts.now())
    held = tuple(Held(version.version, by) for version in due if (by := _holds(version, version is there[-1])))
    leaving = [version for version in due if not _holds(version, version is there[-1])]
    said = "" if contract.data.keep is None else _words(contract.data.keep)
    gone = [(version.version, version.digest) for version in listed if version.removed or version in leaving]
    merged = 0
    if not dry_run:
        parts.ledger.append_all(
            [
                Event(
                    REMOVED,
                    f"snapshot:{version.digest}",
                    principal.actor,
                    {
                        "system": contract.system,
                        "version": version.version,
                        "digest": version.digest,
                        "rows": version.rows,
                        "reason": said,
                    },
                    rule,
                )
                for version in leaving
            ]
        )
        merged = merge_files(table)
    removal = plan_removal(table, gone, parts.now())
    if not dry_run:
        remove(removal)
    return Compaction(
        dry_run=dry_run,
        keep=said,
        kept=len(there) - len(leaving),
        removed=tuple(version.version for version in leaving),
        held=held,
        files=len(removal.files),
        freed_bytes=removal.size_bytes,
        merged=merged,
    )


def _due(keep: Keep, there: Sequence[Listed], now: float) -> list[Listed]:
    """The versions that the contract does not keep, oldest first."""
    due = list(there)
    if keep.versions is not None:
        due = due[: -keep.versions]
    if keep.for_ is not None:
        due = [version for version in due if datetime.fromisoformat(version.time).timestamp() < now - keep.for_]
    return due


def _holds(version: Listed, is_newest: bool) -> str:
    """What keeps the version; empty if nothing does."""
    words = [
        *(f"release {name}" for name in version.releases),
        *(f"deployment in {name}" for name in version.serving),
        *(f"tag {name}" for name in version.tags),
        *(["it is the newest"] if is_newest else []),
    ]
    return ", ".join(words)


def _words(keep: Keep) -> str:
    named = {
        "versions": None if keep.versions is None else str(keep.versions),
        "for": None if keep.for_ is None else format_duration(keep.for_),
    }
    return f"data.keep {{{', '.join(f'{name}: {value}' for name, value in named.items() if value)}}}"
