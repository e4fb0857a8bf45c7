"""The ring of a project's signing keys: which are believed, which one signs, and where its private half is.

    keys/NAME.pub            believed
    keys/active              name of the key that signs
    keys/revoked/NAME.json   not believed any more, but for what it signed that still stands

A private half is a file in the user's key directory, or behind `SHIPWORTHY_SIGNING_COMMAND`, which gets the bytes to
sign on stdin and prints the signature: raw, or in base64.
"""

from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import msgspec

from shipworthy.kernel.errors import ConflictError, IntegrityError, NotFoundError, StorageError
from shipworthy.security.files import replace_durably, sync_directory
from shipworthy.security.hook import ask_command, split_command
from shipworthy.security.keys import (
    PRIVATE_SUFFIX,
    PUBLIC_SUFFIX,
    REVOKED,
    PublicKey,
    Revocation,
    Signer,
    check_key_name,
    key_directory,
    load_key,
    load_public_key,
    load_public_keys,
)

ACTIVE = "active"
COMMAND_SETTING = "SHIPWORTHY_SIGNING_COMMAND"
SIGNATURE_BYTES = 64
MAX_NAME_BYTES = 100  # of the file `active`

Holder = Literal["file", "command", "elsewhere"]


@dataclass(frozen=True, slots=True)
class CommandKey:
    """A key behind a command: this process never has its private half."""

    name: str
    public: PublicKey
    command: tuple[str, ...]

    def sign(self, content: bytes) -> bytes:
        """The command's signature over `content`.

        Raises:
            AccessError: the command failed, or took too long.
            IntegrityError: what it gave is not a signature of this key.
        """
        answer = ask_command(COMMAND_SETTING, self.command, content)
        signature = answer if len(answer) == SIGNATURE_BYTES else _from_base64(answer)
        if not self.public.matches(content, signature):
            raise IntegrityError(
                f"{COMMAND_SETTING}: what {self.command[0]} printed is not a signature by key {self.name}; it must "
                "sign with that key and print 64 bytes, raw or in base64."
            )
        return signature

    def current(self) -> Self:
        """Itself."""
        return self


class ActiveKey:
    """Whichever key of the ring is active: who holds this through a rotation signs with the new key from then on.

    Args:
        public_keys: the ring's directory.
        environment: names the key directory and the command.
    """

    def __init__(self, public_keys: Path, environment: Mapping[str, str]) -> None:
        self._public_keys = public_keys
        self._environment = environment
        self._seen: tuple[int, int] | None = None
        self._signer: Signer | None = None

    def current(self) -> Signer:
        """The key that is active at this moment.

        Raises:
            NotFoundError: there is none, or its private half is not here.
        """
        state = _state(self._public_keys / ACTIVE)
        if self._signer is None or state != self._seen:
            name = active_name(self._public_keys, self._environment)
            if name is None:
                raise NotFoundError(f"{self._public_keys} has no key that signs; `shipworthy key rotate` makes one.")
            self._signer, self._seen = find_signer(self._public_keys, self._environment, name), state
        return self._signer

    @property
    def name(self) -> str:
        """Of the key that is active now."""
        return self.current().name

    @property
    def public(self) -> PublicKey:
        """Of the key that is active now."""
        return self.current().public

    def sign(self, content: bytes) -> bytes:
        """By the key that is active now."""
        return self.current().sign(content)


@dataclass(frozen=True, slots=True)
class PublicKeys(Mapping[str, PublicKey]):
    """The keys that a directory holds, read anew each time: a key that was added or revoked meanwhile is noticed."""

    directory: Path

    def __getitem__(self, keyid: str) -> PublicKey:
        return load_public_keys(self.directory)[keyid]

    def __iter__(self) -> Iterator[str]:
        return iter(load_public_keys(self.directory))

    def __len__(self) -> int:
        return len(load_public_keys(self.directory))


@dataclass(frozen=True, slots=True)
class RingKey:
    """A signing key of the ring, as it stands."""

    name: str
    keyid: str
    state: Literal["active", "retired", "revoked"]
    holder: Holder  # of the private half
    words: str = ""  # when and why it was revoked


def list_ring(public_keys: Path, environment: Mapping[str, str]) -> list[RingKey]:
    """Every signing key of the project: the active one first, the revoked ones last.

    Raises:
        IntegrityError: a file of the ring is not what it should be.
    """
    active = active_name(public_keys, environment)
    known = load_public_keys(public_keys)
    found = []
    for path in public_keys.glob("*" + PUBLIC_SUFFIX):
        public = known[load_public_key(path).keyid]
        if public.revocation is None:
            state: Literal["active", "retired"] = "active" if path.stem == active else "retired"
            found.append(RingKey(path.stem, public.keyid, state, holder_of(path.stem, environment)))
    for public in known.values():
        if (gone := public.revocation) is not None:
            words = f"{gone.revoked[:10]}: {gone.reason}"
            found.append(RingKey(gone.name, public.keyid, "revoked", holder_of(gone.name, environment), words))
    return sorted(found, key=lambda key: (key.state != "active", key.state == "revoked", key.name))


def active_name(public_keys: Path, environment: Mapping[str, str]) -> str | None:
    """Which key signs: the one that was chosen, else the first whose private half is here; None if there is no key.

    Raises:
        IntegrityError: the chosen one is not in the ring.
    """
    try:
        chosen = (public_keys / ACTIVE).read_bytes()[:MAX_NAME_BYTES].decode(errors="replace").strip()
    except FileNotFoundError:
        known = load_public_keys(public_keys)
        paths = sorted(public_keys.glob("*" + PUBLIC_SUFFIX))
        names = [path.stem for path in paths if known[load_public_key(path).keyid].revocation is None]
        here = [name for name in names if holder_of(name, environment) == "file"]
        return next(iter([*here, *names]), None)
    if not (public_keys / (check_key_name(chosen) + PUBLIC_SUFFIX)).exists():
        raise IntegrityError(f"{public_keys / ACTIVE} names {chosen}, whose public key is not there; restore it.")
    return chosen


def find_signer(public_keys: Path, environment: Mapping[str, str], name: str) -> Signer:
    """The key `name` of the ring, by its file here, else by the command.

    Raises:
        NotFoundError: its private half is neither here nor behind a command; says the cures.
        IntegrityError: the private half here is not of that public key, or it was revoked.
    """
    path = public_keys / (check_key_name(name) + PUBLIC_SUFFIX)
    public = load_public_key(path)
    if (revocation := load_public_keys(public_keys)[public.keyid].revocation) is not None:
        raise IntegrityError(f"{path} is {revocation.words}: it signs nothing any more.")
    match holder_of(name, environment):
        case "file":
            key = load_key(key_directory(environment), name)
            if key.public.keyid == public.keyid:
                return key
        case "command":
            return CommandKey(name, public, split_command(COMMAND_SETTING, environment[COMMAND_SETTING]))
    directory = key_directory(environment)
    raise NotFoundError(
        f"{directory} does not hold the private key of {path}, so nothing can be signed for this project; copy "
        f"{name}{PRIVATE_SUFFIX} there from where the project was made, set {COMMAND_SETTING} if a command holds it, "
        f"or, if it is lost, move {public_keys.parent.name} away and ship anew"
    )


def holder_of(name: str, environment: Mapping[str, str]) -> Holder:
    """Who has the private half: the user's key directory, else a command if one is set, else nobody here."""
    if (key_directory(environment) / (name + PRIVATE_SUFFIX)).exists():
        return "file"
    return "command" if environment.get(COMMAND_SETTING) else "elsewhere"


def choose_active(public_keys: Path, name: str) -> None:
    """Let `name` sign from now on; durable when this returns.

    Raises:
        StorageError: the ring cannot be written; the key before signs on.
    """
    path = public_keys / ACTIVE
    try:
        replace_durably(path, f"{check_key_name(name)}\n".encode(), mode=0o644)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; make it writable for this user.") from None


def free_name(public_keys: Path, environment: Mapping[str, str], like: str) -> str:
    """A name for the next key after one called `like`: `loans`, `loans-2`, `loans-3`."""
    stem, _, number = like.rpartition("-")
    base, last = (stem, int(number)) if stem and number.isdigit() and len(number) < 4 else (like, 1)
    taken = {path.stem for path in [*public_keys.glob("*"), *(public_keys / REVOKED).glob("*")]}
    while (name := f"{base}-{last + 1}") in taken or holder_of(name, environment) == "file":
        last += 1
    return name


def revoke(public_keys: Path, revocation: Revocation) -> None:
    """Believe the key no more, but for what stands; durable when this returns.

    Raises:
        ConflictError: it is the one that signs.
        UsageError: the name cannot name a key.
        StorageError: the ring cannot be written.
    """
    name = check_key_name(revocation.name)
    if _state(public_keys / ACTIVE) is not None and (public_keys / ACTIVE).read_text().strip() == name:
        raise ConflictError(f"{name} is the key that signs; run `shipworthy key rotate` first, then revoke it")
    place = public_keys / REVOKED / f"{name}.json"
    try:  # in this order: a stop in between leaves it revoked
        replace_durably(place, msgspec.json.format(msgspec.json.encode(revocation), indent=1) + b"\n", mode=0o644)
        (public_keys / (name + PUBLIC_SUFFIX)).unlink(missing_ok=True)
        sync_directory(public_keys)
    except OSError as error:
        raise StorageError(f"{place} cannot be written: {error.strerror}; make it writable for this user.") from None


def _state(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _from_base64(answer: bytes) -> bytes:
    try:
        return b64decode(answer.strip(), validate=True)
    except ValueError:
        return b""
