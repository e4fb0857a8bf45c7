"""Patterns mean the same in tables, in the server and in Python's own engine, and no text makes them slow."""

import random
import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shipworthy.contract.patterns import MOST_PLACES, MOST_STEPS, Pattern
from shipworthy.kernel.errors import ExpressionError

ATOMS = ["a", "b", "é", "0", r"\d", r"\w", r"\S", r"\W", ".", "[a-c]", "[^ab]", r"[\d_-]", r"\.", r"[^\s]", "-", "🐦"]
PATTERNS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]}|{parts[1]})"),
        st.tuples(inner, st.sampled_from(["?", "*", "+", "{2}", "{1,3}", "{0,2}", "{2,}"])).map(
            lambda parts: f"(?:{parts[0]}){parts[1]}"
        ),
    ),
    max_leaves=6,
)
TEXTS = st.lists(st.text("abcé0._- \n\r🐦", max_size=8), min_size=30, max_size=30)


@settings(max_examples=150, deadline=None)
@given(text=PATTERNS, texts=TEXTS)
def test_tables_the_server_and_python_agree_on_what_matches(text: str, texts: list[str]) -> None:
    pattern, python = Pattern(text), re.compile(text, re.ASCII)
    told = [pattern.matches(one) for one in [*texts, pattern.example]]
    assert told == [python.fullmatch(one) is not None for one in [*texts, pattern.example]]
    assert told == pl.Series([*texts, pattern.example]).str.contains(pattern.rust).to_list()
    assert told[-1]


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        (r"^[A-Z]{2}\d{6}$", "LX000017", "LX000017 "),
        (r"N[0-9]{1,5}[A-Z]?", "N14228", "xN14228"),
        (r"a\$", "a$", "a"),
        (r"a\\$", "a\\", "a\\$"),
        (r"(GB|DE)-\w+", "DE-ab_1", "FR-ab"),
        (r"[\]\-]+", "]-]", "\\"),
        (".{3}", "日本語", "ab\n"),
    ],
)
def test_the_whole_text_must_match(text: str, good: str, bad: str) -> None:
    assert Pattern(text).matches(good)
    assert not Pattern(text).matches(bad)


REFUSED = {
    "": "nothing stands here",
    "(": "nothing stands here",
    "(a": r"this \( is never closed",
    "a)": r"this \) closes nothing.*character 2",
    "[a": r"this \[ is never closed",
    "[]": "an empty class",
    "[z-a]": "a range goes from one character up to another",
    "[[:alpha:]]": r"engines differ on \[",
    "[a--b]": "a range goes",
    "a**": r"\* is repeated; put it in a group",
    "a*?": r"\* is repeated",
    "+a": r"\+ repeats nothing",
    "a{": r"a count is \{3\}",
    "a{,3}": "begins with the smallest number",
    "a{3,1}": "a count goes up",
    "a{0}": "a count goes up",
    "a||b": "nothing stands here; write",
    "a^b": r"\^ stands only at an end",
    "^a|b$": r"\^ and \$ bind closer than \|",
    "(?=a)": "no lookaround",
    "(?P<n>a)": "no lookaround, names or flags",
    r"(a)\1": r"\\1 is not read",
    r"\b": r"\\b is not read",
    "a\\": r"a \\ at the end",
    f"a{{{MOST_PLACES}}}": "to at most 255",
    "(a{20}){20}": "more than 255 characters",
    "((a{255}){255}){255}": "more than 255 characters",
    "(" * 60 + "a" + ")" * 60: "nested more than 50 deep",
    "\ud800": "half a character",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_pattern_is_refused_with_its_place_and_cure(text: str) -> None:
    with pytest.raises(ExpressionError, match=REFUSED[text]):
        Pattern(text)


def test_a_text_made_to_hurt_costs_no_more_for_each_character_and_the_cache_stays_small() -> None:
    pattern = Pattern("(a|b)*a[ab]{100}")  # a whole DFA of it has 2**100 states
    draw = random.Random(3)
    hurting = "".join(draw.choice("ab") for _ in range(20_000))
    python = {at: hurting[-101 - at] == "a" for at in range(3)}
    assert {at: pattern.matches(hurting[: len(hurting) - at]) for at in python} == python
    assert len(pattern._automaton.states) <= MOST_STEPS + 1
    anything = Pattern(".*")
    assert all(anything.matches(chr(0x10000 + code)) for code in range(3 * MOST_STEPS))
    assert len(anything._start) <= MOST_STEPS
