"""Requests to model rows: typed decoders generated from a payload's schema.

A good request takes the fast way: one typed decode that checks types, ranges and categories. A bad one is decoded
again as plain objects and every problem in it is collected, each with what was expected.

What is accepted here gives the model the same float32 as the same value in a table (`data.validate`, `data.columns`).
"""

import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, Union

import msgspec
from msgspec import UNSET, Meta, UnsetType

from shipworthy.bundle.format import ContextField, DerivedField, FallbackRule, FeatureField, LookupTable, Schema
from shipworthy.contract.expression_text import MAX_TEXT
from shipworthy.contract.expressions import FLOAT32_MAX, Expression, Kind, Row, Value, compile_row, parse_derived
from shipworthy.contract.patterns import Pattern
from shipworthy.kernel.errors import ExpressionError, IntegrityError, RequestError
from shipworthy.serving.lookups import Lookup, load_lookups, microseconds
from shipworthy.serving.problem import FieldProblem
from shipworthy.serving.values import clean_text, find_zone, read_datetime

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EXACT_WHOLE = 2.0**53  # beyond it a fraction of 0 does not say which whole number was meant
MAX_ID = 256  # characters of a request's id
MAX_LISTED = 20  # categories named in a problem
MAX_SHOWN = 60  # characters of a bad value that a problem repeats
NAN = math.nan

_astuple = msgspec.structs.astuple

_Finish = Callable[[Any, "Sample"], Any]
_Derivation = tuple[  # name, model column, value, what is still to be done with it, codes of a category, times it reads
    str, int, Callable[[Row], Value | None], _Finish | None, Mapping[Any, float] | None, tuple[str, ...]
]


class InvalidRequestError(RequestError):
    """A request that is not valid, with everything that is wrong with it."""

    def __init__(self, status: int, detail: str, errors: Sequence[FieldProblem] = ()) -> None:
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        super().__init__(detail)


class Sample(msgspec.Struct, eq=False, gc=False):
    """One valid request, ready for the model."""

    inputs: Any
    context: Any
    id: str | None
    reasons: bool
    floats: Sequence[float] = ()
    values: dict[str, object] | None = None  # effective values by name; missing is None
    review: list[str] | None = None  # why a person should look at it
    warnings: list[str] | None = None
    is_unlike: bool = False  # out of distribution

    def warn(self, text: str) -> None:
        """Note what was done to a value."""
        self.warnings = [*(self.warnings or ()), text]

    def send_to_review(self, text: str) -> None:
        """Note why the answer is handled by review."""
        self.review = [*(self.review or ()), text]
        self.warn(text)


@dataclass(frozen=True, slots=True)
class Reference:
    """What reasons set a feature to."""

    name: str
    place: int  # of the model's column
    value: float  # as the model sees it
    is_read: bool  # by a derived column, which changes with it
    original: object  # as expressions see it


class RequestDecoder:
    """Decodes the requests of one payload's schema.

    Args:
        schema: of the payload.
        rules: of the policy's fallback, which read effective values.
        tables: of the schema's lookups, by name.
        now: wall clock, Unix seconds: the time of a request without one, for lookups that ask.

    Raises:
        IntegrityError: columns that the schema does not define, an expression that does not parse, or tables that are
            not those of the schema's lookups.
    """

    def __init__(
        self,
        schema: Schema,
        rules: Sequence[FallbackRule] = (),
        tables: Mapping[str, LookupTable] | None = None,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.schema = schema
        self.lookups = load_lookups(schema, tables or {})
        self._now = now
        self._asked = schema.asked
        self._features = (*self._asked, *(field for lookup in self.lookups for field in lookup.features))
        self._no_context = (UNSET,) * len(schema.context)
        given = [*(field.name for field in self._asked), *(field.name for field in schema.context)]
        self._finders = tuple((lookup, _key_places(lookup, given)) for lookup in self.lookups)
        self._clock = next((field for field in schema.context if field.role == "time"), None)
        self._time_place = None if self._clock is None else given.index(self._clock.name)
        self._is_timed = any(lookup.field.is_timed for lookup in self.lookups)
        self._names = tuple(field.name for field in self._features)
        inputs = _define("Inputs", [(field.name, _feature_type(field)) for field in self._asked])
        context = _define("Context", [(field.name, _context_type(field)) for field in schema.context])
        needs_context = any(field.required for field in schema.context)
        self._request = msgspec.defstruct(
            "Request",
            [
                ("id", Annotated[str, Meta(min_length=1, max_length=MAX_ID)] | None, None),
                ("inputs", inputs),
                ("context", context) if needs_context else ("context", context | None, None),
                ("reasons", bool, False),
            ],
            kw_only=True,
            forbid_unknown_fields=True,
            gc=False,
        )
        self._decode = msgspec.json.Decoder(self._request).decode
        self._checks = tuple(_finish_of(field) for field in self._features)
        self._codes = tuple(_codes_of(field) for field in self._features)
        kinds = _column_kinds(schema)
        self._places = _places(schema, self._features)
        self._derived = tuple(_derivation(field, kinds, schema) for field in schema.derived)
        self._read = frozenset().union(*(_parse(field.expression, kinds).columns for field in schema.derived))
        self._rules = tuple((_compile(rule.condition, kinds), rule.action) for rule in rules)
        self._row_checks = tuple((_compile(check.condition, kinds), check) for check in schema.checks)
        self._needs_values = bool(self._derived or self._rules or self._row_checks)
        self._direct = schema.columns == tuple(field.name for field in schema.features)
        self._plain = self._direct and not self._needs_values and all(_is_plain(field) for field in schema.features)
        self._plain = self._plain and not self.lookups
        self._colons = any(_may_hold_colons(field) for field in self._asked)
        is_fixed = not self._colons and all(field.missing != "allow" for field in self._asked)
        self._fixed_colons = 1 + len(self._asked) if is_fixed else None  # of a request with nothing but inputs
        for zone in (*(field.zone for field in schema.features), *(field.zone for field in schema.context)):
            find_zone(zone)  # one that this machine lacks is found before anything is answered
        for pattern in (*(field.pattern for field in schema.features), *(field.pattern for field in schema.context)):
            if pattern is not UNSET:
                _pattern(pattern)  # one that is none is found before anything is answered
        self._judged = tuple(  # context of which the type does not say all
            (i, field)
            for i, field in enumerate(schema.context)
            if field.kind == "datetime" or field.pattern is not UNSET
        )

    def decode(self, body: bytes) -> Sample:
        """The sample of one plain request.

        Raises:
            InvalidRequestError: with every problem of the request.
        """
        try:
            request = self._decode(body)
            if body.count(b":") == self._expected_colons(request) and b"\\" not in body:
                return self._finish(request)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, InvalidRequestError):
            pass
        return self._decode_slowly(parse_strictly(body))  # repeated keys show only there; names all that is wrong

    def decode_object(self, item: Any) -> Sample:
        """The sample of a request that is already an object, as tensors give it.

        Raises:
            InvalidRequestError: with every problem of the request.
        """
        try:
            request = msgspec.convert(item, self._request)
            return self._finish(request)
        except (msgspec.MsgspecError, RecursionError, InvalidRequestError):
            return self._decode_slowly(item)

    def _decode_slowly(self, item: Any) -> Sample:
        """The sample of a request whose values may need what a table does to them, or every problem in it."""
        item = self._mended(item)
        problems = list(self._problems(item))
        if problems:
            raise InvalidRequestError(422, _detail(problems), problems)
        try:
            request = msgspec.convert(item, self._request)
        except (msgspec.MsgspecError, RecursionError):
            raise InvalidRequestError(422, "The request does not fit the schema.") from None
        return self._finish(request)

    def _mended(self, item: Any) -> Any:
        if not isinstance(item, dict):
            return item
        parts = (("inputs", self._asked), ("context", self.schema.context))
        return _copied(item, {name: _mended_values(item[name], fields) for name, fields in parts if name in item})

    def fallback_action(self, sample: Sample) -> str | float | None:
        """The action of the first fallback rule that holds; None if none does."""
        for condition, action in self._rules:
            if condition(sample.values or {}) is True:
                return action
        return None

    def find_references(self, references: Mapping[str, float | None]) -> tuple[Reference, ...]:
        """The features that the model sees and that have a reference: in the schema's order, looked-up ones last.

        Args:
            references: reference of each model column; categories as codes.
        """
        found = []
        for field, place in zip(self._features, self._places, strict=True):
            value = references.get(field.name)
            if place is not None and value is not None:
                found.append(Reference(field.name, place, value, field.name in self._read, _value_of(field, value)))
        return tuple(found)

    def refer(self, sample: Sample, reference: Reference) -> list[float] | None:
        """The model's row of `sample` with one feature set to its reference; None where such a row cannot be."""
        floats = list(sample.floats)
        floats[reference.place] = reference.value
        if sample.values is not None:
            values = {**sample.values, reference.name: reference.original}
            try:
                self._derive(values, floats, Sample(None, None, None, False))
            except InvalidRequestError:  # a row that cannot be tells nothing about the score
                return None
        return floats

    def _expected_colons(self, request: Any) -> int:
        """How many colons a body without repeated keys and escapes has."""
        if self._fixed_colons is not None and request.id is None and request.context is None and not request.reasons:
            return self._fixed_colons
        count = 3 if request.reasons else 2
        values = _astuple(request.inputs)
        colons = count - 1 + len(values) - values.count(UNSET)
        texts: list[Any] = []
        if request.id is not None:
            colons += 1
            texts.append(request.id)
        if request.context is not None:
            given = _astuple(request.context)
            colons += 1 + len(given) - given.count(UNSET)
            texts += given
        if self._colons:
            texts += values
        for text in texts:
            if type(text) is str:
                colons += text.count(":")
        return colons

    def _finish(self, request: Any) -> Sample:
        sample = Sample(request.inputs, request.context, request.id, request.reasons)
        values = _astuple(request.inputs)
        if self._judged and request.context is not None:
            self._check_context(request.context)
        if self._plain:
            sample.floats = values
            return sample
        if self._finders:
            values = self._look_up(request, sample)
        floats: list[float] = [NAN] * len(self.schema.columns)
        effective: dict[str, object] = {}
        for field, value, check, codes, place in zip(
            self._features, values, self._checks, self._codes, self._places, strict=True
        ):
            if value is UNSET:
                value = None
            elif check is not None and value is not None:
                value = check(value, sample)
            effective[field.name] = value
            if place is not None and value is not None:
                floats[place] = codes[value] if codes is not None else value
        if self._needs_values:
            self._add_context(request.context, effective)
            self._derive(effective, floats, sample)
            self._check(effective)
            sample.values = effective
        sample.floats = floats
        return sample

    def moment_us(self, text: object = None) -> int:
        """The time of a request in microseconds since 1970: what its context says, or now."""
        if isinstance(text, str) and self._clock is not None:
            moment = read_datetime(text, find_zone(self._clock.zone))
            if moment is not None:
                return microseconds(moment)
        return int(self._now() * 1_000_000)

    def _look_up(self, request: Any, sample: Sample) -> tuple[Any, ...]:
        """The values of all features: those of the request, then those that its keys give, which are recorded too."""
        found = _astuple(request.inputs)
        given = (*found, *(self._no_context if request.context is None else _astuple(request.context)))
        moment_us = self.moment_us(self._time_of(given)) if self._is_timed else 0
        problems: list[FieldProblem] = []
        for lookup, places in self._finders:
            key = given[places[0]] if len(places) == 1 else tuple([given[place] for place in places])
            row = lookup.find(key, moment_us)
            values = lookup.row(row)
            if row < 0:
                sample.warn(lookup.explain(row))
            if lookup.needed and any(values[place] is None for place, _ in lookup.needed):
                shown = ", ".join(show(given[place]) for place in places)
                problems += [
                    FieldProblem(f"inputs.{name}", lookup.expect(row), shown)
                    for place, name in lookup.needed
                    if values[place] is None
                ]
            found += values
        if problems:
            raise InvalidRequestError(422, _detail(problems), problems)
        named = zip(self._names, found, strict=True)
        sample.inputs = {name: value for name, value in named if value is not UNSET and value is not None}
        return found

    def _time_of(self, given: tuple[Any, ...]) -> object:
        return None if self._time_place is None else given[self._time_place]

    def _add_context(self, context: Any, effective: dict[str, object]) -> None:
        if context is None:
            return
        for field, value in zip(self.schema.context, _astuple(context), strict=True):
            if value is UNSET or value is None:
                effective[field.name] = None
            elif field.kind == "datetime":
                effective[field.name] = read_datetime(value, find_zone(field.zone))
            else:
                effective[field.name] = value

    def _check_context(self, context: Any) -> None:
        given = _astuple(context)
        bad = [
            FieldProblem(f"context.{field.name}", _expect_kind(field), show(given[i]))
            for i, field in self._judged
            if type(given[i]) is str and not _fits_text(field, given[i])
        ]
        if bad:
            raise InvalidRequestError(422, _detail(bad), bad)

    def _derive(self, values: dict[str, object], floats: list[float], sample: Sample) -> None:
        refused: list[FieldProblem] = []
        for name, place, evaluate, check, codes, times in self._derived:
            value = evaluate(values)
            if value is None and times:
                for absent in times:
                    if values.get(absent) is None:
                        sample.warn(f"{name} is computed from context.{absent}, which is missing: taken as missing")
            if isinstance(value, float) and abs(value) > FLOAT32_MAX:
                value = None
            if value is not None and check is not None:
                try:
                    value = check(value, sample)
                except InvalidRequestError as refusal:
                    refused.extend(refusal.errors)
            values[name] = value
            if codes is not None:
                floats[place] = codes.get(value, NAN)
            else:
                floats[place] = NAN if value is None else float(value)  # type: ignore[arg-type]
        if refused:
            raise InvalidRequestError(422, _detail(refused), refused)

    def _check(self, values: dict[str, object]) -> None:
        """Rows of which a check says that they cannot be were kept from the model in training as well."""
        failing = [
            FieldProblem(f"check {check.name}", check.condition)
            for holds, check in self._row_checks
            if holds(values) is False
        ]
        if failing:
            raise InvalidRequestError(422, _detail(failing), failing)

    def _problems(self, item: Any) -> Iterator[FieldProblem]:
        if not isinstance(item, dict):
            yield FieldProblem("", "an object with `inputs`", show(item))
            return
        yield from _repeated(item, "")
        for name in item.keys() - {"id", "inputs", "context", "reasons"}:
            yield FieldProblem(name[:MAX_SHOWN], "no such field")
        key = item.get("id")
        if key is not None and not (isinstance(key, str) and 1 <= len(key) <= MAX_ID):
            yield FieldProblem("id", f"text of 1 to {MAX_ID} characters", show(key))
        if not isinstance(item.get("reasons", False), bool):
            yield FieldProblem("reasons", "true or false", show(item["reasons"]))
        yield from _problems_of(item.get("inputs", UNSET), "inputs", self._asked, self._features)
        if item.get("context") is not None or any(field.required for field in self.schema.context):
            yield from _problems_of(item.get("context", UNSET), "context", self.schema.context)


class _Pairs(dict[str, Any]):
    repeated: tuple[str, ...] = ()


def _copied(item: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    copy = _Pairs(item)
    copy.update(changes)
    copy.repeated = getattr(item, "repeated", ())
    return copy


def _mended_values(item: Any, fields: Sequence[FeatureField | ContextField]) -> Any:
    """What a table reader does to a value that has the right type: see `data.values`."""
    if not isinstance(item, dict):
        return item
    return _copied(item, {field.name: _mended_value(field, item[field.name]) for field in fields if field.name in item})


def _mended_value(field: FeatureField | ContextField, value: Any) -> Any:
    if isinstance(value, str) and len(value) <= MAX_TEXT:
        if field.kind in ("category", "datetime"):
            return clean_text(value, field.values or ())
        return None if field.kind == "text" and value == "" else value
    if field.kind == "int" and isinstance(value, float) and value.is_integer() and abs(value) <= EXACT_WHOLE:
        return int(value)
    if field.kind == "float" and type(value) is int and abs(value) <= FLOAT32_MAX:
        return float(value)
    return value


def parse_strictly(body: bytes) -> Any:
    """`body` as plain objects; a repeated key is remembered, NaN and Infinity are refused.

    Raises:
        InvalidRequestError: the body is not JSON.
    """
    try:
        item = json.loads(body.decode("utf-8"), object_pairs_hook=_pairs, parse_constant=_no_constant)
    except RecursionError:
        raise InvalidRequestError(400, "The body is nested too deeply.") from None
    except _ConstantError as error:
        raise InvalidRequestError(
            400, f"The body holds {error}, which is not JSON; send null for a missing number."
        ) from None
    except json.JSONDecodeError as error:
        raise InvalidRequestError(400, f"The body is not JSON: line {error.lineno}, column {error.colno}.") from None
    except ValueError:
        raise InvalidRequestError(400, "The body is not JSON in UTF-8.") from None
    if b"\\u" in body:
        _refuse_half_characters(body)
    return item


def _refuse_half_characters(body: bytes) -> None:
    """An escaped surrogate without its other half is no text that could be recorded."""
    try:
        msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequestError(400, f"The body is not JSON: {error}.") from None


class _ConstantError(ValueError):
    pass


def _no_constant(name: str) -> None:
    raise _ConstantError(name)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = _Pairs(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        result.repeated = tuple(dict.fromkeys(key for key, _ in pairs if key in seen or seen.add(key)))  # type: ignore[func-returns-value]
    return result


def show(value: Any) -> str:
    """A bad value, shortened, as JSON where it is a scalar and by its kind where not.

    >>> show("001"), show([1, 2])
    ('"001"', 'a list')
    """
    if value is UNSET:
        return "nothing"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return "a number too large" if isinstance(value, int) else "a value"
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _detail(problems: Sequence[FieldProblem]) -> str:
    names = ", ".join(problem.field or "the body" for problem in problems[:5])
    return f"{len(problems)} field{'s' if len(problems) != 1 else ''} cannot be accepted: {names}."


def _repeated(item: Any, prefix: str) -> Iterator[FieldProblem]:
    for name in getattr(item, "repeated", ()):
        yield FieldProblem(f"{prefix}{name}"[:MAX_SHOWN], "each field once")


def _problems_of(
    item: Any,
    where: str,
    fields: Sequence[FeatureField] | Sequence[ContextField],
    every: Sequence[FeatureField] = (),
) -> Iterator[FieldProblem]:
    """What is wrong with the values that a caller sends for `fields`; others of `every` the server has itself."""
    if not isinstance(item, dict):
        yield FieldProblem(where, "an object of named values", show(item))
        return
    yield from _repeated(item, f"{where}.")
    known, own = {field.name for field in fields}, {field.name for field in every}
    for name in item:
        if name not in known:
            expected = "no such field: the server looks it up" if name in own else "no such field"
            yield FieldProblem(f"{where}.{name}"[: MAX_SHOWN + len(where)], expected)
    for field in fields:
        value = item.get(field.name, UNSET)
        if not _fits(field, value):
            yield FieldProblem(f"{where}.{field.name}", _expect(field), show(value))


def _fits(field: FeatureField | ContextField, value: Any) -> bool:
    if value is None or value is UNSET:
        return field.missing == "allow" if isinstance(field, FeatureField) else not field.required
    kind = field.kind
    if kind == "bool":
        return isinstance(value, bool)
    if kind in ("float", "int"):
        return _fits_number(field, value)
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    if kind in ("datetime", "text"):
        return _fits_text(field, value)
    strict = isinstance(field, ContextField) or field.unknown == "reject"
    return not (kind == "category" and strict and field.values is not None and value not in field.values)


def _fits_text(field: FeatureField | ContextField, value: str) -> bool:
    """Whether a datetime can be read, and a text is of its pattern."""
    if field.kind == "datetime":
        return read_datetime(value, find_zone(field.zone)) is not None
    return field.pattern is UNSET or _pattern(field.pattern).matches(value)


@functools.cache
def _pattern(text: str) -> Pattern:
    try:
        return Pattern(text)
    except ExpressionError as error:
        raise IntegrityError(f"The payload's pattern {text!r} cannot be used: {error}") from None


def _fits_number(field: FeatureField | ContextField, value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if field.kind == "int" else int | float):
        return False
    if field.kind == "int" and not INT64_MIN <= value <= INT64_MAX:
        return False
    if isinstance(value, int) and abs(value) > FLOAT32_MAX:
        return False
    low, high = _reject_bounds(field)
    return low <= value <= high


def _reject_bounds(field: FeatureField | ContextField) -> tuple[float, float]:
    """Bounds beyond which a number is refused at once; a number that float32 cannot hold always is."""
    low, high = -FLOAT32_MAX, FLOAT32_MAX
    if isinstance(field, ContextField) or field.outside == "reject":
        low = low if field.low is None else field.low
        high = high if field.high is None else field.high
    return low, high


def _expect(field: FeatureField | ContextField) -> str:
    text = _expect_kind(field)
    if isinstance(field, FeatureField):
        return f"{text}, or null" if field.missing == "allow" else text
    return text if field.required else f"{text}, or null"


def _expect_kind(field: FeatureField | ContextField) -> str:
    if field.kind in ("float", "int"):
        noun = "a whole number" if field.kind == "int" else "a number"
        return noun + _expect_bounds(field)
    if field.kind == "category" and field.values is not None:
        return _expect_values(field.values)
    if field.pattern is not UNSET:
        return f"text of the pattern {field.pattern}"
    return {
        "bool": "true or false",
        "text": f"text of up to {MAX_TEXT} characters",
        "category": "text",
        "datetime": _expect_datetime(field.zone),
    }[field.kind]


def _expect_values(values: tuple[str, ...]) -> str:
    if len(values) > MAX_LISTED:
        return f"one of the {len(values)} declared values"
    return "one of " + ", ".join(json.dumps(value, ensure_ascii=False) for value in values)


def _expect_datetime(zone: str | None) -> str:
    local = f", without offset in {zone} where that time exists" if zone else ""
    return f"a date and time such as 2026-01-31T09:30:00Z{local}"


def _expect_bounds(field: FeatureField | ContextField) -> str:
    if isinstance(field, FeatureField) and field.outside != "reject":
        return ""
    if field.low is not None and field.high is not None:
        return f" from {field.low:g} to {field.high:g}"
    if field.low is not None:
        return f" from {field.low:g}"
    return "" if field.high is None else f" up to {field.high:g}"


def _value_type(field: FeatureField | ContextField) -> Any:
    if field.kind == "bool":
        return bool
    if field.kind == "float":
        low, high = _reject_bounds(field)
        return Annotated[float, Meta(ge=low, le=high)]
    if field.kind == "int":
        low, high = _reject_bounds(field)
        return Annotated[int, Meta(ge=max(math.ceil(low), INT64_MIN), le=min(math.floor(high), INT64_MAX))]
    strict = isinstance(field, ContextField) or field.unknown == "reject"
    if field.kind == "category" and strict and field.values is not None:
        return Literal[field.values]
    return Annotated[str, Meta(min_length=1, max_length=MAX_TEXT)]  # "" is missing, which the slow way judges


def _feature_type(field: FeatureField) -> Any:
    kind = _value_type(field)
    return Union[kind, None, UnsetType] if field.missing == "allow" else kind  # noqa: UP007


def _context_type(field: ContextField) -> Any:
    kind = _value_type(field)
    return kind if field.required else Union[kind, None, UnsetType]  # noqa: UP007


def _define(name: str, types: Sequence[tuple[str, Any]]) -> Any:
    """A struct with the fields' names outside and neutral ones inside, so that no name can clash with Python's."""
    inner = {f"f{i}": name for i, (name, _) in enumerate(types)}
    fields = [
        (key, kind, UNSET) if _may_be_unset(kind) else (key, kind) for key, (_, kind) in zip(inner, types, strict=True)
    ]
    return msgspec.defstruct(name, fields, rename=inner, kw_only=True, forbid_unknown_fields=True, gc=False)


def _may_hold_colons(field: FeatureField) -> bool:
    if field.kind == "category" and field.unknown == "reject" and field.values is not None:
        return any(":" in value for value in field.values)
    return field.kind in ("text", "datetime", "category")


def _may_be_unset(kind: Any) -> bool:
    return UnsetType in getattr(kind, "__args__", ())


def _is_plain(field: FeatureField) -> bool:
    bounded = field.outside == "reject" or (field.low is None and field.high is None)
    return field.kind in ("float", "int") and field.missing == "reject" and bounded


def _codes_of(field: FeatureField) -> dict[Any, float] | None:
    if field.kind == "category":
        return {value: float(code) for code, value in enumerate(field.values or ())}
    return {False: 0.0, True: 1.0} if field.kind == "bool" else None


def _finish_of(field: FeatureField) -> _Finish | None:
    """What is still to be done with a value that has the right type; None if nothing."""
    if field.kind == "datetime":
        return _finish_datetime(field)
    if field.pattern is not UNSET:
        return _finish_pattern(field, _pattern(field.pattern))
    if field.kind == "category" and field.unknown != "reject":
        return _finish_category(field)
    if field.kind in ("float", "int") and field.outside != "reject":
        return _finish_bounds(field.name, field.low, field.high, field.outside)
    return None


def _finish_datetime(field: FeatureField) -> _Finish:
    zone = find_zone(field.zone)

    def finish(value: str, sample: Sample) -> datetime:  # noqa: ARG001
        moment = read_datetime(value, zone)
        if moment is None:
            raise _refusal(field, value)
        return moment

    return finish


def _finish_pattern(field: FeatureField, pattern: Pattern) -> _Finish:
    def finish(value: str, sample: Sample) -> str:  # noqa: ARG001
        if pattern.matches(value):
            return value
        raise _refusal(field, value)

    return finish


def _refusal(field: FeatureField, value: Any) -> InvalidRequestError:
    problem = FieldProblem(f"inputs.{field.name}", _expect(field), show(value))
    return InvalidRequestError(422, _detail([problem]), [problem])


def _finish_category(field: FeatureField) -> _Finish:
    known = frozenset(field.values or ())

    def finish(value: str, sample: Sample) -> str | None:
        if value in known:
            return value
        label = clean_text(value, known)
        if label is None and field.missing == "reject":
            raise _refusal(field, value)
        if label is None or label in known:
            return label
        text = f"{field.name} is not one of the declared values: taken as missing"
        sample.warn(text) if field.unknown == "missing" else sample.send_to_review(text)
        return None

    return finish


def _finish_bounds(name: str, low: float | None, high: float | None, outside: str) -> _Finish | None:
    if low is None and high is None:
        return None
    lowest = -math.inf if low is None else low
    highest = math.inf if high is None else high
    bounds = f"{lowest:g} to {highest:g}"

    def finish(value: Any, sample: Sample) -> Any:
        if lowest <= value <= highest:
            return value
        if outside == "clip":
            sample.warn(f"{name} is outside {bounds}: clipped")
            return lowest if value < lowest else highest
        if outside == "missing":
            sample.warn(f"{name} is outside {bounds}: taken as missing")
            return None
        if outside == "review":
            sample.send_to_review(f"{name} is outside {bounds}")
            return value
        problem = FieldProblem(f"derived.{name}", f"a number from {bounds}", show(value))
        raise InvalidRequestError(422, _detail([problem]), [problem])

    return finish


def _finish_derived(name: str, values: tuple[str, ...], unknown: object) -> _Finish:
    known = frozenset(values)
    expected = _expect_values(values)

    def finish(value: str, sample: Sample) -> str | None:
        if value in known:
            return value
        if unknown == "reject":
            problem = FieldProblem(f"derived.{name}", expected, show(value))
            raise InvalidRequestError(422, _detail([problem]), [problem])
        text = f"{name} is not one of the declared values: taken as missing"
        sample.send_to_review(text) if unknown == "review" else sample.warn(text)
        return None

    return finish


def _column_kinds(schema: Schema) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {field.name: field.kind for field in schema.features}
    kinds.update({field.name: field.kind for field in schema.context})
    kinds.update({field.name: field.kind for field in schema.derived})
    return kinds


def _compile(text: str, kinds: Mapping[str, Kind]) -> Callable[[Row], Value | None]:
    return compile_row(_parse(text, kinds))


def _parse(text: str, kinds: Mapping[str, Kind], labels: Sequence[str] | None = None) -> Expression:
    try:
        return parse_derived(text, kinds, labels)
    except ValueError as error:
        raise IntegrityError(f"The payload's expression {text!r} cannot be used: {error}") from None


def _derivation(field: DerivedField, kinds: Mapping[str, Kind], schema: Schema) -> _Derivation:
    if field.name not in schema.columns:
        raise IntegrityError(f"The payload derives {field.name!r}, which is no model column.")
    values = None if field.values is UNSET else field.values
    expression = _parse(field.expression, kinds, values)
    if expression.kind != {"bool": "bool", "category": "text"}.get(field.kind, "number") or (
        (values is None) is (field.kind == "category")
    ):
        raise IntegrityError(
            f"The payload derives {field.name!r} as {field.kind}, and its expression gives no such value."
        )
    check = _finish_bounds(field.name, field.low, field.high, field.outside)
    codes = None
    if values is not None:
        codes = {value: float(code) for code, value in enumerate(values)}
        check = _finish_derived(field.name, values, field.unknown)
    times = tuple(column.name for column in schema.context if column.name in expression.columns)
    return field.name, schema.columns.index(field.name), compile_row(expression), check, codes, times


def _value_of(field: FeatureField, reference: float) -> object:
    if field.values:
        return field.values[int(reference)]
    return bool(reference) if field.kind == "bool" else reference


def _key_places(lookup: Lookup, given: Sequence[str]) -> tuple[int, ...]:
    """Where the parts of its key stand in what a request gives."""
    strangers = set(lookup.field.key) - set(given)
    if strangers:
        raise IntegrityError(f"The payload's lookup {lookup.field.name} is by {strangers}, which no request carries.")
    return tuple(given.index(name) for name in lookup.field.key)


def _places(schema: Schema, features: Sequence[FeatureField]) -> tuple[int | None, ...]:
    places = {name: place for place, name in enumerate(schema.columns)}
    known = {field.name for field in schema.features} | {field.name for field in schema.derived}
    strangers = [name for name in schema.columns if name not in known]
    if strangers or len(places) != len(schema.columns):
        raise IntegrityError(
            f"The payload's model columns are not features or derived columns, once each: {strangers}."
        )
    return tuple(places.get(field.name) for field in features)
