"""The section `gates`: what must hold of a candidate before it may serve."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from shipworthy.contract.quantities import Duration, Share, Size, Sum
from shipworthy.contract.sections import AtMost, Metric, Name, Probability, Section


class MetricLimit(Section):
    """What a metric's confidence bound must reach."""

    better_than: Literal["baseline"] | None = Field(
        None, description="`baseline` is the best answer that ignores the inputs"
    )
    at_least: float | None = Field(None, description="of metrics where higher is better")
    at_most: float | None = Field(None, description="of losses")


class ChampionLimit(Section):
    """How much worse than the serving release a metric may be."""

    no_worse_by: Annotated[float, Field(ge=0)] = Field(description="margin, in units of the metric")


class ValueLimit(Section):
    """What one decision must be worth on average."""

    at_least: Sum = Field(description="smallest average worth")


class ValueGate(Section):
    """Business value."""

    per_decision: ValueLimit = Field(description="average worth of a decision")


class UpTo(Section):
    """A largest difference."""

    at_most: Probability = Field(description="largest difference, 0 to 1")


class From(Section):
    """A smallest ratio."""

    at_least: Probability = Field(description="smallest ratio, 0 to 1")


class FairnessLimits(Section):
    """Limits between each protected group and its reference."""

    equal_opportunity_difference: UpTo | None = Field(None, description="difference of true positive rates")
    demographic_parity_difference: UpTo | None = Field(None, description="difference of positive rates")
    equalised_odds_difference: UpTo | None = Field(
        None, description="larger of the differences of true and of false positive rates"
    )
    demographic_parity_ratio: From | None = Field(None, description="ratio of positive rates")


class Slices(Section):
    """Columns whose every group must reach the limits on its own."""

    by: Annotated[tuple[Name, ...], Field(min_length=1)] = Field(
        description="category or bool columns, or context columns with role slice"
    )
    limits: dict[Metric, MetricLimit] = Field(description="metric to its limit")

    @model_validator(mode="before")
    @classmethod
    def _gather_limits(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "limits" not in raw:
            named = {key: part for key, part in raw.items() if key == "by"}
            return named | {"limits": {key: part for key, part in raw.items() if key != "by"}}
        return raw


class Robustness(Section):
    """How many decisions may flip when inputs are noisy."""

    noise_sd: Share = Field(description="noise, as a share of each feature's standard deviation")
    flips: AtMost = Field(description="share of decisions that may flip")


class LatencyLimit(Section):
    """An upper limit on a duration."""

    at_most: Duration = Field(description="longest time")


class SizeLimit(Section):
    """An upper limit on bytes."""

    at_most: Size = Field(description="most bytes")


class CostLimit(Section):
    """An upper limit on a sum."""

    at_most: Sum = Field(description="highest sum")


class Budget(Section):
    """What serving may take, measured in the real server."""

    at_rps: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        description="requests per second at which the budget is measured"
    )
    p99: LatencyLimit | None = Field(None, description="99th percentile of the answer's time")
    memory: SizeLimit | None = Field(None, description="memory of a worker")
    size: SizeLimit | None = Field(None, description="size of the payload")
    cost_per_1k: CostLimit | None = Field(None, description="price of a thousand answers, by the section cost")


class Gates(Section):
    """Limits that a candidate must meet to become a release."""

    confidence: Annotated[Share, Field(gt=0.5, lt=1)] = Field(
        0.95, description="confidence of the bounds that must meet the limits"
    )
    performance: Annotated[dict[Metric, MetricLimit], Field(min_length=1)] = Field(description="metric to its limit")
    champion: dict[Metric, ChampionLimit] = Field(
        {}, description="metric to how much worse than the serving release it may be"
    )
    value: ValueGate | None = Field(None, description="what a decision must be worth")
    fairness: FairnessLimits | None = Field(None, description="limits between protected groups")
    slices: Slices | None = Field(None, description="limits within groups")
    robustness: Robustness | None = Field(None, description="limits under noise")
    budget: Budget | None = Field(None, description="limits on time, memory, size and cost")
