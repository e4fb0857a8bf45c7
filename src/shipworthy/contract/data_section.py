"""The section `data`: sources and what each promises, how they become one frame, what a batch must satisfy."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from shipworthy.contract.quantities import Duration
from shipworthy.contract.sections import (
    ENTRY,
    AtMost,
    Entry,
    Growth,
    MaxAge,
    MaxSize,
    Name,
    RowLimits,
    Secret,
    Section,
    Text,
    WebAddress,
    is_absent,
    is_refuse,
)

_SOURCE_COLUMN = r"^[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*$"
FileFormat = Literal["csv", "tsv", "jsonl", "parquet", "arrow", "excel", "delta"]
Encoding = Literal["utf-8", "utf-8-sig", "utf-16", "latin-1", "windows-1252"]


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
        exclude_if=is_absent,
    )
    delay: Duration | None = Field(
        None, description="a row became known so much after its `time`", exclude_if=is_absent
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
        exclude_if=is_absent,
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
        exclude_if=is_refuse,
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
        exclude_if=is_absent,
    )
    keys: tuple[KeyRule, ...] = Field(
        (), description="what must hold between sources, before they are prepared", exclude_if=is_absent
    )
    unique: tuple[Annotated[tuple[Name, ...], Field(min_length=2)], ...] = Field(
        (),
        description="lists of columns that together name a row: `[[flight, day]]`; later rows are quarantined",
        exclude_if=is_absent,
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
