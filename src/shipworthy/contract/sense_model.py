"""What contradicts something else in the target, the training, decisions and their value."""

from shipworthy.contract.columns import Target
from shipworthy.contract.draft import Draft, Report
from shipworthy.contract.expressions import did_you_mean
from shipworthy.contract.nodes import Path
from shipworthy.contract.sections import LOSSES, METRICS, Metric
from shipworthy.contract.sense_columns import check_condition, check_range, check_unique
from shipworthy.contract.sense_data import check_inside
from shipworthy.contract.types import (
    Decision,
    Search,
    Training,
)


def check_target(draft: Draft, report: Report) -> None:
    """Report classes and values of the target that do not go together."""
    target = draft.target
    if target is None:
        return
    if target.type == "regression":
        for key in ("values", "positive"):
            if getattr(target, key) is not None:
                report(("target", key), f"{key} is for binary and multiclass; a regression has none")
        check_range(target.range, ("target", "range"), report)
        return
    for key in ("unit", "range"):
        if getattr(target, key) is not None:
            report(("target", key), f"{key} is for a regression; classes have none")
    if target.values is None and draft.is_sound("target", "values"):
        report(
            ("target",), f'a {target.type} target lists its classes as quoted texts: values: ["0", "1"]', at_key=True
        )
    check_unique(target.values, ("target", "values"), report)
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


def check_training(draft: Draft, report: Report) -> None:
    """Report what of the split, the parameters and the search does not go together."""
    training = draft.training
    if training is None:
        return
    check_inside(training.entry, ("training", "entry"), report)
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
        check_metric(metric, (*path, key), draft, report)
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


def check_metric(metric: Metric, path: Path, draft: Draft, report: Report, *, at_key: bool = False) -> bool:
    """Whether a metric is one of the target's task; else it is reported."""
    if draft.target is None or metric in METRICS[draft.target.type]:
        return True
    suitable = ", ".join(METRICS[draft.target.type])
    report(path, f"{metric} does not suit a {draft.target.type} target; choose from {suitable}", at_key=at_key)
    return False


def check_decision(draft: Draft, report: Report) -> None:
    """Report actions, thresholds and fallbacks that do not go together."""
    decision, target = draft.decision, draft.target
    if decision is None:
        return
    for number, rule in enumerate(decision.fallback.rules):
        check_condition(rule.if_, draft, report, ("decision", "fallback", "rules", number, "if"))
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


def check_value(draft: Draft, report: Report) -> None:
    """Report worths of actions and classes that are not there, or are not given."""
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
