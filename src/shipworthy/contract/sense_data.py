"""What contradicts something else in the section `data`."""

import re
from collections.abc import Collection

from shipworthy.contract.data_section import Data, Source
from shipworthy.contract.draft import Draft, Report
from shipworthy.contract.expressions import Kind, did_you_mean
from shipworthy.contract.lookups import find_problems, main_sources
from shipworthy.contract.nodes import Path
from shipworthy.contract.sense_columns import check_unique
from shipworthy.contract.steps import check_prepare


def check_data(draft: Draft, report: Report) -> None:
    """Report what of sources, their preparation, lookups and limits does not go together."""
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
        check_unique(columns, ("data", "unique", number), report)


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
        check_inside(source.path, (*path, "path"), report)
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


def check_inside(name: str, path: Path, report: Report) -> None:
    """Files are named relative to the project and stay inside it."""
    if name.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", name):
        report(path, f"{name!r} is absolute; files are named relative to the project")
    elif ".." in re.split(r"[/\\]", name):
        report(path, f"{name!r} leaves the project; put the file inside it")
