"""YAML text as nodes with their places, and every trap of YAML refused with its cure.

Scalars follow YAML 1.2's core schema, and are stricter where readers disagree: only `true`, `false`, `null`,
decimal whole numbers and decimal fractions are typed, all other plain text is text, and what another reader
would take for something else (`no`, `007`, `1:30`, `2024-01-31`) is refused.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from shipworthy.kernel.errors import Problem

MAX_CHARACTERS = 500_000  # some 5,000 features; the parser takes about 5 s for as much
MAX_DEPTH = 24  # the contract's own depth is 6

Path = tuple[str | int, ...]
ScalarValue = None | bool | int | float | str


@dataclass(frozen=True, slots=True)
class Place:
    """Line and column, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value."""

    place: Place
    value: ScalarValue
    quotes: int | None = None  # characters before the text itself; None: the text differs from its source
    refused: bool = False  # a trap was reported here; nothing else is


@dataclass(slots=True)
class Listing:
    """A sequence."""

    place: Place
    items: list["Node"] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping."""

    place: Place  # of the key
    node: "Node"


@dataclass(slots=True)
class Table:
    """A mapping; its keys are texts."""

    place: Place
    entries: dict[str, Entry] = field(default_factory=dict)


Node = Scalar | Listing | Table


def compose(text: str, file: str) -> tuple[Table | None, list[Problem]]:
    """The root mapping of `text`, None where there is none, and all traps and syntax errors found."""
    problems: list[Problem] = []

    def report(place: Place, message: str, path: Path = ()) -> None:
        problems.append(Problem(file, place.line, place.column, dotted(path), message))

    if len(text) > MAX_CHARACTERS:
        report(Place(1, 1), f"the file has {len(text)} characters; at most {MAX_CHARACTERS} are read")
        return None, problems
    builder = _Builder(text, report)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if not builder.take(event):
                return None, problems
    except yaml.reader.ReaderError as error:
        report(_place_of(text, error.position), f"the character {error.character!r} is not allowed in YAML")
        return None, problems
    except yaml.MarkedYAMLError as error:
        report(*_syntax(error))
        return None, problems
    root = builder.root
    if isinstance(root, Table):
        return root, problems
    if root is None:
        report(Place(1, 1), "the file is empty; `shipworthy init` writes a contract from data")
    elif not (isinstance(root, Scalar) and root.refused):
        report(root.place, "the contract is a mapping of sections (key: value), not a list or a single value")
    return None, problems


def plain(node: Node) -> Any:
    """The node's value with dicts and tuples."""
    match node:
        case Scalar(value=value):
            return value
        case Listing(items=items):
            return tuple(plain(item) for item in items)
        case Table(entries=entries):
            return {key: plain(entry.node) for key, entry in entries.items()}


def walk(node: Node, path: Path = ()) -> Iterator[tuple[Path, Node]]:
    """Every node below and including `node` with its path."""
    yield path, node
    match node:
        case Listing(items=items):
            for number, item in enumerate(items):
                yield from walk(item, (*path, number))
        case Table(entries=entries):
            for key, entry in entries.items():
                yield from walk(entry.node, (*path, key))


def dotted(path: Path) -> str:
    """As a problem names a key: `checks[0].expect`.

    >>> dotted(("checks", 0, "expect"))
    'checks[0].expect'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


# --- scalars

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TRAPS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"(?i:yes|no|on|off)"),
        "is true or false to some YAML readers and text to others; write true or false",
    ),
    (re.compile(r"True|TRUE|False|FALSE"), "is not how the contract writes it; write true or false in small letters"),
    (re.compile(r"[-+]?0[0-9_]+(\.[0-9_]*)?([eE][-+]?[0-9]+)?"), "has leading zeros; write the number without them"),
    (re.compile(r"[-+]?0[xob][0-9a-fA-F_]+"), "is not decimal; write the number in decimal digits"),
    (re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(\.[0-9_]*)?"), "has underscores; write the number without them"),
    (re.compile(r"[-+]?\.(?i:inf|nan)"), "is not a finite number; write a finite one"),
    (re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt \t].*)?"), "is a date to some YAML readers"),
    (re.compile(r"[-+]?[0-9]+(:[0-5]?[0-9])+(\.[0-9]*)?"), "is a number in base 60 to some YAML readers"),
)
_MAX_TRAP = 64  # characters; no reader takes a longer text for a number or a date
_MAX_DIGITS = 18  # beyond, neither float64 nor a column of int64 holds it


def resolve(text: str) -> tuple[ScalarValue, str | None]:
    """The value of a plain scalar, and why it is refused.

    >>> resolve("0.5"), resolve("income")
    ((0.5, None), ('income', None))
    """
    if text in ("", "~", "null", "Null", "NULL"):
        return None, None
    if text in ("true", "false"):
        return text == "true", None
    for pattern, reason in _TRAPS:
        if len(text) <= _MAX_TRAP and pattern.fullmatch(text):
            joint = ", or" if "; write" in reason else "; write"
            return text, f'{_short(text)} {reason}{joint} "{_short(text)}" in quotes for the text'
    number = _number(text)
    if number is not None and not (math.isfinite(number) and len(text) <= _MAX_DIGITS + 12):
        return (
            text,
            f'{_short(text)} is too large or too long a number; write fewer digits, or "…" in quotes for the text',
        )
    return (text if number is None else number), None


def _number(text: str) -> int | float | None:
    if _INT.fullmatch(text):
        return int(text) if len(text) <= _MAX_DIGITS else math.inf
    return float(text) if _FLOAT.fullmatch(text) else None


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."


# --- events to nodes


def _place(mark: Any) -> Place:
    return Place(mark.line + 1, mark.column + 1)


def _place_of(text: str, position: int) -> Place:
    before = text[:position]
    return Place(before.count("\n") + 1, position - before.rfind("\n"))


def _syntax(error: yaml.MarkedYAMLError) -> tuple[Place, str]:
    mark = error.problem_mark or error.context_mark
    place = _place(mark) if mark else Place(1, 1)
    problem = error.problem or "it cannot be read"
    if "'\\t'" in problem:
        return place, "a tab; YAML is indented and parted with spaces"
    message = f"not valid YAML: {problem}" + (f" {error.context}" if error.context else "")
    if error.context_mark is not None and error.context_mark.line + 1 != place.line:
        message += f" that begins at line {error.context_mark.line + 1}"
    return place, message + "; put texts that hold : # [ ] { } or start with * & ! % @ in quotes"


@dataclass(slots=True)
class _Frame:
    """An open container, and in a mapping the key that awaits its value."""

    container: Table | Listing
    key: tuple[str, Place] | None = None


class _Builder:
    """Turns events into nodes; returns False from `take` when nothing more can be read."""

    def __init__(self, text: str, report: Callable[..., None]) -> None:
        self._text = text
        self._report = report
        self._frames: list[_Frame] = []
        self._documents = 0
        self.root: Node | None = None

    def take(self, event: yaml.Event) -> bool:
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self._report(
                        _place(event.start_mark), "a second document; one file holds one contract, without a second ---"
                    )
                    return False
            case yaml.AliasEvent():
                self._report(
                    _place(event.start_mark), f"*{event.anchor} is an alias; write the value out", self._path()
                )
                self._put(Scalar(_place(event.start_mark), None, refused=True))
            case yaml.ScalarEvent():
                self._check_properties(event)
                self._scalar(event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._check_properties(event)
                return self._start(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._put(self._frames.pop().container)
        return True

    def _path(self) -> Path:
        path: list[str | int] = []
        for frame in self._frames:
            if frame.key is not None:
                path.append(frame.key[0])
            elif isinstance(frame.container, Listing):
                path.append(len(frame.container.items))
        return tuple(path)

    def _check_properties(self, event: Any) -> None:
        if event.anchor is not None:
            self._report(_place(event.start_mark), f"&{event.anchor} is an anchor; write the value out", self._path())
        if event.tag is not None:
            self._report(_place(event.start_mark), f"{event.tag} is a tag; remove it", self._path())

    def _start(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> bool:
        place = _place(event.start_mark)
        if self._awaits_key():
            self._report(place, "a key must be a single text, not a list or a mapping", self._path())
            return False
        if len(self._frames) >= MAX_DEPTH:
            self._report(place, f"nested deeper than {MAX_DEPTH}; the contract is flat", self._path())
            return False
        container = Table(place) if isinstance(event, yaml.MappingStartEvent) else Listing(place)
        self._frames.append(_Frame(container))
        return True

    def _awaits_key(self) -> bool:
        return bool(self._frames) and isinstance(self._frames[-1].container, Table) and self._frames[-1].key is None

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        if self._awaits_key():
            self._frames[-1].key = (self._key(event), _place(event.start_mark))
            return
        place = _place(event.start_mark)
        if event.style is None:
            value, reason = resolve(event.value)
            if reason is not None:
                self._report(place, reason, self._path())
        else:
            value, reason = event.value, None
        self._put(Scalar(place, value, self._quotes(event), refused=reason is not None))

    def _quotes(self, event: yaml.ScalarEvent) -> int | None:
        start, end = event.start_mark, event.end_mark
        source = self._text[start.index : end.index] if start and end else ""
        if source == event.value:
            return 0
        return 1 if source[1:-1] == event.value else None

    def _key(self, event: yaml.ScalarEvent) -> str:
        text: str = event.value
        place = _place(event.start_mark)
        path = (*self._path(), text)
        value, reason = resolve(text) if event.style is None else (text, None)
        if text == "<<" and event.style is None:
            self._report(place, "<< merges another mapping; write its keys out", path)
        elif reason is not None:
            self._report(place, f"the key {reason}", path)
        elif value is None:
            self._report(place, "a key is missing before the colon", path)
        elif not isinstance(value, str):
            kind = "true or false" if isinstance(value, bool) else "a number"
            self._report(place, f'the key {text} is {kind}; a key is text, so write "{text}" in quotes', path)
        return text

    def _put(self, node: Node) -> None:
        if not self._frames:
            self.root = node
            return
        frame = self._frames[-1]
        if isinstance(frame.container, Listing):
            frame.container.items.append(node)
            return
        if frame.key is None:  # an alias where a key was expected; already reported
            frame.key = ("", node.place)
            return
        key, place = frame.key
        frame.key = None
        if key in frame.container.entries:
            first = frame.container.entries[key].place.line
            self._report(
                place, f"the key {key!r} stands already at line {first}; remove one of them", (*self._path(), key)
            )
        else:
            frame.container.entries[key] = Entry(place, node)
