"""Tokens: random, recognisable, stored only as a hash."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipworthy.security.tokens import hash_token, is_token, matches_token, mint_token


@given(st.binary(min_size=32, max_size=32))
def test_a_token_matches_its_hash_and_keeps_all_entropy(entropy: bytes) -> None:
    token, stored = mint_token(entropy)
    assert is_token(token)
    assert matches_token(token, stored)
    assert stored == hash_token(token)
    assert token not in stored


@given(st.text())
def test_any_other_text_matches_nothing(text: str) -> None:
    token, stored = mint_token(bytes(32))
    assert matches_token(text, stored) is (text == token)
    assert not matches_token(token, text)


def test_too_little_entropy_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        mint_token(bytes(16))


@pytest.mark.parametrize(
    "text", ["", "swt_", "swt_" + "A" * 42, "swt_" + "A" * 44, "abc_" + "A" * 43, "swt_" + "A" * 43 + "\n"]
)
def test_other_forms_are_no_token(text: str) -> None:
    assert not is_token(text)
