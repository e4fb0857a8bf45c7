"""Data keys: what encrypts below a project's state, each wrapped by a master key, in `keys/data/ID.json`.

One is active and seals; retired ones go on opening what they sealed.
"""

import os
import re
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from shipworthy.kernel.errors import AccessError, IntegrityError, NotFoundError, StorageError
from shipworthy.security.files import replace_durably
from shipworthy.security.master import (
    KEY_BYTES,
    Master,
    find_master,
    keep_next_file,
    next_file_master,
    wrapping_master,
)

ID_BYTES = 8  # 2**64 names: no two of a project are alike
MAX_FILE_BYTES = 16_384  # a wrapped key by a KMS has some hundreds

_ID = re.compile(r"[0-9a-f]{16}")


class DataKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data key as it lies on disk; nothing in it is secret."""

    format: Literal[1] = 1
    id: str
    created: str  # RFC 3339, UTC
    state: Literal["active", "retired", "destroyed"]
    master: str  # name of the one that wrapped it
    wrapped: str  # base64; empty once destroyed

    @property
    def context(self) -> bytes:
        """What it is wrapped for: this id, so that two files cannot be swapped."""
        return f"data key {self.id}".encode()


def list_data_keys(directory: Path) -> list[DataKey]:
    """Every data key of `directory`, oldest first; none if it is missing.

    Raises:
        IntegrityError: a file is no data key, or is not the one that its name says.
    """
    found = [_read(path) for path in sorted(directory.glob("*.json"))]
    return sorted(found, key=lambda key: (key.created, key.id))


def active_data_key(directory: Path) -> DataKey | None:
    """The key that seals, the newest of them should a rotation have been stopped; None if there is none."""
    active = [key for key in list_data_keys(directory) if key.state == "active"]
    return active[-1] if active else None


def make_data_key(directory: Path, environment: Mapping[str, str], now: float) -> DataKey:
    """A new active data key; the ones before it retire and go on opening.

    Args:
        directory: `keys/data`; made if missing.
        environment: names the master key; a private file is made where it names none.
        now: Unix seconds.

    Raises:
        AccessError, UsageError: the master key cannot be used.
        StorageError: the directory cannot be written.
    """
    master = wrapping_master(environment)
    draft = DataKey(id=secrets.token_hex(ID_BYTES), created=_time(now), state="active", master=master.name, wrapped="")
    key = _wrapped(draft, secrets.token_bytes(KEY_BYTES), master)
    _write(directory, key)  # first: a stop here leaves two active ones, and the newer one seals
    for before in list_data_keys(directory):
        if before.state == "active" and before.id != key.id:
            _write(directory, msgspec.structs.replace(before, state="retired"))
    return key


def wrap_anew(directory: Path, environment: Mapping[str, str]) -> tuple[str, int]:
    """Wrap every data key by the master that settings name now, or by a new one where that is the private file.

    Stop it anywhere and run it again: each key is wrapped by the old master or the new one.

    Returns:
        The master's name, and how many keys it wraps.

    Raises:
        AccessError: an old master key is not here.
        IntegrityError: a wrapped key was changed.
        StorageError: the directory cannot be written.
    """
    master = wrapping_master(environment)
    is_file = master.name.startswith("file:")
    if is_file:
        master = next_file_master(environment)
    keys = [key for key in list_data_keys(directory) if key.state != "destroyed"]
    for key in keys:
        if key.master != master.name or master.name == "command":
            _write(directory, _wrapped(key, unwrap_data_key(key, environment), master))
    if is_file:
        keep_next_file(environment)
    return master.name, len(keys)


def unwrap_data_key(key: DataKey, environment: Mapping[str, str]) -> bytes:
    """The 32 bytes of a data key.

    Raises:
        AccessError: it was destroyed, or its master key is not here.
        IntegrityError: it was changed.
    """
    if key.state == "destroyed":
        raise AccessError(f"The data key {key.id} was destroyed: what it sealed cannot be read again, as intended.")
    try:
        wrapped = b64decode(key.wrapped, validate=True)
    except ValueError:
        raise IntegrityError(f"The data key {key.id} is not wrapped in base64; restore it from a copy.") from None
    found = find_master(environment, key.master).unwrap(wrapped, key.context)
    if len(found) != KEY_BYTES:
        raise IntegrityError(f"The data key {key.id} has {len(found)} bytes; {KEY_BYTES} were wrapped.")
    return found


def find_data_key(directory: Path, id: str) -> DataKey:
    """The data key called `id`.

    Raises:
        NotFoundError: it is not here.
        IntegrityError: its file is not a data key.
    """
    if not _ID.fullmatch(id):
        raise IntegrityError(f"{id[:40]!r} names no data key; it has 16 hexadecimal digits.")
    return _read(directory / f"{id}.json")


def _wrapped(key: DataKey, content: bytes, master: Master) -> DataKey:
    wrapped = b64encode(master.wrap(content, key.context)).decode()
    return msgspec.structs.replace(key, master=master.name, wrapped=wrapped)


def _read(path: Path) -> DataKey:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFoundError(f"{path}: the data key {path.stem} is not here; copy it from where it was made.") from None
    except OSError as error:
        raise IntegrityError(f"{path} is a link or cannot be read ({error.strerror}).") from None
    with open(descriptor, "rb") as file:
        content = file.read(MAX_FILE_BYTES)
    try:
        key = msgspec.json.decode(content, type=DataKey)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"{path} is no data key: {error}.") from None
    if key.id != path.stem or not _ID.fullmatch(key.id):
        raise IntegrityError(f"{path} holds the data key {key.id[:40]!r}; its name says another.")
    return key


def _write(directory: Path, key: DataKey) -> None:
    path = directory / f"{key.id}.json"
    try:
        replace_durably(path, msgspec.json.format(msgspec.json.encode(key), indent=1) + b"\n", mode=0o600)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; make it writable for this user.") from None


def _time(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
