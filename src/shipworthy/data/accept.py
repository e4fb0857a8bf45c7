"""Accept: whether a batch as a whole is good enough to become a snapshot."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

import polars as pl

from shipworthy.contract.sections import Growth
from shipworthy.contract.types import Contract
from shipworthy.data.validate import Validated
from shipworthy.kernel.errors import DataError

TOP_REASONS = 5  # named in a refusal; all of them stand in the quarantine


def judge_batch(
    contract: Contract,
    validated: Validated,
    *,
    now: float,
    last_rows: int | None = None,
    classes: Mapping[str, int] | None = None,
) -> None:
    """Refuse a batch that is not good enough to become a snapshot.

    Args:
        contract: its `accept` limits, checks and classes.
        validated: the batch.
        now: Unix seconds, for `accept.age`.
        last_rows: of the last snapshot, for `accept.growth`; None: there is none.
        classes: accepted rows of each class, where they were counted.

    Raises:
        DataError: too few rows or too many, too many in quarantine, too old, a check fails too often, or a target from
            which nothing can be learnt; names the top reasons.
    """
    problems = list(_batch_problems(contract, validated, now, last_rows, classes))
    if problems:
        raise DataError("; ".join(problems) + _top_reasons(validated))


def _batch_problems(
    contract: Contract, validated: Validated, now: float, last_rows: int | None, classes: Mapping[str, int] | None
) -> Iterator[str]:
    accept = contract.data.accept
    accepted, rows = validated.accepted.height, validated.rows
    for check in contract.checks:
        failing = validated.checks.get(f"check {check.name}: false", 0)
        if failing > check.failing.at_most * rows:
            yield f"check {check.name}: {failing} of {rows} rows fail, {check.failing.at_most:.3%} may"
    least = (accept.rows.at_least if accept.rows else None) or 1
    if accepted < least:
        yield f"{accepted} of {rows} rows are accepted, data.accept.rows asks for {least}"
    if accept.rows and accept.rows.at_most is not None and accepted > accept.rows.at_most:
        yield f"{accepted} of {rows} rows are accepted, data.accept.rows allows {accept.rows.at_most}"
    if last_rows and accept.growth is not None:
        yield from _growth_problems(accept.growth, accepted, last_rows)
    refused = rows - accepted
    most = accept.quarantined.at_most if accept.quarantined else 1.0
    if refused > most * rows:
        yield f"{refused} of {rows} rows are quarantined, data.accept.quarantined allows {most:.3%}"
    if accepted:
        yield from _age_problems(contract, validated.accepted, now)
        yield from _target_problems(contract, validated.accepted, classes)


def _growth_problems(growth: Growth, accepted: int, last_rows: int) -> Iterator[str]:
    seen = f"{accepted} rows are accepted, {accepted / last_rows:.4g} times the last snapshot's {last_rows}"
    if growth.at_least is not None and accepted < growth.at_least * last_rows:
        yield f"{seen}; data.accept.growth asks for {growth.at_least:.4g} times as many"
    if growth.at_most is not None and accepted > growth.at_most * last_rows:
        yield f"{seen}; data.accept.growth allows {growth.at_most:.4g} times as many"


def _age_problems(contract: Contract, accepted: pl.DataFrame, now: float) -> Iterator[str]:
    limit = contract.data.accept.age
    if limit is None:
        return
    for name in contract.context_by_role("time"):
        newest = accepted[name].max()
        if not isinstance(newest, datetime):
            yield f"data.accept.age: {name} holds no time"
        elif now - newest.timestamp() > limit.at_most:
            written = newest.astimezone(UTC).isoformat()
            yield f"the newest row ({name} {written}) is older than data.accept.age allows"


def _target_problems(contract: Contract, accepted: pl.DataFrame, classes: Mapping[str, int] | None) -> Iterator[str]:
    target = contract.target
    if target.type == "regression":
        values = accepted[target.column]
        if values.n_unique() == 1:
            yield f"the target {target.column} is {values[0]!r} in every row; there is nothing to learn"
        return
    counts = dict(accepted[target.column].value_counts().iter_rows()) if classes is None else classes
    if len(counts) == 1:
        yield f"the target {target.column} is {next(iter(counts))!r} in every row; there is nothing to learn"
        return
    for label in target.values or ():
        if counts.get(label, 0) < 2:
            yield (
                f"class {label!r} of the target {target.column} has {counts.get(label, 0) or 'no'} accepted row; "
                "gather more, merge it with another class, or take it out of the data and of target.values"
            )


def _top_reasons(validated: Validated) -> str:
    top = list(validated.reasons.items())[:TOP_REASONS]
    if not top:
        return ""
    named = [f"{reason} ({count} rows{_for_example(validated, reason)})" for reason, count in top]
    return ". Most frequent reasons of quarantined rows: " + "; ".join(named)


def _for_example(validated: Validated, reason: str) -> str:
    return f", as in {validated.examples[reason]}" if reason in validated.examples else ""
