"""The contract's types, version 1: every section, key, unit and default.

Durations are seconds, shares fractions, sizes bytes. What only makes sense between two keys is checked in
`parse`, which reports all problems at once.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from shipworthy.contract.quantities import Duration, Share, Size, Sum

VERSION = 1
RESERVED = ("privacy", "retention", "behaviour", "alerts", "intended_use", "assumptions", "limits", "export")

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
SystemName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Text = Annotated[str, Field(min_length=1)]
Entry = Annotated[str, Field(pattern=r"^[\w./-]+\.py:[A-Za-z_]\w*$")]
Probability = Annotated[float, Field(ge=0, le=1)]
Bounds = Annotated[tuple[float, float], Field(description="[lowest, highest], both allowed")]

Task = Literal["binary", "multiclass", "regression"]
Kind = Literal["float", "int", "bool", "category", "text", "datetime"]
Role = Literal["key", "subject", "time", "protected", "slice"]
EnvironmentRole = Literal[
    "data-scientist", "ml-engineer", "platform", "security", "risk", "business", "auditor", "service"
]
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


class Section(BaseModel):
    """A part of the contract: frozen, strict, and no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class AtMost(Section):
    """An upper limit on a share."""

    at_most: Share


class AtLeastRows(Section):
    """A lower limit on a number of rows."""

    at_least: Annotated[int, Field(ge=1)]


class MaxAge(Section):
    """How old the newest row may be."""

    at_most: Duration


class Source(Section):
    """Where rows come from: a file in the project, or a query on a database."""

    path: Text | None = None  # CSV, JSONL or Parquet, relative to the project
    url: Text | None = None  # database or HTTP address; secrets only as ${NAME}
    query: Text | None = None  # SQL, with url
    retries: Annotated[int, Field(ge=0, le=20)] = 0
    watermark: Name | None = None  # column that only grows; without it the source is read again


class Accept(Section):
    """When a batch as a whole is good enough to become a snapshot."""

    rows: AtLeastRows | None = None
    quarantined: AtMost | None = None
    age: MaxAge | None = None


class Data(Section):
    """Sources, how they become one frame, and what a batch must satisfy."""

    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    prepare: Text | None = None  # `file.py:function` (sources -> polars frame) or a SQL text
    accept: Accept = Accept()


class Column(Section):
    """What a feature and a context column have in common."""

    type: Kind
    unit: Text | None = None
    range: Bounds | None = None
    values: Annotated[tuple[str, ...], Field(min_length=1)] | None = None  # of a category, quoted text
    zone: Text | None = None  # IANA time zone of a datetime written without one
    personal: bool = False
    description: Text | None = None


class ContextColumn(Column):
    """Recorded with each prediction, never a model input."""

    role: Role
    reference: str | None = None  # of a protected column: the group others are compared with
    request: Literal["required", "optional"] = "optional"


class Feature(Column):
    """What a caller sends and the model sees."""

    outside: Literal["reject", "clip", "missing", "review"] = "reject"  # of its range
    unknown: Literal["reject", "missing", "review"] = "reject"  # category
    missing: Literal["reject", "allow"] = "reject"


class Derived(Section):
    """Computed row by row, alike in tables and in the server; x/0 is missing."""

    from_: Annotated[str, Field(alias="from", min_length=1)]
    type: Literal["float", "int", "bool"]
    unit: Text | None = None
    range: Bounds | None = None
    outside: Literal["reject", "clip", "missing", "review"] = "missing"
    description: Text | None = None


class Check(Section):
    """A rule between the columns of one row."""

    name: Text
    expect: Text
    failing: AtMost = AtMost.model_construct(at_most=0.0)


class Target(Section):
    """What is predicted, and when its truth is known."""

    column: Name
    type: Task
    values: Annotated[tuple[str, ...], Field(min_length=2)] | None = None  # classes, quoted text
    positive: str | None = None  # binary: the class whose probability is thresholded
    unit: Text | None = None
    range: Bounds | None = None
    known_after: Duration | None = None


class Split(Section):
    """How rows are parted into train, calibrate and test."""

    by: Literal["time", "random", "subject"] = "random"
    calibrate: Share = 0.1
    test: Share = 0.2


class Parameter(Section):
    """The space of one searched parameter: a range, or choices."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: Annotated[tuple[str | int | float | bool, ...], Field(min_length=1)] | None = None


class Search(Section):
    """A search over parameters."""

    trials: Annotated[int, Field(ge=1, le=10_000)]
    minimise: Metric | None = None
    maximise: Metric | None = None
    params: Annotated[dict[Name, Parameter], Field(min_length=1)]


class Training(Section):
    """The user's training code and how it is run."""

    entry: Entry
    split: Split = Split()
    search: Search | None = None
    params: dict[Name, str | int | float | bool] = {}  # handed to the entry as they stand
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    timeout: Duration = 3600.0
    memory: Size | None = None


class Threshold(Section):
    """Where a probability becomes the positive class: fixed, or chosen on the calibrate part."""

    at: Probability | None = None
    maximise: Literal["value", "f1", "balanced_accuracy", "accuracy"] | None = None


class Review(Section):
    """Which answers a person looks at, and what is answered meanwhile."""

    confidence_below: Probability
    answer: str | None = None  # an action; without it the model's own decision stands


class Rule(Section):
    """One fallback rule."""

    if_: Annotated[str, Field(alias="if", min_length=1)]
    then: str | float


class Fallback(Section):
    """What is answered when the model cannot: first matching rule, else `otherwise`."""

    rules: tuple[Rule, ...] = ()
    otherwise: str | float


class Band(Section):
    """Regression: the action of predictions below an edge; the last band has none."""

    action: Name
    below: float | None = None


class Decision(Section):
    """From a prediction to an action."""

    actions: dict[str, str] | None = None  # class -> action
    bands: Annotated[tuple[Band, ...], Field(min_length=1)] | None = None  # regression
    threshold: Threshold | None = None  # binary
    review: Review | None = None
    fallback: Fallback
    interval: Share = 0.9  # coverage of a regression's interval


class Value(Section):
    """What each action is worth when the truth is each class, in one currency."""

    unit: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    outcomes: dict[str, dict[str, float]]  # action -> class -> sum

    @model_validator(mode="before")
    @classmethod
    def _gather_actions(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "outcomes" not in raw:
            return {"unit": raw.get("unit"), "outcomes": {k: v for k, v in raw.items() if k != "unit"}}
        return raw


class MetricLimit(Section):
    """What a metric's confidence bound must reach."""

    better_than: Literal["baseline"] | None = None
    at_least: float | None = None
    at_most: float | None = None


class ChampionLimit(Section):
    """How much worse than the serving release a metric may be."""

    no_worse_by: Annotated[float, Field(ge=0)]


class ValueLimit(Section):
    """What one decision must be worth on average."""

    at_least: Sum


class ValueGate(Section):
    """Business value."""

    per_decision: ValueLimit


class UpTo(Section):
    """A largest difference."""

    at_most: Probability


class From(Section):
    """A smallest ratio."""

    at_least: Probability


class FairnessLimits(Section):
    """Limits between each protected group and its reference."""

    equal_opportunity_difference: UpTo | None = None
    demographic_parity_difference: UpTo | None = None
    equalised_odds_difference: UpTo | None = None
    demographic_parity_ratio: From | None = None


class Slices(Section):
    """Columns whose every group must reach the limits on its own."""

    by: Annotated[tuple[Name, ...], Field(min_length=1)]
    limits: dict[Metric, MetricLimit]

    @model_validator(mode="before")
    @classmethod
    def _gather_limits(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "limits" not in raw:
            return {"by": raw.get("by"), "limits": {k: v for k, v in raw.items() if k != "by"}}
        return raw


class Robustness(Section):
    """How many decisions may flip when inputs are noisy."""

    noise_sd: Share  # of each feature's standard deviation
    flips: AtMost


class LatencyLimit(Section):
    """An upper limit on a duration."""

    at_most: Duration


class SizeLimit(Section):
    """An upper limit on bytes."""

    at_most: Size


class CostLimit(Section):
    """An upper limit on a sum."""

    at_most: Sum


class Budget(Section):
    """What serving may take, measured in the real server."""

    at_rps: Annotated[int, Field(ge=1, le=1_000_000)]
    p99: LatencyLimit | None = None
    memory: SizeLimit | None = None
    size: SizeLimit | None = None
    cost_per_1k: CostLimit | None = None


class Gates(Section):
    """Limits that a candidate must meet to become a release."""

    confidence: Annotated[Share, Field(gt=0.5, lt=1)] = 0.95
    performance: Annotated[dict[Metric, MetricLimit], Field(min_length=1)]
    champion: dict[Metric, ChampionLimit] = {}
    value: ValueGate | None = None
    fairness: FairnessLimits | None = None
    slices: Slices | None = None
    robustness: Robustness | None = None
    budget: Budget | None = None


class Cost(Section):
    """Prices that turn measured use into cost and carbon."""

    usd_per_core_hour: Annotated[float, Field(ge=0)] = 0.05
    g_co2_per_kwh: Annotated[float, Field(ge=0)] = 400.0


class Serving(Section):
    """How the server answers."""

    timeout: Duration = 1.0
    reasons: Annotated[int, Field(ge=0, le=50)] = 3
    workers: Annotated[int, Field(ge=1, le=256)] = 1


class Records(Section):
    """How predictions are kept."""

    durability: Literal["sync", "async", "off"] = "sync"
    when_full: Literal["refuse", "spool", "drop"] = "refuse"
    keep: Duration | None = None


class Hold(Section):
    """How long each rollout step lasts."""

    at_least: Duration
    at_most: Duration


class ByShare(Section):
    """A margin as a share."""

    by: Share


class BySum(Section):
    """A margin as a sum per decision."""

    by: Sum


class NoWorse(Section):
    """By how much a canary may be worse than the champion."""

    errors: ByShare | None = None
    p99: ByShare | None = None
    value: BySum | None = None


class Rollout(Section):
    """Traffic shifts in steps, each judged."""

    steps: Annotated[tuple[Share, ...], Field(min_length=1)]
    unit: Literal["subject", "key", "request"] = "subject"
    hold: Hold
    false_rollback: AtMost = AtMost.model_construct(at_most=0.01)
    no_worse: NoWorse


class Environment(Section):
    """Where releases run, who must approve, how traffic shifts."""

    approvals: dict[EnvironmentRole, Annotated[int, Field(ge=1, le=10)]] = {}
    rollout: Rollout | None = None


def _with_local(environments: dict[str, Environment]) -> dict[str, Environment]:
    """`local` is always there, first unless the contract places it."""
    return environments if "local" in environments else {"local": Environment(), **environments}


class FalseAlarms(Section):
    """A budget of false alarms for the whole monitoring."""

    at_most: Annotated[float, Field(gt=0)]
    per: Duration


class Monitor(Section):
    """How often windows are judged and how many false alarms are tolerable."""

    every: Duration
    rows: AtLeastRows
    false_alarms: FalseAlarms


class Retrain(Section):
    """What calls for training anew."""

    when: tuple[Literal["drift", "performance", "data"], ...] = ()
    at_least_every: Duration | None = None


class Contract(Section):
    """A whole contract, version 1."""

    reserved: ClassVar[tuple[str, ...]] = RESERVED

    shipworthy: Literal[1]
    system: SystemName
    purpose: Text
    owner: Text
    risk: Literal["minimal", "limited", "high"]
    data: Data
    context: dict[Name, ContextColumn] = {}
    features: Annotated[dict[Name, Feature], Field(min_length=1)]
    derived: dict[Name, Derived] = {}
    checks: tuple[Check, ...] = ()
    target: Target
    training: Training
    decision: Decision
    value: Value | None = None
    gates: Gates
    cost: Cost = Cost()
    serving: Serving = Serving()
    records: Records = Records()
    environments: Annotated[dict[SystemName, Environment], AfterValidator(_with_local)] = {"local": Environment()}
    monitor: Monitor | None = None
    retrain: Retrain | None = None

    def context_by_role(self, role: Role) -> tuple[str, ...]:
        """Names of the context columns with `role`, in contract order."""
        return tuple(name for name, column in self.context.items() if column.role == role)

    @property
    def model_columns(self) -> tuple[str, ...]:
        """The model's inputs in order: features that are numbers or categories, then derived columns."""
        direct = (name for name, feature in self.features.items() if feature.type not in ("text", "datetime"))
        return (*direct, *self.derived)
