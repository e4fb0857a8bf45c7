import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.kernel.digest import canonical_json, digest_bytes, digest_chunks, digest_json, is_digest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=12,
)


def test_a_digest_is_sha256_in_hexadecimal():
    assert digest_bytes(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@given(st.lists(st.binary()))
def test_chunks_digest_like_the_whole(chunks: list[bytes]):
    assert digest_chunks(chunks) == digest_bytes(b"".join(chunks))


@given(st.dictionaries(st.text(max_size=9), JSON, max_size=6))
def test_the_order_of_keys_does_not_matter(value: dict[str, object]):
    assert digest_json(dict(reversed(value.items()))) == digest_json(value)  # type: ignore[arg-type]


def test_a_number_that_is_none_has_no_canonical_form():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(math.nan)


@pytest.mark.parametrize("text", ["", "sha256:", "sha256:" + "g" * 64, "sha256:" + "A" * 64, "../" + "a" * 64])
def test_what_only_looks_like_a_digest_is_none(text: str):
    assert not is_digest(text)


def test_a_digest_is_one():
    assert is_digest(digest_bytes(b"x"))
