"""Content addresses: SHA-256 over bytes, chunks and canonical JSON."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_bytes(content: bytes) -> str:
    """Digest of `content`, written `sha256:` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def digest_chunks(chunks: Iterable[bytes | memoryview]) -> str:
    """Digest of the concatenated `chunks`, without holding them all."""
    state = hashlib.sha256()
    for chunk in chunks:
        state.update(chunk)
    return "sha256:" + state.hexdigest()


def digest_json(value: Json) -> str:
    """Digest of `value` in canonical form."""
    return digest_bytes(canonical_json(value))


def canonical_json(value: Json) -> bytes:
    """One byte string for each value: sorted keys, no spaces, UTF-8, no NaN.

    Raises:
        ValueError: a float is NaN or infinite.

    >>> canonical_json({"b": 1, "a": [True, None]})
    b'{"a":[true,null],"b":1}'
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def is_digest(text: str) -> bool:
    """Whether `text` is a digest as `digest_bytes` writes it."""
    return _DIGEST.fullmatch(text) is not None
