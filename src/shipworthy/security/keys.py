"""Ed25519 keys: private ones in a directory of the user's own, public ones beside the project.

Source: RFC 8032.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError, NotFoundError, UsageError

MAX_KEY_FILE_BYTES = 4096  # a PEM Ed25519 key has about 120
PRIVATE_SUFFIX = ".key"
PUBLIC_SUFFIX = ".pub"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What anybody may hold: proves that a signature was made by its private half."""

    raw: bytes  # 32 bytes

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise IntegrityError(f"A public key has {len(self.raw)} bytes; Ed25519 keys have 32.")

    @property
    def keyid(self) -> str:
        """Hexadecimal SHA-256 of the raw public key."""
        return sha256(self.raw).hexdigest()

    def verify(self, content: bytes, signature: bytes) -> None:
        """Return only if `signature` was made over `content` by the private half.

        Raises:
            IntegrityError: it was not.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, content)
        except (InvalidSignature, ValueError):
            raise IntegrityError(f"The signature does not match its content under key {self.keyid[:16]}.") from None

    def to_pem(self) -> bytes:
        """The key as PEM SubjectPublicKeyInfo."""
        key = Ed25519PublicKey.from_public_bytes(self.raw)
        return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def write_public(self, path: Path) -> None:
        """Write the key as PEM to `path`, atomically; the same key again changes nothing.

        Raises:
            ConflictError: `path` holds something else; a key is never replaced silently.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        if not _create_file(path, self.to_pem(), mode=0o644) and load_public_key(path) != self:
            raise ConflictError(f"{path} holds another public key; choose another name or remove it first.")


class SigningKey:
    """A private key that never shows itself: it signs, and it knows its public half."""

    __slots__ = ("_private", "name", "public")

    def __init__(self, name: str, private: Ed25519PrivateKey) -> None:
        self.name = name
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> Self:
        """The key of RFC 8032's 32-byte secret `seed`.

        Raises:
            ValueError: `seed` has not 32 bytes.
        """
        return cls(name, Ed25519PrivateKey.from_private_bytes(seed))

    def sign(self, content: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `content`."""
        return self._private.sign(content)

    def __repr__(self) -> str:
        return f"SigningKey({self.name!r}, keyid={self.public.keyid[:16]!r})"

    def __reduce__(self) -> str:
        raise AccessError("A signing key does not leave its process; load it by name where it is needed.")


def key_directory(environment: Mapping[str, str]) -> Path:
    """Where this user's private keys live: `$XDG_CONFIG_HOME/shipworthy/keys`, else below `~/.config`.

    Raises:
        UsageError: neither XDG_CONFIG_HOME nor HOME is set to an absolute path.
    """
    for variable, below in (("XDG_CONFIG_HOME", ()), ("HOME", (".config",))):
        value = environment.get(variable, "")
        if value and Path(value).is_absolute():
            return Path(value, *below, "shipworthy", "keys")
    raise UsageError("There is no place for private keys: set HOME or XDG_CONFIG_HOME to an absolute path.")


def create_key(directory: Path, name: str) -> SigningKey:
    """Make a new private key in `directory` (0700) as `NAME.key` (0600); a half-written key never shows.

    Args:
        directory: made if missing.
        name: 1 to 64 of `a-z 0-9 . _ -`, not starting with a sign.

    Raises:
        UsageError: the name cannot name a key.
        AccessError: others can look into the directory.
        ConflictError: a key of that name exists.
    """
    path = _private_path(directory, name)
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_private(directory, directory.stat())
    key = SigningKey(name, Ed25519PrivateKey.generate())
    pem = key._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if not _create_file(path, pem, mode=0o600):
        raise ConflictError(f"{path} exists; load it, or choose another name for the new key.")
    return key


def load_key(directory: Path, name: str) -> SigningKey:
    """The private key `name` of `directory`.

    Raises:
        UsageError: the name cannot name a key.
        NotFoundError: there is no such key.
        AccessError: others can read the key or look into its directory.
        IntegrityError: the file is not an Ed25519 private key.
    """
    path = _private_path(directory, name)
    try:
        _check_private(directory, directory.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no key {name!r}; copy it there from where it was made.") from None
    except PermissionError as error:
        raise AccessError(f"{path} cannot be read: {error}.") from None
    except OSError:
        raise AccessError(f"{path} is a link or not a file; a private key must be a plain file.") from None
    with open(descriptor, "rb") as file:
        _check_private(path, os.fstat(descriptor))
        content = file.read(MAX_KEY_FILE_BYTES)
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise IntegrityError(f"{path} is not a PEM private key.") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise IntegrityError(f"{path} is not an Ed25519 key; make a new one.")
    return SigningKey(name, private)


def load_public_key(path: Path) -> PublicKey:
    """The public key in the PEM file `path`.

    Raises:
        NotFoundError: there is no such file.
        IntegrityError: it is not an Ed25519 public key.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_KEY_FILE_BYTES)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no such public key.") from None
    try:
        public = load_pem_public_key(content)
    except (ValueError, TypeError):
        raise IntegrityError(f"{path} is not a PEM public key.") from None
    if not isinstance(public, Ed25519PublicKey):
        raise IntegrityError(f"{path} is not an Ed25519 key.")
    return PublicKey(public.public_bytes(Encoding.Raw, PublicFormat.Raw))


def load_public_keys(directory: Path) -> dict[str, PublicKey]:
    """Every public key (`*.pub`) of `directory`, by keyid; none if the directory is missing.

    Raises:
        IntegrityError: one of the files is not an Ed25519 public key.
    """
    keys = [load_public_key(path) for path in sorted(directory.glob("*" + PUBLIC_SUFFIX))]
    return {key.keyid: key for key in keys}


def _private_path(directory: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise UsageError(f"A key cannot be named {name!r}; use 1 to 64 of a-z, 0-9, '.', '_', '-'.")
    return directory / (name + PRIVATE_SUFFIX)


def _check_private(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        wanted = "0700" if stat.S_ISDIR(status.st_mode) else "0600"
        raise AccessError(f"{path} has mode {mode:04o}: others can reach it; make it private with chmod {wanted}.")
    if status.st_uid != os.geteuid():
        raise AccessError(f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()}).")


def _create_file(path: Path, content: bytes, *, mode: int) -> bool:
    """Make `path` durable with `content` all at once; False if it exists."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        try:
            os.link(draft, path)  # unlike rename, never replaces
        except FileExistsError:
            return False
    finally:
        os.unlink(draft)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return True
