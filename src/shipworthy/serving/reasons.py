"""Reasons of answers: how the score of each changes when one feature is set to its reference."""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from shipworthy.serving.answer import REASONS_METHOD, Change, Reasons
from shipworthy.serving.decode import Sample
from shipworthy.serving.pace import MAX_RUN_ROWS
from shipworthy.serving.policy import Decided, calibrate
from shipworthy.serving.servable import Servable

_log = logging.getLogger("shipworthy.serving")


class _TooLateError(Exception):
    pass


def explain(
    servable: Servable,
    samples: Sequence[Sample],
    decided: Sequence[Decided],
    has_time: Callable[[], bool] = lambda: True,
) -> list[Reasons | None]:
    """Reasons of answers, from one extra run in chunks; None where the model fails on it or the time is over.

    Args:
        servable: the release that answered.
        samples: what was asked.
        decided: what was answered, in the same order.
        has_time: asked before each chunk.
    """
    if not servable.policy.reasons:
        return [None] * len(samples)
    try:
        return _explain(servable, samples, decided, has_time)
    except _TooLateError:
        return [None] * len(samples)
    except Exception:  # noqa: BLE001 (whatever a model raises: the answers stand without reasons)
        if len(samples) > 1:
            return [
                explain(servable, [sample], [one], has_time)[0] for sample, one in zip(samples, decided, strict=True)
            ]
        _log.warning("%s gave no reasons", servable.release)
        return [None]


def _explain(
    servable: Servable, samples: Sequence[Sample], decided: Sequence[Decided], has_time: Callable[[], bool]
) -> list[Reasons | None]:
    rows, differs = _ablate(servable, samples)
    changes = np.zeros(differs.shape)
    scores, bases = _scores(servable, _run(servable, rows, has_time), decided, np.nonzero(differs)[0])
    changes[differs] = scores - bases
    order = np.argsort(np.where(differs, -np.abs(changes), np.inf), axis=1, kind="stable")
    order = order[:, : servable.policy.reasons]
    names = [reference.name for reference in servable.references]
    found: list[Reasons | None] = []
    for i, one in enumerate(decided):
        largest = [Change(names[j], float(changes[i, j])) for j in order[i].tolist() if differs[i, j]]
        found.append(Reasons(REASONS_METHOD, _score_name(servable, one), tuple(largest)))
    return found


def _ablate(servable: Servable, samples: Sequence[Sample]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The rows with one feature set to its reference, and which (sample, reference) they are."""
    matrix = np.array([sample.floats for sample in samples], dtype=np.float32)
    references = servable.references
    places = np.array([reference.place for reference in references], dtype=np.intp)
    values = np.array([reference.value for reference in references], dtype=np.float32)
    differs = matrix[:, places] != values  # a missing value does
    rows = np.repeat(matrix[:, None, :], len(references), axis=1)
    rows[:, np.arange(len(references)), places] = values
    for j, reference in enumerate(references):
        for i in np.flatnonzero(differs[:, j]).tolist() if reference.is_read else ():
            floats = servable.decoder.refer(samples[i], reference)
            if floats is None:
                differs[i, j] = False
            else:
                rows[i, j] = floats
    return rows[differs], differs


def _run(servable: Servable, rows: NDArray[np.float32], has_time: Callable[[], bool]) -> NDArray[np.floating]:
    size = min(MAX_RUN_ROWS, servable.pace.limit)
    outputs = []
    for start in range(0, len(rows), size):
        if not has_time():
            raise _TooLateError
        outputs.append(servable.runtime.run(rows[start : start + size]))
    return np.concatenate(outputs) if outputs else np.zeros((0, max(len(servable.policy.classes), 1)))


def _scores(
    servable: Servable, outputs: NDArray[np.floating], decided: Sequence[Decided], owners: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The score of each ablated row, and of the row that it comes from."""
    if servable.policy.task == "regression":
        scores = outputs.reshape(-1).astype(np.float64)
        bases = np.array([one.prediction for one in decided], dtype=np.float64)[owners]
    else:
        columns = np.array([_score_column(servable, one) for one in decided], dtype=np.intp)[owners]
        scores = calibrate(servable.policy, outputs)[np.arange(len(owners)), columns]
        bases = np.array([one.probability for one in decided], dtype=np.float64)[owners, columns]
    if len(scores) != len(owners) or not np.isfinite(scores).all():
        raise ValueError("the outputs are no scores")
    return scores, bases


def _score_column(servable: Servable, decided: Decided) -> int:
    policy = servable.policy
    if policy.task == "binary" and policy.positive is not None:
        return policy.classes.index(policy.positive)
    return policy.classes.index(str(decided.prediction))


def _score_name(servable: Servable, decided: Decided) -> str:
    if decided.probability is None:
        return "prediction"
    return f"probability of {servable.policy.classes[_score_column(servable, decided)]}"
