"""Digests of files, kept by inode, size and time of change so that an unchanged file is not read again."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shipworthy.kernel.digest import digest_chunks
from shipworthy.kernel.errors import SourceError

_CHUNK_BYTES = 1 << 20  # larger reads gain nothing
_SETTLED_NS = 2_000_000_000  # a file changed in the last 2 s may change again within one clock tick


@dataclass(slots=True)
class Fingerprints:
    """A cache of file digests; losing it costs time only."""

    path: Path
    now_ns: int
    known: dict[str, list[int | str]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, now_ns: int) -> "Fingerprints":
        """The cache at `path`, empty if there is none or it cannot be read."""
        try:
            known = json.loads(path.read_text())
        except (OSError, ValueError):
            known = {}
        return cls(path, now_ns, known if isinstance(known, dict) else {})

    def digest(self, file: Path) -> str:
        """The content digest of `file`.

        Raises:
            SourceError: the file is missing or cannot be read.
        """
        try:
            with file.open("rb") as stream:
                status = os.fstat(stream.fileno())
                stamp: list[int | str] = [status.st_ino, status.st_size, status.st_mtime_ns]
                entry = self.known.get(str(file))
                if entry is not None and entry[:3] == stamp:
                    return str(entry[3])
                digest = digest_chunks(_chunks(stream.fileno()))
        except FileNotFoundError:
            raise SourceError(f"{file}: there is no such file; check data.sources in the contract") from None
        except OSError as error:
            raise SourceError(f"{file}: cannot be read ({error.strerror})") from None
        if self.now_ns - status.st_mtime_ns > _SETTLED_NS:
            self.known[str(file)] = [*stamp, digest]
        return digest

    def save(self) -> None:
        """Write the cache beside itself, atomically."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".tmp")
        draft.write_text(json.dumps(self.known))
        draft.replace(self.path)


def _chunks(descriptor: int) -> Iterator[bytes]:
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        yield chunk


def code_files(root: Path) -> Sequence[Path]:
    """The project's own Python files: those in its folder and in packages below it, sorted."""
    skipped = {".venv", "venv", "node_modules", "__pycache__"}
    found: list[Path] = []
    for directory, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in skipped)
        found.extend(Path(directory) / name for name in sorted(files) if name.endswith(".py"))
    return found
