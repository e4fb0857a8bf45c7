"""The artefact store: immutable bytes under the digest of their content.

A name is never a path: only a digest that was checked is. What was put is durable when `put_…` returns, and
what is read is verified.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from shipworthy.kernel.digest import digest_bytes, digest_chunks, is_digest
from shipworthy.kernel.errors import IntegrityError, NotFoundError, StorageError, UsageError
from shipworthy.ledger.files import LocalDisk, make_durable_directory

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Artefact:
    """What an event says of an artefact."""

    digest: str
    kind: str
    size_bytes: int

    def to_json(self) -> dict[str, str | int]:
        """As `body["artefacts"]` lists it."""
        return {"digest": self.digest, "kind": self.kind, "size_bytes": self.size_bytes}


class ArtefactStore:
    """Artefacts below one directory: `HH/REST` of their hexadecimal digest."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._disk = LocalDisk()

    def put_bytes(self, content: bytes, kind: str) -> Artefact:
        """Keep `content`; the same content again costs nothing.

        Args:
            content: any bytes.
            kind: what it is, such as `model` or `contract`.

        Raises:
            StorageError: the disk refuses; nothing was kept.
        """
        digest = digest_bytes(content)
        if self._intact(digest, len(content)):
            return Artefact(digest, kind, len(content))
        return self._keep(digest, [content], kind)

    def put_file(self, path: Path, kind: str) -> Artefact:
        """Keep a copy of the file's content, read once for its digest and once to copy.

        Raises:
            NotFoundError: there is no such file.
            IntegrityError: the file changed while it was copied.
            StorageError: the disk refuses; nothing was kept.
        """
        try:
            digest = digest_chunks(_chunks(path))
            if self._intact(digest, path.stat().st_size):
                return Artefact(digest, kind, path.stat().st_size)
            return self._keep(digest, _chunks(path), kind)
        except FileNotFoundError:
            raise NotFoundError(f"{path}: there is no such file.") from None

    def get_bytes(self, digest: str) -> bytes:
        """The content of the artefact, verified.

        Raises:
            NotFoundError: it is not here.
            IntegrityError: what is here has another digest.
            UsageError: `digest` is not a digest.
        """
        try:
            content = self.path_of(digest).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"Artefact {digest} is not in {self.root}.") from None
        if (seen := digest_bytes(content)) != digest:
            raise IntegrityError(f"{self.path_of(digest)} holds {seen}: it was changed; put it back from a copy.")
        return content

    def verify(self, digest: str) -> None:
        """Return only if the artefact is here and unchanged; reads it without holding it. Raises as `get_bytes`."""
        path = self.path_of(digest)
        try:
            seen = digest_chunks(_chunks(path))
        except FileNotFoundError:
            raise NotFoundError(f"Artefact {digest} is not in {self.root}.") from None
        if seen != digest:
            raise IntegrityError(f"{path} holds {seen}: it was changed; put it back from a copy.")

    def has(self, digest: str) -> bool:
        """Whether the artefact is here (unverified)."""
        return self.path_of(digest).is_file()

    def path_of(self, digest: str) -> Path:
        """Where the artefact is or would be. Whoever reads there must verify.

        Raises:
            UsageError: `digest` is not a digest.
        """
        if not is_digest(digest):
            raise UsageError(f"{digest!r} is not a digest; it is sha256: and 64 hexadecimal digits.")
        hexadecimal = digest.removeprefix("sha256:")
        return self.root / hexadecimal[:2] / hexadecimal[2:]

    def _intact(self, digest: str, size_bytes: int) -> bool:
        """Whether it is here and unchanged: a damaged copy is replaced by a good one."""
        path = self.path_of(digest)
        try:
            return self._disk.size(path) == size_bytes and digest_chunks(_chunks(path)) == digest
        except OSError as error:
            raise StorageError(f"{path} cannot be read: {error}.") from error

    def _keep(self, digest: str, chunks: Iterable[bytes], kind: str) -> Artefact:
        path = self.path_of(digest)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            make_durable_directory(self._disk, path.parent)
            try:
                size_bytes = self._write(draft, chunks, digest)
                os.replace(draft, path)
            finally:
                draft.unlink(missing_ok=True)
            self._disk.sync_directory(path.parent)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not draft.parent.is_dir():
                raise StorageError(f"{path.parent} was removed while writing.") from error
            raise StorageError(f"{path} cannot be written: {error}.") from error
        return Artefact(digest, kind, size_bytes)

    def _write(self, draft: Path, chunks: Iterable[bytes], digest: str) -> int:
        size_bytes = 0

        def copied() -> Iterator[bytes]:
            nonlocal size_bytes
            for chunk in chunks:
                file.write(chunk)
                size_bytes += len(chunk)
                yield chunk

        with open(draft, "xb") as file:
            os.fchmod(file.fileno(), 0o444)
            if digest_chunks(copied()) != digest:
                raise IntegrityError(f"The content of {digest} changed while it was copied; try again.")
            file.flush()
            self._disk.sync(draft)
        return size_bytes


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
