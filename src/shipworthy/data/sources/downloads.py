"""Downloads: files from elsewhere, kept under their digest so that what did not change is not fetched again.

A cache: losing it costs time only. A file is there whole or not at all.
"""

import errno
import hashlib
import json
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shipworthy.kernel.digest import digest_chunks
from shipworthy.kernel.errors import SourceError, StorageError

_SEEN = "seen.json"
_DRAFT = ".draft-"
_CHUNK_BYTES = 1 << 20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Download:
    """One file as it was fetched."""

    place: str  # where it lies, without secrets
    path: Path  # the copy
    digest: str  # of its content
    size_bytes: int
    modified: float | None  # Unix seconds, as its server says
    tag: str | None = None  # that its server gives to this content


@contextmanager
def _disk_faults(folder: Path, place: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = "the disk is full" if error.errno in FULL else f"cannot be written ({error.strerror})"
        raise StorageError(f"{folder}: {what} while {place} is fetched; make room and run it again") from None


@dataclass(slots=True)
class Draft:
    """A file that is being fetched."""

    place: str
    path: Path
    most_bytes: int
    descriptor: int
    size_bytes: int = 0
    hash: Any = field(default_factory=hashlib.sha256)

    def write(self, chunk: bytes) -> None:
        """Add a piece.

        Raises:
            SourceError: the file is larger than the contract allows.
            StorageError: the disk is full, or refuses.
        """
        self.size_bytes += len(chunk)
        judge_size(self.place, self.size_bytes, self.most_bytes)
        self.hash.update(chunk)
        view = memoryview(chunk)
        with _disk_faults(self.path.parent, self.place):
            while view:
                view = view[os.write(self.descriptor, view) :]


def size_in_words(size_bytes: int) -> str:
    """A size for a reader.

    >>> size_in_words(26), size_in_words(123_456_789)
    ('26 bytes', '123 MB')
    """
    for unit, length in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= length:
            return f"{size_bytes / length:.3g} {unit}"
    return f"{size_bytes} bytes"


def judge_size(place: str, size_bytes: int, most_bytes: int) -> None:
    """Refuse a file that is larger than the contract allows.

    Raises:
        SourceError: names the key that allows more.
    """
    if size_bytes > most_bytes:
        raise SourceError(
            f"{place}: is larger than {size_in_words(most_bytes)}; allow more with size: {{at_most: …}}, if it is right"
        )


@dataclass(slots=True)
class Downloads:
    """A folder of downloads. One process at a time: who holds the project."""

    folder: Path
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)  # place -> its file as it was last fetched

    @classmethod
    def open(cls, folder: Path) -> "Downloads":
        """The downloads in `folder`; none if it cannot be read."""
        try:
            seen = json.loads((folder / _SEEN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            seen = {}
        for left in folder.glob(f"{_DRAFT}*"):  # of a run that was killed
            left.unlink(missing_ok=True)
        return cls(folder, seen if isinstance(seen, dict) else {})

    def find(self, place: str) -> Download | None:
        """What was fetched from `place` last, if its copy is still there."""
        known = self.seen.get(place)
        try:
            if known is None or (self.folder / known["file"]).stat().st_size != known["size_bytes"]:
                return None
            path = self.folder / str(known["file"])
            return Download(place, path, known["digest"], known["size_bytes"], known["modified"], known["tag"])
        except (OSError, KeyError, TypeError):
            return None

    @contextmanager
    def draft(self, place: str, most_bytes: int) -> Iterator[Draft]:
        """A file to write to; gone at the end unless it was kept.

        Raises:
            StorageError: the disk is full, or refuses.
        """
        path = self.folder / f"{_DRAFT}{os.urandom(8).hex()}"
        with _disk_faults(self.folder, place):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            yield Draft(place, path, most_bytes, descriptor)
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def keep(self, draft: Draft, suffix: str, *, modified: float | None, tag: str | None) -> Download:
        """Give a whole draft its name and note where it came from.

        Raises:
            StorageError: the disk is full, or refuses.
        """
        digest = draft.hash.hexdigest()
        path = self.folder / f"{digest}{suffix}"
        with _disk_faults(self.folder, draft.place):
            os.fsync(draft.descriptor)
            os.replace(draft.path, path)
        return self.note(Download(draft.place, path, f"sha256:{digest}", draft.size_bytes, modified, tag))

    def note(self, download: Download) -> Download:
        """Remember what a place holds."""
        self.seen[download.place] = {
            "file": download.path.name,
            "digest": download.digest,
            "size_bytes": download.size_bytes,
            "modified": download.modified,
            "tag": download.tag,
        }
        return download

    def save(self, places: Collection[str]) -> None:
        """Write down what `places` hold, and remove what is of no other use."""
        if not self.folder.is_dir():
            return
        kept = {place: known for place, known in dict(self.seen).items() if place in places}
        draft = self.folder / f"{_DRAFT}seen"
        with suppress(OSError):
            draft.write_text(json.dumps(kept), encoding="utf-8")
            draft.replace(self.folder / _SEEN)
        used = {_SEEN, *(known["file"] for known in kept.values())}
        for path in self.folder.iterdir():
            if path.name not in used and not path.name.startswith(_DRAFT):
                path.unlink(missing_ok=True)


def judge_copy(download: Download) -> None:
    """Refuse a copy that is no longer what was fetched.

    Raises:
        SourceError: its content is another; it is removed, so that it is fetched again.
    """
    with download.path.open("rb") as file:
        found = digest_chunks(iter(lambda: file.read(_CHUNK_BYTES), b""))
    if found != download.digest:
        download.path.unlink(missing_ok=True)
        raise SourceError(f"{download.place}: its copy {download.path} was changed; run it again to fetch it anew")
