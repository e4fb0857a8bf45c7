"""Templates: the files that `init` writes, to be read and changed by a person."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shipworthy.contract.data_section import Source
from shipworthy.contract.sections import Task
from shipworthy.data.guesses import Guess, Inference

WIDTH = 110  # columns of a line of the contract; longer lists are wrapped
COMMENT_AT = 34  # column where comments begin
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_ /-]*[A-Za-z0-9_]|[A-Za-z_]")
_TRAPS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null", "none", "nan", "inf"))
_TRAIN = {
    "binary": "train_classes.py.txt",
    "multiclass": "train_classes.py.txt",
    "regression": "train_numbers.py.txt",
}
_TRUTH_WORDS = ("0", "1", "0.0", "1.0", "yes", "no", "y", "n", "true", "false", "t", "f")

GITIGNORE = """\
# state of Shipworthy: ledger, snapshots, records, served bundles
.shipworthy/
__pycache__/
"""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a contract is written from, beside the guesses."""

    system: str
    sources: dict[str, Source]
    split_by: Literal["time", "random"]
    quarantined_percent: int  # of the rows that may be quarantined


def contract_text(draft: Draft, inference: Inference) -> str:
    """`shipworthy.yaml`: every section that a first release needs, short enough to be read."""
    sections = (
        _head(draft, inference),
        _data(draft),
        _context(inference),
        _features(inference),
        _left_out(inference),
        _target(draft, inference),
        _decision(inference),
        _gates(inference),
        ["environments:", *_noted("  local: {}", "no approval owed: `ship` deploys here, `serve` serves it")],
    )
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def train_text(task: Task, system: str) -> str:
    """`train.py` for the task, under 60 lines."""
    name = _TRAIN[task]
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return text.replace("{system}", system)


def scalar(text: str) -> str:
    """`text` as a YAML string, quoted where plain text would be read as something else.

    >>> scalar("white"), scalar("no"), scalar("001")
    ('white', '"no"', '"001"')
    """
    plain = _PLAIN.fullmatch(text) and text.lower() not in _TRAPS
    return text if plain else quoted(text)


def quoted(text: str) -> str:
    """`text` in double quotes; what cannot be seen is escaped.

    >>> print(quoted("white"))
    "white"
    """
    signs = (sign if sign.isprintable() and sign not in '"\\' else _escaped(sign) for sign in text)
    return f'"{"".join(signs)}"'


def _escaped(sign: str) -> str:
    return f"\\{sign}" if sign in '"\\' else f"\\U{ord(sign):08x}"


def number(value: float) -> str:
    """`value` without needless zeros: 1000, 0.25.

    >>> number(1000.0), number(0.25), number(1e15)
    ('1000', '0.25', '1000000000000000')
    """
    return str(int(value)) if value == int(value) and abs(value) < 1e18 else repr(value)


def _noted(text: str, comment: str) -> list[str]:
    gap = max(COMMENT_AT - len(text), 2)
    return [f"{text}{' ' * gap}# {comment}"]


def _head(draft: Draft, inference: Inference) -> list[str]:
    people = inference.placed("protected")
    risk = "high" if people else "minimal"
    return [
        "shipworthy: 1",
        f"system: {scalar(draft.system)}",
        f"purpose: {scalar(f'Predict {inference.target}')}",
        *_noted("owner: unassigned", "who answers for this system"),
        *_noted(f"risk: {risk}", "minimal | limited | high (EU AI Act)"),
    ]


def _data(draft: Draft) -> list[str]:
    lines = ["data:", "  sources:"]
    for name, source in draft.sources.items():
        entries = [f"path: {scalar_path(source.path or '')}", *_dialect(source)]
        lines += _wrapped(f"    {name}: {{{', '.join(entries)}}}")
    if len(draft.sources) > 1:
        union = " union all ".join(f"select * from {name}" for name in draft.sources)  # noqa: S608  # our names
        lines.append(f"  prepare: {union}")
    lines.append(f"  accept: {{quarantined: {{at_most: {draft.quarantined_percent}%}}}}")
    return lines


def _dialect(source: Source) -> Iterator[str]:
    """How the files are written, as far as it is not what the contract takes for granted."""
    if source.format is not None:
        yield f"format: {source.format}"
    if source.delimiter is not None:
        yield f"delimiter: {quoted(source.delimiter)}"
    if source.encoding != "utf-8":
        yield f"encoding: {source.encoding}"
    if source.decimal != ".":
        yield f"decimal: {quoted(source.decimal)}"
    if source.thousands is not None:
        yield f"thousands: {quoted(source.thousands)}"
    if source.nulls:
        yield f"nulls: [{_quoted(source.nulls)}]"
    if source.sheet is not None:
        yield f"sheet: {scalar(source.sheet)}"


def scalar_path(path: str) -> str:
    """A path as a YAML string."""
    return path if re.fullmatch(r"[A-Za-z][\w./-]*", path, re.ASCII) else quoted(path)


def _context(inference: Inference) -> list[str]:
    columns = inference.placed("key", "time", "protected")
    if not columns:
        return []
    return [
        *_noted("context:", "recorded with each prediction, never a model input"),
        *(line for guess in columns for line in _context_column(guess)),
    ]


def _context_column(guess: Guess) -> Iterator[str]:
    kind = "datetime" if guess.place == "time" else guess.kind
    entries = [f"role: {guess.place}", f"type: {kind}"]
    if guess.values:
        entries.append(_values(guess.values))
    if guess.reference is not None:
        entries.append(f"reference: {scalar(guess.reference)}")
    yield from _entry(guess.name, entries)


def _features(inference: Inference) -> list[str]:
    features = inference.placed("feature")
    return [
        *_noted("features:", "what a caller sends; beyond its range a value is rejected"),
        *(line for guess in features for line in _feature(guess)),
    ]


def _feature(guess: Guess) -> Iterator[str]:
    entries = [f"type: {guess.kind}"]
    if guess.range is not None:
        entries.append(f"range: [{number(guess.range[0])}, {number(guess.range[1])}]")
    if guess.values:
        entries.append(_values(guess.values))
    if guess.missing:
        entries.append("missing: allow")
    yield from _entry(guess.name, entries)


def _values(values: Sequence[str]) -> str:
    return f"values: [{', '.join(scalar(value) for value in values)}]"


def _entry(name: str, entries: Sequence[str]) -> Iterator[str]:
    """`  name: {…}`, wrapped after commas where it would be too long."""
    line = f"  {scalar(name)}: {{{', '.join(entries)}}}"
    yield from _wrapped(line)


def _wrapped(line: str) -> Iterator[str]:
    while len(line) > WIDTH:
        at = _last_comma(line)
        if at is None:
            break
        yield line[: at + 1]
        line = " " * 8 + line[at + 2 :]
    yield line


def _last_comma(line: str) -> int | None:
    """The last comma outside quotes before the width."""
    quoted, escaped, found = False, False, None
    for at, sign in enumerate(line[:WIDTH]):
        if sign == '"' and not escaped:
            quoted = not quoted
        escaped = sign == "\\" and not escaped
        if sign == "," and not quoted and line[at + 1 : at + 2] == " " and line[:at].strip():
            found = at
    return found


def _left_out(inference: Inference) -> list[str]:
    columns = inference.placed("left out")
    if not columns:
        return []
    lines = (f"#   {guess.name}: {_one_line(guess.why)}" for guess in columns)
    return ["# left out of the features:", *lines]


def _one_line(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _target(draft: Draft, inference: Inference) -> list[str]:
    entries = [f"column: {scalar(inference.target)}", f"type: {inference.task}"]
    if inference.classes:
        entries.append(f"values: [{_quoted(inference.classes)}]")
    if inference.positive is not None:
        entries.append(f"positive: {quoted(inference.positive)}")
    return [
        *_wrapped(f"target: {{{', '.join(entries)}}}"),
        "",
        "training:",
        *_noted("  entry: train.py:train", "(frame, params, context) -> fitted model"),
        f"  split: {{by: {draft.split_by}, calibrate: 10%, test: 20%}}",
        "  seed: 7",
    ]


def _quoted(labels: Iterable[str]) -> str:
    return ", ".join(quoted(label) for label in labels)


def _decision(inference: Inference) -> list[str]:
    lines = ["decision:"]
    actions = _actions(inference)
    if actions:
        listed = ", ".join(f"{quoted(label)}: {scalar(action)}" for label, action in actions.items())
        lines.append(f"  actions: {{{listed}}}")
    if inference.task == "binary":
        lines += _noted("  threshold: {maximise: balanced_accuracy}", "chosen on the calibrate part")
    return [
        *lines,
        *_noted(f"  fallback: {{otherwise: {_usual_answer(inference, actions)}}}", "answered when the model cannot"),
    ]


def _usual_answer(inference: Inference, actions: dict[str, str]) -> str:
    if not isinstance(inference.usual, str):
        return number(inference.usual)
    return scalar(actions[inference.usual]) if actions else quoted(inference.usual)


def _actions(inference: Inference) -> dict[str, str]:
    """Readable actions where the classes are bare truth words: `repaid` and `not_repaid`."""
    if inference.task != "binary" or not all(label.lower() in _TRUTH_WORDS for label in inference.classes):
        return {}
    return {
        label: inference.target if label == inference.positive else f"not_{inference.target}"
        for label in inference.classes
    }


def _gates(inference: Inference) -> list[str]:
    metric = "mae" if inference.task == "regression" else "log_loss"
    return [
        *_noted("gates:", "each limit is met by a confidence bound, never by the point"),
        f"  performance: {{{metric}: {{better_than: baseline}}}}",
        "  budget: {at_rps: 200, p99: {at_most: 100ms}, memory: {at_most: 500MB}}",
    ]
