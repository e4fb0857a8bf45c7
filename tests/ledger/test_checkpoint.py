"""Checkpoints: the text form of C2SP, and nothing else."""

from pathlib import Path

import pytest

from shipworthy.kernel.errors import IntegrityError, NotFoundError
from shipworthy.ledger.checkpoint import Checkpoint, Note, parse_note, read_note, sign_checkpoint
from shipworthy.security.keys import PublicKey, SigningKey

CHECKPOINT = Checkpoint("shipworthy.dev/ledger/0123456789abcdef", 42, bytes(range(32)))


def test_a_checkpoint_is_three_lines_and_a_signature_line(signer: SigningKey, keys: dict[str, PublicKey]) -> None:
    lines = sign_checkpoint(CHECKPOINT, signer).to_bytes().decode().split("\n")
    assert lines[:4] == [CHECKPOINT.origin, "42", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=", ""]
    assert lines[4].startswith(f"\u2014 {CHECKPOINT.origin} ")
    assert lines[5:] == [""]


@pytest.mark.parametrize("signed", [True, False])
def test_a_note_is_read_as_it_was_written(signer: SigningKey, keys: dict[str, PublicKey], signed: bool) -> None:
    note = sign_checkpoint(CHECKPOINT, signer if signed else None)
    assert parse_note(note.to_bytes(), "here") == note
    assert (note.signer(keys) == signer.public) is signed


def test_a_changed_note_is_refused_or_known_as_unsigned(signer: SigningKey, keys: dict[str, PublicKey]) -> None:
    content = sign_checkpoint(CHECKPOINT, signer).to_bytes()
    for bit in range(len(content) * 8):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            note = parse_note(bytes(changed), "here")
            assert note.signer(keys) is None
        except IntegrityError:
            continue


def test_a_foreign_key_is_not_the_signer(signer: SigningKey) -> None:
    other = SigningKey.from_seed("other", bytes(32)).public
    note = sign_checkpoint(CHECKPOINT, signer)
    assert note.signer({other.keyid: other}) is None
    forged = Note(CHECKPOINT, note.key_hash, bytes(64))
    with pytest.raises(IntegrityError, match="signature"):
        forged.signer({signer.public.keyid: signer.public})


@pytest.mark.parametrize("content", [b"", b"\xff", b"a\n1\n", b"a\n01\n" + b"A" * 43 + b"=\n\n", b"a\n1\nAAAA\n\n"])
def test_other_text_is_not_a_checkpoint(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(content)
    with pytest.raises(IntegrityError, match="is not a checkpoint"):
        read_note(tmp_path / "note")
    with pytest.raises(NotFoundError, match="no checkpoint"):
        read_note(tmp_path / "other")
