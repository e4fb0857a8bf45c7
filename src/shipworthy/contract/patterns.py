r"""Patterns: regular expressions that tables and the server read alike, in time linear in the text.

The whole text must match. Written with letters, digits and other characters as themselves, `.` (any but a newline),
classes such as `[A-Z_]` and `[^0-9]`, the escapes `\d \w \s` (ASCII) with their opposites, `\t \n \r` and a
backslash before a sign, groups, `|`, `?`, `*`, `+` and `{m,n}`; `^` and `$` may stand at the ends. What cannot be
matched in linear time (backreferences, lookaround) is refused, and so is what two engines read in two ways.

Tables match by polars' engine and `Pattern.rust`; the server by `Pattern.matches`, a DFA that is built as it is needed.

Source: Glushkov, The abstract theory of automata (1961), for the automaton; Cox, Regular expression matching can be
simple and fast (2007), for the bounded cache of its states.
"""

from dataclasses import dataclass
from typing import TypeAlias

from shipworthy.kernel.errors import ExpressionError

MOST_PLACES = 256  # characters that a pattern can tell apart, repetitions counted out: bounds the time for each one
MOST_STEPS = 10_000  # kept of the DFA; when there are more it is built anew
_LAST = 0x10FFFF
_DIGIT, _SPACE = ((48, 57),), ((9, 13), (32, 32))
_WORD = ((48, 57), (65, 90), (95, 95), (97, 122))
_ESCAPES = {"d": _DIGIT, "s": _SPACE, "w": _WORD}
_REPEATS: dict[str, tuple[int, int | None]] = {"?": (0, 1), "*": (0, None), "+": (1, None)}
_SIGNS = {"t": 9, "n": 10, "r": 13}

Ranges: TypeAlias = "tuple[tuple[int, int], ...]"


@dataclass(frozen=True, slots=True)
class _Chars:
    """One character of these ranges."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: "tuple[_Node, ...]"


@dataclass(frozen=True, slots=True)
class _Either:
    parts: "tuple[_Node, ...]"


@dataclass(frozen=True, slots=True)
class _Repeat:
    part: "_Node"
    low: int
    high: int | None  # None: as often as there are


_Node: TypeAlias = "_Chars | _Sequence | _Either | _Repeat"


class Pattern:
    """One compiled pattern.

    Args:
        text: as the contract has it.

    Raises:
        ExpressionError: it is no pattern; says where.
    """

    def __init__(self, text: str) -> None:
        root = _Parser(text).parse()
        self.text = text
        self._automaton = _Automaton(root)
        self.rust = rf"\A(?:{_rust(root)})\z"
        self.example = _example(root)
        self._start = _State(self._automaton, 1)

    def matches(self, text: str) -> bool:
        """Whether all of `text` is of the pattern.

        >>> Pattern("[A-Z]{2}[0-9]+").matches("LX17"), Pattern("[A-Z]{2}[0-9]+").matches("LX17b")
        (True, False)
        """
        if self._automaton.steps > MOST_STEPS:
            self._automaton.steps = 0
            self._start = _State(self._automaton, 1)
        state = self._start
        for character in text:
            state = state[character]
            if not state.places:
                return False
        return state.accepts


class _State(dict[str, "_State"]):
    """A state of the DFA: the places where one may be, and what each character leads to, found when first asked."""

    __slots__ = ("accepts", "automaton", "places")

    def __init__(self, automaton: "_Automaton", places: int) -> None:
        self.automaton = automaton
        self.places = places  # a bit each; bit 0 is the start
        self.accepts = bool(places & automaton.ends)

    def __missing__(self, character: str) -> "_State":
        places = self.automaton.step(self.places, character)
        state = self.automaton.states.get(places)
        if state is None or self.automaton.steps > MOST_STEPS:
            if self.automaton.steps > MOST_STEPS:
                self.automaton.states.clear()
            state = self.automaton.states[places] = _State(self.automaton, places)
        self.automaton.steps += 1
        if self.automaton.steps <= MOST_STEPS:
            self[character] = state
        return state


class _Automaton:
    """Glushkov's: a place for each character of the pattern, and which may follow which, as bits of whole numbers."""

    def __init__(self, root: _Node) -> None:
        self.states: dict[int, _State] = {}
        self.steps = 0
        self._classes: list[Ranges] = [()]  # by place; place 0 is the start
        self._follow = [0]
        nullable, first, last = self._add(root)
        self._follow[0] = first
        self.ends = last | (1 if nullable else 0)
        self._members: dict[Ranges, int] = {}
        for place, ranges in enumerate(self._classes):
            self._members[ranges] = self._members.get(ranges, 0) | 1 << place

    def step(self, places: int, character: str) -> int:
        """Where one may be after `character`."""
        reached, code = 0, ord(character)
        while places:
            lowest = places & -places
            reached |= self._follow[lowest.bit_length() - 1]
            places ^= lowest
        fits = 0
        for ranges, members in self._members.items():
            if members & reached and any(low <= code <= high for low, high in ranges):
                fits |= members
        return reached & fits

    def _add(self, node: _Node) -> tuple[bool, int, int]:
        """Add the places of `node`; whether it may be empty, and the places that it may begin and end with."""
        match node:
            case _Chars(ranges):
                self._classes.append(ranges)
                self._follow.append(0)
                if len(self._classes) > MOST_PLACES:
                    raise ExpressionError(
                        f"the pattern tells apart more than {MOST_PLACES - 1} characters, repetitions counted out; "
                        "shorten it"
                    )
                bit = 1 << len(self._classes) - 1
                return False, bit, bit
            case _Sequence(parts):
                return self._chain([self._add(part) for part in parts])
            case _Either(parts):
                added = [self._add(part) for part in parts]
                first, last = 0, 0
                for _, begins, ends in added:
                    first, last = first | begins, last | ends
                return any(nullable for nullable, _, _ in added), first, last
            case _Repeat(part, low, high):
                copies = [self._add(part) for _ in range(max(low, 1) if high is None else high)]
                if high is None:
                    self._join(copies[-1][2], copies[-1][1])
                return self._chain([(n or at >= low, first, last) for at, (n, first, last) in enumerate(copies)])

    def _chain(self, parts: list[tuple[bool, int, int]]) -> tuple[bool, int, int]:
        empty, begins, ends = True, 0, 0
        for nullable, first, last in parts:
            self._join(ends, first)
            begins |= first if empty else 0
            ends = last | (ends if nullable else 0)
            empty = empty and nullable
        return empty, begins, ends

    def _join(self, ends: int, begins: int) -> None:
        while ends:
            lowest = ends & -ends
            self._follow[lowest.bit_length() - 1] |= begins
            ends ^= lowest


# --- reading


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._end = len(text)
        self._depth = 0

    def parse(self) -> _Node:
        anchored = self._text.startswith("^")
        self._at = int(anchored)
        slashes = len(self._text) - 1 - len(self._text[:-1].rstrip("\\"))
        if self._text.endswith("$") and slashes % 2 == 0:
            self._end, anchored = self._end - 1, True
        root = self._either()
        if self._at < self._end:
            raise self._error("this ) closes nothing; write \\) for the sign")
        if anchored and isinstance(root, _Either):
            raise ExpressionError("^ and $ bind closer than |; the whole text must match anyway: leave them out", 1)
        return root

    def _error(self, words: str, at: int | None = None) -> ExpressionError:
        place = self._at if at is None else at
        return ExpressionError(f"{words} (character {place + 1} of the pattern)", place + 1)

    def _peek(self) -> str:
        return self._text[self._at] if self._at < self._end else ""

    def _either(self) -> _Node:
        parts = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else _Either(tuple(parts))

    def _sequence(self) -> _Node:
        parts: list[_Node] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._atom()))
        if not parts:
            raise self._error("nothing stands here; write (…)? for what may be absent")
        return parts[0] if len(parts) == 1 else _Sequence(tuple(parts))

    def _repeated(self, atom: _Node) -> _Node:
        start, sign = self._at, self._peek()
        if sign == "{":
            low, high = self._counts()
        elif sign in _REPEATS:
            low, high = _REPEATS[sign]
            self._at += 1
        else:
            return atom
        if self._peek() == "{" or self._peek() in _REPEATS:
            raise self._error(f"{self._text[start : self._at]} is repeated; put it in a group")
        return _Repeat(atom, low, high)

    def _counts(self) -> tuple[int, int | None]:
        start, close = self._at, self._text.find("}", self._at, self._end)
        words = self._text[start + 1 : close].split(",") if close >= 0 else []
        if len(words) not in (1, 2) or not all(w.isascii() and w.isdigit() for w in words[:1] + words[1:] if w):
            raise self._error("a count is {3}, {2,} or {2,5}; write \\{ for the sign", start)
        if not words[0]:
            raise self._error("a count begins with the smallest number, such as {0,5}", start)
        low = int(words[0][:9])
        high = low if len(words) == 1 else int(words[1][:9]) if words[1] else None
        if max(low, high or 0) >= MOST_PLACES or high == 0 or (high is not None and high < low):
            raise self._error(f"a count goes up, and to at most {MOST_PLACES - 1}", start)
        self._at = close + 1
        return low, high

    def _atom(self) -> _Node:
        character = self._text[self._at]
        match character:
            case "(":
                return self._group()
            case "[":
                return _Chars(self._class())
            case ".":
                self._at += 1
                return _Chars(_negated(((10, 10),)))
            case "\\":
                return _Chars(self._escape())
            case "?" | "*" | "+" | "{":
                raise self._error(f"{character} repeats nothing; write \\{character} for the sign")
            case "^" | "$":
                raise self._error(f"{character} stands only at an end; write \\{character} for the sign")
            case "]" | "}":
                raise self._error(f"{character} closes nothing; write \\{character} for the sign")
            case _:
                return _Chars((self._plain(),))

    def _group(self) -> _Node:
        start = self._at
        self._at += 1
        self._depth += 1
        if self._depth > 50:  # Python's own stack
            raise self._error("groups are nested more than 50 deep", start)
        if self._text.startswith("?:", self._at):
            self._at += 2
        elif self._peek() == "?":
            raise self._error("only plain groups ( … ) and (?: … ) are read: no lookaround, names or flags", start)
        node = self._either()
        if self._peek() != ")":
            raise self._error("this ( is never closed; write \\( for the sign", start)
        self._at += 1
        self._depth -= 1
        return node

    def _plain(self) -> tuple[int, int]:
        code = ord(self._text[self._at])
        if 0xD800 <= code <= 0xDFFF:
            raise self._error("half a character, which no text holds")
        self._at += 1
        return code, code

    def _escape(self) -> Ranges:
        if self._at + 1 >= self._end:
            raise self._error("a \\ at the end; write \\\\ for the sign")
        letter = self._text[self._at + 1]
        if letter.lower() in _ESCAPES:
            ranges = _ESCAPES[letter.lower()]
            self._at += 2
            return ranges if letter.islower() else _negated(ranges)
        if letter in _SIGNS:
            self._at += 2
            return ((_SIGNS[letter], _SIGNS[letter]),)
        if not letter.isascii() or letter.isalnum():
            raise self._error(f"\\{letter} is not read; \\d \\w \\s \\D \\W \\S \\t \\n \\r and \\ before a sign are")
        self._at += 1
        return (self._plain(),)

    def _class(self) -> Ranges:
        start = self._at
        self._at += 1
        negated = self._peek() == "^"
        self._at += int(negated)
        ranges: list[tuple[int, int]] = []
        while self._peek() != "]":
            if not self._peek():
                raise self._error("this [ is never closed; write \\[ for the sign", start)
            ranges += self._member()
        self._at += 1
        if not ranges:
            raise self._error("an empty class matches nothing; write \\] for the sign in a class", start)
        merged = _merged(ranges)
        found = _negated(merged) if negated else merged
        if not found:
            raise self._error("a class of nothing matches nothing", start)
        return found

    def _member(self) -> Ranges:
        at = self._at
        if self._peek() in ("[", "&", "~") or (self._peek() == "-" and self._text[at + 1 : at + 2] == "-"):
            raise self._error(f"engines differ on {self._peek()} in a class; write \\{self._peek()} for the sign")
        low = self._escape() if self._peek() == "\\" else (self._plain(),)
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return low
        self._at += 1
        high = self._escape() if self._peek() == "\\" else (self._plain(),)
        ends = [*low, *high]
        if len(ends) != 2 or any(first != last for first, last in ends) or ends[0][0] > ends[1][0]:
            raise self._error("a range goes from one character up to another, such as a-z; write \\- for the sign", at)
        return ((ends[0][0], ends[1][0]),)


def _merged(ranges: list[tuple[int, int]]) -> Ranges:
    found: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def _negated(ranges: Ranges) -> Ranges:
    found, start = [], 0
    for low, high in ranges:
        if start < low:
            found.append((start, low - 1))
        start = high + 1
    return (*found, (start, _LAST)) if start <= _LAST else tuple(found)


# --- for polars


def _rust(node: _Node) -> str:
    match node:
        case _Chars(ranges):
            return "[" + "".join(rf"\x{{{low:x}}}-\x{{{high:x}}}" for low, high in _without_halves(ranges)) + "]"
        case _Sequence(parts):
            return "".join(f"(?:{_rust(part)})" for part in parts)
        case _Either(parts):
            return "|".join(f"(?:{_rust(part)})" for part in parts)
        case _Repeat(part, low, high):
            return f"(?:{_rust(part)}){{{low},{'' if high is None else high}}}"


def _example(node: _Node) -> str:
    """A short text of the pattern, not empty, with a letter or digit where there may be one."""
    match node:
        case _Chars(ranges):
            usual = [code for code in b"a0A-_. " if any(low <= code <= high for low, high in ranges)]
            return chr(usual[0] if usual else ranges[0][0])
        case _Sequence(parts):
            return "".join(map(_example, parts))
        case _Either(parts):
            return _example(parts[0])
        case _Repeat(part, low, _):
            return _example(part) * max(low, 1)


def _without_halves(ranges: Ranges) -> Ranges:
    """Rust's characters do not count the halves of UTF-16; no text holds one."""
    found: list[tuple[int, int]] = []
    for low, high in ranges:
        found += [part for part in ((low, min(high, 0xD7FF)), (max(low, 0xE000), high)) if part[0] <= part[1]]
    return tuple(found)
