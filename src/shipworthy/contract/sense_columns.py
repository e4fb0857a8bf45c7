"""What contradicts something else in names, features, context, derived columns and checks."""

import re
import zoneinfo
from collections.abc import Mapping

from shipworthy.contract.columns import Column, Derived
from shipworthy.contract.draft import Draft, Report
from shipworthy.contract.expressions import FLOAT32_MAX, Expression, Kind, answers, did_you_mean, parse_derived
from shipworthy.contract.nodes import Path
from shipworthy.contract.patterns import Pattern
from shipworthy.kernel.errors import ExpressionError

_ROLE_TYPES = {"time": ("datetime",), "key": ("text", "int", "category"), "subject": ("text", "int", "category")}
_EXACT_WHOLE = 2**53  # from here on float64 skips whole numbers


def check_names(draft: Draft, report: Report) -> None:
    """Report names that two columns share."""
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


def check_columns(draft: Draft, report: Report) -> None:
    """Report what of a feature, context or derived column contradicts its type."""
    for section, name, column in draft.inputs():
        path = (section, name)
        check_range(column.range, (*path, "range"), report, whole=column.type == "int")
        _check_numeric(column, path, report)
        _check_values(column, path, report)
        _check_zone(column, path, report)
        _check_pattern(column, path, report)
    for name, derived in draft.derived.items():
        path = ("derived", name)
        check_range(derived.range, (*path, "range"), report, whole=derived.type == "int")
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


def check_range(bounds: tuple[float, float] | None, path: Path, report: Report, *, whole: bool = False) -> None:
    """Report bounds that hold nothing, or that no value of the type can be."""
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
    check_unique(column.values, (*path, "values"), report)


def check_unique(values: tuple[str, ...] | None, path: Path, report: Report) -> None:
    """Report values that are listed twice."""
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


def check_features(draft: Draft, report: Report) -> None:
    """Report features that a model cannot learn from, and what is wrong with one."""
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


def check_context(draft: Draft, report: Report) -> None:
    """Report roles that do not fit their columns."""
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


def check_derived(draft: Draft, report: Report) -> None:
    """Report expressions that are wrong, or of another type than their column."""
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


def check_checks(draft: Draft, report: Report) -> None:
    """Report conditions of `checks` that are wrong."""
    names: set[str] = set()
    for number, check in draft.checks.items():
        if check.name in names:
            report(("checks", number, "name"), f"two checks are called {check.name!r}; rename one")
        names.add(check.name)
        check_condition(check.expect, draft, report, ("checks", number, "expect"))


def check_condition(text: str, draft: Draft, report: Report, path: Path) -> None:
    """Report a condition that is no condition, or reads what it may not."""
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
