"""Names of things that have no content address: time-sortable ids."""

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def make_id(prefix: str, now_ms: int, entropy: bytes) -> str:
    """`prefix` + `_` + 26 characters that sort by time: 48 bits of `now_ms`, 80 of `entropy`.

    Args:
        prefix: what the id names, such as `run`.
        now_ms: Unix time in ms, 0 to 2**48 - 1.
        entropy: exactly 10 random bytes.

    Raises:
        ValueError: an argument is out of range.

    Source: the ULID layout (github.com/ulid/spec).
    """
    if not 0 <= now_ms < 1 << 48:
        raise ValueError(f"now_ms is {now_ms}; it must be 0 to 2**48 - 1")
    if len(entropy) != 10:
        raise ValueError(f"entropy has {len(entropy)} bytes; it must have 10")
    number = (now_ms << 80) | int.from_bytes(entropy)
    digits = [_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{prefix}_{''.join(digits)}"
