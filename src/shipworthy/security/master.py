"""Master keys: they wrap data keys and nothing else.

The first that is set wraps: `SHIPWORTHY_MASTER_KEY_COMMAND`, which never shows its own, `SHIPWORTHY_MASTER_KEY`, the
private file `master.key` beside the signing keys. Whichever of them a wrapped key names unwraps, so that one master can
follow another.
"""

import os
import secrets
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shipworthy.kernel.errors import AccessError, IntegrityError, NotFoundError, StorageError, UsageError
from shipworthy.security.files import sync_directory
from shipworthy.security.hook import ask_command, split_command
from shipworthy.security.keys import create_private_file, key_directory, read_private_file

KEY_BYTES = 32
SALT_BYTES = 32
MASTER_FILE = "master.key"
NEXT_FILE = "master.key.next"  # while data keys are wrapped anew
COMMAND_SETTING = "SHIPWORTHY_MASTER_KEY_COMMAND"
KEY_SETTING = "SHIPWORTHY_MASTER_KEY"
BEFORE_SETTING = "SHIPWORTHY_MASTER_KEY_BEFORE"  # the environment's last one, until data keys are wrapped anew
SETTINGS = (COMMAND_SETTING, KEY_SETTING, BEFORE_SETTING)

_ONCE = bytes(12)  # nonce: each key made by `derive_key` from a new salt encrypts once


class Master(Protocol):
    """Wraps data keys and gives them back."""

    @property
    def name(self) -> str:
        """How a wrapped key names it; tells nothing of it."""

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """`key` as it may lie on a disk, bound to `context`."""

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """The key that `wrap` was given."""


@dataclass(frozen=True, slots=True, repr=False)
class HeldMaster:
    """A master key whose bytes this process holds."""

    source: str  # file or environment
    key: bytes  # 32 bytes

    @property
    def name(self) -> str:
        """Source, and the beginning of a digest of the key."""
        return f"{self.source}:{sha256(b'shipworthy master' + self.key).hexdigest()[:16]}"

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Salt and AES-256-GCM ciphertext."""
        salt = secrets.token_bytes(SALT_BYTES)
        return salt + AESGCM(derive_key(self.key, salt, context)).encrypt(_ONCE, key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See `Master`.

        Raises:
            IntegrityError: it was not wrapped by this master for this context, or was changed.
        """
        salt, content = wrapped[:SALT_BYTES], wrapped[SALT_BYTES:]
        try:
            return AESGCM(derive_key(self.key, salt, context)).decrypt(_ONCE, content, context)
        except InvalidTag:
            raise IntegrityError(f"{context.decode()} was changed since {self.name} wrapped it.") from None

    def __repr__(self) -> str:
        return f"HeldMaster({self.name!r})"


@dataclass(frozen=True, slots=True)
class CommandMaster:
    """A master key behind a command: called with `wrap` or `unwrap`, key material on stdin and stdout."""

    command: tuple[str, ...]

    @property
    def name(self) -> str:
        """What it is."""
        return "command"

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """See `Master`; the command need not know the context, which is checked by `unwrap`."""
        wrapped = ask_command(COMMAND_SETTING, (*self.command, "wrap"), key + sha256(context).digest())
        if not wrapped or key in wrapped:
            raise AccessError(f"{COMMAND_SETTING}: {self.command[0]} wrap gave the key back unwrapped, or nothing")
        return wrapped

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """See `Master`.

        Raises:
            IntegrityError: the command gave something else than what was wrapped for this context.
        """
        found = ask_command(COMMAND_SETTING, (*self.command, "unwrap"), wrapped)
        if len(found) != 2 * KEY_BYTES or found[KEY_BYTES:] != sha256(context).digest():
            raise IntegrityError(f"{COMMAND_SETTING}: {self.command[0]} unwrap did not give {context.decode()} back.")
        return found[:KEY_BYTES]


def derive_key(key: bytes, salt: bytes, context: bytes) -> bytes:
    """A 256-bit key that serves one salt and one purpose.

    Source: RFC 5869, HKDF with SHA-256.
    """
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=context).derive(key)


def masters_of(environment: Mapping[str, str]) -> list[Master]:
    """Every master that settings and files give; the first one wraps.

    Raises:
        UsageError: a setting is no key or no command.
        AccessError: others can read the file.
    """
    found: list[Master] = []
    if command := environment.get(COMMAND_SETTING, ""):
        found.append(CommandMaster(split_command(COMMAND_SETTING, command)))
    texts = [(setting, environment.get(setting, "")) for setting in (KEY_SETTING, BEFORE_SETTING)]
    found += [HeldMaster("environment", _decode(text, setting)) for setting, text in texts if text]
    directory = key_directory(environment) if {"HOME", "XDG_CONFIG_HOME"} & environment.keys() else None
    before = [] if directory is None else sorted(directory.glob(f"{MASTER_FILE}.{'[0-9a-f]' * 16}"))
    for path in [] if directory is None else [directory / NEXT_FILE, directory / MASTER_FILE, *before]:
        if path.exists():  # where there is a next one, it wraps
            found.append(HeldMaster("file", _decode(read_private_file(path).decode("ascii", "replace"), str(path))))
    return found


def wrapping_master(environment: Mapping[str, str]) -> Master:
    """The master that wraps; a new private file where there is none.

    Raises:
        UsageError, AccessError: as `masters_of`.
        UsageError: only a master of before is set.
    """
    found = masters_of(environment)
    if environment.get(BEFORE_SETTING) and not (environment.get(KEY_SETTING) or environment.get(COMMAND_SETTING)):
        raise UsageError(f"{BEFORE_SETTING} is set without {KEY_SETTING}; give the new key there")
    if not found:
        return _make_file(key_directory(environment) / MASTER_FILE)
    return found[0]


def find_master(environment: Mapping[str, str], name: str) -> Master:
    """The master that a wrapped key names.

    Raises:
        AccessError: it is not here; says where it may come from.
    """
    for master in masters_of(environment):
        if master.name == name:
            return master
    where = {
        "command": f"set {COMMAND_SETTING} to the command that wrapped it",
        "environment": f"set {KEY_SETTING}, or {BEFORE_SETTING}, to the key that wrapped it",
        "file": f"copy {MASTER_FILE} to {_place(environment)} from where the project was encrypted",
    }
    cure = where.get(name.partition(":")[0], "find the master key that wrapped it")
    raise AccessError(f"The master key {name} is not here; {cure}.")


def next_file_master(environment: Mapping[str, str]) -> Master:
    """A new master key in a file that stands beside the old one until `keep_next_file`; the same one if it is there."""
    directory = key_directory(environment)
    if not (directory / NEXT_FILE).exists():
        return _make_file(directory / NEXT_FILE)
    return masters_of({**environment, COMMAND_SETTING: "", KEY_SETTING: "", BEFORE_SETTING: ""})[0]


def keep_next_file(environment: Mapping[str, str]) -> None:
    """Let the next file be the file. The old one stays beside it, under its name: other projects may need it."""
    directory = key_directory(environment)
    path = directory / MASTER_FILE
    try:
        if path.exists():
            old = HeldMaster("file", _decode(read_private_file(path).decode("ascii", "replace"), str(path)))
            os.replace(path, directory / f"{MASTER_FILE}.{old.name.partition(':')[2]}")
        os.replace(directory / NEXT_FILE, path)
        sync_directory(directory)
    except AccessError:
        raise
    except FileNotFoundError:
        raise NotFoundError(f"{directory / NEXT_FILE} is gone; run the rotation again") from None
    except OSError as error:
        raise StorageError(f"{directory} cannot be written ({error.strerror}); make it writable for you") from None


def _make_file(path: Path) -> Master:
    key = secrets.token_bytes(KEY_BYTES)
    create_private_file(path, b64encode(key) + b"\n")
    return HeldMaster("file", key)


def _place(environment: Mapping[str, str]) -> str:
    try:
        return str(key_directory(environment))
    except UsageError:
        return "the key directory"


def _decode(text: str, place: str) -> bytes:
    try:
        key = b64decode(text.strip(), validate=True)
    except (Base64Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:  # the text is a secret: it is not repeated
        raise UsageError(f"{place} is not a master key: 32 bytes in base64, such as `openssl rand -base64 32` makes")
    return key
