"""The ring: which key signs, which is believed, and what a revoked one still stands for."""

import sys
from hashlib import sha256
from pathlib import Path

import pytest

from shipworthy.kernel.errors import AccessError, ConflictError, IntegrityError, NotFoundError, UsageError
from shipworthy.security.hook import ask_command
from shipworthy.security.keyring import (
    COMMAND_SETTING,
    ActiveKey,
    PublicKeys,
    active_name,
    choose_active,
    find_signer,
    free_name,
    list_ring,
    revoke,
)
from shipworthy.security.keys import (
    PublicKey,
    Revocation,
    SigningKey,
    create_key,
    key_directory,
    load_public_key,
    load_public_keys,
)
from shipworthy.security.signing import open_envelope, sign_envelope, signed_digest

SIGNER = """\
import sys, time
from base64 import b64encode
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_private_key
how, content = sys.argv[2], sys.stdin.buffer.read()
key = load_pem_private_key(Path(sys.argv[1]).read_bytes(), None)
if how == "slow":
    time.sleep(60)
if how == "chatty":
    sys.stdout.buffer.write(bytes(5000))
if how == "refuse":
    sys.exit("the token was pulled out")
signature = key.sign(content if how != "other" else b"something else")
sys.stdout.buffer.write(b64encode(signature) + b"\\n" if how == "base64" else signature)
"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    return {"XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def ring(tmp_path: Path, home: dict[str, str]) -> Path:
    """A ring of two keys, `first` and `second`, both here; none was chosen yet."""
    for name in ("first", "second"):
        create_key(key_directory(home), name).public.write_public(tmp_path / "ring" / f"{name}.pub")
    return tmp_path / "ring"


def away(home: dict[str, str], name: str, to: Path) -> Path:
    """Move a private half out of the key directory."""
    return (key_directory(home) / f"{name}.key").rename(to / f"{name}.pem")


def revocation(ring: Path, name: str, *stands: bytes) -> Revocation:
    raw = load_public_key(ring / f"{name}.pub").raw.hex()
    digests = frozenset(sha256(content).hexdigest() for content in stands)
    return Revocation(name=name, public=raw, revoked="2026-11-25T10:00:00Z", reason="lost", stands=digests)


def test_the_first_key_whose_private_half_is_here_signs_until_one_is_chosen(
    ring: Path, home: dict[str, str], tmp_path: Path
) -> None:
    assert active_name(ring, home) == "first"
    away(home, "first", tmp_path)
    assert active_name(ring, home) == "second"
    choose_active(ring, "first")
    assert active_name(ring, home) == "first"
    with pytest.raises(
        NotFoundError, match=r"does not hold the private key of .*first\.pub.*SHIPWORTHY_SIGNING_COMMAND"
    ):
        find_signer(ring, home, "first")


def test_who_holds_the_ring_signs_with_the_new_key_from_the_rotation_on(ring: Path, home: dict[str, str]) -> None:
    signer, keys = ActiveKey(ring, home), PublicKeys(ring)
    before = sign_envelope(b"one", "text/plain", signer)
    choose_active(ring, "second")
    after = sign_envelope(b"two", "text/plain", signer)
    first, second = (load_public_key(ring / f"{name}.pub") for name in ("first", "second"))
    assert open_envelope(before, "text/plain", {first.keyid: first}) == b"one"
    assert open_envelope(after, "text/plain", {second.keyid: second}) == b"two"
    assert open_envelope(before, "text/plain", keys) == b"one"  # a retired key stays believed


def test_a_revoked_key_is_believed_for_what_stands_and_for_nothing_else(ring: Path, home: dict[str, str]) -> None:
    key = find_signer(ring, home, "first")
    kept, forged = (sign_envelope(text, "text/plain", key) for text in (b"release 1", b"forged later"))
    standing = signed_digest(kept, "text/plain", load_public_keys(ring))
    revoke(ring, msgspec_replace(revocation(ring, "first"), standing))
    keys = load_public_keys(ring)
    assert open_envelope(kept, "text/plain", keys) == b"release 1"
    with pytest.raises(IntegrityError, match=r"signed by key first, revoked on 2026-11-25 \(lost\), and is not among"):
        open_envelope(forged, "text/plain", keys)
    assert not (ring / "first.pub").exists()
    with pytest.raises(NotFoundError, match="no such public key"):
        find_signer(ring, home, "first")


def msgspec_replace(before: Revocation, *digests: str) -> Revocation:
    import msgspec

    return msgspec.structs.replace(before, stands=frozenset(digests))


def test_a_revoked_key_that_is_put_back_stays_revoked(ring: Path, home: dict[str, str]) -> None:
    content = (ring / "first.pub").read_bytes()
    key = find_signer(ring, home, "first")
    revoke(ring, revocation(ring, "first"))
    (ring / "first.pub").write_bytes(content)
    (ring / "again.pub").write_bytes(content)
    with pytest.raises(IntegrityError, match="key first, revoked on"):
        load_public_keys(ring)[key.public.keyid].verify(b"x", key.sign(b"x"))
    with pytest.raises(IntegrityError, match="it signs nothing any more"):
        find_signer(ring, home, "again")
    assert [(one.name, one.state) for one in list_ring(ring, home)] == [("second", "active"), ("first", "revoked")]


def test_a_revocation_that_cannot_be_read_lets_nothing_pass(ring: Path) -> None:
    revoke(ring, revocation(ring, "first"))
    (ring / "revoked" / "first.json").write_text("{}")
    with pytest.raises(IntegrityError, match=r"first\.json is no revocation"):
        load_public_keys(ring)


def test_the_key_that_signs_is_not_revoked(ring: Path) -> None:
    choose_active(ring, "first")
    with pytest.raises(ConflictError, match="first is the key that signs; run `shipworthy key rotate` first"):
        revoke(ring, revocation(ring, "first"))


def test_an_active_key_that_is_not_in_the_ring_is_an_error(ring: Path, home: dict[str, str]) -> None:
    (ring / "active").write_text("third\n")
    with pytest.raises(IntegrityError, match=r"active names third, whose public key is not there"):
        active_name(ring, home)
    (ring / "active").write_text("../first\n")
    with pytest.raises(UsageError, match="cannot be named"):
        active_name(ring, home)


def test_the_next_key_has_the_next_free_number(ring: Path, home: dict[str, str]) -> None:
    assert free_name(ring, home, "loans-1a2b3c4d") == "loans-1a2b3c4d-2"
    (ring / "loans-2.pub").touch()
    assert free_name(ring, home, "loans") == "loans-3"
    assert free_name(ring, home, "loans-2") == "loans-3"


@pytest.mark.parametrize("how", ["raw", "base64"])
def test_a_command_signs_and_the_private_half_is_never_here(
    ring: Path, home: dict[str, str], tmp_path: Path, how: str
) -> None:
    pem = away(home, "first", tmp_path)
    (tmp_path / "signer.py").write_text(SIGNER)
    setting = {COMMAND_SETTING: f"{sys.executable} {tmp_path / 'signer.py'} {pem} {how}"}
    choose_active(ring, "first")
    signer = ActiveKey(ring, home | setting)
    envelope = sign_envelope(b"release", "text/plain", signer)
    assert open_envelope(envelope, "text/plain", load_public_keys(ring)) == b"release"
    assert [(one.name, one.holder) for one in list_ring(ring, home | setting)] == [
        ("first", "command"),
        ("second", "file"),
    ]


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ("other", IntegrityError, "is not a signature by key first"),
        ("chatty", AccessError, "answered 5064 bytes; 4096 are the most"),
        ("refuse", AccessError, "ended with 1: the token was pulled out"),
    ],
)
def test_a_command_that_does_not_sign_is_refused(
    ring: Path, home: dict[str, str], tmp_path: Path, how: str, error: type[Exception], words: str
) -> None:
    pem = away(home, "first", tmp_path)
    (tmp_path / "signer.py").write_text(SIGNER)
    setting = {COMMAND_SETTING: f"{sys.executable} {tmp_path / 'signer.py'} {pem} {how}"}
    with pytest.raises(error, match=words):
        find_signer(ring, home | setting, "first").sign(b"content")


def test_a_command_that_hangs_is_ended() -> None:
    with pytest.raises(AccessError, match=r"sleep gave no answer within 0\.2 s; it was ended"):
        ask_command("SETTING", ["sleep", "60"], b"", timeout_s=0.2)


def test_no_shell_reads_the_command(tmp_path: Path) -> None:
    with pytest.raises(AccessError, match="ended with 1"):
        ask_command("SETTING", ["false", f"; touch {tmp_path / 'made'}", "$(id)"], b"")
    assert not (tmp_path / "made").exists()


def test_a_key_matches_by_its_bytes_and_not_by_what_was_said_of_it() -> None:
    public = SigningKey.from_seed("k", bytes(32)).public
    told = PublicKey(public.raw, Revocation(name="k", public="", revoked="", reason="", stands=frozenset()))
    assert told == public
