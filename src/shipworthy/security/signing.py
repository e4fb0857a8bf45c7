"""Signed envelopes: bytes, what they are, and who vouches for them.

Source: DSSE v1, github.com/secure-systems-lab/dsse.
"""

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from hashlib import sha256

from shipworthy.kernel.digest import canonical_json
from shipworthy.kernel.errors import IntegrityError
from shipworthy.security.keys import PublicKey, Signer

MAX_SIGNATURES = 16  # bounds the work that a hostile envelope can ask for


def pre_authentication(payload: bytes, media_type: str) -> bytes:
    """What is signed: type and payload with their lengths, so that neither can pose as the other.

    >>> pre_authentication(b"hello world", "http://example.com/HelloWorld")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = media_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload: bytes, media_type: str, key: Signer) -> bytes:
    """The DSSE envelope of `payload` with one signature, as canonical JSON; the same input, the same bytes."""
    key = key.current()  # whichever is active: the same one signs and is named
    signature = key.sign(pre_authentication(payload, media_type))
    return canonical_json(
        {
            "payloadType": media_type,
            "payload": b64encode(payload).decode(),
            "signatures": [{"keyid": key.public.keyid, "sig": b64encode(signature).decode()}],
        }
    )


def open_envelope(envelope: bytes, media_type: str, keys: Mapping[str, PublicKey]) -> bytes:
    """The payload, if the envelope is of that type and a key of `keys` signed it.

    Signatures of unknown keys count for nothing; a wrong signature of a known key refuses the whole.

    Args:
        envelope: DSSE JSON.
        media_type: the only type accepted.
        keys: whom to believe, by keyid.

    Raises:
        IntegrityError: malformed, of another type, or not signed by a known key.
    """
    fields = _fields(_parse(envelope), "The envelope", ("payload", "payloadType", "signatures"))
    if fields["payloadType"] != media_type:
        raise IntegrityError(
            f"The envelope holds {str(fields['payloadType'])[:80]!r}; {media_type!r} was expected.", "swapped"
        )
    payload = _decode(fields["payload"], "payload")
    signatures = fields["signatures"]
    if signatures == []:
        raise IntegrityError("Nobody signed the envelope.", "unsigned")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= MAX_SIGNATURES:
        raise IntegrityError(f"The envelope's signatures must be a list of 1 to {MAX_SIGNATURES}.")
    signed = pre_authentication(payload, media_type)
    vouched = [_vouches(signature, signed, keys) for signature in signatures]  # all: a wrong one refuses the whole
    if not any(vouched):
        raise IntegrityError(f"No key known here signed the envelope; {len(keys)} keys are known.", "unknown key")
    return payload


def signed_digest(envelope: bytes, media_type: str, keys: Mapping[str, PublicKey]) -> str:
    """Hexadecimal SHA-256 of what was signed, by which a revocation says what still stands.

    Raises:
        IntegrityError: as `open_envelope`.
    """
    payload = open_envelope(envelope, media_type, keys)
    return sha256(pre_authentication(payload, media_type)).hexdigest()


def _vouches(signature: object, signed: bytes, keys: Mapping[str, PublicKey]) -> bool:
    fields = _fields(signature, "A signature", ("keyid", "sig"))
    keyid, raw = fields["keyid"], _decode(fields["sig"], "sig")
    if not isinstance(keyid, str):
        raise IntegrityError("A signature's keyid is not text.")
    if (key := keys.get(keyid)) is None:
        return False
    if key.keyid != keyid:
        raise IntegrityError(f"Key {key.keyid[:16]} is listed under another keyid, {keyid[:16]}.")
    key.verify(signed, raw)
    return True


def _parse(envelope: bytes) -> object:
    try:
        return json.loads(envelope.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise IntegrityError("The envelope is not JSON with each key once, in UTF-8.") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("duplicate key")
    return fields


def _fields(value: object, what: str, names: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(value, dict) or sorted(value) != list(names):
        raise IntegrityError(f"{what} must have the fields {', '.join(names)} and no other.")
    return value


def _decode(value: object, what: str) -> bytes:
    try:
        content = b64decode(value, validate=True) if isinstance(value, str) else None
    except (Base64Error, ValueError):
        content = None
    if content is None or b64encode(content).decode() != value:  # one text for each content
        raise IntegrityError(f"The envelope's {what} is not plain base64.")
    return content
