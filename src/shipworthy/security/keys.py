"""Ed25519 keys: private ones in a directory of the user's own, public ones beside the project.

Source: RFC 8032.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol, Self

import msgspec
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
from shipworthy.security.files import create_durably

MAX_KEY_FILE_BYTES = 4096  # a PEM Ed25519 key has about 120
PRIVATE_SUFFIX = ".key"
PUBLIC_SUFFIX = ".pub"
REVOKED = "revoked"  # directory of what is not believed any more

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class Revocation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a key is not believed any more, and what it signed that is: `keys/revoked/NAME.json`."""

    format: Literal[1] = 1
    name: str
    public: str  # hexadecimal
    revoked: str  # RFC 3339, UTC
    reason: str
    stands: frozenset[str]  # hexadecimal SHA-256 of signed contents that the log had when the key was revoked

    @property
    def stands_digest(self) -> str:
        """One digest over all that stands, for the log."""
        return sha256("\n".join(sorted(self.stands)).encode()).hexdigest()

    @property
    def words(self) -> str:
        """For errors.

        >>> Revocation(name="old", public="", revoked="2026-11-25T10:00:00Z", reason="lost", stands=frozenset()).words
        'key old, revoked on 2026-11-25 (lost)'
        """
        return f"key {self.name}, revoked on {self.revoked[:10]} ({self.reason})"


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What anybody may hold: proves that a signature was made by its private half."""

    raw: bytes  # 32 bytes
    revocation: "Revocation | None" = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if len(self.raw) != 32:
            raise IntegrityError(f"A public key has {len(self.raw)} bytes; Ed25519 keys have 32.")

    @property
    def keyid(self) -> str:
        """Hexadecimal SHA-256 of the raw public key."""
        return sha256(self.raw).hexdigest()

    def verify(self, content: bytes, signature: bytes) -> None:
        """Return only if `signature` was made over `content` by the private half, and the key is believed for it.

        Raises:
            IntegrityError: it was not, or the key was revoked and `content` is not among what still stands.
        """
        if not self.matches(content, signature):
            raise IntegrityError(f"The signature does not match its content under key {self.keyid[:16]}.")
        if self.revocation is not None and sha256(content).hexdigest() not in self.revocation.stands:
            raise IntegrityError(
                f"It is signed by {self.revocation.words}, and is not among what still stands.", "revoked key"
            )

    def matches(self, content: bytes, signature: bytes) -> bool:
        """Whether `signature` was made over `content` by the private half, be it revoked or not."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, content)
        except (InvalidSignature, ValueError):
            return False
        return True

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
        if not create_durably(path, self.to_pem(), mode=0o644) and load_public_key(path) != self:
            raise ConflictError(f"{path} holds another public key; choose another name or remove it first.")


class Signer(Protocol):
    """Whatever signs: a key held here, one behind a command, or the one that is active now."""

    @property
    def name(self) -> str:
        """Of the key."""

    @property
    def public(self) -> PublicKey:
        """Its public half."""

    def sign(self, content: bytes) -> bytes:
        """The 64-byte Ed25519 signature over `content`."""

    def current(self) -> "Signer":
        """The key itself, which stays the same while somebody signs and says who did."""


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

    def current(self) -> Self:
        """Itself."""
        return self

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
    key = SigningKey(name, Ed25519PrivateKey.generate())
    create_private_file(path, key._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
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
    content = read_private_file(path)
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError):
        raise IntegrityError(f"{path} is not a PEM private key.") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise IntegrityError(f"{path} is not an Ed25519 key; make a new one.")
    return SigningKey(name, private)


def create_private_file(path: Path, content: bytes) -> None:
    """Make `path` (0600) in a directory of one's own (0700); a half-written secret never shows.

    Raises:
        AccessError: others can look into the directory.
        ConflictError: the file exists.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_private(path.parent, path.parent.stat())
    if not create_durably(path, content, mode=0o600):
        raise ConflictError(f"{path} exists; load it, or choose another name for the new key.")


def read_private_file(path: Path) -> bytes:
    """The content of a key file that is its owner's alone.

    Raises:
        NotFoundError: there is no such file.
        AccessError: others can read it or look into its directory, or it is a link.
    """
    try:
        _check_private(path.parent, path.parent.stat())
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no key {path.stem!r}; copy it there from where it was made.") from None
    except PermissionError as error:
        raise AccessError(f"{path} cannot be read: {error}.") from None
    except OSError:
        raise AccessError(f"{path} is a link or not a file; a private key must be a plain file.") from None
    with open(descriptor, "rb") as file:
        _check_private(path, os.fstat(descriptor))
        return file.read(MAX_KEY_FILE_BYTES)


def load_public_key(path: Path) -> PublicKey:
    """The public key in the PEM file `path`.

    Raises:
        NotFoundError: there is no such file.
        AccessError: it cannot be read.
        IntegrityError: it is not an Ed25519 public key.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_KEY_FILE_BYTES)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no such public key.") from None
    except OSError as error:
        raise AccessError(f"{path} cannot be read ({error.strerror}); give a PEM file of a public key.") from None
    try:
        public = load_pem_public_key(content)
    except (ValueError, TypeError):
        raise IntegrityError(f"{path} is not a PEM public key.") from None
    if not isinstance(public, Ed25519PublicKey):
        raise IntegrityError(f"{path} is not an Ed25519 key.")
    return PublicKey(public.public_bytes(Encoding.Raw, PublicFormat.Raw))


def load_public_keys(directory: Path) -> dict[str, PublicKey]:
    """Every public key (`*.pub`) of `directory`, by keyid, and those revoked; none if the directory is missing.

    Raises:
        IntegrityError: one of the files is not an Ed25519 public key, or not a revocation.
    """
    keys = [load_public_key(path) for path in sorted(directory.glob("*" + PUBLIC_SUFFIX))]
    revoked = [_revoked_key(path) for path in sorted((directory / REVOKED).glob("*.json"))]
    return {key.keyid: key for key in (*keys, *revoked)}  # where a key is both, it is revoked


def _revoked_key(path: Path) -> PublicKey:
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Revocation)
        return PublicKey(bytes.fromhex(found.public), found)
    except (msgspec.MsgspecError, ValueError, OSError) as error:  # it cannot be passed over: the key would be believed
        raise IntegrityError(f"{path} is no revocation ({error}); restore it from a copy.") from None


def check_key_name(name: str) -> str:
    """`name`, if a key can be called so.

    Raises:
        UsageError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"A key cannot be named {name!r}; use 1 to 64 of a-z, 0-9, '.', '_', '-'.")
    return name


def _private_path(directory: Path, name: str) -> Path:
    return directory / (check_key_name(name) + PRIVATE_SUFFIX)


def _check_private(path: Path, status: os.stat_result) -> None:
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o077:
        wanted = "0700" if stat.S_ISDIR(status.st_mode) else "0600"
        raise AccessError(f"{path} has mode {mode:04o}: others can reach it; make it private with chmod {wanted}.")
    if status.st_uid != os.geteuid():
        raise AccessError(f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()}).")
