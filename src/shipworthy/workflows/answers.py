"""Answers as columns: what stands behind a table's own columns, the same whichever way a row was answered."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import polars as pl

from shipworthy.bundle.format import Policy
from shipworthy.kernel.errors import UsageError
from shipworthy.serving.answer import Answer
from shipworthy.serving.policy import Decisions
from shipworthy.serving.servable import Servable

PROBLEM = "problem"


def answer_schema(policies: Sequence[Policy]) -> dict[str, pl.DataType]:
    """The columns that answers of these policies have, in order."""
    is_number = all(policy.task == "regression" for policy in policies)
    classes = dict.fromkeys(label for policy in policies for label in policy.classes)
    numeric_decision = is_number and not any(policy.bands for policy in policies)
    kinds: dict[str, pl.DataType] = {"prediction": pl.Float64() if is_number else pl.String()}
    kinds |= {f"probability_{label}": pl.Float64() for label in classes}
    if any(policy.intervals is not None for policy in policies):
        kinds |= {"interval_low": pl.Float64(), "interval_high": pl.Float64()}
    kinds["confidence"] = pl.Float64()
    kinds["decision"] = pl.Float64() if numeric_decision else pl.String()
    texts = ("prediction_id", "source", "handling", "release", "warnings", PROBLEM)
    return kinds | dict.fromkeys(texts, pl.String())


def judge_names(names: Sequence[str], schema: Mapping[str, pl.DataType], source: str) -> None:
    """Refuse a table whose columns would stand twice in the file of answers.

    Raises:
        UsageError: names them.
    """
    twice = [name for name in names if name in schema]
    if twice:
        raise UsageError(f"{source}: has a column {', '.join(twice)}, as the answers have; rename it")


def answer_frame(answers: Sequence[Answer | str], schema: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """The answers as columns; a text is the problem of a row that was refused."""
    given = [answer if isinstance(answer, Answer) else None for answer in answers]
    columns = []
    for name, kind in schema.items():
        if name == PROBLEM:
            continue
        read = _reader(name)
        values = [None if answer is None else read(answer) for answer in given]
        columns.append(pl.Series(name, values, dtype=kind, strict=False))  # a number may stand among actions
    problems = [answer if isinstance(answer, str) else None for answer in answers]
    return pl.DataFrame(columns).with_columns(pl.Series(PROBLEM, problems, dtype=pl.String))


def decided_frame(
    servable: Servable, decided: Decisions, prediction_ids: Sequence[str], schema: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """What a model and its policy said of n valid rows, as `answer_frame` has it of one after the other."""
    count, classes = len(prediction_ids), servable.policy.classes
    columns: dict[str, Any] = {
        "prediction": decided.prediction,
        "confidence": decided.confidence,
        "decision": decided.decision,
        "prediction_id": prediction_ids,
    }
    if decided.probability is not None:
        columns |= {f"probability_{label}": decided.probability[:, place] for place, label in enumerate(classes)}
    if decided.interval is not None:
        columns |= {"interval_low": decided.interval[:, 0], "interval_high": decided.interval[:, 1]}
    review = pl.Series(decided.review)
    same = {"source": "model", "release": servable.release}
    series = []
    for name, kind in schema.items():
        if name == "handling":
            series.append(pl.select(pl.when(review).then(pl.lit("review")).otherwise(pl.lit("automatic"))).to_series())
        elif name in columns:
            series.append(pl.Series(name, columns[name], dtype=kind, strict=False))
        else:
            series.append(pl.repeat(same.get(name), count, dtype=kind, eager=True))
        series[-1] = series[-1].alias(name)
    return pl.DataFrame(series)


def _reader(name: str) -> Callable[[Answer], object]:
    """What reads the value of a column from an answer."""
    if name == "warnings":
        return lambda answer: "; ".join(answer.warnings) or None
    if name in ("interval_low", "interval_high"):
        side = int(name == "interval_high")
        return lambda answer: None if answer.interval is None else answer.interval[side]
    if name.startswith("probability_"):
        label = name.removeprefix("probability_")
        return lambda answer: None if answer.probability is None else answer.probability.get(label)
    return attrgetter(name)
