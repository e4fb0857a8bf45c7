"""Payloads signed in the format of OpenSSF Model Signing, so that others can check them with tools of their own.

Our servers trust the release's statement, which binds this file too; this is for whoever has the payload alone.

Source: OpenSSF Model Signing v1.0 (a Sigstore bundle v0.3 that holds an in-toto statement in a DSSE envelope).
"""

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from shipworthy.bundle.format import STATEMENT_TYPE
from shipworthy.kernel.digest import canonical_json
from shipworthy.kernel.errors import IntegrityError
from shipworthy.security.model_key import ModelKey, PublicModelKey
from shipworthy.security.signing import pre_authentication

MODEL_SIGNATURE = "model.sig"  # beside the payload
BUNDLE_MEDIA = "application/vnd.dev.sigstore.bundle.v0.3+json"
DSSE_MEDIA = "application/vnd.in-toto+json"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"


def sign_model(name: str, digests: Mapping[str, str], key: ModelKey) -> bytes:
    """The Model Signing bundle over a payload's files.

    Args:
        name: of the model, such as `loans:7`.
        digests: of each file in the payload's folder, `sha256:…` by name.
        key: signs; the format has no Ed25519.
    """
    statement: dict[str, Any] = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": _root(digests)}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []},
            "resources": [
                {"name": file, "algorithm": "sha256", "digest": digests[file].removeprefix("sha256:")}
                for file in sorted(digests)
            ],
        },
    }
    payload = canonical_json(statement)
    signature = key.sign(pre_authentication(payload, DSSE_MEDIA))
    return canonical_json(
        {
            "mediaType": BUNDLE_MEDIA,
            "verificationMaterial": {"publicKey": {"hint": key.public.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": b64encode(payload).decode(),
                "payloadType": DSSE_MEDIA,
                "signatures": [{"sig": b64encode(signature).decode(), "keyid": ""}],
            },
        }
    )


def signer_of(content: bytes) -> str:
    """The hint of the key that a bundle says it is signed by; empty if it says none."""
    try:
        return str(json.loads(content)["verificationMaterial"]["publicKey"]["hint"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def check_model(content: bytes, digests: Mapping[str, str], key: PublicModelKey) -> None:
    """Return only if `content` is a Model Signing bundle by `key` over exactly the files of `digests`.

    Raises:
        IntegrityError: it is not; names the file.
    """
    try:
        bundle = json.loads(content)
        envelope = bundle["dsseEnvelope"]
        payload = b64decode(envelope["payload"], validate=True)
        signature = b64decode(envelope["signatures"][0]["sig"], validate=True)
        if bundle["mediaType"] != BUNDLE_MEDIA or envelope["payloadType"] != DSSE_MEDIA:
            raise ValueError("of another type")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, Base64Error):
        raise IntegrityError("The model's signature is not a Model Signing bundle.") from None
    if signer_of(content) != key.hint:
        raise IntegrityError("The model's signature is by another key.", "unknown key")
    key.verify(pre_authentication(payload, DSSE_MEDIA), signature)
    _compare(_listed(payload), digests)


def _listed(payload: bytes) -> dict[str, str]:
    try:
        statement: dict[str, Any] = json.loads(payload)
        if statement["predicateType"] != PREDICATE_TYPE:
            raise ValueError("of another type")
        found = {item["name"]: f"sha256:{item['digest']}" for item in statement["predicate"]["resources"]}
        if statement["subject"][0]["digest"]["sha256"] != _root(found):
            raise ValueError("another root")
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise IntegrityError("The model's signature is over something else than a model.") from None
    return found


def _compare(signed: Mapping[str, str], found: Mapping[str, str]) -> None:
    for name in sorted(signed.keys() | found.keys()):
        if name not in found:
            raise IntegrityError(f"{name} was signed with the model, and is missing.", "missing")
        if name not in signed:
            raise IntegrityError(f"{name} was not signed with the model.", "extra")
        if signed[name] != found[name]:
            raise IntegrityError(f"{name} is not what was signed with the model.")


def _root(digests: Mapping[str, str]) -> str:
    """SHA-256 over the digests in the order of the names."""
    whole = sha256()
    for name in sorted(digests):
        whole.update(bytes.fromhex(digests[name].removeprefix("sha256:")))
    return whole.hexdigest()
