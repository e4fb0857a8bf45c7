"""Attestations: a role's detached signature over a release, so that it can be checked without a database."""

from collections.abc import Mapping

import msgspec

from shipworthy.bundle.format import (
    ATTESTATION_TYPE,
    STATEMENT_MEDIA,
    STATEMENT_TYPE,
    AttestationPredicate,
    AttestationStatement,
    Subject,
)
from shipworthy.kernel.errors import IntegrityError
from shipworthy.security.keys import PublicKey, Signer
from shipworthy.security.signing import open_envelope, sign_envelope


def sign_attestation(predicate: AttestationPredicate, release_digest: str, key: Signer) -> bytes:
    """The signed statement that `predicate` holds of the release with that digest."""
    subject = Subject(name=predicate.release, digest={"sha256": release_digest.removeprefix("sha256:")})
    statement = AttestationStatement(subject=(subject,), predicate=predicate)
    return sign_envelope(msgspec.json.encode(statement), STATEMENT_MEDIA, key)


def open_attestation(envelope: bytes, release_digest: str, keys: Mapping[str, PublicKey]) -> AttestationPredicate:
    """What the envelope attests, if a key of `keys` signed it and it is about that release.

    Raises:
        IntegrityError: it is not signed by a known key, malformed, or about something else.
    """
    content = open_envelope(envelope, STATEMENT_MEDIA, keys)
    try:
        statement = msgspec.json.decode(content, type=AttestationStatement)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise IntegrityError(f"The attestation is not one: {error}.") from None
    if statement.type != STATEMENT_TYPE or statement.predicate_type != ATTESTATION_TYPE:
        raise IntegrityError(f"The statement is {statement.predicate_type!r}, not an attestation.", "swapped")
    subjects = {f"sha256:{subject.digest.get('sha256')}" for subject in statement.subject}
    if subjects != {release_digest}:
        raise IntegrityError(f"The attestation is about another release than {release_digest}.", "swapped")
    return statement.predicate
