"""The artefact store: immutable bytes under the digest of their content.

A name is never a path: only a digest that was checked is. What was put is durable when `put_…` returns, and
what is read is verified.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from shipworthy.kernel.digest import digest_bytes, digest_chunks, is_digest
from shipworthy.kernel.errors import AccessError, IntegrityError, NotFoundError, StorageError, UsageError
from shipworthy.ledger.files import LocalDisk, make_durable_directory
from shipworthy.security.vault import MAGIC, Vault, is_sealed

CHUNK_BYTES = 1 << 20
MAGIC_BYTES = len(MAGIC)


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
    """Artefacts below one directory: `HH/REST` of their hexadecimal digest.

    Digest and size are those of the content, whether it lies here as it is or sealed.

    Args:
        root: the directory.
        vault: opens what is sealed; None where nothing is.
        seals: whether what is kept from now on is sealed.
    """

    def __init__(self, root: Path, vault: Vault | None = None, *, seals: bool = False) -> None:
        self.root = root
        self._vault = vault
        self._seals = seals
        self._disk = LocalDisk()

    def sealing(self) -> "ArtefactStore":
        """The same store, which seals what is kept from now on."""
        return ArtefactStore(self.root, self._vault, seals=True)

    @property
    def seals(self) -> bool:
        """Whether what is kept is sealed."""
        return self._seals

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
            digest, size_bytes = _measure(_chunks(path))
            if self._intact(digest, size_bytes):
                return Artefact(digest, kind, size_bytes)
            return self._keep(digest, _chunks(path), kind)
        except FileNotFoundError:
            raise NotFoundError(f"{path}: there is no such file.") from None

    def get_bytes(self, digest: str) -> bytes:
        """The content of the artefact, verified.

        Raises:
            NotFoundError: it is not here.
            IntegrityError: what is here has another digest.
            AccessError: it is sealed, and the key is not here.
            UsageError: `digest` is not a digest.
        """
        try:
            content = b"".join(self._content(digest))
        except FileNotFoundError:
            raise NotFoundError(f"Artefact {digest} is not in {self.root}.") from None
        if (seen := digest_bytes(content)) != digest:
            raise IntegrityError(f"{self.path_of(digest)} holds {seen}: it was changed; put it back from a copy.")
        return content

    def size_of(self, digest: str) -> int:
        """Size of the artefact's content in bytes. Raises as `get_bytes`, but does not verify."""
        try:
            return _measure(self._content(digest))[1]
        except FileNotFoundError:
            raise NotFoundError(f"Artefact {digest} is not in {self.root}.") from None

    def verify(self, digest: str) -> None:
        """Return only if the artefact is here and unchanged; reads it without holding it. Raises as `get_bytes`."""
        path = self.path_of(digest)
        try:
            seen = digest_chunks(self._content(digest))
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
            if self._disk.size(path) is None or (self._seals and not self._lies_sealed(path)):
                return False
            return _measure(self._content(digest)) == (digest, size_bytes)
        except IntegrityError:
            return False
        except OSError as error:
            if isinstance(error, AccessError):
                raise
            raise StorageError(f"{path} cannot be read: {error}.") from error

    def _content(self, digest: str) -> Iterator[bytes]:
        """What was put, opened if it is sealed; not verified."""
        path = self.path_of(digest)
        if not self._lies_sealed(path):
            return _chunks(path)
        if self._vault is None:
            raise AccessError(f"{path} is encrypted, and this process was given no key for it.")
        return self._vault.open_chunks(_chunks(path), artefact_context(digest), path)

    def _lies_sealed(self, path: Path) -> bool:
        with open(path, "rb") as file:
            return is_sealed(file.read(MAGIC_BYTES))

    def _keep(self, digest: str, chunks: Iterable[bytes], kind: str) -> Artefact:
        path = self.path_of(digest)
        draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            make_durable_directory(self._disk, path.parent)
            try:
                size_bytes = self._write(draft, chunks, digest)  # of the content
                os.replace(draft, path)
            finally:
                draft.unlink(missing_ok=True)
            self._disk.sync_directory(path.parent)
        except OSError as error:
            if isinstance(error, AccessError):
                raise
            if isinstance(error, FileNotFoundError) and not draft.parent.is_dir():
                raise StorageError(f"{path.parent} was removed while writing.") from error
            raise StorageError(f"{path} cannot be written: {error}.") from error
        return Artefact(digest, kind, size_bytes)

    def _write(self, draft: Path, chunks: Iterable[bytes], digest: str) -> int:
        size_bytes = 0

        def copied() -> Iterator[bytes]:
            nonlocal size_bytes
            for chunk in chunks:
                size_bytes += len(chunk)
                hashed.update(chunk)
                yield chunk

        hashed = sha256()
        with open(draft, "xb") as file:
            os.fchmod(file.fileno(), 0o444)
            for piece in self._as_kept(copied(), digest):
                file.write(piece)
            if f"sha256:{hashed.hexdigest()}" != digest:
                raise IntegrityError(f"The content of {digest} changed while it was copied; try again.")
            file.flush()
            self._disk.sync(draft)
        return size_bytes

    def _as_kept(self, content: Iterator[bytes], digest: str) -> Iterator[bytes]:
        if not self._seals:
            return content
        if self._vault is None:
            raise AccessError(f"{self.root} is to be encrypted, and this process was given no key for it.")
        return self._vault.seal_chunks(content, artefact_context(digest))


def artefact_context(digest: str) -> str:
    """What an artefact is sealed as."""
    return f"artefact/{digest}"


def _measure(chunks: Iterable[bytes]) -> tuple[str, int]:
    """Digest and size of what comes in pieces."""
    hashed, size_bytes = sha256(), 0
    for chunk in chunks:
        hashed.update(chunk)
        size_bytes += len(chunk)
    return f"sha256:{hashed.hexdigest()}", size_bytes


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
