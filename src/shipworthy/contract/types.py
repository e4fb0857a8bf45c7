"""The contract's types, version 1: every section, key, unit and default.

Durations are seconds, shares fractions, sizes bytes. What only makes sense between two keys is checked in
`parse`, which reports all problems at once.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from shipworthy.contract.columns import Check, ContextColumn, Derived, Feature, Target
from shipworthy.contract.data_section import Data, FalseAlarms
from shipworthy.contract.gates_section import Gates
from shipworthy.contract.quantities import Duration, Share, Size, Sum
from shipworthy.contract.sections import (
    AtLeastRows,
    AtMost,
    Entry,
    Metric,
    Name,
    Probability,
    Role,
    Section,
    Text,
    WebAddress,
)

VERSION = 1
RESERVED = ("privacy", "retention", "behaviour", "intended_use", "assumptions", "limits", "export")
SystemName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
PythonFile = Annotated[str, Field(pattern=r"^[\w./-]+\.py$")]
EnvironmentRole = Literal[
    "data-scientist", "ml-engineer", "platform", "security", "risk", "business", "auditor", "service"
]


class Split(Section):
    """How rows are parted into train, calibrate and test."""

    by: Literal["time", "random", "subject"] = Field(
        "random", description="by the time column, at random, or with all rows of a subject in one part"
    )
    calibrate: Share = Field(0.1, description="share of rows on which probabilities and thresholds are set")
    test: Share = Field(0.2, description="share of rows that only the gates see")


class Parameter(Section):
    """The space of one searched parameter: a range, or choices."""

    low: float | None = Field(None, description="lowest value")
    high: float | None = Field(None, description="highest value")
    log: bool = Field(False, description="whether to search the logarithm")
    step: float | None = Field(None, description="distance of the values tried")
    choices: Annotated[tuple[str | int | float | bool, ...], Field(min_length=1)] | None = Field(
        None, description="the values tried; instead of low and high"
    )


class Search(Section):
    """A search over parameters."""

    trials: Annotated[int, Field(ge=1, le=10_000)] = Field(description="how many settings are tried")
    minimise: Metric | None = Field(None, description="loss to minimise")
    maximise: Metric | None = Field(None, description="metric to maximise")
    params: Annotated[dict[Name, Parameter], Field(min_length=1)] = Field(description="parameter to its space")


class Training(Section):
    """The user's training code and how it is run."""

    entry: Entry = Field(
        description="`file.py:function`, which takes (frame, params, context) and gives a fitted model"
    )
    split: Split = Field(Split(), description="how rows are parted")
    search: Search | None = Field(None, description="search over parameters")
    params: dict[Name, str | int | float | bool] = Field(
        {}, description="fixed parameters, handed to the entry as they stand"
    )
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = Field(0, description="seed of everything random")
    timeout: Duration = Field(3600.0, description="after this the training is stopped")
    memory: Size | None = Field(None, description="memory that the training may take")


class Threshold(Section):
    """Where a probability becomes the positive class: fixed, or chosen on the calibrate part."""

    at: Probability | None = Field(None, description="fixed probability")
    maximise: Literal["value", "f1", "balanced_accuracy", "accuracy"] | None = Field(
        None, description="chosen on the calibrate part, then fixed in the payload"
    )


class Review(Section):
    """Which answers a person looks at, and what is answered meanwhile."""

    confidence_below: Probability = Field(description="answers with less confidence go to a person")
    answer: str | None = Field(None, description="action that is answered meanwhile; without it the model's own")
    claim: Duration = Field(1800.0, description="how long a claim holds before somebody else may take the answer")
    truth: Literal["person", "later"] | None = Field(
        None,
        description="`person`: what a person decides is told as the outcome; `later`: the truth comes by itself. "
        "Without it `later` if `target.known_after` is set, else `person`",
    )


class OutOfDistribution(Section):
    """What becomes of rows that are unlike those that the model was trained on; without the section nothing does."""

    handling: Literal["review", "fallback", "warn"] = Field(
        description="`review`: a person looks at it; `fallback`: the fallback answers; `warn`: it is answered and said"
    )
    share: Annotated[Share, Field(gt=0, le=0.1)] = Field(
        0.005, description="share of ordinary rows that may be taken for one; fixes the limit on the calibrate part"
    )


class Rule(Section):
    """One fallback rule."""

    if_: Annotated[str, Field(alias="if", min_length=1)] = Field(
        description="condition over features, context and derived columns"
    )
    then: str | float = Field(description="action that is answered; a number for a regression without bands")


class Fallback(Section):
    """What is answered when the model cannot: the last good release, the first rule that matches, else `otherwise`."""

    last_good: bool = Field(
        False,
        description="whether the release that answered before this one is asked first; it stays loaded beside it",
    )
    rules: tuple[Rule, ...] = Field((), description="first matching rule wins")
    otherwise: str | float = Field(
        description="action that is answered when no rule matches; a number for a regression without bands"
    )


class Band(Section):
    """Regression: the action of predictions below an edge; the last band has none."""

    action: Name = Field(description="action of the band")
    below: float | None = Field(None, description="upper edge, not included; the last band has none")


class Decision(Section):
    """From a prediction to an action."""

    actions: dict[str, str] | None = Field(None, description="class to action; without it the action is the class")
    bands: Annotated[tuple[Band, ...], Field(min_length=1)] | None = Field(
        None, description="of a regression: actions by rising prediction"
    )
    threshold: Threshold | None = Field(None, description="binary: where a probability becomes the positive class")
    review: Review | None = Field(None, description="which answers a person looks at")
    out_of_distribution: OutOfDistribution | None = Field(
        None, description="what becomes of rows that are unlike those of the training"
    )
    fallback: Fallback = Field(description="what is answered when the model cannot")
    interval: Share = Field(0.9, description="coverage of a regression's interval")


class Value(Section):
    """What each action is worth when the truth is each class, in one currency."""

    unit: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = Field(description="currency")
    outcomes: dict[str, dict[str, float]] = Field(description="action to class to what one such decision is worth")

    @model_validator(mode="before")
    @classmethod
    def _gather_actions(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "outcomes" not in raw:
            named = {key: part for key, part in raw.items() if key == "unit"}
            return named | {"outcomes": {key: part for key, part in raw.items() if key != "unit"}}
        return raw


class Cost(Section):
    """Prices that turn measured use into cost and carbon."""

    usd_per_core_hour: Annotated[float, Field(ge=0)] = Field(0.05, description="price of a core for an hour, USD")
    g_co2_per_kwh: Annotated[float, Field(ge=0)] = Field(400.0, description="carbon of electricity, g CO2 per kWh")


class PythonServing(Section):
    """A model that cannot become ONNX: its own code answers, in a process of its own."""

    file: PythonFile = Field(
        description="holds all the code that answers: `load(files)` gives what has `predict(matrix)`; a release has "
        "this file, and the data that the trained model's `files()` gave"
    )
    memory: Size = Field(
        500_000_000, description="private memory that its process may take; one that nears it is replaced"
    )


class Serving(Section):
    """How the server answers."""

    timeout: Duration = Field(1.0, description="after this the fallback answers")
    reasons: Annotated[int, Field(ge=0, le=50)] = Field(3, description="how many reasons an answer may carry")
    give_reasons: Literal["on_request", "always"] = Field(
        "on_request", description="`always`: each answer of the model carries its reasons, and so does its record"
    )
    workers: Annotated[int, Field(ge=1, le=256)] = Field(1, description="processes that answer on one port")
    memory: Size | None = Field(
        None, description="resident memory of one worker; one that grows beyond is replaced. Default: no limit"
    )
    python: PythonServing | None = Field(
        None, description="declares that the model is served by Python code; without it every model becomes ONNX"
    )


class Records(Section):
    """How predictions are kept."""

    durability: Literal["sync", "async", "off"] = Field(
        "sync", description="`sync`: on disk before the answer; `async`: soon after, bounded loss; `off`: none"
    )
    when_full: Literal["refuse", "spool", "drop"] = Field(
        "refuse",
        description="what happens when the disk is full or fails: `refuse` answers 503, `spool` keeps records on "
        "another volume (`serve --spool DIR`) until it takes them again, `drop` answers and counts what is lost",
    )
    spool: Size = Field(10**9, description="most that waits in the spool; beyond, 503")
    keep: Duration | None = Field(None, description="how long records are kept")


class Hold(Section):
    """How long each rollout step lasts."""

    at_least: Duration = Field(description="shortest time of a step")
    at_most: Duration = Field(description="longest time of a step; undecided by then holds and asks a person")


class ByShare(Section):
    """A margin as a share."""

    by: Share = Field(description="margin as a share")


class BySum(Section):
    """A margin as a sum per decision."""

    by: Sum = Field(description="margin as a sum per decision")


class NoWorse(Section):
    """By how much a canary may be worse than the champion."""

    errors: ByShare | None = Field(None, description="share of requests that fail")
    p99: ByShare | None = Field(None, description="99th percentile of the answer's time")
    value: BySum | None = Field(None, description="average worth of a decision")


class Rollout(Section):
    """Traffic shifts in steps, each judged."""

    steps: Annotated[tuple[Share, ...], Field(min_length=1)] = Field(description="shares of traffic, ascending to 100%")
    unit: Literal["subject", "key", "request"] = Field("subject", description="what keeps its release during a step")
    hold: Hold = Field(description="how long a step lasts")
    false_rollback: AtMost = Field(
        AtMost.model_construct(at_most=0.01), description="chance that a good release is rolled back"
    )
    no_worse: NoWorse = Field(description="what is judged against the champion, with its margin")


class Environment(Section):
    """Where releases run, who must approve, how traffic shifts."""

    approvals: dict[EnvironmentRole, Annotated[int, Field(ge=1, le=10)]] = Field(
        {}, description="role to how many must approve"
    )
    rollout: Rollout | None = Field(None, description="how traffic shifts; without it at once")


def _with_local(environments: dict[str, Environment]) -> dict[str, Environment]:
    """`local` is always there, first unless the contract places it."""
    return environments if "local" in environments else {"local": Environment(), **environments}


class Monitor(Section):
    """How often windows are judged and how many false alarms are tolerable."""

    every: Duration = Field(description="how often a window is judged")
    rows: AtLeastRows = Field(description="how many rows a window needs")
    false_alarms: FalseAlarms = Field(description="budget of false alarms of all monitors together")


class Alerts(Section):
    """Whom an alert reaches, beside the ledger and the terminal."""

    webhooks: tuple[WebAddress, ...] = Field(
        (), description="http or https addresses that get each alert as JSON; secrets only as `${NAME}`"
    )


class Lineage(Section):
    """Who is told of every run, in the OpenLineage standard, beside the ledger; nobody by default."""

    openlineage: Text | None = Field(
        None,
        description="where events go: an http or https address (without a path: its `/api/v1/lineage`), with secrets "
        "only as `${NAME}`, or a file in the project, one event a line",
    )
    token: Annotated[str, Field(pattern=r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$")] | None = Field(
        None, description="bearer token that an address asks for, as `${NAME}`"
    )


def is_receiver(place: str) -> bool:
    """Whether `lineage.openlineage` names an address rather than a file.

    >>> is_receiver("https://lineage.example"), is_receiver("${OPENLINEAGE_URL}"), is_receiver("lineage.ndjson")
    (True, True, False)
    """
    return "://" in place or place.startswith("${")


class Retrain(Section):
    """What calls for training anew."""

    when: tuple[Literal["drift", "performance", "data"], ...] = Field((), description="findings that call for training")
    at_least_every: Duration | None = Field(None, description="training at least this often")


class Contract(Section):
    """A whole contract, version 1."""

    reserved: ClassVar[tuple[str, ...]] = RESERVED

    shipworthy: Literal[1] = Field(description="version of the contract's format")
    system: SystemName = Field(description="name of the system: small letters, digits and -")
    purpose: Text = Field(description="what it decides, in a sentence")
    owner: Text = Field(description="who answers for it")
    risk: Literal["minimal", "limited", "high"] = Field(description="risk class of the EU AI Act")
    data: Data = Field(description="where rows come from and when a batch is accepted")
    context: dict[Name, ContextColumn] = Field(
        {}, description="name to a column that is recorded with each prediction and never a model input"
    )
    features: Annotated[dict[Name, Feature], Field(min_length=1)] = Field(
        description="name to a column that a caller sends, or that is looked up"
    )
    derived: dict[Name, Derived] = Field({}, description="name to a column that is computed")
    checks: tuple[Check, ...] = Field((), description="rules between the columns of a row")
    target: Target = Field(description="what is predicted")
    training: Training = Field(description="how a model is trained")
    decision: Decision = Field(description="from a prediction to an action")
    value: Value | None = Field(None, description="what each action is worth when the truth is each class")
    gates: Gates = Field(description="what a candidate must meet")
    cost: Cost = Field(Cost(), description="prices")
    serving: Serving = Field(Serving(), description="how the server answers")
    records: Records = Field(Records(), description="how predictions are kept")
    encryption: Literal["off", "at_rest"] = Field(
        "off", description="whether rows, models, records and outcomes are encrypted where Shipworthy keeps them"
    )
    environments: Annotated[dict[SystemName, Environment], AfterValidator(_with_local)] = Field(
        {"local": Environment()}, description="name to where releases run; `local` is always there and owes no approval"
    )
    monitor: Monitor | None = Field(None, description="how drift is watched")
    retrain: Retrain | None = Field(None, description="what calls for training anew")
    alerts: Alerts = Field(
        Alerts(), description="whom an alert reaches: http or https addresses that get it as JSON, secrets as `${NAME}`"
    )
    lineage: Lineage = Field(Lineage(), description="who is told of every run, as OpenLineage events")

    def context_by_role(self, role: Role) -> tuple[str, ...]:
        """Names of the context columns with `role`, in contract order."""
        return tuple(name for name, column in self.context.items() if column.role == role)

    @property
    def decides_truth(self) -> bool:
        """Whether what a reviewer decides is what came true."""
        stated = self.decision.review.truth if self.decision.review is not None else None
        return self.target.known_after is None if stated is None else stated == "person"

    @property
    def model_columns(self) -> tuple[str, ...]:
        """The model's inputs in order: features that are numbers or categories, then derived columns."""
        direct = (name for name, feature in self.features.items() if feature.type not in ("text", "datetime"))
        return (*direct, *self.derived)

    @property
    def model_categories(self) -> dict[str, tuple[str, ...]]:
        """The model's inputs that are categories, in order, and their values; the model sees the place of a value."""
        columns: dict[str, Feature | Derived] = {**self.features, **self.derived}
        return {name: columns[name].values or () for name in self.model_columns if columns[name].type == "category"}
