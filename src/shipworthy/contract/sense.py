"""Whether a contract's parts make sense together: pure rules over the sections that could be read.

A rule says nothing about what it cannot judge: a section that is absent or broken, which is reported elsewhere.
"""

import re
import zoneinfo
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from shipworthy.contract.expressions import FLOAT32_MAX, Expression, Kind, answers, did_you_mean, parse_derived
from shipworthy.contract.lookups import find_problems, main_sources
from shipworthy.contract.nodes import Path
from shipworthy.contract.patterns import Pattern
from shipworthy.contract.quantities import format_size
from shipworthy.contract.steps import check_prepare
from shipworthy.contract.types import (
    LOSSES,
    METRICS,
    Check,
    Column,
    ContextColumn,
    Data,
    Decision,
    Derived,
    Environment,
    Feature,
    Gates,
    Lineage,
    Metric,
    MetricLimit,
    Records,
    Retrain,
    Rollout,
    Search,
    Serving,
    Source,
    Target,
    Training,
    Value,
    is_receiver,
)
from shipworthy.kernel.errors import ExpressionError

MIN_WORKER_BYTES = 128_000_000  # a serving process with a small model takes two thirds of that
MIN_SPOOL_BYTES = 1_000_000
MIN_MODEL_BYTES = 64_000_000  # Python and numpy take half of that

BOUNDED = frozenset({"roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "r2"})  # at most 1
_ROLE_TYPES = {"time": ("datetime",), "key": ("text", "int", "category"), "subject": ("text", "int", "category")}
_EXACT_WHOLE = 2**53  # from here on float64 skips whole numbers
_MAX_GUESSES = 50  # so that data of another kind altogether is told quickly


class Report(Protocol):
    """Takes one problem at a path."""

    def __call__(self, path: Path, message: str, *, at_key: bool = False, offset: int | None = None) -> None:
        """Report `message` at the value (or key) of `path`, `offset` characters into its text."""


@dataclass(slots=True)
class Draft:
    """The sections of a contract that could be read, and the paths of what could not."""

    data: Data | None = None
    context: dict[str, ContextColumn] = field(default_factory=dict)
    features: dict[str, Feature] = field(default_factory=dict)
    derived: dict[str, Derived] = field(default_factory=dict)
    checks: dict[int, Check] = field(default_factory=dict)  # by place in the list
    target: Target | None = None
    training: Training | None = None
    decision: Decision | None = None
    value: Value | None = None
    gates: Gates | None = None
    serving: Serving | None = None
    records: Records | None = None
    environments: dict[str, Environment] = field(default_factory=dict)
    retrain: Retrain | None = None
    lineage: Lineage | None = None
    broken: set[Path] = field(default_factory=set)

    def is_sound(self, *path: str | int) -> bool:
        """Whether nothing at, above or below `path` is broken."""
        return not any(path[: len(bad)] == bad or bad[: len(path)] == path for bad in self.broken)

    def inputs(self) -> Iterator[tuple[str, str, Column]]:
        """Section, name and column of every feature and context column."""
        for name, feature in self.features.items():
            yield "features", name, feature
        for name, column in self.context.items():
            yield "context", name, column

    def with_role(self, role: str) -> list[str]:
        """Names of the context columns with `role`."""
        return [name for name, column in self.context.items() if column.role == role]

    def kinds(self) -> dict[str, Kind]:
        """The kind of each feature, context and derived column."""
        inputs: dict[str, Kind] = {name: column.type for _, name, column in self.inputs()}
        return inputs | {name: column.type for name, column in self.derived.items()}

    def categories(self) -> dict[str, tuple[str, ...]]:
        """The values of each category column."""
        inputs = {name: column.values for _, name, column in self.inputs() if column.values is not None}
        derived = {name: column.values for name, column in self.derived.items() if column.type == "category"}
        return inputs | {name: values for name, values in derived.items() if values is not None}

    def actions(self) -> tuple[str, ...] | None:
        """Every action that a decision can name; None where it cannot be said."""
        known = self.is_sound("decision", "actions") and self.is_sound("decision", "bands")
        if self.decision is None or self.target is None or not (known and self.is_sound("target", "values")):
            return None
        if self.decision.actions is not None:
            return tuple(dict.fromkeys(self.decision.actions.values()))
        if self.decision.bands is not None:
            return tuple(dict.fromkeys(band.action for band in self.decision.bands))
        return self.target.values or ()


def check_sense(draft: Draft, report: Report) -> None:
    """Report everything that contradicts something else."""
    for rule in _RULES:
        rule(draft, report)


def check_presence(draft: Draft, columns: Collection[str], report: Report) -> None:
    """Report features, context columns and the target that the data does not have."""
    sent = [(section, name) for section, name, column in draft.inputs() if getattr(column, "lookup", None) is None]
    absent = [(section, name) for section, name in sent if name not in columns]
    for number, (section, name) in enumerate(absent):
        guess = did_you_mean(name, columns) if number < _MAX_GUESSES else ""
        report((section, name), f"the data has no column {name!r}{guess}", at_key=True)
    if draft.target is not None and draft.target.column not in columns:
        name = draft.target.column
        report(("target", "column"), f"the data has no column {name!r}{did_you_mean(name, columns)}")


# --- columns


def _check_names(draft: Draft, report: Report) -> None:
    owners: dict[str, str] = {}
    words = {"features": "a feature", "context": "a context column", "derived": "a derived column"}
    named = [(section, name) for section, name, _ in draft.inputs()]
    named += [("derived", name) for name in draft.derived]
    for section, name in named:
        if name in owners:
            report((section, name), f"{name!r} is already {owners[name]}; each column has one place", at_key=True)
        owners.setdefault(name, words[section])
    if draft.target is not None and draft.target.column in owners:
        name = draft.target.column
        report(("target", "column"), f"{name!r} is already {owners[name]}; the target can be nothing else")


def _check_columns(draft: Draft, report: Report) -> None:
    for section, name, column in draft.inputs():
        path = (section, name)
        _check_range(column.range, (*path, "range"), report, whole=column.type == "int")
        _check_numeric(column, path, report)
        _check_values(column, path, report)
        _check_zone(column, path, report)
        _check_pattern(column, path, report)
    for name, derived in draft.derived.items():
        path = ("derived", name)
        _check_range(derived.range, (*path, "range"), report, whole=derived.type == "int")
        _check_numeric(derived, path, report)
        _check_values(derived, path, report)
        if "outside" in derived.model_fields_set and derived.range is None:
            report((*path, "outside"), "outside says what happens beyond the range, and there is no range")
        if "unknown" in derived.model_fields_set and derived.type != "category":
            report((*path, "unknown"), f"unknown says what happens to an unlisted category, not to {derived.type}")


def _check_numeric(column: Column | Derived, path: Path, report: Report) -> None:
    """What only a number has."""
    if column.type in ("float", "int"):
        return
    if column.range is not None:
        report((*path, "range"), f"a range is for float and int, not for {column.type}; remove it")
    if column.unit is not None:
        report((*path, "unit"), f"a unit is for float and int, not for {column.type}; remove it")


def _check_range(bounds: tuple[float, float] | None, path: Path, report: Report, *, whole: bool = False) -> None:
    if bounds is None:
        return
    if not bounds[0] < bounds[1]:
        report(path, f"the lowest value {bounds[0]:g} is not below the highest {bounds[1]:g}; write [lowest, highest]")
    for bound in bounds:
        if whole and not (bound.is_integer() and abs(bound) < _EXACT_WHOLE):
            report(path, f"the type is int, so its bounds are whole numbers below 2**53, not {bound:g}")
        elif abs(bound) > FLOAT32_MAX:
            report(path, f"{bound:g} is beyond {FLOAT32_MAX:.2g}, what a model's float32 input can hold")


def _check_values(column: Column | Derived, path: Path, report: Report) -> None:
    if column.type == "category" and column.values is None:
        report(path, "a category lists its values: values: [first, second]", at_key=True)
    if column.type != "category" and column.values is not None:
        report((*path, "values"), f"values are for category, not for {column.type}; change the type or remove them")
    _check_unique(column.values, (*path, "values"), report)


def _check_unique(values: tuple[str, ...] | None, path: Path, report: Report) -> None:
    seen: set[str] = set()
    for number, value in enumerate(values or ()):
        if value in seen:
            report((*path, number), f"{value!r} is listed twice; remove one")
        seen.add(value)


def _check_zone(column: Column, path: Path, report: Report) -> None:
    if column.zone is None:
        return
    if column.type != "datetime":
        report((*path, "zone"), f"a zone is for datetime, not for {column.type}; remove it")
        return
    known = zoneinfo.available_timezones()
    if known and column.zone not in known:
        report((*path, "zone"), f"no IANA time zone is called {column.zone!r}{did_you_mean(column.zone, known)}")


def _check_pattern(column: Column, path: Path, report: Report) -> None:
    if column.pattern is None:
        return
    if column.type != "text":
        report((*path, "pattern"), f"a pattern is for text, not for {column.type}; change the type or remove it")
        return
    try:
        Pattern(column.pattern)
    except ExpressionError as error:
        report((*path, "pattern"), str(error), offset=error.position - 1)


def _check_features(draft: Draft, report: Report) -> None:
    for name, feature in draft.features.items():
        path = ("features", name)
        given = feature.model_fields_set
        if "outside" in given and feature.range is None and draft.is_sound(*path):
            report((*path, "outside"), "outside says what happens beyond the range, and there is no range; add one")
        if "unknown" in given and feature.type != "category":
            report((*path, "unknown"), f"unknown says what happens to an unlisted category, not to {feature.type}")
    derived = bool(draft.derived) or not draft.is_sound("derived")
    usable = any(feature.type not in ("text", "datetime") for feature in draft.features.values())
    if draft.is_sound("features") and draft.features and not usable and not derived:
        report(("features",), "no feature is a number, bool or category, so a model has no input", at_key=True)


def _check_context(draft: Draft, report: Report) -> None:
    for role in ("key", "subject", "time"):
        for name in draft.with_role(role)[1:]:
            first = draft.with_role(role)[0]
            report(("context", name, "role"), f"{first!r} is already the {role}; there is one")
    for name, column in draft.context.items():
        path = ("context", name)
        suitable = _ROLE_TYPES.get(column.role)
        if suitable is not None and column.type not in suitable:
            report((*path, "type"), f"a {column.role} is {' or '.join(suitable)}, not {column.type}")
        if column.reference is None:
            continue
        if column.role != "protected":
            report((*path, "reference"), f"a reference is for a protected column, not for a {column.role}")
        elif column.values is not None and column.reference not in column.values:
            guess = did_you_mean(column.reference, column.values)
            report((*path, "reference"), f"{column.reference!r} is not among the values{guess}")


# --- expressions


def _check_derived(draft: Draft, report: Report) -> None:
    time = draft.with_role("time")
    scope = {name: kind for name, kind in draft.kinds().items() if name in draft.features or name in time}
    later = dict(draft.derived)
    for name, derived in draft.derived.items():
        later.pop(name)
        hidden = {other: f"{other!r} is computed later; move it above {name!r}" for other in later}
        hidden[name] = f"{name!r} cannot be computed from itself"
        for other, column in draft.context.items():
            hidden.setdefault(other, f"{other!r} is context ({column.role}), which never reaches the model")
        path = ("derived", name, "from")
        expression = _expression(derived.from_, scope, hidden, draft, report, path, derived.values)
        if expression is not None:
            _check_derived_type(derived, expression, path, report)
        scope[name] = derived.type


_TYPE_CURES = {
    ("number", "bool"): "; where(condition, 1, 0) makes a number of it",
    ("number", "text"): "; a text is a category: type: category, values: [first, second]",
    ("text", "number"): '; bucket(x, 10, 20) gives one of three values, where(condition, "a", "b") one of two',
    ("text", "bool"): '; where(condition, "yes", "no") makes a text of it',
}


def _check_derived_type(derived: Derived, expression: Expression, path: Path, report: Report) -> None:
    wanted = {"bool": "bool", "category": "text"}.get(derived.type, "number")
    if expression.kind != wanted:
        cure = _TYPE_CURES.get((wanted, expression.kind), "")
        report(path, f"this gives a {expression.kind}, and the type is {derived.type}{cure}")
    elif derived.type == "category":
        _check_texts(derived, expression, path, report)
    elif derived.type == "int" and not expression.whole:
        report(
            path,
            "this may give a fraction, and the type is int; use float, or wrap it in round(…), floor(…) or ceil(…)",
        )


def _check_texts(derived: Derived, expression: Expression, path: Path, report: Report) -> None:
    """A text written out as an answer is among the values."""
    values = derived.values or ()
    for answer in sorted(answers(expression) - {*values}):
        guess = did_you_mean(answer, values)
        report(path, f"it may give {answer!r}, which is not among its values ({', '.join(values[:10])}){guess}")


def _check_checks(draft: Draft, report: Report) -> None:
    names: set[str] = set()
    for number, check in draft.checks.items():
        if check.name in names:
            report(("checks", number, "name"), f"two checks are called {check.name!r}; rename one")
        names.add(check.name)
        _check_condition(check.expect, draft, report, ("checks", number, "expect"))


def _check_condition(text: str, draft: Draft, report: Report, path: Path) -> None:
    hidden: dict[str, str] = {}
    if draft.target is not None:
        name = draft.target.column
        hidden[name] = f"{name!r} is the target, which is not known when a row arrives"
    expression = _expression(text, draft.kinds(), hidden, draft, report, path)
    if expression is not None and expression.kind != "bool":
        report(path, f"a condition is true or false, and this gives a {expression.kind}; compare it, such as … > 0")


def _expression(
    text: str,
    scope: Mapping[str, Kind],
    hidden: Mapping[str, str],
    draft: Draft,
    report: Report,
    path: Path,
    labels: tuple[str, ...] | None = None,
) -> Expression | None:
    """The parsed expression; None where it is wrong (reported) or names a column that is itself broken."""
    unclear = [bad[1] for bad in draft.broken if len(bad) == 2 and bad[0] in ("features", "context", "derived")]
    lost = any(bad in draft.broken for bad in (("features",), ("context",), ("derived",)))
    try:
        return parse_derived(text, scope, labels, values=draft.categories())
    except ExpressionError as error:
        words = set(re.findall(r"[A-Za-z_]\w*", text, re.ASCII))
        if words & set(unclear):
            return None
        named = re.match(r"[A-Za-z_]\w*", text[error.position - 1 :], re.ASCII)
        name = named[0] if named else ""
        if name not in scope and name in hidden:
            report(path, hidden[name], offset=error.position - 1)
        elif not (lost and "no column is called" in str(error)):
            report(path, str(error), offset=error.position - 1)
        return None


# --- data


def _check_data(draft: Draft, report: Report) -> None:
    if draft.data is None:
        return
    for name, source in draft.data.sources.items():
        _check_source(source, ("data", "sources", name), report)
    prepare = draft.data.prepare
    for name, source in draft.data.sources.items():
        if source.broken == "without" and prepare is None:
            report(("data", "sources", name, "broken"), "`without` needs prepare, which gets no rows of it")
        limits = source.rows
        if limits is not None and (limits.at_least or 1) > (limits.at_most or 2**62):
            report(("data", "sources", name, "rows"), "at_least is more than at_most", at_key=True)
    count = len(main_sources(draft.data))
    if prepare is None and count > 1 and draft.is_sound("data"):
        report(
            ("data",),
            f"{count} sources need prepare, which makes one frame of them: prepare: prepare.py:prepare",
            at_key=True,
        )
    if prepare is not None:
        columns = {**{name: column.type for _, name, column in draft.inputs()}, **_kind_of_target(draft)}
        whole = all(draft.is_sound(section) for section in ("features", "context", "target"))
        check_prepare(draft.data, columns if whole else None, report)
    _check_times(draft, report)
    if prepare is None and not count and draft.data.sources:
        report(("data", "lookups"), "every source is a lookup; one more has the rows to learn from", at_key=True)
    _check_keys(draft.data, report)
    _check_lookups(draft, report)
    _check_together(draft, report)
    _check_volume(draft.data, report)
    if draft.data.keep is not None and not draft.data.keep.model_fields_set:
        report(("data", "keep"), "nothing says what is kept: versions: 30, or for: 180d", at_key=True)
    if draft.data.accept.age is not None and draft.is_sound("context") and not draft.with_role("time"):
        report(
            ("data", "accept", "age"), "the age of the newest row needs a context column with role: time", at_key=True
        )


def _kind_of_target(draft: Draft) -> dict[str, Kind]:
    if draft.target is None:
        return {}
    return {draft.target.column: "float" if draft.target.type == "regression" else "category"}


def _check_times(draft: Draft, report: Report) -> None:
    for name, source in draft.data.sources.items() if draft.data else ():
        path = ("data", "sources", name)
        if source.delay is not None and source.time is None:
            report((*path, "delay"), "a delay goes with time: when a row became known", at_key=True)
        if source.time is not None and draft.is_sound("context") and not draft.with_role("time"):
            report((*path, "time"), "it is held against the row's own time: a context column with role: time")


def _check_keys(data: Data, report: Report) -> None:
    for number, rule in enumerate(data.keys):
        for key, named in (("from", rule.from_), ("to", rule.to)):
            source = named.partition(".")[0]
            if source not in data.sources:
                guess = did_you_mean(source, data.sources)
                report(("data", "keys", number, key), f"no source is called {source!r}{guess}")
        if rule.from_ == rule.to:
            report(("data", "keys", number, "to"), f"{rule.to} always is in itself; name the column of another table")


def _check_lookups(draft: Draft, report: Report) -> None:
    if draft.data is None or not (draft.is_sound("features") and draft.is_sound("context") and draft.is_sound("data")):
        return
    target = draft.target.column if draft.target is not None else None
    for problem in find_problems(draft.data, draft.features, draft.context, target):
        report(problem.path, problem.message, at_key=problem.at_key)


def _check_together(draft: Draft, report: Report) -> None:
    if draft.data is None or not (draft.is_sound("features") and draft.is_sound("context")):
        return
    known = [*draft.features, *draft.context, *([draft.target.column] if draft.target else [])]
    for number, columns in enumerate(draft.data.unique):
        for place, name in enumerate(columns):
            if name not in known and draft.is_sound("target"):
                guess = did_you_mean(name, known)
                report(("data", "unique", number, place), f"no feature or context column is called {name!r}{guess}")
        _check_unique(columns, ("data", "unique", number), report)


def _check_volume(data: Data, report: Report) -> None:
    for name, limits in (("rows", data.accept.rows), ("growth", data.accept.growth)):
        path = ("data", "accept", name)
        if limits is None:
            continue
        if limits.at_least is None and limits.at_most is None:
            report(path, f"{name} takes at_least, at_most or both", at_key=True)
        elif limits.at_least is not None and limits.at_most is not None and limits.at_least > limits.at_most:
            report((*path, "at_most"), "at_most is below at_least; no batch can be both")


def _check_source(source: Source, path: Path, report: Report) -> None:
    if (source.path is None) == (source.url is None):
        report(path, "a source has either a path or a url" + (", not both" if source.path else ""), at_key=True)
        return
    _check_dialect(source, path, report)
    if source.path is not None:
        _check_inside(source.path, (*path, "path"), report)
        if source.query is not None:
            report((*path, "query"), "a query goes to a url, not to a file; remove it, or filter in prepare")
        _refuse_keys(source, ("store", "size", "watermark", "overlap", "key"), "a file of the project", path, report)
        return
    url = source.url or ""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if not scheme and not url.startswith("$"):
        report(
            (*path, "url"), f"{url[:60]!r} is no address; expected scheme://host/… or ${{NAME}}, or use path for a file"
        )
    elif scheme and scheme not in _SCHEMES and "$" not in scheme:
        report((*path, "url"), f"{scheme!r} is no scheme that is read; expected one of {', '.join(_SCHEMES)}")
    elif scheme in ("http", "https") and source.query is not None:
        report((*path, "query"), "a query is for a database; an HTTP address is read as it is")
    elif scheme == "s3" and source.query is not None:
        report((*path, "query"), "a query is for a database; objects are read as they are")
    elif scheme in _DATABASES and source.query is None:
        report(path, "a database needs a query: query: select … from …", at_key=True)
    if source.query is None:
        of = "objects" if scheme == "s3" else "a file elsewhere"
        keys = ("watermark", "overlap", "key") if scheme in ("s3", "") else ("store", "watermark", "overlap", "key")
        _refuse_keys(source, keys, of, path, report)
    else:
        _refuse_keys(source, ("store", "size"), "a query", path, report)
        _check_watermark(source, path, report)
    if source.store is not None and (source.store.access_key is None) != (source.store.secret_key is None):
        report((*path, "store"), "access_key and secret_key go together; name both, or neither", at_key=True)


_DATABASES = ("postgresql", "postgres", "sqlite")
_SCHEMES = ("https", "http", "s3", *_DATABASES)


def _refuse_keys(source: Source, keys: Collection[str], of: str, path: Path, report: Report) -> None:
    """What is new in files is told by their content, and not every place is a store."""
    for key in keys:
        if getattr(source, key) is not None:
            report((*path, key), f"does not go with {of}; {_GOES_WITH[key]}", at_key=True)


_GOES_WITH = {
    "store": "it is for a url such as s3://BUCKET/KEY",
    "size": "it is for what is fetched",
    "watermark": "it is for a query; of files, what did not change is known by itself",
    "overlap": "it is for a query with a watermark",
    "key": "it is for a query with a watermark",
}


def _check_watermark(source: Source, path: Path, report: Report) -> None:
    if source.watermark is not None:
        return
    for key in ("overlap", "key"):
        if getattr(source, key) is not None:
            report((*path, key), "needs a watermark: the column by which rows of before are told", at_key=True)
    if source.age is not None:
        report((*path, "age"), "the age of a query's rows needs a watermark that is a time", at_key=True)


_DIALECT_OF: dict[str, tuple[str, ...]] = {  # key of a source -> the kinds of file that have it
    "delimiter": ("csv", "tsv"),
    "encoding": ("csv", "tsv", "jsonl"),
    "decimal": ("csv", "tsv"),
    "thousands": ("csv", "tsv"),
    "nulls": ("csv", "tsv", "jsonl", "excel"),
    "sheet": ("excel",),
    "version": ("delta",),
}


def _check_dialect(source: Source, path: Path, report: Report) -> None:
    """Each key goes with its kinds of file, and signs of one number differ."""
    said = [key for key in ("format", *_DIALECT_OF) if getattr(source, key) != type(source).model_fields[key].default]
    if source.query is not None:
        for key in said:
            report((*path, key), f"{key} tells how a file is written; the answer to a query is read as it comes")
        return
    for key in said:
        kinds = _DIALECT_OF.get(key)
        if kinds is not None and source.format is not None and source.format not in kinds:
            report((*path, key), f"{key} goes with format {' or '.join(kinds)}, not with {source.format}; remove it")
    if source.thousands == source.decimal:
        other = {".": ",", ",": "."}[source.decimal]
        report(
            (*path, "thousands"),
            f'{source.thousands!r} parts thousands and decimals at once; say the decimal sign too: decimal: "{other}"',
        )


def _check_inside(name: str, path: Path, report: Report) -> None:
    """Files are named relative to the project and stay inside it."""
    if name.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", name):
        report(path, f"{name!r} is absolute; files are named relative to the project")
    elif ".." in re.split(r"[/\\]", name):
        report(path, f"{name!r} leaves the project; put the file inside it")


# --- target and training


def _check_target(draft: Draft, report: Report) -> None:
    target = draft.target
    if target is None:
        return
    if target.type == "regression":
        for key in ("values", "positive"):
            if getattr(target, key) is not None:
                report(("target", key), f"{key} is for binary and multiclass; a regression has none")
        _check_range(target.range, ("target", "range"), report)
        return
    for key in ("unit", "range"):
        if getattr(target, key) is not None:
            report(("target", key), f"{key} is for a regression; classes have none")
    if target.values is None and draft.is_sound("target", "values"):
        report(
            ("target",), f'a {target.type} target lists its classes as quoted texts: values: ["0", "1"]', at_key=True
        )
    _check_unique(target.values, ("target", "values"), report)
    if target.type == "binary":
        _check_binary(target, target.values or (), draft, report)
    elif target.positive is not None:
        report(("target", "positive"), "positive is for binary; a multiclass target has no positive class")


def _check_binary(target: Target, values: tuple[str, ...], draft: Draft, report: Report) -> None:
    listed = " or ".join(f'"{value}"' for value in values)
    if values and len(values) != 2:
        report(("target", "values"), f"a binary target has 2 classes, not {len(values)}; use type: multiclass for more")
    if target.positive is None and draft.is_sound("target", "positive"):
        report(
            ("target",), f"a binary target names the class that its probability is of: positive: {listed}", at_key=True
        )
    elif target.positive is not None and values and target.positive not in values:
        report(("target", "positive"), f"{target.positive!r} is not among the values; expected {listed}")


def _check_training(draft: Draft, report: Report) -> None:
    training = draft.training
    if training is None:
        return
    _check_inside(training.entry, ("training", "entry"), report)
    if training.search is not None:
        _check_search(training.search, training, draft, report)
    split = training.split
    by = ("training", "split", "by")
    role = {"time": "time", "subject": "subject"}.get(split.by)
    if role is not None and draft.is_sound("context") and not draft.with_role(role):
        report(by, f"a split by {split.by} needs a context column with role: {role}")
    for key, share in (("calibrate", split.calibrate), ("test", split.test)):
        if share == 0:
            report(("training", "split", key), "0% leaves no rows; thresholds and gates need both parts")
    if split.calibrate + split.test >= 1:
        report(("training", "split"), "calibrate and test together take 100% or more and leave no rows to train on")


def _check_search(search: Search, training: Training, draft: Draft, report: Report) -> None:
    path = ("training", "search")
    goals = [(key, metric) for key in ("minimise", "maximise") if (metric := getattr(search, key)) is not None]
    if len(goals) != 1:
        problem = "not both" if goals else "such as minimise: log_loss"
        report(path, f"a search says what it minimises or maximises, {problem}", at_key=True)
    for key, metric in goals:
        _check_metric(metric, (*path, key), draft, report)
        if (key == "minimise") != (metric in LOSSES):
            right, why = ("minimise", "lower") if metric in LOSSES else ("maximise", "higher")
            report((*path, key), f"of {metric} the {why} is better; write {right}: {metric}")
    for name, parameter in search.params.items():
        here = (*path, "params", name)
        if name in training.params:
            report(here, f"{name!r} is also fixed in training.params; keep one", at_key=True)
        if parameter.choices is not None:
            extra = [key for key in ("low", "high", "step", "log") if key in parameter.model_fields_set]
            if extra:
                report((*here, extra[0]), "a parameter has either choices or low and high")
            continue
        if parameter.low is None or parameter.high is None:
            report(here, "a parameter has low and high, or choices", at_key=True)
            continue
        _check_bounds(parameter.low, parameter.high, (*here, "low"), report)
        if parameter.log and parameter.low <= 0:
            report((*here, "low"), f"log: true needs low above 0, not {parameter.low:g}")
        if parameter.step is not None and (parameter.step <= 0 or parameter.log):
            report((*here, "step"), "a step is above 0, and not together with log: true")


def _check_bounds(low: float, high: float, path: Path, report: Report) -> None:
    if not low < high:
        report(path, f"low {low:g} is not below high {high:g}")


def _check_metric(metric: Metric, path: Path, draft: Draft, report: Report, *, at_key: bool = False) -> bool:
    if draft.target is None or metric in METRICS[draft.target.type]:
        return True
    suitable = ", ".join(METRICS[draft.target.type])
    report(path, f"{metric} does not suit a {draft.target.type} target; choose from {suitable}", at_key=at_key)
    return False


# --- decision and value


def _check_decision(draft: Draft, report: Report) -> None:
    decision, target = draft.decision, draft.target
    if decision is None:
        return
    for number, rule in enumerate(decision.fallback.rules):
        _check_condition(rule.if_, draft, report, ("decision", "fallback", "rules", number, "if"))
    _check_answers(decision, draft, report)
    if target is None:
        return
    if target.type == "regression":
        _check_bands(decision, report)
    else:
        _check_class_actions(decision, target, report)
    _check_threshold(decision, draft, target, report)


def _check_bands(decision: Decision, report: Report) -> None:
    if decision.actions is not None:
        report(
            ("decision", "actions"),
            "actions are for classes; a regression has bands: - {action: …, below: …}",
            at_key=True,
        )
    bands = decision.bands or ()
    for number, band in enumerate(bands[:-1]):
        before = bands[number - 1].below if number else None
        if band.below is None:
            report(("decision", "bands", number), "only the last band is open; give this one below: …")
        elif before is not None and band.below <= before:
            report(("decision", "bands", number, "below"), f"{band.below:g} is not above the band before, {before:g}")
    if bands and bands[-1].below is not None:
        report(("decision", "bands", len(bands) - 1, "below"), "the last band takes all the rest and has no below")


def _check_class_actions(decision: Decision, target: Target, report: Report) -> None:
    classes = target.values or ()
    if decision.bands is not None:
        report(("decision", "bands"), "bands are for a regression; classes have actions", at_key=True)
    if "interval" in decision.model_fields_set:
        report(("decision", "interval"), "an interval is for a regression; classes have probabilities")
    if decision.actions is None or not classes:
        return
    for name in decision.actions:
        if name not in classes:
            listed = ", ".join(classes)
            report(
                ("decision", "actions", name),
                f"{name!r} is no class ({listed}){did_you_mean(name, classes)}",
                at_key=True,
            )
    for name in classes:
        if name not in decision.actions:
            report(("decision", "actions"), f'the class "{name}" has no action', at_key=True)


def _check_threshold(decision: Decision, draft: Draft, target: Target, report: Report) -> None:
    threshold, path = decision.threshold, ("decision", "threshold")
    if threshold is None:
        return
    if target.type != "binary":
        report(path, f"a threshold is for a binary target, not for {target.type}", at_key=True)
    if (threshold.at is None) == (threshold.maximise is None):
        report(
            path,
            "a threshold is fixed (at: 0.5) or chosen (maximise: f1)"
            + (", not both" if threshold.at is not None else ""),
            at_key=True,
        )
    if threshold.maximise == "value" and draft.value is None and draft.is_sound("value"):
        report((*path, "maximise"), "maximise: value needs the section value, which says what each action is worth")


def _check_answers(decision: Decision, draft: Draft, report: Report) -> None:
    actions = draft.actions()
    if actions is None:
        return
    answers: list[tuple[Path, str | float]] = []
    if decision.review is not None and decision.review.answer is not None:
        answers.append((("decision", "review", "answer"), decision.review.answer))
    for number, rule in enumerate(decision.fallback.rules):
        answers.append((("decision", "fallback", "rules", number, "then"), rule.then))
    answers.append((("decision", "fallback", "otherwise"), decision.fallback.otherwise))
    for path, answer in answers:
        if actions and answer not in actions:
            guess = did_you_mean(answer, actions) if isinstance(answer, str) else ""
            report(path, f"{answer!r} is no action ({', '.join(actions)}){guess}")
        if not actions and isinstance(answer, str):
            report(path, f"a regression without bands answers a number, not {answer!r}")


def _check_value(draft: Draft, report: Report) -> None:
    value, target, actions = draft.value, draft.target, draft.actions()
    if value is None or target is None:
        return
    if target.type == "regression":
        report(
            ("value",),
            "value is for classes: it says what each action is worth when the truth is each class",
            at_key=True,
        )
        return
    classes = target.values
    if not actions or not classes:
        return
    for action, outcomes in value.outcomes.items():
        path = ("value", action)
        if action not in actions:
            listed = ", ".join(actions)
            report(path, f"{action!r} is no action ({listed}){did_you_mean(action, actions)}", at_key=True)
        for name in outcomes:
            if name not in classes:
                report(
                    (*path, name),
                    f"{name!r} is no class ({', '.join(classes)}){did_you_mean(name, classes)}",
                    at_key=True,
                )
        for name in classes:
            if name not in outcomes:
                report(path, f'what {action} is worth when the truth is "{name}" is missing', at_key=True)
    for action in actions:
        if action not in value.outcomes:
            report(("value",), f"the action {action!r} has no value; add {action}: {{…}}", at_key=True)


# --- gates


def _check_gates(draft: Draft, report: Report) -> None:
    gates = draft.gates
    if gates is None:
        return
    _check_limits(gates.performance, ("gates", "performance"), draft, report)
    for champion in gates.champion:
        _check_metric(champion, ("gates", "champion", champion), draft, report, at_key=True)
    if gates.value is not None:
        here: Path = ("gates", "value", "per_decision", "at_least")
        _check_currency(gates.value.per_decision.at_least.currency, here, draft, report)
    _check_fairness(gates, draft, report)
    if gates.slices is not None:
        _check_slices(gates.slices.by, draft, report)
        _check_limits(gates.slices.limits, ("gates", "slices"), draft, report)
        if not gates.slices.limits:
            report(("gates", "slices"), "slices need a limit, such as roc_auc: {at_least: 0.65}", at_key=True)
    if gates.robustness is not None and gates.robustness.noise_sd == 0:
        report(("gates", "robustness", "noise_sd"), "0% is no noise; such as 1%")
    _check_budget(gates, report)


def _check_limits(limits: Mapping[Metric, MetricLimit], path: Path, draft: Draft, report: Report) -> None:
    for metric, limit in limits.items():
        here = (*path, metric)
        if _check_metric(metric, here, draft, report, at_key=True):
            _check_limit(metric, limit, here, report)


def _check_limit(metric: Metric, limit: MetricLimit, path: Path, report: Report) -> None:
    loss = metric in LOSSES
    right, wrong = ("at_most", "at_least") if loss else ("at_least", "at_most")
    low, high = limit.at_least, limit.at_most
    if limit.better_than is None and low is None and high is None:
        report(path, f"a limit is missing: {right}: … or better_than: baseline", at_key=True)
    elif low is not None and high is not None and low > high:
        report((*path, "at_least"), f"at_least {low:g} is above at_most {high:g}; nothing can meet both")
    elif getattr(limit, wrong) is not None:
        report((*path, wrong), f"of {metric} {'lower' if loss else 'higher'} is better; write {right}", at_key=True)
    elif high is not None and high < 0:
        report((*path, "at_most"), f"{metric} is never below 0, so {high:g} can never be met")
    elif low is not None and low > 1 and metric in BOUNDED:
        report((*path, "at_least"), f"{metric} is never above 1, so {low:g} can never be met")


def _check_currency(currency: str, path: Path, draft: Draft, report: Report) -> None:
    if draft.value is None:
        if draft.is_sound("value"):
            report(path, "this needs the section value, which says what each action is worth")
    elif draft.value.unit != currency:
        report(path, f"the currency is {currency}, and the section value counts in {draft.value.unit}")


def _check_fairness(gates: Gates, draft: Draft, report: Report) -> None:
    if gates.fairness is None:
        return
    path = ("gates", "fairness")
    if not gates.fairness.model_fields_set:
        report(path, "fairness names no limit, such as equal_opportunity_difference: {at_most: 0.10}", at_key=True)
    if draft.target is not None and draft.target.type != "binary":
        report(
            path,
            f"fairness compares how often groups get the positive class; the target is {draft.target.type}",
            at_key=True,
        )
        return
    protected = draft.with_role("protected")
    if not protected and draft.is_sound("context"):
        report(path, "fairness needs a context column with role: protected", at_key=True)
    for name in protected:
        column = draft.context[name]
        if column.type != "category":
            report(
                ("context", name, "type"),
                f"fairness compares groups: {name} must be a category, not {column.type}; bucket it in prepare",
            )
        elif column.reference is None:
            report(
                ("context", name), "fairness needs the group that others are compared with: reference: …", at_key=True
            )


def _check_slices(by: tuple[str, ...], draft: Draft, report: Report) -> None:
    kinds = draft.kinds()
    slices = draft.with_role("slice")
    for number, name in enumerate(by):
        path = ("gates", "slices", "by", number)
        if name in kinds and (kinds[name] in ("category", "bool") or name in slices):
            continue
        if name in kinds:
            report(
                path, f"{name!r} is {kinds[name]}; slices are by category or bool columns, or context with role: slice"
            )
        elif draft.is_sound("features") and draft.is_sound("context") and draft.is_sound("derived"):
            report(path, f"no column is called {name!r}{did_you_mean(name, kinds)}")


def _check_budget(gates: Gates, report: Report) -> None:
    budget = gates.budget
    if budget is None:
        return
    if budget.model_fields_set <= {"at_rps"}:
        report(("gates", "budget"), "the budget names no limit, such as p99: {at_most: 5ms}", at_key=True)
    if budget.cost_per_1k is not None and budget.cost_per_1k.at_most.currency != "USD":
        currency = budget.cost_per_1k.at_most.currency
        report(("gates", "budget", "cost_per_1k", "at_most"), f"prices are per core hour in USD, so not in {currency}")


# --- after the release


def _check_environments(draft: Draft, report: Report) -> None:
    for name, environment in draft.environments.items():
        path = ("environments", name)
        if name == "local" and (environment.approvals or environment.rollout is not None):
            report(path, "local is where `ship` deploys at once: it owes no approvals and has no rollout", at_key=True)
        if environment.rollout is not None:
            _check_rollout(environment.rollout, (*path, "rollout"), draft, report)


def _check_rollout(rollout: Rollout, path: Path, draft: Draft, report: Report) -> None:
    steps = (0.0, *rollout.steps)
    for number in range(1, len(steps)):
        if steps[number] <= steps[number - 1]:
            report((*path, "steps", number - 1), "each step is above the one before, and the first above 0%")
    if steps[-1] != 1:
        report((*path, "steps"), "the last step is 100%")
    if rollout.hold.at_least > rollout.hold.at_most:
        report((*path, "hold"), "at_least is longer than at_most")
    if not 0 < rollout.false_rollback.at_most < 1:
        report((*path, "false_rollback"), "a rate of false alarms is above 0% and below 100%, such as 1%")
    asked = "unit" in rollout.model_fields_set and rollout.unit != "request" and draft.is_sound("context")
    if asked and not draft.with_role(rollout.unit):
        report((*path, "unit"), f"traffic by {rollout.unit} needs a context column with role: {rollout.unit}")
    if not rollout.no_worse.model_fields_set:
        report((*path, "no_worse"), "nothing is judged; name errors, p99 or value", at_key=True)
    if rollout.no_worse.value is not None:
        _check_currency(rollout.no_worse.value.by.currency, (*path, "no_worse", "value", "by"), draft, report)


def _check_serving(draft: Draft, report: Report) -> None:
    memory = None if draft.serving is None else draft.serving.memory
    if memory is not None and memory < MIN_WORKER_BYTES:
        least = format_size(MIN_WORKER_BYTES)
        report(("serving", "memory"), f"a worker needs nearly {least} to start; use more, or leave it out for no limit")
    python = None if draft.serving is None else draft.serving.python
    if python is not None:
        _check_inside(python.file, ("serving", "python", "file"), report)
        if python.memory < MIN_MODEL_BYTES:
            least = format_size(MIN_MODEL_BYTES)
            report(("serving", "python", "memory"), f"a Python process with numpy needs {least} or more")
    records = draft.records
    if records is not None and records.when_full != "spool" and "spool" in records.model_fields_set:
        report(("records", "spool"), "nothing is spooled; it goes with when_full: spool")
    if records is not None and records.spool < MIN_SPOOL_BYTES:
        report(("records", "spool"), f"a spool needs {format_size(MIN_SPOOL_BYTES)} or more")


def _check_retrain(draft: Draft, report: Report) -> None:
    retrain = draft.retrain
    if retrain is None:
        return
    if not retrain.when and retrain.at_least_every is None:
        report(("retrain",), "nothing calls for training: when: [drift] or at_least_every: 90d", at_key=True)
    _check_unique(retrain.when, ("retrain", "when"), report)


def _check_lineage(draft: Draft, report: Report) -> None:
    lineage = draft.lineage
    if lineage is None:
        return
    place, path = lineage.openlineage, ("lineage", "openlineage")
    if place is None:
        if lineage.token is not None:
            report(("lineage", "token"), "a token goes to an address; name it in lineage.openlineage", at_key=True)
    elif not is_receiver(place):
        _check_inside(place, path, report)
        if lineage.token is not None:
            report(("lineage", "token"), "a token goes to an address, and lineage.openlineage is a file", at_key=True)
    elif "://" in place.partition("$")[0] and not place.lower().startswith(("http://", "https://")):
        report(path, f"{place[:60]!r} is neither an http or https address nor a file in the project")


_RULES: tuple[Callable[[Draft, Report], None], ...] = (
    _check_names,
    _check_columns,
    _check_features,
    _check_context,
    _check_derived,
    _check_checks,
    _check_data,
    _check_target,
    _check_training,
    _check_decision,
    _check_value,
    _check_gates,
    _check_serving,
    _check_environments,
    _check_retrain,
    _check_lineage,
)
