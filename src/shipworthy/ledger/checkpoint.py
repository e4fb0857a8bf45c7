"""Checkpoints: size and root of the log, signed, as text that travels.

Source: C2SP tlog-checkpoint and signed-note.
"""

import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from shipworthy.kernel.errors import IntegrityError, NotFoundError
from shipworthy.security.keys import PublicKey, Signer

MAX_NOTE_BYTES = 4096

_ED25519 = b"\x01"  # the algorithm's byte in a note's key hash
_BODY = re.compile(r"([^\n]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/]{43}=)\n")
_SIGNATURE = re.compile(r"\u2014 ([^ +\n]+) ([A-Za-z0-9+/]+=*)\n")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log at one moment: which log, how many entries, and the root over all of them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """What is signed: three lines."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A checkpoint with the signature it came with, if any."""

    checkpoint: Checkpoint
    key_hash: bytes = b""  # 4 bytes
    signature: bytes = b""  # 64 bytes

    def to_bytes(self) -> bytes:
        """The note as a file holds it."""
        text = self.checkpoint.text() + "\n"
        if self.signature:
            line = b64encode(self.key_hash + self.signature).decode()
            text += f"\u2014 {self.checkpoint.origin} {line}\n"
        return text.encode()

    def signer(self, keys: Mapping[str, PublicKey]) -> PublicKey | None:
        """Which of `keys` signed the note; None if it is unsigned or its signer is not among them.

        Raises:
            IntegrityError: the signature is wrong.
        """
        for key in keys.values() if self.signature else ():
            if key_hash(self.checkpoint.origin, key) == self.key_hash:
                key.verify(self.checkpoint.text().encode(), self.signature)
                return key
        return None


def key_hash(name: str, key: PublicKey) -> bytes:
    """The four bytes by which a note names its signer."""
    return sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:4]


def sign_checkpoint(checkpoint: Checkpoint, signer: Signer | None) -> Note:
    """The checkpoint with the signature of `signer`; unsigned without one."""
    if signer is None:
        return Note(checkpoint)
    signer = signer.current()
    return Note(checkpoint, key_hash(checkpoint.origin, signer.public), signer.sign(checkpoint.text().encode()))


def parse_note(content: bytes, where: str) -> Note:
    """The note in `content`; its signature is not yet checked.

    Raises:
        IntegrityError: it is not a note.
    """
    try:
        body, _, rest = content.decode().partition("\n\n")
        match = _BODY.fullmatch(body + "\n")
        signature = _SIGNATURE.fullmatch(rest)
        if match is None or (rest and signature is None):
            raise ValueError("other form")
        checkpoint = Checkpoint(match[1], int(match[2]), b64decode(match[3], validate=True))
        raw = b64decode(signature[2], validate=True) if signature else b""
        note = Note(checkpoint, raw[:4], raw[4:])
        if len(raw) not in (0, 68) or note.to_bytes() != content:
            raise ValueError("other length")
    except ValueError:
        raise IntegrityError(f"{where} is not a checkpoint: {content[:80]!r}.") from None
    return note


def read_note(path: Path) -> Note:
    """The note in the file `path`.

    Raises:
        NotFoundError: there is no such file.
        IntegrityError: it is not a note.
    """
    try:
        with open(path, "rb") as file:
            return parse_note(file.read(MAX_NOTE_BYTES), str(path))
    except FileNotFoundError:
        raise NotFoundError(f"{path}: there is no checkpoint.") from None
