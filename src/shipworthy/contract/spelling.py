"""What somebody may have meant by a name that is not known."""

import difflib
from collections.abc import Collection

_MANY = 300  # names that a guess compares, 30 us each


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`; did you mean …?`, or nothing. Among many names only those of about the same length are compared."""
    lowered = [word for word in known if word.lower() == name.lower()]
    alike = sorted(known) if len(known) <= _MANY else sorted(known, key=lambda word: abs(len(word) - len(name)))[:_MANY]
    near = difflib.get_close_matches(name[:_MANY], alike, 1)
    return f"; did you mean {(lowered or near)[0]}?" if lowered or near else ""
