"""Whether a contract's parts make sense together: pure rules over the sections that could be read.

A rule says nothing about what it cannot judge: a section that is absent or broken, which is reported elsewhere.
"""

from collections.abc import Callable, Collection

from shipworthy.contract.draft import Draft, Report
from shipworthy.contract.expressions import did_you_mean
from shipworthy.contract.nodes import Path
from shipworthy.contract.quantities import format_size
from shipworthy.contract.sense_columns import (
    check_checks,
    check_columns,
    check_context,
    check_derived,
    check_features,
    check_names,
    check_unique,
)
from shipworthy.contract.sense_data import check_data, check_inside
from shipworthy.contract.sense_gates import check_currency, check_gates
from shipworthy.contract.sense_model import check_decision, check_target, check_training, check_value
from shipworthy.contract.types import Rollout, is_receiver

MIN_WORKER_BYTES = 128_000_000  # a serving process with a small model takes two thirds of that
MIN_SPOOL_BYTES = 1_000_000
MIN_MODEL_BYTES = 64_000_000  # Python and numpy take half of that
_MAX_GUESSES = 50  # so that data of another kind altogether is told quickly


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
        check_currency(rollout.no_worse.value.by.currency, (*path, "no_worse", "value", "by"), draft, report)


def _check_serving(draft: Draft, report: Report) -> None:
    memory = None if draft.serving is None else draft.serving.memory
    if memory is not None and memory < MIN_WORKER_BYTES:
        least = format_size(MIN_WORKER_BYTES)
        report(("serving", "memory"), f"a worker needs nearly {least} to start; use more, or leave it out for no limit")
    python = None if draft.serving is None else draft.serving.python
    if python is not None:
        check_inside(python.file, ("serving", "python", "file"), report)
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
    check_unique(retrain.when, ("retrain", "when"), report)


def _check_lineage(draft: Draft, report: Report) -> None:
    lineage = draft.lineage
    if lineage is None:
        return
    place, path = lineage.openlineage, ("lineage", "openlineage")
    if place is None:
        if lineage.token is not None:
            report(("lineage", "token"), "a token goes to an address; name it in lineage.openlineage", at_key=True)
    elif not is_receiver(place):
        check_inside(place, path, report)
        if lineage.token is not None:
            report(("lineage", "token"), "a token goes to an address, and lineage.openlineage is a file", at_key=True)
    elif "://" in place.partition("$")[0] and not place.lower().startswith(("http://", "https://")):
        report(path, f"{place[:60]!r} is neither an http or https address nor a file in the project")


_RULES: tuple[Callable[[Draft, Report], None], ...] = (
    check_names,
    check_columns,
    check_features,
    check_context,
    check_derived,
    check_checks,
    check_data,
    check_target,
    check_training,
    check_decision,
    check_value,
    check_gates,
    _check_serving,
    _check_environments,
    _check_retrain,
    _check_lineage,
)
