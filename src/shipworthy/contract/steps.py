"""Steps of `prepare`: which kind each column of a table has when a step reads it, and what makes no sense."""

import re
from collections.abc import Mapping, Sequence

from shipworthy.contract.data_section import Data, Step
from shipworthy.contract.draft import Report
from shipworthy.contract.expressions import Expression, Kind, did_you_mean, parse_expression
from shipworthy.contract.nodes import Path
from shipworthy.contract.sections import ENTRY
from shipworthy.contract.types import Contract
from shipworthy.kernel.errors import ExpressionError

KINDS: dict[str, Kind] = {"bool": "bool", "text": "text", "datetime": "datetime"}  # of what an expression gives
ORDERED = ("int", "float", "datetime")  # kinds of which one value can be the latest
_SQL = re.compile(r"\s*(select|with)\b", re.IGNORECASE)
_UNKNOWN = re.compile(r"no column is called '(\w+)' here")


def kind_of(expression: Expression) -> Kind:
    """The kind of a column that holds what the expression gives."""
    return KINDS.get(expression.kind, "int" if expression.whole else "float")


def column_kinds(contract: Contract) -> dict[str, Kind]:
    """The kind of each column that `prepare` owes the contract: features, context and the target."""
    truth: Kind = "float" if contract.target.type == "regression" else "category"
    columns = (*contract.context.items(), *contract.features.items())
    return {**{name: column.type for name, column in columns}, contract.target.column: truth}


def columns_read(step: Step, scope: Mapping[str, Kind]) -> tuple[str, ...]:
    """The columns of its table that a step with `keep`, `set` or `distinct` reads, sorted."""
    texts = (*([step.keep] if step.keep else ()), *(step.set_ or {}).values())
    named = {name for text in texts for name in parse_expression(text, scope).columns}
    return tuple(sorted({*named, *(step.distinct or ()), *([step.latest] if step.latest else ())}))


def step_scopes(steps: Sequence[Step], known: Mapping[str, Kind]) -> list[dict[str, Kind]]:
    """The kind of each column that the expressions of each step may read.

    Args:
        steps: each with its table.
        known: the kinds of the contract's columns: those of the same name in a table are read so, unless `types` of the
            step, or of one before it on the same table, says otherwise.
    """
    scopes: list[dict[str, Kind]] = []
    own: dict[str, dict[str, Kind]] = {}
    for step in steps:
        here = {**own.get(step.table or "", {}), **step.types}
        scope = {**known, **here}
        scopes.append(scope)
        for name, text in (step.set_ or {}).items():
            try:
                here[name] = kind_of(parse_expression(text, scope))
            except ExpressionError:  # reported where it stands
                here.pop(name, None)
        own[step.table or ""] = {} if step.sql or step.run else here
    return scopes


def check_prepare(data: Data, known: Mapping[str, Kind] | None, report: Report) -> None:
    """Report what of `prepare` contradicts itself or something else.

    Args:
        data: with sources and `prepare`.
        known: the kinds of the contract's columns; None where they cannot all be told.
        report: takes the problems.
    """
    path: Path = ("data", "prepare")
    if isinstance(data.prepare, str):
        _check_text(data.prepare, path, report)
        return
    tables = set(data.sources)
    scopes = step_scopes(data.steps, known or {})
    for number, (step, written, scope) in enumerate(zip(data.steps, data.prepare or (), scopes, strict=True)):
        here = (*path, number)
        if len(step.verbs) != 1:
            problem = f"this one has {', '.join(step.verbs)}" if step.verbs else "this one does nothing"
            report(here, f"a step does one of keep, set, distinct, sql and run; {problem}", at_key=True)
            continue
        _check_keys(step, here, report)
        if step.run is not None:
            _check_inside(step.run, (*here, "run"), report)
        elif step.sql is not None:
            _check_sql(step.sql, (*here, "sql"), report)
        elif step.table not in tables:
            guess = did_you_mean(step.table or "", tables) or f"; there are {', '.join(sorted(tables))}"
            words = f"no table is called {step.table!r} here" if written.table else "the first step names its table"
            report((*here, "table"), f"{words}{guess}", at_key=written.table is None)
        if known is not None:
            _check_expressions(step, here, scope, report)
        tables.add(step.table or "")


def _check_text(text: str, path: Path, report: Report) -> None:
    if ENTRY.fullmatch(text):
        _check_inside(text, path, report)
    elif not _SQL.match(text):
        report(path, f"expected file.py:function or a SQL text (select …), not {text[:60]!r}")


def _check_sql(text: str, path: Path, report: Report) -> None:
    if not _SQL.match(text):
        report(path, f"expected a SQL text (select …), not {text[:60]!r}")


def _check_keys(step: Step, path: Path, report: Report) -> None:
    verb = step.verbs[0]
    if step.latest is not None and verb != "distinct":
        report((*path, "latest"), f"latest goes with distinct, not with {verb}; remove it", at_key=True)
    if step.types and verb in ("sql", "run"):
        report((*path, "types"), f"types are for expressions; {verb} reads its columns itself", at_key=True)
    if step.by_caller and verb != "set":
        report((*path, "by_caller"), f"by_caller goes with set, not with {verb}; remove it", at_key=True)
    for number, name in enumerate(step.distinct or ()):
        if name in (step.distinct or ())[:number]:
            report((*path, "distinct", number), f"{name!r} is listed twice; remove one")


def _check_expressions(step: Step, path: Path, scope: Mapping[str, Kind], report: Report) -> None:
    if step.keep is not None:
        expression = _parsed(step.keep, scope, (*path, "keep"), report)
        if expression is not None and expression.kind != "bool":
            report(
                (*path, "keep"),
                f"a condition is true or false, and this gives a {expression.kind}; compare it, such as … > 0",
            )
    for name, text in (step.set_ or {}).items():
        _parsed(text, scope, (*path, "set", name), report)
    if step.latest is not None and scope.get(step.latest) not in ORDERED:
        seen = f"it is {scope[step.latest]}" if step.latest in scope else "its type is not known"
        report(
            (*path, "latest"),
            f"what is latest is told by a number or a datetime, and {seen}; say types: {{{step.latest}: datetime}}",
        )


def _parsed(text: str, scope: Mapping[str, Kind], path: Path, report: Report) -> Expression | None:
    try:
        return parse_expression(text, scope)
    except ExpressionError as error:
        words, at = str(error), error.position - 1
        unknown = _UNKNOWN.search(words)
        if unknown is not None:
            name = unknown[1]
            words = f"the type of {name!r} is not known; say it: types: {{{name}: int}}{did_you_mean(name, scope)}"
        report(path, words, offset=at)
        return None


def _check_inside(entry: str, path: Path, report: Report) -> None:
    if entry.startswith(("/", "~")):
        report(path, f"{entry!r} is absolute; files are named relative to the project")
    elif ".." in entry.partition(":")[0].split("/"):
        report(path, f"{entry!r} leaves the project; put the file inside it")
