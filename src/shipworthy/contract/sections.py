"""What the contract's sections are made of: the base of all, names and limits with units."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shipworthy.contract.quantities import Duration, Multiple, Share, Size

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
Text = Annotated[str, Field(min_length=1)]
Entry = Annotated[str, Field(pattern=r"^[\w./-]+\.py:[A-Za-z_]\w*$")]
ENTRY = re.compile(r"[\w./-]+\.py:[A-Za-z_]\w*", re.ASCII)  # as `Entry`, to tell it from SQL
Probability = Annotated[float, Field(ge=0, le=1)]
WebAddress = Annotated[str, Field(pattern=r"^(https?://|\$\{[A-Za-z_][A-Za-z0-9_]*\})\S*$", max_length=2048)]
Secret = Annotated[str, Field(pattern=r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$")]
Bounds = Annotated[tuple[float, float], Field(description="[lowest, highest], both allowed")]
Task = Literal["binary", "multiclass", "regression"]
Kind = Literal["float", "int", "bool", "category", "text", "datetime"]
Role = Literal["key", "subject", "time", "protected", "slice"]
Metric = Literal[
    "log_loss",
    "brier",
    "roc_auc",
    "average_precision",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "mae",
    "rmse",
    "r2",
]
METRICS: dict[Task, tuple[Metric, ...]] = {
    "binary": ("log_loss", "brier", "roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1"),
    "multiclass": ("log_loss", "brier", "accuracy", "balanced_accuracy", "f1"),
    "regression": ("mae", "rmse", "r2"),
}
LOSSES: frozenset[str] = frozenset({"log_loss", "brier", "mae", "rmse"})  # lower is better


def is_absent(value: Any) -> bool:
    """Whether a key of later versions is not used: it then leaves the digest of a contract as it was."""
    return value in (None, False, (), {})


def is_missing(value: Any) -> bool:
    """Whether an unlisted category is taken as missing, which says nothing of a column that is no category."""
    return bool(value == "missing")


def is_refuse(value: Any) -> bool:
    """As `is_absent`, for what is refused unless the contract says otherwise."""
    return bool(value == "refuse")


class Section(BaseModel):
    """A part of the contract: frozen, strict, and no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class AtMost(Section):
    """An upper limit on a share."""

    at_most: Share = Field(description="the largest share allowed")


class AtLeastRows(Section):
    """A lower limit on a number of rows."""

    at_least: Annotated[int, Field(ge=1)] = Field(description="the smallest number of rows")


class Growth(Section):
    """How many rows a batch may have beside the last snapshot."""

    at_least: Multiple | None = Field(None, description="of the last snapshot's rows, at least so many")
    at_most: Multiple | None = Field(None, description="of the last snapshot's rows, at most so many")


class MaxAge(Section):
    """How old the newest row may be."""

    at_most: Duration = Field(description="the newest row may be this old")


class RowLimits(Section):
    """Limits on a number of rows."""

    at_least: Annotated[int, Field(ge=1)] | None = Field(None, description="the smallest number of rows")
    at_most: Annotated[int, Field(ge=1)] | None = Field(
        None, description="the largest number of rows", exclude_if=is_absent
    )


class MaxSize(Section):
    """An upper limit on a size."""

    at_most: Size = Field(description="the largest size allowed")
