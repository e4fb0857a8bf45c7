"""The contract's types as data: which keys a section has, what each takes, and how its default is written."""

import typing
from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

from pydantic import BeforeValidator, WithJsonSchema
from pydantic.fields import FieldInfo

from shipworthy.contract.gates_section import Slices
from shipworthy.contract.quantities import (
    Money,
    format_duration,
    format_share,
    format_size,
    parse_duration,
    parse_multiple,
    parse_share,
    parse_size,
)
from shipworthy.contract.sections import Section
from shipworthy.contract.types import Value

FREE: dict[type[Section], str] = {Value: "outcomes", Slices: "limits"}  # sections that also take the user's names


def alternatives(annotation: Any) -> list[Any]:
    """The alternatives of an annotation without `Annotated` and None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (UnionType, typing.Union):
        return [part for choice in get_args(annotation) if choice is not type(None) for part in alternatives(choice)]
    return [annotation]


def section_of(annotation: Any) -> type[Section] | None:
    """The section that an annotation names, if it does."""
    for choice in alternatives(annotation):
        if isinstance(choice, type) and issubclass(choice, Section):
            return choice
    return None


@cache
def keys_of(section: type[Section]) -> Mapping[str, Any]:
    """The keys of a section as the contract writes them, with their annotations."""
    return {info.alias or name: whole(info) for name, info in section.model_fields.items()}


def whole(info: FieldInfo) -> Any:
    """A field's annotation as it was written, with its constraints."""
    annotation: Any = info.annotation
    for extra in info.metadata:
        annotation = Annotated[annotation, extra]
    return annotation


def inner(annotation: Any, key: str | int) -> Any:
    """The annotation of the value under `key`; None where there is no such key."""
    section = section_of(annotation)
    if section is not None:
        keys = keys_of(section)
        hidden = FREE.get(section)
        if key not in keys and hidden is not None:
            return get_args(alternatives(keys[hidden])[0])[1]
        return keys.get(str(key))
    for choice in alternatives(annotation):
        if get_origin(choice) is dict:
            return get_args(choice)[1]
        if get_origin(choice) is tuple:
            return get_args(choice)[0]
    return None


_FORMATS: dict[Any, Callable[[Any], str]] = {
    parse_duration: format_duration,
    parse_share: format_share,
    parse_multiple: format_share,
    parse_size: format_size,
}


def as_written(value: Any, annotation: Any) -> Any:
    """A parsed value as the contract writes it, in JSON's types; what a section leaves out stays out."""
    if isinstance(value, Section):
        keys = {name: info.alias or name for name, info in type(value).model_fields.items()}
        read = {key: getattr(value, name, None) for name, key in keys.items()}
        return {
            key: as_written(part, inner(type(value), key)) for key, part in read.items() if part not in (None, {}, ())
        }
    if isinstance(value, Money):
        return str(value)
    if isinstance(value, tuple):
        return [as_written(part, inner(annotation, number)) for number, part in enumerate(value)]
    if isinstance(value, dict):
        return {key: as_written(part, inner(annotation, key)) for key, part in value.items()}
    write = _FORMATS.get(_reader(annotation)) if isinstance(value, int | float) else None
    return write(value) if write is not None else value


def _reader(annotation: Any) -> Any:
    """The function that reads a quantity of this type."""
    parts = get_args(annotation)
    if get_origin(annotation) is Annotated:
        own = [extra.func for extra in parts[1:] if isinstance(extra, BeforeValidator)]
        return own[0] if own else _reader(parts[0])
    if get_origin(annotation) in (UnionType, typing.Union):
        return next((found for part in parts if (found := _reader(part)) is not None), None)
    return None


def wanted(annotation: Any) -> str:
    """What a value of this type looks like."""
    described = quantity(annotation)
    if described:
        return described
    words: list[str] = []
    for choice in alternatives(annotation):
        if isinstance(choice, type) and issubclass(choice, Section):
            words.append("a mapping with " + ", ".join(keys_of(choice)))
        elif get_origin(choice) is typing.Literal:
            words.append("one of " + ", ".join(str(option) for option in get_args(choice)))
        else:
            words.append(_WORDS.get(get_origin(choice) or choice, "a value"))
    return " or ".join(words)


def quantity(annotation: Any) -> str:
    """What a quantity with a unit looks like; empty for other types."""
    if get_origin(annotation) in (UnionType, typing.Union):
        return next((words for choice in get_args(annotation) if (words := quantity(choice))), "")
    for extra in get_args(annotation)[1:] if get_origin(annotation) is Annotated else ():
        if isinstance(extra, WithJsonSchema) and extra.json_schema is not None:
            return f"a {extra.json_schema['description']}, such as {extra.json_schema['examples'][0]}"
    return ""


_WORDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping (key: value)",
    tuple: "a list, such as [first, second]",
}
