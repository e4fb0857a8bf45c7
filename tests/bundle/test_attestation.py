"""Attestations: signed, about one release, and nothing else passes for one."""

import msgspec
import pytest

from shipworthy.bundle.attestation import open_attestation, sign_attestation
from shipworthy.bundle.format import STATEMENT_MEDIA, AttestationPredicate, AttestationStatement, Subject
from shipworthy.kernel.digest import digest_bytes
from shipworthy.kernel.errors import IntegrityError
from shipworthy.security.keys import SigningKey
from shipworthy.security.signing import sign_envelope

KEY, OTHER = SigningKey.from_seed("a", b"a" * 32), SigningKey.from_seed("b", b"b" * 32)
KNOWN = {KEY.public.keyid: KEY.public}
RELEASE, ANOTHER = digest_bytes(b"release 7"), digest_bytes(b"release 8")
APPROVAL = AttestationPredicate(
    attests="approval", release="loans:7", verdicts=digest_bytes(b"verdicts"), environment="production",
    role="risk", principal="ruth", reason="looked at the slices", time="2026-01-31T09:30:00.000Z",
)  # fmt: skip


def test_what_was_signed_is_read_again() -> None:
    assert open_attestation(sign_attestation(APPROVAL, RELEASE, KEY), RELEASE, KNOWN) == APPROVAL


def test_an_approval_of_one_release_is_none_of_another() -> None:
    with pytest.raises(IntegrityError, match="is about another release"):
        open_attestation(sign_attestation(APPROVAL, RELEASE, KEY), ANOTHER, KNOWN)


def test_an_unknown_key_signs_nothing() -> None:
    with pytest.raises(IntegrityError, match="No key known here signed"):
        open_attestation(sign_attestation(APPROVAL, RELEASE, OTHER), RELEASE, KNOWN)


def test_a_signed_statement_of_another_kind_is_no_approval() -> None:
    subject = Subject(name="loans:7", digest={"sha256": RELEASE.removeprefix("sha256:")})
    statement = AttestationStatement(subject=(subject,), predicate_type="https://example.com/v1", predicate=APPROVAL)
    envelope = sign_envelope(msgspec.json.encode(statement), STATEMENT_MEDIA, KEY)
    with pytest.raises(IntegrityError, match="not an attestation"):
        open_attestation(envelope, RELEASE, KNOWN)


def test_what_is_signed_but_no_statement_is_refused() -> None:
    with pytest.raises(IntegrityError, match="The attestation is not one"):
        open_attestation(sign_envelope(b"{}", STATEMENT_MEDIA, KEY), RELEASE, KNOWN)


@pytest.mark.parametrize("place", range(0, 1200, 37))
def test_a_changed_byte_is_found(place: int) -> None:
    envelope = bytearray(sign_attestation(APPROVAL, RELEASE, KEY))
    at = place % len(envelope)
    envelope[at] ^= 1
    with pytest.raises(IntegrityError):
        open_attestation(bytes(envelope), RELEASE, KNOWN)
