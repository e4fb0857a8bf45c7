"""Envelopes: opened only by those who know the signer, refused after any change."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.kernel.errors import IntegrityError
from shipworthy.security.keys import SigningKey
from shipworthy.security.signing import open_envelope, pre_authentication, sign_envelope

MEDIA = "application/vnd.in-toto+json"
KEY = SigningKey.from_seed("signer", bytes(range(32)))
OTHER = SigningKey.from_seed("other", bytes(32))
KEYS = {KEY.public.keyid: KEY.public}


def test_the_signed_bytes_are_those_of_the_dsse_protocol_text() -> None:
    signed = pre_authentication(b"hello world", "http://example.com/HelloWorld")
    assert signed == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


@given(st.binary(max_size=200), st.text(st.characters(codec="utf-8"), max_size=20))
def test_what_was_signed_is_opened(payload: bytes, media: str) -> None:
    assert open_envelope(sign_envelope(payload, media, KEY), media, KEYS) == payload


def test_the_same_payload_gives_the_same_envelope() -> None:
    assert sign_envelope(b"x", MEDIA, KEY) == sign_envelope(b"x", MEDIA, KEY)


def test_every_single_bit_matters() -> None:
    """No flipped bit of the envelope is accepted."""
    envelope = sign_envelope(b"payload", MEDIA, KEY)
    for bit in range(len(envelope) * 8):
        changed = bytearray(envelope)
        changed[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(IntegrityError):
            open_envelope(bytes(changed), MEDIA, KEYS)


def test_another_type_is_refused() -> None:
    with pytest.raises(IntegrityError, match="was expected"):
        open_envelope(sign_envelope(b"x", MEDIA, KEY), "application/json", KEYS)


def test_an_unknown_signer_is_refused() -> None:
    with pytest.raises(IntegrityError, match="No key known here"):
        open_envelope(sign_envelope(b"x", MEDIA, OTHER), MEDIA, KEYS)


def test_a_signature_of_an_unknown_key_beside_a_known_one_is_harmless() -> None:
    envelope, other = (json.loads(sign_envelope(b"x", MEDIA, key)) for key in (KEY, OTHER))
    envelope["signatures"] = other["signatures"] + envelope["signatures"]
    assert open_envelope(json.dumps(envelope).encode(), MEDIA, KEYS) == b"x"


def test_a_wrong_signature_of_a_known_key_refuses_the_whole() -> None:
    envelope, other = (json.loads(sign_envelope(content, MEDIA, KEY)) for content in (b"x", b"y"))
    envelope["signatures"] += other["signatures"]
    with pytest.raises(IntegrityError, match="does not match"):
        open_envelope(json.dumps(envelope).encode(), MEDIA, KEYS)


def test_a_key_listed_under_a_foreign_keyid_is_refused() -> None:
    with pytest.raises(IntegrityError, match="another keyid"):
        open_envelope(sign_envelope(b"x", MEDIA, KEY), MEDIA, {KEY.public.keyid: OTHER.public})


@pytest.mark.parametrize(
    "envelope",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"payload":"","payload":"","payloadType":"a","signatures":[]}',
        b'{"payload":"eA","payloadType":"a","signatures":[{"keyid":"k","sig":""}]}',
        b'{"payload":"eB==","payloadType":"a","signatures":[{"keyid":"k","sig":""}]}',
        b'{"payload":1,"payloadType":"a","signatures":[{"keyid":"k","sig":""}]}',
        b'{"payload":"","payloadType":"a","signatures":[]}',
        b'{"payload":"","payloadType":"a","signatures":{}}',
        b'{"payload":"","payloadType":"a","signatures":[{"keyid":["k"],"sig":""}]}',
        b'{"payload":"","payloadType":"a","signatures":[{"keyid":"k","sig":"","cert":""}]}',
        b'{"payload":"","payloadType":"a","signatures":[],"more":1}',
        json.dumps({"payload": "", "payloadType": "a", "signatures": [{"keyid": "k", "sig": ""}] * 17}).encode(),
    ],
)
def test_a_malformed_envelope_is_refused(envelope: bytes) -> None:
    with pytest.raises(IntegrityError):
        open_envelope(envelope, "a", KEYS)
