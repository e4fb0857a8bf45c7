"""The sections of columns: context, features, derived columns, checks and the target."""

from typing import Annotated, Literal

from pydantic import Field

from shipworthy.contract.quantities import Duration
from shipworthy.contract.sections import AtMost, Bounds, Kind, Name, Role, Section, Task, Text, is_absent, is_missing

_LOOKUP = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$"


class Column(Section):
    """What a feature and a context column have in common."""

    type: Kind = Field(description="what the column holds")
    unit: Text | None = Field(None, description="unit of a number, for readers")
    range: Bounds | None = Field(None, description="lowest and highest value, both allowed; of a number")
    values: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="the values of a category, as quoted text"
    )
    pattern: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        None,
        description="regular expression that a whole text must match; [how it is written](data.md#patterns)",
        exclude_if=is_absent,
    )
    unique: bool = Field(
        False,
        description="whether each value stands in one row of the data; later rows are quarantined",
        exclude_if=is_absent,
    )
    zone: Text | None = Field(None, description="IANA time zone of a datetime that is written without one")
    personal: bool = Field(False, description="whether it is personal data")
    description: Text | None = Field(None, description="what it means, for readers")


class ContextColumn(Column):
    """Recorded with each prediction, never a model input."""

    role: Role = Field(
        description="name of the row, person or thing, time; judged for fairness, or for quality by group"
    )
    reference: str | None = Field(None, description="of a protected column: the group that others are compared with")
    request: Literal["required", "optional"] = Field("optional", description="whether a request must carry it")


class Feature(Column):
    """What a caller sends, or the server looks up, and the model sees."""

    lookup: Annotated[str, Field(pattern=_LOOKUP)] | None = Field(
        None,
        description="`NAME` or `NAME.COLUMN` of `data.lookups`: where it is looked up, and callers do not send it",
        exclude_if=is_absent,
    )
    outside: Literal["reject", "clip", "missing", "review"] = Field(
        "reject", description="what happens to a value beyond the range"
    )
    unknown: Literal["reject", "missing", "review"] = Field(
        "reject", description="what happens to a category that is not listed"
    )
    missing: Literal["reject", "allow"] = Field("reject", description="whether the value may be absent")


class Derived(Section):
    """Computed row by row, alike in tables and in the server; x/0 is missing."""

    from_: Annotated[str, Field(alias="from", min_length=1)] = Field(
        description="expression over features, time columns and derived columns above"
    )
    type: Literal["float", "int", "bool", "category"] = Field(
        description="what the expression gives; `int` asks for one that is whole by construction, `category` for "
        "a text or `bucket(…)`"
    )
    unit: Text | None = Field(None, description="unit of a number, for readers")
    range: Bounds | None = Field(None, description="lowest and highest value, both allowed")
    outside: Literal["reject", "clip", "missing", "review"] = Field(
        "missing", description="what happens to a value beyond the range"
    )
    values: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None,
        description="the values of a category, as quoted text; of a `bucket(…)` one for each bucket, lowest first",
        exclude_if=is_absent,
    )
    unknown: Literal["reject", "missing", "review"] = Field(
        "missing", description="what happens to a category that is not listed", exclude_if=is_missing
    )
    description: Text | None = Field(None, description="what it means, for readers")


class Check(Section):
    """A rule between the columns of one row."""

    name: Text = Field(description="what reports call the rule")
    expect: Text = Field(
        description="condition over features, context and derived columns; a row where it is missing passes, "
        "a request for which it is false is refused"
    )
    failing: AtMost = Field(
        AtMost.model_construct(at_most=0.0), description="share of rows that may fail; those that do are quarantined"
    )


class Target(Section):
    """What is predicted, and when its truth is known."""

    column: Name = Field(description="column of the prepared data")
    type: Task = Field(description="binary and multiclass predict a class, regression a number")
    values: Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        None, description="the classes as quoted text; not for a regression"
    )
    positive: str | None = Field(None, description="binary: the class that the probability and the threshold are of")
    unit: Text | None = Field(None, description="unit of a regression")
    range: Bounds | None = Field(None, description="of a regression: lowest and highest value, both allowed")
    known_after: Duration | None = Field(
        None, description="how long after the row its truth is known; the gap of a split by time"
    )
