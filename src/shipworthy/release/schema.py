"""The contract's columns as the server reads them."""

from msgspec import UNSET

from shipworthy.bundle.format import CheckField, ContextField, DerivedField, FeatureField, LookupField, Schema
from shipworthy.contract.columns import ContextColumn, Derived, Feature
from shipworthy.contract.data_section import Lookup
from shipworthy.contract.lookups import place_of
from shipworthy.contract.types import Contract


def compile_schema(contract: Contract) -> Schema:
    """What a request looks like and how it becomes the model's row; the same contract, the same schema."""
    return Schema(
        system=contract.system,
        features=tuple(_feature(name, column) for name, column in contract.features.items()),
        context=tuple(_context(name, column) for name, column in contract.context.items()),
        derived=tuple(_derived(name, column) for name, column in contract.derived.items()),
        columns=contract.model_columns,
        checks=tuple(CheckField(name=check.name, condition=check.expect) for check in contract.checks),
        lookups=tuple(_lookup(name, lookup) for name, lookup in contract.data.lookups.items()) or UNSET,
    )


def _feature(name: str, column: Feature) -> FeatureField:
    low, high = column.range or (None, None)
    place = place_of(name, column)
    return FeatureField(
        name=name,
        kind=column.type,
        unit=column.unit,
        low=low,
        high=high,
        outside=column.outside,
        values=column.values,
        unknown=column.unknown,
        missing=column.missing,
        pattern=UNSET if column.pattern is None else column.pattern,
        zone=column.zone,
        lookup=UNSET if place is None else place[0],
    )


def _lookup(name: str, lookup: Lookup) -> LookupField:
    return LookupField(
        name=name,
        key=tuple(lookup.key),
        is_timed=lookup.time is not None,
        delay_us=round((lookup.delay or 0) * 1e6),
        max_age_us=None if lookup.age is None else round(lookup.age.at_most * 1e6),
    )


def _context(name: str, column: ContextColumn) -> ContextField:
    low, high = column.range or (None, None)
    return ContextField(
        name=name,
        kind=column.type,
        role=column.role,
        low=low,
        high=high,
        values=column.values,
        required=column.request == "required",
        pattern=UNSET if column.pattern is None else column.pattern,
        zone=column.zone,
    )


def _derived(name: str, column: Derived) -> DerivedField:
    low, high = column.range or (None, None)
    return DerivedField(
        name=name,
        kind=column.type,
        expression=column.from_,
        low=low,
        high=high,
        outside=column.outside,
        values=UNSET if column.values is None else column.values,
        unknown=UNSET if column.values is None else column.unknown,
    )
