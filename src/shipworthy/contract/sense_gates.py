"""What contradicts something else in the gates."""

from collections.abc import Mapping

from shipworthy.contract.draft import Draft, Report
from shipworthy.contract.expressions import did_you_mean
from shipworthy.contract.gates_section import Gates, MetricLimit
from shipworthy.contract.nodes import Path
from shipworthy.contract.sections import LOSSES, Metric
from shipworthy.contract.sense_model import check_metric

BOUNDED = frozenset({"roc_auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "r2"})  # at most 1


def check_gates(draft: Draft, report: Report) -> None:
    """Report limits that cannot be met, or measured."""
    gates = draft.gates
    if gates is None:
        return
    _check_limits(gates.performance, ("gates", "performance"), draft, report)
    for champion in gates.champion:
        check_metric(champion, ("gates", "champion", champion), draft, report, at_key=True)
    if gates.value is not None:
        here: Path = ("gates", "value", "per_decision", "at_least")
        check_currency(gates.value.per_decision.at_least.currency, here, draft, report)
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
        if check_metric(metric, here, draft, report, at_key=True):
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


def check_currency(currency: str, path: Path, draft: Draft, report: Report) -> None:
    """Report a sum in another currency than the rest."""
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
