"""The contract's types, version 1: every section, key, unit and default.

Durations are seconds, shares fractions, sizes bytes. What only makes sense between two keys is checked in
`parse`, which reports all problems at once.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from shipworthy.contract.quantities import Duration, Multiple, Share, Size, Sum

VERSION = 1
RESERVED = ("privacy", "retention", "behaviour", "intended_use", "assumptions", "limits", "export")

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=128)]
SystemName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,62}$")]
Text = Annotated[str, Field(min_length=1)]
Entry = Annotated[str, Field(pattern=r"^[\w./-]+\.py:[A-Za-z_]\w*$")]
ENTRY = re.compile(r"[\w./-]+\.py:[A-Za-z_]\w*", re.ASCII)  # as `Entry`, to tell it from SQL
PythonFile = Annotated[str, Field(pattern=r"^[\w./-]+\.py$")]
_LOOKUP = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$"
_SOURCE_COLUMN = r"^[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*$"
Probability = Annotated[float, Field(ge=0, le=1)]
WebAddress = Annotated[str, Field(pattern=r"^(https?://|\$\{[A-Za-z_][A-Za-z0-9_]*\})\S*$", max_length=2048)]
Secret = Annotated[str, Field(pattern=r"^\$\{[A-Za-z_][A-Za-z0-9_]*\}$")]
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
FileFormat = Literal["csv", "tsv", "jsonl", "parquet", "arrow", "excel", "delta"]
Encoding = Literal["utf-8", "utf-8-sig", "utf-16", "latin-1", "windows-1252"]
METRICS: dict[Task, tuple[Metric, ...]] = {
    "binary": ("log_loss", "brier", "roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1"),
    "multiclass": ("log_loss", "brier", "accuracy", "balanced_accuracy", "f1"),
    "regression": ("mae", "rmse", "r2"),
}
LOSSES: frozenset[str] = frozenset({"log_loss", "brier", "mae", "rmse"})  # lower is better


def _is_absent(value: Any) -> bool:
    """Whether a key of later versions is not used: it then leaves the digest of a contract as it was."""
    return value in (None, False, (), {})


def _is_missing(value: Any) -> bool:
    """Whether an unlisted category is taken as missing, which says nothing of a column that is no category."""
    return bool(value == "missing")


def _is_refuse(value: Any) -> bool:
    """As `_is_absent`, for what is refused unless the contract says otherwise."""
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
        None, description="the largest number of rows", exclude_if=_is_absent
    )


class MaxSize(Section):
    """An upper limit on a size."""

    at_most: Size = Field(description="the largest size allowed")


class ObjectStore(Section):
    """How an object store is reached; what is left out stands in the environment, as AWS names it."""

    endpoint: WebAddress | None = Field(
        None, description="address of a store that is not Amazon's; else `AWS_ENDPOINT_URL`"
    )
    region: Text | None = Field(None, description="region of the bucket; else `AWS_REGION`, else us-east-1")
    access_key: Secret | None = Field(None, description="`${NAME}` of the access key; else `AWS_ACCESS_KEY_ID`")
    secret_key: Secret | None = Field(None, description="`${NAME}` of the secret key; else `AWS_SECRET_ACCESS_KEY`")


class Source(Section):
    """Where rows come from: files, in the project or elsewhere, or a query; how they are written, what they promise."""

    path: Text | None = Field(
        None, description="a file, a directory of files, a pattern such as `data/*.csv`, or a Delta table's folder"
    )
    format: FileFormat | None = Field(None, description="kind of the files; by content and suffix where it is not said")
    delimiter: Annotated[str, Field(pattern=r"^[!#$%&()*+,\-./:;<=>?@\[\\\]^_`{|}~\t]$")] | None = Field(
        None, description="what parts the fields of a text file; the likeliest of `, ; tab |` where no format is said"
    )
    encoding: Encoding = Field("utf-8", description="of a text file; a byte order mark is no data")
    decimal: Literal[".", ","] = Field(
        ".", description="what parts whole from fraction in the texts of columns that the contract calls numbers"
    )
    thousands: Literal[",", ".", "'", " "] | None = Field(
        None, description="what groups the digits of such numbers by three"
    )
    nulls: tuple[Text, ...] = Field(
        (), description="texts that stand for no value in every column of these files, beside the usual ones"
    )
    sheet: Text | None = Field(None, description="of an Excel workbook; its only one where it is not said")
    version: Annotated[int, Field(ge=0)] | None = Field(
        None, description="of a Delta table; the newest where it is not said"
    )
    url: Text | None = Field(
        None,
        description="a database (`postgresql://`, `sqlite:///`), a file (`https://`), or objects (`s3://BUCKET/KEY`, "
        "or `s3://BUCKET/PREFIX/` for all below it); secrets only as `${NAME}`",
    )
    query: Text | None = Field(None, description="SQL that a database answers; with `url`")
    retries: Annotated[int, Field(ge=0, le=20)] = Field(0, description="how often a failed read is tried again")
    timeout: Duration = Field(300.0, description="a try that takes longer is cut")
    watermark: Name | None = Field(
        None,
        description="column of a query that only grows: rows are read from its highest value on, and added to those "
        "of before; without it the query is read whole each time",
    )
    overlap: Duration | Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="what lies before the watermark's highest value and is read again, for rows that come late: a "
        "duration, or a number of rows",
    )
    key: Annotated[tuple[Name, ...], Field(min_length=1)] | None = Field(
        None,
        description="columns that name a row of a query with a watermark: a later row replaces the one of before; "
        "without it a row that differs is another row",
    )
    age: MaxAge | None = Field(
        None,
        description="how old the source may be, by when its file or newest object was changed, or by its newest "
        "watermark",
    )
    rows: RowLimits | None = Field(None, description="how many rows the source must have, before any is judged")
    size: MaxSize | None = Field(None, description="how large what is fetched may be; 10GB without it")
    store: ObjectStore | None = Field(None, description="how an object store is reached")
    time: Name | None = Field(
        None,
        description="column that says when a row became known; `ship` then proves that no feature sees later rows",
        exclude_if=_is_absent,
    )
    delay: Duration | None = Field(
        None, description="a row became known so much after its `time`", exclude_if=_is_absent
    )
    broken: Literal["refuse", "without", "last_good"] = Field(
        "refuse",
        description="what happens when it cannot be read or breaks a promise. `refuse`: nothing is ingested; "
        "`without`: `prepare` gets no rows of it; `last_good`: it gets those read last, and that is said",
    )


class Accept(Section):
    """When a batch as a whole is good enough to become a snapshot."""

    rows: RowLimits | None = Field(None, description="how many accepted rows a batch needs, and may have")
    growth: Growth | None = Field(
        None,
        description="how many accepted rows it may have beside the last snapshot, where there is one",
        exclude_if=_is_absent,
    )
    quarantined: AtMost | None = Field(None, description="share of rows that may break a rule")
    age: MaxAge | None = Field(None, description="how old the newest row may be, by the time column")
    anomalies: Literal["warn", "refuse"] = Field(
        "warn",
        description="what becomes of a batch that is unlike the snapshots before it: `warn` accepts it and alerts, "
        "`refuse` keeps the last snapshot",
    )
    future: Literal["refuse", "note"] = Field(
        "refuse",
        description="what becomes of a batch in which a feature sees rows that became known only later, by the `time` "
        "of the sources: `refuse` keeps the last snapshot, `note` accepts it and says so",
        exclude_if=_is_refuse,
    )


class FalseAlarms(Section):
    """A budget of false alarms."""

    at_most: Annotated[float, Field(gt=0)] = Field(description="how many")
    per: Duration = Field(description="in this time")


class Watch(Section):
    """How snapshots are held against those before them."""

    false_alarms: FalseAlarms = Field(
        FalseAlarms.model_construct(at_most=1.0, per=90 * 86400.0),
        description="budget of false alarms of all that is watched in the data together",
    )


class KeyRule(Section):
    """Rows of one source that name a row of another."""

    from_: Annotated[str, Field(alias="from", pattern=_SOURCE_COLUMN)] = Field(
        description="`source.column` whose values must be there; a missing one names nothing"
    )
    to: Annotated[str, Field(pattern=_SOURCE_COLUMN)] = Field(description="`source.column` in which they must be")
    failing: AtMost = Field(
        AtMost.model_construct(at_most=0.0), description="share of the rows with a value that may be orphans"
    )


class Lookup(Section):
    """A source that gives features by key: joined for training, carried by the release for the server."""

    source: Name | None = Field(None, description="name of the source; the lookup's own without it")
    key: Annotated[tuple[Name, ...], Field(min_length=1)] | Annotated[dict[Name, Name], Field(min_length=1)] = Field(
        description="what names a row of the source: features that a caller sends, or context. A list where the "
        "source's columns are called so too, else each with its column: `{dest: faa}`"
    )
    time: Name | None = Field(
        None,
        description="column that says when a row of the source came true. A row gets the newest that was known at its "
        "own time (context with `role: time`), never one of later; without it each key stands in one row",
    )
    zone: Text | None = Field(None, description="IANA time zone of `time` where it is written without one")
    delay: Duration | None = Field(None, description="how long after `time` a row of the source is known; at once")
    age: MaxAge | None = Field(
        None, description="how long after `time` it is still used; what is older counts as not found"
    )

    @property
    def key_columns(self) -> dict[str, str]:
        """Each part of the key, and the column of the source."""
        return self.key if isinstance(self.key, dict) else {name: name for name in self.key}


class Keep(Section):
    """Which versions of the data stay; without a key all do."""

    versions: Annotated[int, Field(ge=1)] | None = Field(None, description="so many of the newest stay")
    for_: Duration | None = Field(None, alias="for", description="younger ones stay; with `versions`, either is enough")


StepVerb = Literal["keep", "set", "distinct", "sql", "run"]
ReadAs = Literal["float", "int", "bool", "text", "datetime"]
PREPARED = "prepared"  # what the table of a first step is called that names none
_LIST, _TEXT = "list", "text"


class Step(Section):
    """One step of `prepare`: it does one of `keep`, `set`, `distinct`, `sql` and `run`."""

    table: Name | None = Field(
        None,
        description="the table that it makes or replaces; without it that of the step before, or the one source",
    )
    keep: Text | None = Field(
        None, description="condition: rows where it is true stay, others, and those where it is missing, are dropped"
    )
    set_: Annotated[dict[Name, Text], Field(min_length=1)] | None = Field(
        None, alias="set", description="column to expression over the row as it was before the step"
    )
    distinct: Annotated[tuple[Name, ...], Field(min_length=1)] | None = Field(
        None, description="columns that together name a row: one row of each stays, the first or the `latest`"
    )
    latest: Name | None = Field(
        None,
        description="with `distinct`: the column whose greatest value tells what stays; of equals the last row",
    )
    sql: Text | None = Field(None, description="SQL over all tables; the answer is the table")
    run: Entry | None = Field(
        None, description="`file.py:function`: gets all tables as polars LazyFrames, by name, and returns one"
    )
    types: dict[Name, ReadAs] = Field(
        {},
        description="how columns are read by the expressions of this step and of later ones on the table; those of the "
        "contract have the contract's type",
    )
    by_caller: bool = Field(
        False, description="with `set` of a feature: callers send it set in this way already; else `check` warns"
    )
    because: Text | None = Field(None, description="the reason, told with what was counted")

    @property
    def texts(self) -> tuple[str, ...]:
        """Everything in it that names columns, but for a function's code."""
        settings = self.set_ or {}
        named = (self.keep, self.latest, self.sql, *settings, *settings.values(), *(self.distinct or ()))
        return tuple(text for text in named if text is not None)

    @property
    def verbs(self) -> tuple[StepVerb, ...]:
        """What it does: one thing, in a contract that makes sense."""
        given: dict[StepVerb, Any] = {
            "keep": self.keep, "set": self.set_, "distinct": self.distinct, "sql": self.sql, "run": self.run,
        }  # fmt: skip
        return tuple(verb for verb, value in given.items() if value is not None)


def _prepare_kind(value: Any) -> str:
    return _LIST if isinstance(value, tuple | list) else _TEXT


Prepare = Annotated[
    Annotated[Text, Tag(_TEXT)] | Annotated[tuple[Step, ...], Field(min_length=1), Tag(_LIST)],
    Discriminator(_prepare_kind),
]


class Data(Section):
    """Sources, how they become one frame, and what a batch must satisfy."""

    sources: Annotated[dict[Name, Source], Field(min_length=1)] = Field(description="name to source")
    prepare: Prepare | None = Field(
        None,
        description="makes one frame of the sources: `file.py:function` (polars LazyFrames in, one out), a SQL text, "
        "or a list of [steps](data.md#prepare)",
    )
    lookups: dict[Name, Lookup] = Field(
        {},
        description="name to a source in which features are looked up (`features.NAME.lookup`), by the server as well",
        exclude_if=_is_absent,
    )
    keys: tuple[KeyRule, ...] = Field(
        (), description="what must hold between sources, before they are prepared", exclude_if=_is_absent
    )
    unique: tuple[Annotated[tuple[Name, ...], Field(min_length=2)], ...] = Field(
        (),
        description="lists of columns that together name a row: `[[flight, day]]`; later rows are quarantined",
        exclude_if=_is_absent,
    )
    accept: Accept = Field(Accept(), description="what a batch must satisfy")
    keep: Keep | None = Field(
        None,
        description="which versions `data compact` leaves; one that a release or a tag refers to stays, and the newest",
    )
    watch: Watch = Field(Watch(), description="how a batch is held against the snapshots before it")

    @property
    def steps(self) -> tuple[Step, ...]:
        """What `prepare` does, in order, each step with the table that it makes; a text is one step."""
        if self.prepare is None:
            return ()
        table = next(iter(self.sources)) if len(self.sources) == 1 else PREPARED
        if isinstance(self.prepare, str):
            text = self.prepare.strip()
            is_code = ENTRY.fullmatch(text) is not None
            return (Step(table=table, run=text) if is_code else Step(table=table, sql=text),)
        named = []
        for step in self.prepare:
            table = step.table or table
            named.append(step.model_copy(update={"table": table}))
        return tuple(named)

    @property
    def prepare_files(self) -> tuple[str, ...]:
        """The project's files that hold code of `prepare`."""
        return tuple(dict.fromkeys(step.run.partition(":")[0] for step in self.steps if step.run is not None))


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
        exclude_if=_is_absent,
    )
    unique: bool = Field(
        False,
        description="whether each value stands in one row of the data; later rows are quarantined",
        exclude_if=_is_absent,
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
        exclude_if=_is_absent,
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
        exclude_if=_is_absent,
    )
    unknown: Literal["reject", "missing", "review"] = Field(
        "missing", description="what happens to a category that is not listed", exclude_if=_is_missing
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
