"""The vault: encryption at rest, by data keys that a master key wraps.

A sealed object is a header (magic, id of the data key, a random salt) and chunks of 64 KiB, each with its tag:

    SWSEAL1 and a line feed | id, 16 bytes | salt, 32 bytes | chunk | chunk | … | last chunk

Each object has a key of its own, derived from the data key, its salt and its context (what it is and how it is called),
so that no nonce can meet the same key twice, and no object can stand in another's place. Nonces count the chunks and
mark the last one, so that none can be left out, moved or added.

Source: STREAM, Hoang et al., "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance" (2015).
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from shipworthy.kernel.errors import AccessError, IntegrityError
from shipworthy.security.datakeys import active_data_key, find_data_key, unwrap_data_key
from shipworthy.security.master import SALT_BYTES, derive_key

MAGIC = b"SWSEAL1\n"
ID_CHARACTERS = 16
HEADER_BYTES = len(MAGIC) + ID_CHARACTERS + SALT_BYTES
TAG_BYTES = 16
CHUNK_BYTES = 64 * 1024  # of plaintext: small enough to be checked before much is held
DATA_KEYS = "data"  # directory of wrapped keys, beside the public ones
SEALED_SUFFIX = ".sealed"  # of a file whose plaintext others would know by its name


def is_sealed(content: bytes | memoryview) -> bool:
    """Whether `content`, or its first 8 bytes, is a sealed object's."""
    return bytes(content[: len(MAGIC)]) == MAGIC


@dataclass(slots=True)
class Vault:
    """Seals and opens what lies below one project's state. Nothing is read, and no master asked, before that is needed.

    Data keys are unwrapped once and then kept: a master that is a command is asked once for each.
    """

    directory: Path  # keys/data
    environment: Mapping[str, str] = field(repr=False)
    _keys: dict[str, bytes] = field(default_factory=dict, repr=False)

    def seal(self, content: bytes, context: str) -> bytes:
        """`content` encrypted under the active data key; only `open` with the same context gives it back.

        Raises:
            AccessError: there is no active data key, or its master key is not here.
        """
        return b"".join(self.seal_chunks([content], context))

    def open(self, content: bytes, context: str, place: object = "") -> bytes:
        """What was sealed.

        Args:
            content: as `seal` gave it.
            context: as `seal` was given it.
            place: names it in errors; its context by default.

        Raises:
            AccessError: a key is not here; says which, and the cure.
            IntegrityError: it is not what was sealed under this context, whole and in order.
        """
        return b"".join(self.open_chunks([content], context, place))

    def seal_chunks(self, chunks: Iterable[bytes], context: str) -> Iterator[bytes]:
        """As `seal`, for content that comes in pieces of any length; holds one chunk."""
        name, salt = self.new_salt()
        header = MAGIC + name.encode() + salt
        cipher = AESGCM(self.object_key(name, salt, context))
        yield header
        index = 0
        waiting = b""  # the last chunk is known as such only when nothing follows
        for piece in _recut(chunks, CHUNK_BYTES):
            if waiting:
                yield cipher.encrypt(_nonce(index, is_last=False), waiting, header)
                index += 1
            waiting = piece
        yield cipher.encrypt(_nonce(index, is_last=True), waiting, header)

    def open_chunks(self, chunks: Iterable[bytes], context: str, place: object = "") -> Iterator[bytes]:
        """As `open`, in pieces; what was given out before an error was as sealed, but is not all."""
        place = place or context
        pieces = _recut(chunks, HEADER_BYTES, CHUNK_BYTES + TAG_BYTES)
        header = next(pieces, b"")
        if len(header) < HEADER_BYTES or not is_sealed(header):
            raise IntegrityError(f"{place} is not a sealed object, or was cut in its header.")
        name = header[len(MAGIC) : -SALT_BYTES].decode("ascii", "replace")
        cipher = AESGCM(self.object_key(name, header[-SALT_BYTES:], context, place))
        piece, index = next(pieces, b""), 0
        while True:
            following = next(pieces, None)
            yield _decrypt(cipher, piece, index, header, place, is_last=following is None)
            if following is None:
                return
            piece, index = following, index + 1

    def new_salt(self) -> tuple[str, bytes]:
        """The id of the data key that seals now, and a salt for one object; both go into its header.

        Raises:
            AccessError: there is no active data key.
        """
        active = active_data_key(self.directory)
        if active is None:
            raise AccessError(
                f"{self.directory}: there is no data key to encrypt with; `shipworthy ship`, or `shipworthy key rotate "
                "--data`, makes one."
            )
        return active.id, secrets.token_bytes(SALT_BYTES)

    def check_seals(self) -> None:
        """Return only if something could be sealed now.

        Raises:
            AccessError: there is no active data key, or its master key is not here.
        """
        name, salt = self.new_salt()
        self.object_key(name, salt, "", self.directory)

    def object_key(self, id: str, salt: bytes, context: str, place: object = "") -> bytes:
        """The key of one object.

        Raises:
            AccessError: the data key or its master is not here; says which, and the cure.
        """
        if id not in self._keys:
            try:
                self._keys[id] = unwrap_data_key(find_data_key(self.directory, id), self.environment)
            except AccessError as error:
                raise AccessError(f"{place or context} is encrypted. {error}") from None
            except LookupError:
                raise AccessError(
                    f"{place or context} is encrypted under the data key {id}, which is not in {self.directory}; copy "
                    f"{id}.json there from where it was made."
                ) from None
        return derive_key(self._keys[id], salt, b"shipworthy\x00" + context.encode())


def _nonce(index: int, *, is_last: bool) -> bytes:
    return bytes(3) + index.to_bytes(8, "big") + bytes([is_last])


def _decrypt(cipher: AESGCM, piece: bytes, index: int, header: bytes, place: object, *, is_last: bool) -> bytes:
    try:
        return cipher.decrypt(_nonce(index, is_last=is_last), piece, header)
    except InvalidTag:
        at = HEADER_BYTES + index * (CHUNK_BYTES + TAG_BYTES)
    if is_last and _is_whole(cipher, piece, index, header):
        raise IntegrityError(f"{place} was cut at byte {at + len(piece)}; restore it from a copy.")
    raise IntegrityError(f"{place} was changed at byte {at} or after, or is not what its place says; restore it.")


def _is_whole(cipher: AESGCM, piece: bytes, index: int, header: bytes) -> bool:
    """Whether the piece is a good one with others behind it."""
    try:
        cipher.decrypt(_nonce(index, is_last=False), piece, header)
    except InvalidTag:
        return False
    return True


def _recut(chunks: Iterable[bytes], first: int, then: int | None = None) -> Iterator[bytes]:
    """The same bytes in pieces of `first` and then of `then` (by default as the first); the last may be shorter."""
    size, waiting, held = first, [], 0
    for chunk in chunks:
        view = memoryview(chunk)
        while held + len(view) >= size:
            waiting.append(view[: size - held])
            view = view[size - held :]
            yield b"".join(waiting)
            size, waiting, held = then or first, [], 0
        if view:
            waiting.append(view)
            held += len(view)
    if held:
        yield b"".join(waiting)
