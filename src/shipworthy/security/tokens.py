"""Bearer tokens: 256 random bits shown once, kept only as a hash.

A plain SHA-256 is enough because the token is high-entropy: there is no dictionary to try.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from hashlib import sha256

ENTROPY_BYTES = 32  # 256 bits: guessing is hopeless, so hashes need no salt or stretching
PREFIX = "swt_"  # lets secret scanners find a leaked token

_TOKEN = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")


def mint_token(entropy: bytes) -> tuple[str, str]:
    """A new token and its hash; only the hash may be stored.

    Args:
        entropy: exactly 32 random bytes.

    Raises:
        ValueError: of another length.

    >>> token, stored = mint_token(bytes(32))
    >>> token[:8], stored == hash_token(token)
    ('swt_AAAA', True)
    """
    if len(entropy) != ENTROPY_BYTES:
        raise ValueError(f"entropy has {len(entropy)} bytes; it must have {ENTROPY_BYTES}")
    token = PREFIX + urlsafe_b64encode(entropy).rstrip(b"=").decode()
    return token, hash_token(token)


def hash_token(token: str) -> str:
    """Hexadecimal SHA-256 of the token."""
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def is_token(text: str) -> bool:
    """Whether `text` has the form of a token."""
    return _TOKEN.fullmatch(text) is not None


def matches_token(token: str, stored: str) -> bool:
    """Whether `token` has the hash `stored`, in a time that tells nothing of either."""
    return hmac.compare_digest(hash_token(token).encode(), stored.encode("utf-8", "surrogatepass"))
