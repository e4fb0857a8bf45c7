"""Contract text to a `Contract`, or every problem in it at once, each with file, line, column, key and cure."""

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from shipworthy.contract.draft import Draft
from shipworthy.contract.expressions import did_you_mean
from shipworthy.contract.nodes import Entry, Listing, Node, Path, Place, Scalar, Table, compose, dotted, plain, walk
from shipworthy.contract.outline import FREE, inner, keys_of, section_of, wanted, whole
from shipworthy.contract.sections import Section
from shipworthy.contract.sense import check_presence, check_sense
from shipworthy.contract.types import RESERVED, VERSION, Contract
from shipworthy.kernel.errors import ContractError, InternalError, Problem

_MAX_SEEN = 60  # characters of a value that a message repeats
_MAX_GUESSED = 100  # keys of one section; with more, a missing key is told beside a misspelt one


def parse_contract(text: str, file: str = "shipworthy.yaml", *, columns: Collection[str] | None = None) -> Contract:
    """The contract that `text` states.

    Args:
        text: YAML.
        file: its name in messages.
        columns: those of the prepared data, where known; features, context and target must be among them.

    Raises:
        ContractError: with all problems found, in file order.
    """
    reading = _Reading(file)
    root, reading.problems = compose(text, file)
    if root is None:
        raise ContractError(tuple(reading.problems))
    reading.root = root
    _check_version(reading)
    _drop_reserved(reading)
    _check_secrets(reading)
    _drop_ignored(root, Contract)
    draft = _read_sections(reading)
    check_sense(draft, reading.report)
    if columns is not None:
        check_presence(draft, columns, reading.report)
    if reading.problems:
        raise ContractError(_sorted(reading.problems))
    return _validated(root)


def _sorted(problems: list[Problem]) -> tuple[Problem, ...]:
    unique = dict.fromkeys(problems)
    return tuple(sorted(unique, key=lambda problem: (problem.line, problem.column)))


def _validated(root: Table) -> Contract:
    try:
        return Contract.model_validate(plain(root))
    except ValidationError as error:
        raise InternalError(f"sections are valid one by one and not together: {error}") from error


class _Reading:
    """The nodes being read and the problems found so far."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.root = Table(Place(1, 1))
        self.problems: list[Problem] = []
        self.secret: set[Path] = set()  # values that no message may repeat

    def find(self, path: Path) -> tuple[Node | None, Place]:
        """The node at `path`, None if there is none, and the place of its key or, without it, of what holds it."""
        node: Node = self.root
        place = self.root.place
        for part in path:
            if isinstance(node, Table) and part in node.entries:
                entry = node.entries[str(part)]
                node, place = entry.node, entry.place
            elif isinstance(node, Listing) and isinstance(part, int) and part < len(node.items):
                node = node.items[part]
                place = node.place
            else:
                return None, place
        return node, place

    def report(self, path: Path, message: str, *, at_key: bool = False, offset: int | None = None) -> None:
        """Add a problem at the value of `path`, or at its key; where it is absent, at the key that should hold it."""
        node, place = self.find(path)
        if node is not None and not at_key:
            place = node.place
            if offset is not None and isinstance(node, Scalar) and node.quotes is not None:
                place = Place(place.line, place.column + offset + node.quotes)
        self.problems.append(Problem(self.file, place.line, place.column, dotted(path), message))


# --- before the types


def _check_version(reading: _Reading) -> None:
    entry = reading.root.entries.get("shipworthy")
    node = entry.node if entry is not None else None
    if isinstance(node, Scalar) and isinstance(node.value, int) and node.value > VERSION:
        message = (
            f"version {node.value} was written for a newer Shipworthy; this one reads version {VERSION}; upgrade "
            "Shipworthy, or use the contract of an older commit"
        )
        raise ContractError((Problem(reading.file, node.place.line, node.place.column, "shipworthy", message),))


def _drop_reserved(reading: _Reading) -> None:
    for name in RESERVED:
        if name in reading.root.entries:
            reading.report((name,), "the section is reserved and does not work yet; remove it", at_key=True)
            del reading.root.entries[name]


# bounded repetitions keep the search linear in the text
_USER_INFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}://([^/?#\s@:]{0,200}):([^/?#\s]{0,400})@")
_PARAMETER = re.compile(r"(?i)[?&;](password|passwd|pwd|token|secret|api_?key|sig|signature)=([^&;#\s]*)")
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_TELLTALES = re.compile(
    r"AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}|xox[abp]-[A-Za-z0-9-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
    r"|hooks\.slack\.com/services/T"
)
_SECRET_WORDS = frozenset({"password", "passwd", "pwd", "secret", "token", "apikey", "credential", "credentials"})
_SECRET_PAIRS = ("api_key", "access_key", "private_key", "secret_key")
_SECRET_SECTIONS = ("data", "training")  # elsewhere a key is a column, class or action


def _check_secrets(reading: _Reading) -> None:
    for path, node in walk(reading.root):
        if isinstance(node, Scalar) and isinstance(node.value, str | int) and not isinstance(node.value, bool):
            reason = _secret_reason(path, node.value)
            if reason is not None:
                reading.secret.add(path)
                reading.report(path, f"{reason}; keep it in the environment and write ${{NAME}}")
        if _is_address(path) and isinstance(node, Scalar):
            left = _VARIABLE.sub("", str(node.value))
            if "$" in left and path not in reading.secret:
                reading.report(path, "a variable is written ${NAME}, with letters, digits and _")


def _is_address(path: Path) -> bool:
    """Whether what stands there is an address, in which `${NAME}` is replaced when it is used."""
    return (path[:2] == ("data", "sources") and path[-1] == "url") or path[:2] in (
        ("alerts", "webhooks"),
        ("lineage", "openlineage"),
    )


def _secret_reason(path: Path, value: str | int) -> str | None:
    text = str(value)
    for pattern in (_USER_INFO, _PARAMETER):
        for found in pattern.finditer(text):
            if found[2] and not _VARIABLE.fullmatch(found[2]):
                return "a literal password or token in an address"
    if _TELLTALES.search(text):
        return "this looks like a literal key"
    key = str(path[-1]).lower().replace("-", "_") if path else ""
    is_secret = bool(_SECRET_WORDS & set(key.split("_"))) or any(pair in key for pair in _SECRET_PAIRS)
    somewhere = path[:1] and (path[0] in _SECRET_SECTIONS or str(path[0]).startswith("x-"))
    if is_secret and somewhere and isinstance(value, str) and not _VARIABLE.fullmatch(text):
        return f"{path[-1]!r} holds a literal secret"
    return None


def _drop_ignored(node: Node, annotation: Any) -> None:
    """Remove `x-…` keys from every mapping that is a section; in other mappings keys are the user's names."""
    if isinstance(node, Listing):
        for item in node.items:
            _drop_ignored(item, inner(annotation, 0))
    if not isinstance(node, Table):
        return
    if section_of(annotation) is not None:
        for key in [key for key in node.entries if key.startswith("x-")]:
            del node.entries[key]
    for key, entry in node.entries.items():
        _drop_ignored(entry.node, inner(annotation, key))


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(whole(Contract.model_fields[name]))


# --- nodes to sections


def _read_sections(reading: _Reading) -> Draft:
    draft = Draft()
    entries = reading.root.entries
    for key, entry in entries.items():
        if key not in Contract.model_fields:
            free = [name for name in Contract.model_fields if name not in entries]
            guess = did_you_mean(key, free) or "; the sections are " + ", ".join(Contract.model_fields)
            reading.report((key,), f"there is no section {key!r}{guess}", at_key=True)
        elif key == "checks":
            _read_checks(entry, draft, reading)
        else:
            _read_section(key, entry, draft, reading)
    for name, info in Contract.model_fields.items():
        if name not in entries and info.is_required():
            draft.broken.add((name,))
            if not _is_misspelt(name, entries, Contract):
                reading.report((name,), f"the section is missing; expected {wanted(whole(info))}")
    return draft


def _read_section(name: str, entry: Entry, draft: Draft, reading: _Reading) -> None:
    value = plain(entry.node)
    try:
        read = _adapter(name).validate_python(value)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        _report_errors(errors, (name,), reading)
        _mark_broken(name, errors, draft)
        read = _salvaged(name, value, errors)
        if read is None:
            draft.broken.add((name,))
            return
    if name in Draft.__dataclass_fields__ and read is not None:
        setattr(draft, name, read)


def _mark_broken(name: str, errors: list[ErrorDetails], draft: Draft) -> None:
    for error in errors:
        draft.broken.add((name, *error["loc"][:1]))


def _salvaged(name: str, value: Any, errors: list[ErrorDetails]) -> Any:
    """The section without its faulty keys; None where it cannot do without them."""
    faulty = {error["loc"][0] for error in errors if error["loc"]}
    if not isinstance(value, dict) or len(faulty) == 0:
        return None
    try:
        return _adapter(name).validate_python({key: part for key, part in value.items() if key not in faulty})
    except ValidationError:
        return None


def _read_checks(entry: Entry, draft: Draft, reading: _Reading) -> None:
    items = plain(entry.node)
    if not isinstance(items, tuple):
        items = ()
        _read_section("checks", entry, Draft(), reading)
    for number, item in enumerate(items):
        try:
            draft.checks[number] = _adapter("checks").validate_python((item,))[0]
        except ValidationError as error:
            errors = error.errors(include_url=False)
            for one in errors:
                one["loc"] = (number, *one["loc"][1:])
            _report_errors(errors, ("checks",), reading)


# --- what pydantic says, in our words


def _report_errors(errors: list[ErrorDetails], path: Path, reading: _Reading) -> None:
    told: set[Path] = set()
    for error in errors:
        where, node, rest = _located((*path, *error["loc"]), reading)
        absent = error["type"] == "missing"
        if absent and rest:
            where = (*where, rest[0])
        if where in told or where in reading.secret or _is_refused(node, where, reading):
            continue
        if (absent and _is_misspelt(where[-1], _given(where[:-1], reading), section_of(_annotation(where[:-1])))) or (
            error["type"] == "too_short" and isinstance(node, Listing) and len(node.items) >= error["ctx"]["min_length"]
        ):
            continue  # the unknown key, or the faulty items, are reported
        told.add(where)
        at_key = error["type"] == "extra_forbidden" or "[key]" in error["loc"]
        message = _missing(where) if absent else _message(error, where, rest, node, reading)
        reading.report(where, message, at_key=at_key)


def _located(loc: Path, reading: _Reading) -> tuple[Path, Node, Path]:
    """The longest path of `loc` that exists as nodes, its node, and what is left of `loc`."""
    node: Node = reading.root
    path: list[str | int] = []
    for number, part in enumerate(loc):
        if isinstance(node, Table) and part in node.entries:
            node = node.entries[str(part)].node
        elif isinstance(node, Listing) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        elif (part in ("outcomes", "limits") and isinstance(node, Table)) or (
            part == "list" and isinstance(node, Listing)
        ):
            continue  # what only the types call so
        else:
            return tuple(path), node, loc[number:]
        path.append(part)
    return tuple(path), node, ()


def _is_refused(node: Node, where: Path, reading: _Reading) -> bool:
    found, _ = reading.find(where)
    return found is node and isinstance(node, Scalar) and node.refused


def _annotation(path: Path) -> Any:
    annotation: Any = Contract
    for part in path:
        annotation = inner(annotation, part)
    return annotation


def _missing(path: Path) -> str:
    if path and isinstance(path[-1], int):
        return "expected two numbers, [lowest, highest]"
    return f"the key {path[-1]!r} is missing; expected {wanted(_annotation(path))}"


def _given(path: Path, reading: _Reading) -> Collection[str]:
    node, _ = reading.find(path)
    return node.entries if isinstance(node, Table) else ()


def _is_misspelt(name: str | int, given: Collection[str], section: type[Section] | None) -> bool:
    """Whether an unknown key stands there that is reported with "did you mean `name`?"."""
    if section is None or FREE.get(section) or len(given) > _MAX_GUESSED:
        return False
    keys = keys_of(section)
    free = [key for key in keys if key not in given]
    return any(did_you_mean(key, free) == f"; did you mean {name}?" for key in given if key not in keys)


_PATTERNS = {
    r"^[A-Za-z_][A-Za-z0-9_]*$": "a name of letters, digits and _, not starting with a digit (rename it in prepare)",
    r"^[a-z][a-z0-9-]{0,62}$": "a name of small letters, digits and -, starting with a letter, at most 63 long",
    r"^[\w./-]+\.py:[A-Za-z_]\w*$": "a Python function of the project, such as train.py:train",
    r"^[A-Z]{3}$": "a currency in three capitals, such as USD",
    r"^(https?://|\$\{[A-Za-z_][A-Za-z0-9_]*\})\S*$": "an http or https address, or ${NAME} that holds one",
}
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _message(error: ErrorDetails, where: Path, rest: Path, node: Node, reading: _Reading) -> str:
    kind = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    seen = _seen(node)
    is_key = "[key]" in rest
    if is_key:
        seen = repr(where[-1])
    if kind == "extra_forbidden":
        return _unknown_key(where, reading)
    if kind == "literal_error":
        return _wrong_option(str(context["expected"]), where, node, is_key)
    if kind == "value_error":
        return f"{context['error']}, not {seen}"
    if kind == "string_pattern_mismatch":
        return f"expected {_PATTERNS.get(context['pattern'], 'another form')}, not {seen}"
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        share = isinstance(node, Scalar) and str(node.value).endswith("%")
        limit = f"{context[name] * 100:g}%" if share else f"{context[name]:g}"
        return f"expected {words} {limit}, not {seen}"
    if kind in ("too_short", "too_long"):
        return _wrong_length(where, node, context)
    if kind == "string_too_short":
        return "the text is empty"
    if kind == "string_too_long":
        return f"the text is longer than {context['max_length']} characters"
    cure = _cure(kind, node)
    return f"expected {wanted(_annotation(where))}, not {seen}{cure}"


def _wrong_length(where: Path, node: Node, context: Mapping[str, Any]) -> str:
    if where[-1:] == ("range",):
        return "expected two numbers, [lowest, highest]"
    count = len(node.items) if isinstance(node, Listing) else len(node.entries) if isinstance(node, Table) else 0
    if "min_length" in context:
        return f"expected at least {context['min_length']} entries, not {count}"
    return f"expected at most {context.get('max_length')} entries, not {count}"


def _unknown_key(where: Path, reading: _Reading) -> str:
    section = section_of(_annotation(where[:-1]))
    if section is None:
        return "the key is unknown"
    given = _given(where[:-1], reading)
    free = [key for key in keys_of(section) if key not in given]
    guess = did_you_mean(str(where[-1]), free) or "; the keys here are " + ", ".join(keys_of(section))
    return f"the key {where[-1]!r} is unknown{guess}"


def _wrong_option(expected: str, where: Path, node: Node, is_key: bool) -> str:
    options = re.findall(r"'([^']*)'", expected) or [expected]
    value = where[-1] if is_key else node.value if isinstance(node, Scalar) else None
    if value is not None and str(value) in options and not is_key:
        return f"expected {value}, not {_seen(node)}; " + (
            "remove the quotes" if isinstance(value, str) else "quote it"
        )
    guess = did_you_mean(str(value), options) if value is not None else ""
    listed = options[0] if len(options) == 1 else "one of " + ", ".join(options)
    return f"expected {listed}, not {repr(value) if is_key else _seen(node)}{guess}"


def _cure(kind: str, node: Node) -> str:
    if not isinstance(node, Scalar):
        return ""
    if kind == "string_type" and isinstance(node.value, int | float):
        text = str(node.value).lower() if isinstance(node.value, bool) else str(node.value)
        return f'; write "{text}" in quotes'
    if isinstance(node.value, str) and kind in ("int_type", "float_type", "bool_type") and node.quotes != 0:
        return "; remove the quotes"
    return ""


def _seen(node: Node) -> str:
    match node:
        case Listing():
            return "a list"
        case Table():
            return "a mapping"
        case Scalar(value=None):
            return "nothing"
        case Scalar(value=bool(value)):
            return str(value).lower()
        case Scalar(value=str(value)):
            return f'"{value if len(value) <= _MAX_SEEN else value[: _MAX_SEEN - 3] + "..."}"'
        case Scalar(value=value):
            return f"the number {value}"
