"""The contract's reference as Markdown, generated from the types.

`python -m shipworthy.contract.reference` prints it.
"""

import json
import sys
import typing
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shipworthy.contract.expression_functions import SIGNATURES
from shipworthy.contract.expression_nodes import DATE_PARTS, MAX_DEPTH, MAX_EXPONENT, MAX_LENGTH
from shipworthy.contract.expression_text import MAX_TEXT
from shipworthy.contract.outline import FREE, alternatives, as_written, keys_of, quantity, section_of, whole
from shipworthy.contract.sections import METRICS, Section
from shipworthy.contract.types import RESERVED, Contract

_PREAMBLE = """\
# The contract

`shipworthy.yaml` says what a system promises. `shipworthy check` reports everything wrong with it at once, each with
file, line, column, key and cure; `shipworthy contract schema` prints its JSON Schema for editors.

## How it is written

- YAML 1.2, one mapping in one document. Typed are `true`, `false`, `null`, decimal whole numbers and decimal
  fractions; other plain text is text.
- Refused, because YAML readers disagree on them: duplicate keys, plain `yes`, `no`, `on`, `off` and `True`, leading
  zeros, hexadecimal and octal numbers, underscores in numbers, `.inf` and `.nan`, plain dates, base 60 (`1:30`),
  anchors, aliases, merge keys, tags, tabs, a second document. Put texts like these in quotes.
- Class labels and categories are text: a label that looks like a number is quoted, `values: ["0", "1"]`, also as a
  key, `{"1": approve}`.
- Durations carry `ms`, `s`, `min`, `h` or `d`; shares `%%`; sizes `kB`, `MB`, `GB` or `TB` (decimal); sums their
  currency, `120 USD`.
- Secrets are `${NAME}`, read from the environment where they are used. A literal password, token or key is refused.
- `x-…` keys are ignored in every section. Sections that are reserved for later: %s.
- Adding a key keeps version 1; changing a meaning needs version 2.
"""

_EXPRESSIONS = """\
## Expressions

`derived.from`, `checks.expect` and a fallback rule's `if` hold expressions over the columns of one row, for example
`100 * monthly_debt / income`. They are computed alike in tables and in the server.

| written | is |
|---|---|
| `12`, `0.5`, `"text"`, `'text'`, `true`, `false` | literals; a text has no escapes |
| `income` | the value of a column: float and int are numbers, category and text are texts |
| `+ - * /`, `//`, `%%`, `-x` | of numbers; `x // y` is floor(x / y), `x %% y` is x - y * floor(x / y) |
| `x ** 2` | a power with a whole exponent written out, 0 to %d |
| `< <= > >=` | of numbers or datetimes; `a < b < c` is a chain |
| `== !=`, `x in ["a", "b"]`, `not in` | of two values of one type; a category is compared with its own values |
| `and`, `or`, `not` | of bools |
| `where(condition, a, b)` | a or b |
| `missing(x)`, `coalesce(x, y, ...)` | whether it is missing; the first that is not |
| %s | functions of numbers; `clip(x, low, high)`, `min` and `max` of two or more, `round` half to even |
| `bucket(x, 18, 40, 65)` | which bucket a number is in, from 0; an edge belongs to the bucket above it |
| %s | parts of a datetime on the clock of its zone; Monday is 1, a weekend `weekday(x) > 5`, `week` that of ISO 8601 |
| `days_between(start, end)`, `hours_between(start, end)` | the time from one datetime to another, with its fraction |
| `lower(x)`, `upper(x)`, `strip(x)` | a text in small letters, in capitals, without white space at its ends |
| `length(x)`, `left(x, 3)`, `right(x, 3)` | of a text, in characters (code points) |
| `contains(x, "a")`, `starts_with(x, "a")`, `ends_with(x, "a")` | whether a text holds another one, written out |
| `replace(x, "a", "b")`, `concat(x, y, ...)`, `x + y` | one text put for another, no pattern; texts joined |

- Numbers are float64. What has a missing operand is missing, but for `missing`, `coalesce`, the branch that `where`
  does not take, and `and` and `or` where the other side decides (`false and missing` is false).
- Missing too are x / 0, the logarithm of 0 or less, the root of a negative number, and whatever overflows.
- Case is changed character by character as in Unicode 14, whatever the machine: `upper("ß")` is `"SS"`, and a capital
  sigma is a plain small one also at the end of a word. A text of more than %d characters, made by a
  function, is missing.
- `derived` reads features, the time column and derived columns above it; `checks` and `if` read features, context and
  derived columns.
- At most %d characters, nested at most %d deep.
"""


def reference_markdown() -> str:
    """Every section, key, type, default and meaning, and the language of expressions."""
    parts = [_PREAMBLE % ", ".join(f"`{name}`" for name in RESERVED)]
    parts.append("## Sections\n\n" + _table(Contract))
    written: set[type[Section]] = {Contract}
    for name, annotation in keys_of(Contract).items():
        parts += _chapters(name, annotation, written)
    parts += [_metrics(), _expressions()]
    return "\n".join(parts)


def _chapters(name: str, annotation: Any, written: set[type[Section]]) -> list[str]:
    """A table for each section below `annotation` that has not been written yet."""
    chapters: list[str] = []
    section = _below(annotation)
    if section is None:
        return chapters
    title = name + _suffix(annotation)
    if section in written or len(section.model_fields) == 1:
        return chapters  # what has one key is told in one cell, in `_choice`
    written.add(section)
    meaning = (section.__doc__ or "").strip()
    chapters.append(f"## `{title}`\n\n{meaning}\n\n{_table(section)}")
    for key, inner in keys_of(section).items():
        path = title if FREE.get(section) == key else f"{title}.{key}"
        chapters += _chapters(path, inner, written)
    return chapters


def _below(annotation: Any) -> type[Section] | None:
    """The section that an annotation names, alone, in a list or in a mapping."""
    for choice in alternatives(annotation):
        section = section_of(choice)
        if section is not None:
            return section
        if get_origin(choice) in (dict, tuple):
            values = [part for part in get_args(choice) if part is not Ellipsis]
            return _below(values[-1])
    return None


def _suffix(annotation: Any) -> str:
    for choice in alternatives(annotation):
        if get_origin(choice) is dict:
            return f".{_name_of_keys(choice)}"
        if get_origin(choice) is tuple:
            return "[]"
    return ""


def _name_of_keys(mapping: Any) -> str:
    return "METRIC" if get_args(get_args(mapping)[0]) == _all_metrics() else "NAME"


def _table(section: type[Section]) -> str:
    rows = ["| key | takes | default | meaning |", "|---|---|---|---|"]
    for name, info in section.model_fields.items():
        key = info.alias or name
        shown, takes = f"`{key}`", _takes(whole(info))
        if FREE.get(section) == key:
            shown, takes = f"*{_name_of_keys(info.annotation)}*", takes.removeprefix("mapping of ")
        cells = (shown, takes + _bounds(info), _default(info), info.description or "")
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


_PLAIN = {str: "text", int: "whole number", float: "number", bool: "`true` or `false`"}


def _takes(annotation: Any) -> str:
    """What a key takes, in few words."""
    described = quantity(annotation)
    if described:
        words, _, example = described.removeprefix("a ").rpartition(", such as ")
        return f"{words}, `{example}`"
    return " or ".join(dict.fromkeys(_choice(choice) for choice in alternatives(annotation)))


def _choice(choice: Any) -> str:
    if isinstance(choice, type) and issubclass(choice, Section):
        if len(choice.model_fields) > 1:
            return "mapping"
        key, inner = next(iter(keys_of(choice).items()))
        return f"{{{key}: {_takes(inner)}{_bounds(next(iter(choice.model_fields.values())))}}}"
    if get_origin(choice) is typing.Literal:
        options = get_args(choice)
        return "a metric" if options == _all_metrics() else ", ".join(f"`{option}`" for option in options)
    if get_origin(choice) is dict:
        return f"mapping of {_takes(get_args(choice)[1])}"
    if get_origin(choice) is tuple:
        parts = get_args(choice)
        return "[lowest, highest]" if Ellipsis not in parts else f"list of {_takes(parts[0])}"
    return _PLAIN.get(choice, "value")


def _all_metrics() -> tuple[str, ...]:
    return tuple(dict.fromkeys(metric for metrics in METRICS.values() for metric in metrics))


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _bounds(info: FieldInfo) -> str:
    found = [
        f"{sign} {as_written(getattr(extra, name), whole(info))}"
        for extra in info.metadata
        for name, sign in _SIGNS.items()
        if getattr(extra, name, None) is not None
    ]
    return f" ({', '.join(found)})" if found else ""


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "**required**"
    default = as_written(info.get_default(call_default_factory=False), whole(info))
    if default is None or default in ({}, []) or default is PydanticUndefined:
        return ""
    if isinstance(default, dict):
        return "`" + json.dumps(default).replace('"', "") + "`"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


def _metrics() -> str:
    rows = [f"| {task} | {', '.join(f'`{metric}`' for metric in metrics)} |" for task, metrics in METRICS.items()]
    return "\n".join(["## Metrics", "", "| target | metrics |", "|---|---|", *rows, ""])


def _expressions() -> str:
    numeric = [
        name
        for name, signature in SIGNATURES.items()
        if (signature.takes, signature.gives) == ("number", "number") and not signature.written
    ]
    return _EXPRESSIONS % (
        MAX_EXPONENT,
        ", ".join(f"`{name}`" for name in sorted(numeric)),
        ", ".join(f"`{name}`" for name in DATE_PARTS),
        MAX_TEXT,
        MAX_LENGTH,
        MAX_DEPTH,
    )


if __name__ == "__main__":
    sys.stdout.write(reference_markdown())
